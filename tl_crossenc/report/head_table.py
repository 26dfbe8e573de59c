"""All numbers of every head in one table: what stands behind the points and cells of a report's figures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tl_crossenc.report.figures.style import arrow
from tl_crossenc.results.artefacts import load_table, load_unavailable

PLACE = ["layer", "head"]


def head_table(folder: Path) -> pd.DataFrame:
    """A row a head, indexed by (layer, head), and a column for each number that is available; empty where there is none.

    Columns, as a report prints them: `passes` and `less` (1 or 0), `difference QUERY→DOC` and `Holm p QUERY→DOC` of Figure 1b;
    `equal pieces`, the share of QUERY->DOC attention on equal word pieces in relevant passages; `on CLS`, `on SEP` from every
    position; `trace`, `alignment`, `contrast` (in SDs of the logit) of Figure 2; `interaction share`, `ε ratio` of QUERY->DOC.
    """
    folder = Path(folder)
    missing = load_unavailable(folder)
    columns: list[pd.Series] = []
    if "figure1b" not in missing:
        columns += _differences(load_table(folder, "figure1b", "heads"))
    if "matches" not in missing:
        columns += _exact(load_table(folder, "matches", "mass"))
    if "sinks" not in missing:
        rows = load_table(folder, "sinks", "by_head").query("attender == 'ALL'")
        for sink in ("CLS", "SEP"):
            columns.append(_column(rows[rows["sink"] == sink], "mass", f"on {sink}"))
    if "figure2" not in missing:
        rows = load_table(folder, "figure2", "heads")
        given = (("trace", "trace"), ("alignment", "alignment"), ("contrast_relative", "contrast"))
        columns += [_column(rows, column, name) for column, name in given]
    if "decomposition" not in missing:
        rows = load_table(folder, "decomposition", "decomposition").query("direction == 'QUERY->DOC'")
        columns.append(_column(rows, "share_interaction", "interaction share"))
        columns.append(_column(rows, "epsilon_ratio", "ε ratio"))
    return pd.concat(columns, axis=1).sort_index() if columns else pd.DataFrame()


def _column(rows: pd.DataFrame, column: str, name: str) -> pd.Series:
    return rows.astype(dict.fromkeys(PLACE, int)).set_index(PLACE)[column].rename(name)


def _differences(frame: pd.DataFrame) -> list[pd.Series]:
    columns = []
    for direction in dict.fromkeys(frame["direction"]):
        rows = frame[frame["direction"] == direction]
        columns.append(_column(rows, "difference", f"difference {arrow(direction)}"))
        columns.append(_column(rows, "p_holm", f"Holm p {arrow(direction)}"))
    marks = [name for name in ("passes", "less") if name in frame]
    flags = frame.astype(dict.fromkeys(marks, bool)).groupby(PLACE)[marks].any().astype(int)
    return [*(flags[name] for name in marks), *columns]


def _exact(mass: pd.DataFrame) -> list[pd.Series]:
    rows = mass[
        (mass["kind"] == "same_piece") & (mass["direction"] == "QUERY->DOC") & (mass["head"].astype(str) != "all")
    ]
    groups = list(dict.fromkeys(rows["group"]))
    if not groups:
        return []
    chosen = "relevant" if "relevant" in groups else groups[0]
    return [_column(rows[rows["group"] == chosen], "share", "equal pieces")]
