"""The figure of an adapter's updates, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tl_crossenc.report.figures.adapter_updates import adapter_updates
from tl_crossenc.report.run_record import Run
from tl_crossenc.report.tables import NO_TEST, interval_text, queries_text
from tl_crossenc.results.artefacts import load_scalars, load_table

KEY = "adapter_updates"


def _draw(folder: Path) -> Callable[[bool], Figure]:
    rankings, scalars = load_table(folder, KEY, "rankings"), load_scalars(folder, KEY)
    cutoff = Run.read(folder).cutoff
    return lambda narrow: adapter_updates(rankings, random=scalars["random"], cutoff=cutoff, narrow=narrow)


def _caption(folder: Path, scalars: dict[str, Any], run: Run) -> str:
    rankings, updates = load_table(folder, KEY, "rankings").set_index("ranking"), load_table(folder, KEY, "updates")
    whole, base = rankings.loc["all"], rankings.loc["none"]
    low, high = updates["size"].min(), updates["size"].max()
    tested = len(rankings) - 1
    marks = (
        "Filled: a decrease from the whole model, paired t-test over queries with Holm's correction over "
        f"{tested} rankings, p ≤ .05."
    )
    bounds = (
        "Bands and bars: 95 % t-intervals of the paired difference from the whole model. "
        if scalars["n_queries"] > 1
        else ""
    )
    return (
        f"{run.measure} of {run.where} ({queries_text(scalars['n_queries'])}{run.ranked}) with only some of its LoRA adapter's "
        f"{len(updates)} updates applied to the base, the trained classification head kept. All: {whole['mean']:.3f}"
        f"{interval_text(whole['low'], whole['high'])}; none: {base['mean']:.3f}{interval_text(base['low'], base['high'])}; random "
        f"ranking {scalars['random']:.3f}. {bounds}"
        f"{marks if scalars['n_queries'] > 1 else NO_TEST} An update's norm is {low:.1%} to {high:.1%} of its base matrix's."
        f"{run.one_gain}"
    )


DRAWERS = {KEY: _draw}
CAPTIONS = {KEY: _caption}
