"""Heads as rankers: nDCG of every head alone, and of the k best together by what chose them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from tl_crossenc.report.figures.style import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    MUTED,
    PURPLE,
    VERMILION,
    arrow,
    hover,
    lay_out,
    layer_axis,
    legend_row,
    name_levels,
    panels,
    signed,
    styled,
)
from tl_crossenc.report.tables import holm_text, interval_text

ALL_HEADS = "all heads"
COLOURS = {"qr": BLUE, "ndcg": GREEN}
CORE_COLOURS = (VERMILION, AMBER, PURPLE)
REFERENCES: dict[str, tuple[str, Any]] = {
    "model": (INK, (0, (5, 3))),
    "BM25": (MUTED, (0, (5, 1.5, 1, 1.5))),
    "random": (MUTED, (0, (1, 2))),
}
APART = 1.045
"""Criteria stand this factor apart on the logarithmic axis of k."""


def criterion_name(criterion: str) -> str:
    """A criterion as it is shown."""
    if criterion.startswith("core_"):
        return f"CoRe score, t = {criterion.removeprefix('core_')}"
    return {"qr": "QR score", "ndcg": "own nDCG"}.get(criterion, criterion)


@styled
def head_rankers(
    heads: pd.DataFrame,
    rankings: pd.DataFrame,
    comparisons: pd.DataFrame,
    references: pd.DataFrame,
    *,
    cutoff: int = 10,
    narrow: bool = False,
) -> Figure:
    """A column a direction: above every head alone by layer, below the k best heads, chosen on the other half of the queries.

    Dashed: the same heads on the half that chose them. Filled: better than a random ranking, by the corrected test.

    Args:
        heads, rankings, comparisons, references: of `HeadRankers`.
        cutoff: the k of nDCG@k.
        narrow: one column instead of two.
    """
    directions = list(dict.fromkeys(heads["direction"]))
    figure, axes = panels(
        2 * len(directions), columns=len(directions), narrow_columns=1, height=2.0, narrow=narrow, sharex=False
    )
    levels = references.set_index("reference")["mean"]
    criteria = [name for name in dict.fromkeys(rankings["criterion"]) if name != ALL_HEADS]
    cores = [name for name in criteria if name not in COLOURS]
    colours = COLOURS | {name: CORE_COLOURS[i % len(CORE_COLOURS)] for i, name in enumerate(cores)}
    for axis in axes:
        for name, (colour, style) in REFERENCES.items():
            axis.axhline(levels[name], color=colour, lw=0.9, ls=style, gid=name)
    for axis, direction in zip(axes, directions, strict=False):
        _alone(axis, heads[heads["direction"] == direction])
        axis.set_title(f"{arrow(direction)}: every head alone")
    for axis, direction in zip(axes[len(directions) :], directions, strict=True):
        own, compared = (frame[frame["direction"] == direction] for frame in (rankings, comparisons))
        _together(axis, own[own["fold"] == "both"], compared[compared["against"] == "random"], colours)
        axis.set_title(f"{arrow(direction)}: the k best together")
    for axis in axes if narrow else axes[:: len(directions)]:
        axis.set_ylabel(f"nDCG@{cutoff}")
    styles: dict[str, dict[str, Any]] = {
        f"chosen by {criterion_name(name)}": {"color": colours[name], "marker": "o", "ms": 3.6} for name in criteria
    }
    styles["on the half that chose them"] = {"color": MUTED, "lw": 0.9, "ls": (0, (3, 2))}
    styles[ALL_HEADS] = {"color": INK, "marker": "s", "ms": 4, "ls": ""}
    handles = [Line2D([], [], **style) for style in styles.values()]
    legend_row(figure, handles, list(styles), columns=1 if narrow else 3)
    lay_out(figure)  # sizes are known only then
    for axis in axes if narrow else axes[len(directions) - 1 :: len(directions)]:
        name_levels(axis, [(levels[name], name, colour) for name, (colour, _) in REFERENCES.items()])
    return figure


def _alone(axis: Axes, rows: pd.DataFrame) -> None:
    """A dot a head, its layer's heads side by side."""
    n = int(rows["head"].max()) + 1
    for row in rows.to_dict("records"):
        x = row["layer"] + 0.56 * ((row["head"] + 0.5) / n - 0.5)
        (dot,) = axis.plot([x], [row["ndcg"]], ls="", marker="o", ms=2.8, mew=0, color=BLUE, alpha=0.75, gid="head")
        scores = "".join(
            f", {criterion_name(name)} {row[name]:.3f}" for name in row if str(name).startswith(("core", "qr"))
        )
        bounds = interval_text(row["ndcg_low"], row["ndcg_high"])
        hover(dot, f"head {row['layer']}.{row['head']}: {row['ndcg']:.3f}{bounds}{scores}")
    layer_axis(axis, rows["layer"])


def _together(axis: Axes, rows: pd.DataFrame, against_random: pd.DataFrame, colours: dict[str, str]) -> None:
    """A line a criterion over k, and all heads at the right end."""
    tested = against_random.set_index(["criterion", "k"])
    criteria = [name for name in dict.fromkeys(rows["criterion"]) if name != ALL_HEADS]
    for i, criterion in enumerate(criteria):
        own, shift = rows[rows["criterion"] == criterion], APART ** (i - (len(criteria) - 1) / 2)
        for chosen_on in ("same half", "other half"):
            part = own[own["chosen_on"] == chosen_on].sort_values("k")
            other = chosen_on == "other half"
            style: dict[str, Any] = {"lw": 1.3, "zorder": 3} if other else {"lw": 0.9, "ls": (0, (3, 2)), "alpha": 0.8}
            axis.plot(part["k"] * shift, part["mean"], color=colours[criterion], gid=chosen_on, **style)
        for row in own[own["chosen_on"] == "other half"].to_dict("records"):
            _point(axis, row, row["k"] * shift, tested.loc[(criterion, row["k"])], colours[criterion], "o")
    (whole,) = rows[rows["criterion"] == ALL_HEADS].to_dict("records")
    _point(axis, whole, float(whole["k"]), tested.loc[(ALL_HEADS, whole["k"])], INK, "s")
    counts = sorted(set(rows["k"]))
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(counts))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(counts, [*map(str, counts[:-1]), "all"])
    axis.set_xlabel("heads that rank, k")


def _point(axis: Axes, row: dict[str, Any], x: float, test: pd.Series, colour: str, marker: str) -> None:
    better = test["p_holm"] <= 0.05 and test["difference"] > 0
    face = colour if better else "white"
    if np.isfinite(row["low"]):
        axis.plot([x, x], [row["low"], row["high"]], color=colour, lw=0.7, alpha=0.55)
    (dot,) = axis.plot([x], [row["mean"]], ls="", marker=marker, ms=3.6, mec=colour, mew=0.9, mfc=face, zorder=4)
    chosen = ALL_HEADS if row["criterion"] == ALL_HEADS else f"{row['k']} best by {criterion_name(row['criterion'])}"
    bounds = interval_text(row["low"], row["high"])
    change = f"{signed(test['difference'])} from random{holm_text(test['p_holm'])}"
    hover(dot, f"{chosen}: {row['mean']:.3f}{bounds}, {change}")
