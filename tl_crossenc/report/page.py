"""One page that shows a whole run: `report.html`, made from the saved files of a results folder alone.

The page is one file: styles, script and drawings are in it, and it asks the network for nothing (its own policy forbids it).
What could not be made says why in its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.colors import to_hex

from tl_crossenc.console.shown import short_name
from tl_crossenc.report.captions import caption
from tl_crossenc.report.drawing import draw_figures, figure_files
from tl_crossenc.report.figures.style import DIVERGING, arrow, centred, difference_extent, signed
from tl_crossenc.report.figures.svg import PageStyles, inline
from tl_crossenc.report.head_table import head_table
from tl_crossenc.report.run_record import Run
from tl_crossenc.report.table1_files import EXISTING_CELLS
from tl_crossenc.report.tables import SIDES, cell_text, holm_text, interval_text
from tl_crossenc.results.artefact import by_result
from tl_crossenc.results.artefacts import (
    ARTEFACTS,
    NOT_ASKED,
    UNAVAILABLE_FILE,
    files_of,
    load_scalars,
    load_table,
    load_unavailable,
)
from tl_crossenc.results.layout import FIGURES, REPORT, RUN
from tl_crossenc.results.outputs import read_json
from tl_crossenc.statistics.significance import ALPHA, least_significant, mean_interval
from tl_crossenc.store.files import explained, write_atomic

TEMPLATE = "template.html"
TABLES = ("table1", "figure1b_counts")
SHOWN = tuple(key for key, artefact in ARTEFACTS.items() if artefact.drawn or key in TABLES)
"""The keys of all figures of the page; `heads` and `provenance` come after."""


def write_report(folder: Path) -> Path:
    """Write `report.html` from the files of a results folder; figures that are not drawn yet are drawn first.

    Raises:
        ValueError: the folder has no results of any kind.
        StoreError: the folder cannot be written.
    """
    folder = Path(folder)
    missing = load_unavailable(folder)
    if not (set(SHOWN) - set(missing)) and not (folder / RUN).is_file():
        raise ValueError(
            f"expected a folder of results, but {folder} has none: run `tl-crossenc reproduce --out {folder}`"
        )
    drawn = [key for key in SHOWN if key not in missing and ARTEFACTS[key].drawn]
    if not all((folder / FIGURES / f"{key}{end}").is_file() for key in drawn for end in (".svg", "-narrow.svg")):
        draw_figures(folder)
    path = folder / REPORT
    write_atomic(path, page(folder))
    return path


def shown_files(missing: Mapping[str, str]) -> list[str]:
    """The files of a whole run beside Table 1's runs and scores, all artefacts but those missing, in the results folder."""
    made = [key for key in ARTEFACTS if key not in missing]
    figures = [name for key in made if ARTEFACTS[key].drawn for name in figure_files(key)]
    return [*(name for key in made for name in files_of(key)), *figures, UNAVAILABLE_FILE, REPORT]


def remove_others(folder: Path, record: Mapping[str, Any]) -> None:
    """Remove what a run left to be looked at, unless its `run.json` says the same as this record but for the files.

    Page, figures, artefacts' files and, last, `run.json` go; cells, pools and lists of heads stay.
    """
    there = read_json(folder / RUN) if (folder / RUN).exists() else {}
    if {**there, "files": None} == json.loads(json.dumps({**record, "files": None})):
        return
    for name in (REPORT, *shown_files({}), EXISTING_CELLS, RUN):
        with explained(folder / name):
            (folder / name).unlink(missing_ok=True)


def page(folder: Path) -> str:
    """The page as text."""
    missing, run = load_unavailable(folder), Run.read(folder)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    styles = PageStyles()
    left = [key for key in SHOWN if missing.get(key) == NOT_ASKED]
    sections = [_section(folder, key, run, missing, styles) for key in SHOWN if key not in left]
    template = environment.from_string((files("tl_crossenc.report") / TEMPLATE).read_text("utf-8"))
    return template.render(
        run=run,
        facts=_facts(folder, run, missing),
        sections=sections,
        left_out=by_result(ARTEFACTS[key] for key in left),
        drawing_css=Markup(styles.css),
        table1=None if "table1" in missing else table1_cells(folder),
        sides=SIDES,
        counts=None if "figure1b_counts" in missing else count_rows(folder),
        heads=_head_rows(folder),
        provenance=_provenance(run),
    )


def table1_cells(folder: Path) -> list[list[dict[str, Any]]]:
    """Table 1, a list of cells for each attender: text, marks, bold, title, and the colours of the shade."""
    comparison = load_table(folder, "table1", "comparison").set_index("direction")
    unablated = float(load_table(folder, "table1", "per_query")["none"].mean())
    scale = centred(table1_extent(comparison))
    return [[_cell(comparison.loc[f"{row}->{column}"], unablated, scale) for column in SIDES] for row in SIDES]


def count_rows(folder: Path) -> list[dict[str, Any]]:
    """The table of counts: a row a kind of negatives and quantity, with the model's and its twin's numbers side by side."""
    counts, scalars = load_table(folder, "figure1b_counts", "counts"), load_scalars(folder, "figure1b")
    shown = [quantity for quantity in ("excess", "mass", "density", "each") if (counts["quantity"] == quantity).any()]
    rows = []
    for against in dict.fromkeys(counts["against"]):
        for quantity in shown:
            here = counts[(counts["against"] == against) & (counts["quantity"] == quantity)]
            found = {row["model"]: row for row in here.to_dict("records")}
            given = -1 if against == "easy" else 0
            cells = [
                "–" if name not in found else f"{found[name]['heads']} of {found[name]['n_heads']}"
                if column == "heads" else str(found[name][column])
                for name in ("model", "untrained")
                for column in ("heads", "more", "less")
            ]  # fmt: skip
            rows.append(
                {
                    "against": f"{against} negatives",
                    "quantity": {"each": "all three"}.get(quantity, quantity),
                    "cells": cells,
                    "headline": scalars.get("against") == [given] and scalars.get("quantity") == quantity,
                }
            )
    return rows


