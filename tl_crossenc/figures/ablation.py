"""Figure 1a, and the ablation of ranked heads: nDCG against what is removed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from tl_crossenc.figures.style import (
    BLUE,
    INK,
    MUTED,
    VERMILION,
    arrow,
    hover,
    layer_axis,
    left_column,
    legend_row,
    lowest,
    name_levels,
    panels,
    styled,
)

SPAN_LABELS = {
    "up_to": "removed in layers 0 to …",
    "from": "removed from layer … to the last",
    "only": "removed in layer …",
}


@styled
def figure1a(
    curve: pd.DataFrame,
    *,
    unablated: tuple[float, float, float],
    random: float,
    span: str = "up_to",
    cutoff: int = 10,
    narrow: bool = False,
) -> Figure:
    """nDCG of each direction removed in a span of layers, a panel a direction.

    Args:
        curve: `LayerSweep.curve`: direction, layer, mean, mean_low, mean_high, decrease_holm.
        unablated: (mean, low, high) of the unablated model.
        random: mean nDCG of a random ranking.
        span: "up_to", "from" or "only".
        cutoff: the k of nDCG@k.
        narrow: one column instead of two.
    """
    directions = list(dict.fromkeys(curve["direction"]))
    figure, axes = panels(len(directions), columns=3, narrow_columns=2, height=1.75, narrow=narrow)
    for axis, direction in zip(axes, directions, strict=True):
        rows = curve[curve["direction"] == direction].sort_values("layer")
        _baselines(axis, unablated[0], random)
        _line(axis, rows, "layer", BLUE, [f"{arrow(direction)}, layer {layer}" for layer in rows["layer"]])
        axis.set_title(arrow(direction))
        layer_axis(axis, curve["layer"], "")
    lowest(axes)
    for axis in left_column(axes):
        axis.set_ylabel(f"nDCG@{cutoff}")
    figure.supxlabel(f"layer ({SPAN_LABELS[span]})", fontsize=8)
    figure.draw_without_rendering()  # sizes are known only once it is laid out
    for axis in axes:
        if axis.get_subplotspec().is_last_col():  # type: ignore[union-attr]
            name_levels(axis, [(unablated[0], "unablated", INK), (random, "random", MUTED)])
    return figure


@styled
def head_ablation(
    curve: pd.DataFrame,
    *,
    unablated: tuple[float, float, float],
    cutoff: int = 10,
    narrow: bool = False,
) -> Figure:
    """nDCG with the k highest-ranked heads removed, against random heads of the same layers; a panel a scope.

    Args:
        curve: `HeadAblation.curve`: scope, k, kind ("ranked", "random"), mean, low, high, n_draws, p_random.
        unablated: (mean, low, high).
        cutoff: the k of nDCG@k.
        narrow: one column instead of two.
    """
    scopes = list(dict.fromkeys(curve["scope"]))
    figure, axes = panels(len(scopes), columns=2, narrow_columns=1, height=2.1, narrow=narrow)
    counts = sorted(set(curve["k"]))
    for axis, scope in zip(axes, scopes, strict=True):
        axis.axhline(unablated[0], color=INK, lw=0.9, ls=(0, (5, 3)), gid="unablated")
        rows = curve[curve["scope"] == scope].sort_values("k")
        for kind, colour in (("random", MUTED), ("ranked", VERMILION)):
            part = rows[rows["kind"] == kind]
            if part.empty:
                continue
            axis.fill_between(part["k"], part["low"], part["high"], color=colour, alpha=0.18, lw=0)
            axis.plot(part["k"], part["mean"], color=colour, marker="o", ms=3.5)
            for row in part.itertuples():
                said = f"{kind} heads, k = {row.k}: {row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]"
                if kind == "ranked" and np.isfinite(row.p_random):
                    said += f", p = {row.p_random:.3f} among the random draws"
                _target(axis, float(row.k), row.mean, said)
        axis.set_title({"QUERY<->DOC": "QUERY↔DOC only"}.get(scope, scope))
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator(counts))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticks(counts, [str(k) for k in counts])
    for axis in lowest(axes):
        axis.set_xlabel("heads removed, k")
    names: dict[str, dict[str, Any]] = {
        "highest-ranked heads (95 % interval over queries)": {"color": VERMILION, "marker": "o"},
        "random heads of the same layers (range of draws)": {"color": MUTED, "marker": "o"},
        "unablated": {"color": INK, "lw": 0.9, "ls": (0, (5, 3))},
    }
    legend_row(figure, [Line2D([], [], **style) for style in names.values()], list(names), columns=1 if narrow else 3)
    for axis in left_column(axes):
        axis.set_ylabel(f"nDCG@{cutoff}")
    return figure


def _line(axis: Axes, rows: pd.DataFrame, x: str, colour: str, names: list[str]) -> None:
    axis.fill_between(rows[x], rows["mean_low"], rows["mean_high"], color=colour, alpha=0.18, lw=0)
    axis.plot(rows[x], rows["mean"], color=colour, gid="mean")
    marked = rows["decrease_holm"].astype(bool)
    for chosen, face in ((marked, colour), (~marked, "white")):
        axis.plot(
            rows.loc[chosen, x], rows.loc[chosen, "mean"], ls="", marker="o", ms=3.2, mew=0.9, mec=colour, mfc=face
        )
    for name, row in zip(names, rows.itertuples(), strict=True):
        said = f"{name}: {row.mean:.3f} [{row.mean_low:.3f}, {row.mean_high:.3f}], Holm p {row.p_holm:.3g}"
        _target(axis, float(getattr(row, x)), row.mean, said)


def _target(axis: Axes, x: float, y: float, text: str) -> None:
    """An invisible disc that is easier to hit than a marker."""
    (disc,) = axis.plot([x], [y], ls="", marker="o", ms=10, mew=0, mfc="white", alpha=0.0, label="_target")
    hover(disc, text)


def _baselines(axis: Axes, unablated: float, random: float) -> None:
    axis.axhline(unablated, color=INK, lw=0.9, ls=(0, (5, 3)), gid="unablated")
    axis.axhline(random, color=MUTED, lw=0.9, ls=(0, (1, 2)), gid="random")
