"""Faithfulness of attributions: scores by how much of the text is removed in their order, and rankings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from tl_crossenc.report.figures.style import (
    AMBER,
    BLUE,
    FAINT,
    GREEN,
    MUTED,
    PURPLE,
    SKY,
    VERMILION,
    hover,
    lay_out,
    left_column,
    legend_row,
    lowest,
    name_levels,
    panels,
    percent,
    styled,
)

ORDERS = {"most": (VERMILION, "most important first"), "least": (BLUE, "least important first")}
COLOURS = {
    "bottleneck": BLUE,
    "gradients": VERMILION,
    "attention": GREEN,
    "direct": PURPLE,
    "leave-one-out": AMBER,
    "random": MUTED,
}


@styled
def faithfulness(curves: pd.DataFrame, measures: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """A panel an attribution: the normalised score by the share of tokens removed, in both orders, with 95 % bands.

    Args:
        curves, measures: of `Faithfulness`. The area between the lines, with its interval, stands above each panel.
        narrow: two columns instead of three.
    """
    names = list(dict.fromkeys(curves["attribution"]))
    figure, axes = panels(len(names), columns=3, narrow_columns=2, height=1.75, narrow=narrow)
    areas = measures[measures["measure"] == "area"].set_index("attribution")
    for axis, name in zip(axes, names, strict=True):
        own = curves[curves["attribution"] == name]
        lines = {order: own[own["order"] == order].sort_values("fraction").set_index("fraction") for order in ORDERS}
        axis.fill_between(
            lines["most"].index, lines["most"]["mean"], lines["least"]["mean"], color=FAINT, lw=0, zorder=0.5
        )
        for order, (colour, said) in ORDERS.items():
            rows = lines[order]
            if np.isfinite(rows[["low", "high"]].to_numpy()).all():
                axis.fill_between(rows.index, rows["low"], rows["high"], color=colour, alpha=0.15, lw=0)
            (line,) = axis.plot(rows.index, rows["mean"], color=colour, lw=1.5, zorder=3)
            hover(line, f"{name}, {said}")
        area = areas.loc[name]
        if np.isfinite(area["mean"]):
            bounds = f" [{area['low']:.2f}, {area['high']:.2f}]" if np.isfinite(area["low"]) else ""
            said = f"area {area['mean']:.2f}{bounds}".replace("-", "−")
            axis.text(0, 1.03, said, transform=axis.transAxes, fontsize=7, color=MUTED)
        axis.axhline(0, color=MUTED, lw=0.7)
        axis.set_title(name, pad=14)
        _share_axis(axis)
    for axis in lowest(axes):
        axis.set_xlabel("tokens removed")
    for axis in left_column(axes):
        axis.set_ylabel("score, normalised")
    handles = [Line2D([], [], color=colour) for colour, _ in ORDERS.values()]
    legend_row(figure, handles, [said for _, said in ORDERS.values()], columns=1 if narrow else 2)
    return figure


@styled
def faithfulness_rankings(rankings: pd.DataFrame, *, random: float, cutoff: int = 10, narrow: bool = False) -> Figure:
    """nDCG by the share of most important tokens that every passage lost, a line an attribution.

    Args:
        rankings: of `Faithfulness`. Filled points differ from random tokens after Holm's correction.
        random: mean nDCG of a random ranking.
        cutoff: the k of nDCG@k.
        narrow: the narrow width.
    """
    figure, (axis,) = panels(1, columns=1, narrow_columns=1, height=2.6, narrow=narrow)
    names = list(dict.fromkeys(rankings["attribution"]))
    axis.axhline(random, color=MUTED, lw=0.9, ls=(0, (1, 2)))
    for name in names:
        rows = rankings[rankings["attribution"] == name].sort_values("fraction")
        given: dict[str, Any] = {"color": COLOURS.get(name, SKY), "zorder": 2.5 if name == "random" else 3}
        axis.plot(rows["fraction"], rows["mean"], lw=1.5, ls="--" if name == "random" else "-", **given)
        for _, row in rows.iterrows():
            face = given["color"] if row["p_holm"] <= 0.05 else "white"
            (dot,) = axis.plot([row["fraction"]], [row["mean"]], marker="o", ms=3.6, mfc=face, **given)
            hover(dot, f"{name}, {row['fraction']:.0%} removed: {row['mean']:.3f}")
    _share_axis(axis)
    axis.set_xlabel("most important tokens removed from every passage")
    axis.set_ylabel(f"nDCG@{cutoff}")
    handles = [
        Line2D(
            [], [], color=COLOURS.get(name, SKY), ls="--" if name == "random" else "-", marker="o", ms=3.6, mfc="white"
        )
        for name in names
    ]
    legend_row(figure, handles, names, columns=2 if narrow else 6)
    lay_out(figure)  # sizes are known only then
    name_levels(axis, [(random, "random\nranking", MUTED)])
    return figure


def _share_axis(axis: Axes) -> None:
    axis.set_xlim(-0.02, 1.02)
    axis.set_xticks([0, 0.5, 1])
    axis.xaxis.set_major_formatter(FuncFormatter(percent))