def table1_extent(comparison: pd.DataFrame) -> float:
    """Where the shades of Table 1 end; see `style.difference_extent`."""
    n = int(comparison["n_queries"].min())
    half = (comparison["diff_high"] - comparison["diff_low"]).to_numpy(dtype=float) / 2
    error = half / least_significant(np.ones(1), n)  # the interval's half width is that of one test at 5 %
    return difference_extent(comparison["difference"], error, n, comparison["p_holm"].to_numpy(dtype=float) <= ALPHA)


def _cell(row: pd.Series, unablated: float, scale: Any) -> dict[str, Any]:
    value, marks, bold = cell_text(row, unablated)
    shade = DIVERGING(0.5 + 0.55 * (float(scale(row["difference"])) - 0.5))
    bounds = interval_text(row["diff_low"], row["diff_high"], "+").replace("-", "−")
    said = f"{arrow(str(row.name))}: {signed(row['difference'])}{bounds}{holm_text(row['p_holm'])}"
    if "existing_cells" in row:
        said += f"; {row['existing_cells']:.1%} of its cells exist"
    return {
        "value": value,
        "marks": marks,
        "bold": bold,
        "shade": to_hex(shade),
        "title": said,
    }


def _section(folder: Path, key: str, run: Run, missing: dict[str, str], styles: PageStyles) -> dict[str, Any]:
    artefact = ARTEFACTS[key]
    section: dict[str, Any] = {"key": key, "title": artefact.title, "reason": missing.get(key), "drawings": []}
    if key in missing:
        return section
    section["caption"] = caption(folder, key, run)
    section["files"] = list(artefact.tables.values())
    if artefact.drawn:
        section["files"] += [f"{FIGURES}/{key}.{end}" for end in ("svg", "pdf")]
        for width, end in (("wide", ""), ("narrow", "-narrow")):
            svg = (folder / FIGURES / f"{key}{end}.svg").read_text("utf-8")
            label = f"{artefact.title}. {section['caption']}"
            section["drawings"].append(
                (width, Markup(inline(svg, label, f"{_letter(SHOWN.index(key))}{width[0]}", styles)))
            )
    return section


def _letter(place: int) -> str:
    """What the ids of a drawing begin with."""
    return chr(97 + place) if place < 26 else f"z{place}"


def _facts(folder: Path, run: Run, missing: dict[str, str]) -> list[tuple[str, str]]:
    facts = [("model", short_name(run.model)), ("collections", ", ".join(run.titles) or "not recorded")]
    if "table1" not in missing:
        per_query = load_table(folder, "table1", "per_query")
        low, high = mean_interval(per_query["none"])
        facts.append((f"nDCG@{run.cutoff}", f"{per_query['none'].mean():.3f}{interval_text(low, high)}"))
        facts.append(("random ranking", f"{per_query['random'].mean():.3f}"))
        facts.append(("queries", f"{len(per_query):,}"))
    if run.by_grade:
        facts.append(("passages", f"{sum(run.by_grade.values()):,}"))
    if run.unjudged is not None:
        facts.append(("judged by nobody", f"{run.unjudged:,}"))
    if "figure1b" not in missing:
        frame = load_table(folder, "figure1b", "heads")
        passing = frame.astype({"passes": bool}).groupby(["layer", "head"])["passes"].any()
        facts.append(("matching heads", f"{int(passing.sum())} of {len(passing)}"))
        if "figure1b_control" not in missing:
            twin = load_table(folder, "figure1b_control", "heads").astype({"passes": bool})
            facts.append(("of the untrained twin", f"{int(twin.groupby(['layer', 'head'])['passes'].any().sum())}"))
    return facts


def _head_rows(folder: Path) -> dict[str, Any] | None:
    table = head_table(folder)
    if table.empty:
        return None
    rows = []
    for place, row in table.iterrows():
        layer, head = (int(number) for number in place)
        cells = [("", "–") if pd.isna(value) else (f"{value:.6g}", _shown(name, value)) for name, value in row.items()]
        rows.append(
            {
                "name": f"{layer}.{head}",
                "order": layer * 10_000 + head,
                "cells": cells,
                "passes": row.get("passes") == 1,
            }
        )
    return {"columns": [str(name) for name in table.columns], "rows": rows}


def _shown(name: Any, value: float) -> str:
    if name in ("passes", "less"):
        return "yes" if value else "no"
    if str(name).startswith("Holm p"):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if str(name).startswith(("on ", "equal")):
        return f"{value:.1%}"
    return signed(value) if str(name).startswith("difference") else f"{value:.2f}".replace("-", "−")


def _provenance(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    record = run.record
    groups = [("Model", _flat(record.get("model", {}))), ("Settings", _flat(record.get("settings", {})))]
    for pool in record.get("pools", []):
        groups.append(
            (f"Pool of {pool.get('collection', '?')}", _flat({k: v for k, v in pool.items() if k != "collection"}))
        )
    groups.append(("Versions", _flat(record.get("versions", {}))))
    return [(name, items) for name, items in groups if items]


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested values as (path, text); what is null or empty is left out."""
    if isinstance(value, dict):
        return [item for key, inner in value.items() for item in _flat(inner, f"{name}.{key}" if name else str(key))]
    if value is None or value in ([], ""):
        return []
    return [(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))]
