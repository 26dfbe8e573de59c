"""Neurons pruned: nDCG by how many, chosen by conductance, by activity and at random."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tl_crossenc.report.figures.style import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    VERMILION,
    hover,
    lay_out,
    left_column,
    legend_row,
    name_levels,
    panels,
    styled,
)

CHOICES = {
    "conductance": (VERMILION, "largest conductance"),
    "activity": (BLUE, "largest activations"),
    "random": (MUTED, "random, mean of draws"),
}
TITLES = {"zero": "set to zero", "mean": "set to their mean"}


@styled
def neuron_pruning(
    rankings: pd.DataFrame,
    contrasts: pd.DataFrame,
    *,
    unpruned: float,
    random: float,
    cutoff: int = 10,
    narrow: bool = False,
) -> Figure:
    """A panel a kind of values, a line a choice of neurons; grey: the range of the random draws.

    Args:
        rankings, contrasts: of `NeuronPruning`. Filled points differ from random neurons after Holm's correction.
        unpruned: mean nDCG of the model as it is.
        random: mean nDCG of a random ranking.
        cutoff: the k of nDCG@k.
        narrow: one column instead of two.
    """
    kinds = list(dict.fromkeys(rankings["values"]))
    figure, axes = panels(len(kinds), columns=2, narrow_columns=1, height=2.3, narrow=narrow)
    counts = sorted(rankings["k"].unique())
    places = {k: i for i, k in enumerate(counts)}
    tested = contrasts[contrasts["against"] == "random"].set_index(["values", "k"])["p_holm"]
    for axis, kind in zip(axes, kinds, strict=True):
        axis.axhline(unpruned, color=INK, lw=0.9, ls=(0, (5, 3)))
        axis.axhline(random, color=MUTED, lw=0.9, ls=(0, (1, 2)))
        for choice, (colour, said) in reversed(CHOICES.items()):
            rows = rankings[(rankings["values"] == kind) & (rankings["choice"] == choice)].sort_values("k")
            x = [places[k] for k in rows["k"]]
            if choice == "random":
                axis.fill_between(x, rows["lowest_draw"], rows["highest_draw"], color=FAINT, lw=0, zorder=0.5)
            given: dict[str, Any] = {"color": colour, "zorder": 3 if choice == "conductance" else 2.5}
            axis.plot(x, rows["mean"], lw=1.5, **given)
            for at, (_, row) in zip(x, rows.iterrows(), strict=True):
                filled = choice == "conductance" and tested[kind, row["k"]] <= 0.05
                (dot,) = axis.plot([at], [row["mean"]], marker="o", ms=4, mfc=colour if filled else "white", **given)
                hover(dot, f"{row['k']} neurons, {said}: {row['mean']:.3f}")
        axis.set_title(TITLES.get(kind, kind))
        axis.set_xticks(range(len(counts)), [f"{k:,}" for k in counts])
        axis.set_xlim(-0.3, len(counts) - 0.7)
        axis.set_xlabel("neurons pruned")
    for axis in left_column(axes):
        axis.set_ylabel(f"nDCG@{cutoff}")
    handles: list[Any] = [Line2D([], [], color=colour, marker="o", ms=4, mfc="white") for colour, _ in CHOICES.values()]
    names = [*(said for _, said in CHOICES.values()), "range of draws"]
    legend_row(figure, [*handles, Patch(color=FAINT)], names, columns=2 if narrow else 4)
    lay_out(figure)  # sizes are known only then
    for axis in axes if narrow else axes[-1:]:
        name_levels(axis, [(unpruned, "unpruned", INK), (random, "random\nranking", MUTED)])
    return figure
