"""The figure of integrated gradients by part, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tl_crossenc.report.figures.part_gradients import part_gradients, title
from tl_crossenc.report.run_record import Run
from tl_crossenc.report.tables import queries_text
from tl_crossenc.results.artefacts import load_table
from tl_crossenc.statistics.published import ZHAN_2020_GRADIENTS

KEY = "part_gradients"


def _draw(folder: Path) -> Callable[[bool], Figure]:
    parts = load_table(folder, KEY, "parts")
    return lambda narrow: part_gradients(parts, narrow=narrow)


def _caption(folder: Path, scalars: dict[str, Any], run: Run) -> str:
    errors, parts = load_table(folder, KEY, "errors"), load_table(folder, KEY, "parts")
    differences = errors.groupby("baseline", sort=False)["difference"].first()
    said = "; ".join(f"{title(name)} {value:.2f}" for name, value in differences.items())
    missed, sums = int(errors["missed"].sum()), int(errors["n_pairs"].sum())
    same = int(errors.groupby("baseline")["same"].first().sum())
    drawn = scalars["sampled"]
    sampled = "" if drawn["queries"] is None and drawn["passages"] is None else " drawn at random"
    published = (
        " Dots: Zhan et al. 2020, BERT-base on MS MARCO, of the relevant label's probability, at the same relative depth."
        if any(name in ZHAN_2020_GRADIENTS for name in parts["baseline"])
        else ""
    )
    bands = ""
    if scalars["n_queries"] > 1 and "share_low" in parts:  # tables of former versions have none
        bands = " Bands: 95 % intervals of these ratios of means over queries (Fieller)"
        unknown = list(parts.loc[parts["share_low"].isna(), "baseline"].unique())
        names = " and ".join(title(name) for name in unknown)
        bands += f"; none {names}, where s − s′ is not told from 0." if unknown else "."
    return (
        f"Integrated gradients of the relevance score by part, before each layer and where the head reads, on {run.where}: "
        f"{scalars['n_pairs']} relevant pairs of {queries_text(scalars['n_queries'])}{sampled}. In every layer the parts add up to "
        f"the score less the baseline's, s − s′, in the mean {said}; each layer has a path of its own.{bands} "
        f"Quadrature: {scalars['nodes']} Gauss–Legendre nodes; {missed} of {sums} sums miss s − s′ by more than 5 %"
        f"{f'; {same} pairs are their own baseline' if same else ''}.{published}"
    )


DRAWERS = {KEY: _draw}
CAPTIONS = {KEY: _caption}
