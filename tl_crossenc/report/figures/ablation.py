"""Figure 1a, and the ablation of ranked heads: nDCG against what is removed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from tl_crossenc.report.figures.style import (
    BLUE,
    INK,
    MUTED,
    VERMILION,
    arrow,
    hover,
    lay_out,
    layer_axis,
    left_column,
    legend_row,
    lowest,
    name_levels,
    panels,
    signed,
    styled,
)
from tl_crossenc.report.tables import holm_text, interval_text

BESIDE = 1.09
"""Draws stand this factor to the right of their k, on the logarithmic axis."""
_DOT: dict[str, Any] = {"color": MUTED, "marker": "o", "ms": 2.6, "mew": 0, "alpha": 0.55}
_DIAMOND: dict[str, Any] = {"color": VERMILION, "marker": "D", "ms": 4.0, "mfc": "white", "mew": 1.1}
_SQUARE: dict[str, Any] = {"color": BLUE, "marker": "s", "ms": 3.4}
_TRIANGLES: dict[str, dict[str, Any]] = {
    fold: {"color": BLUE, "marker": marker, "ms": 3.6, "mfc": "white", "mew": 0.8, "ls": ""}
    for fold, marker in (("0", "^"), ("1", "v"))
}
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
        curve: `LayerSweep.curve`: direction, layer, mean, difference, diff_low, diff_high, p_holm, decrease_holm. The band is the
            interval of the paired difference, drawn from the unablated mean: where it leaves that line, the test without correction
            finds a difference.
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
        names = [f"{arrow(direction)}, layer {layer}" for layer in rows["layer"]]
        _line(axis, rows, "layer", BLUE, names, unablated[0])
        axis.set_title(arrow(direction))
        layer_axis(axis, curve["layer"], "")
    lowest(axes)
    for axis in left_column(axes):
        axis.set_ylabel(f"nDCG@{cutoff}")
    figure.supxlabel(f"layer ({SPAN_LABELS[span]})", fontsize=8)
    lay_out(figure)  # sizes are known only then
    for axis in axes:
        if axis.get_subplotspec().is_last_col():  # type: ignore[union-attr]
            name_levels(axis, [(unablated[0], "unablated", INK), (random, "random", MUTED)])
    return figure


@styled
def head_ablation(
    curve: pd.DataFrame,
    draws: pd.DataFrame,
    folds: pd.DataFrame | None = None,
    *,
    n_drawn: int | None = None,
    cutoff: int = 10,
    narrow: bool = False,
) -> Figure:
    """The change of nDCG with the k highest-ranked heads removed, and with random heads of the same layers; a panel a scope.

    Ranked heads over all queries are a line in a band, the paired interval of the change. Random ones are single draws, a dot
    each; where these were scored on some queries only, a diamond is the ranked heads on the same queries.

    Args:
        curve: `HeadAblation.curve`: scope, k, kind ("ranked", "random"), difference, diff_low, diff_high, p_random, p_family.
        draws: `HeadAblation.draws`: scope, k, kind, draw, heads, difference.
        folds: `HeadFolds.folds`, heads ranked on the other half of the queries: squares with their intervals, triangles a half.
        n_drawn: queries of the draws, where they are not all.
        cutoff: the k of nDCG@k.
        narrow: one column instead of two.
    """
    scopes = list(dict.fromkeys(curve["scope"]))
    figure, axes = panels(len(scopes), columns=2, narrow_columns=1, height=2.1, narrow=narrow)
    counts = sorted(set(curve["k"]))
    for axis, scope in zip(axes, scopes, strict=True):
        axis.axhline(0.0, color=INK, lw=0.9, ls=(0, (5, 3)), gid="unablated")
        rows = curve[curve["scope"] == scope].sort_values("k")
        _draws(axis, draws[draws["scope"] == scope], rows, n_drawn)
        part = rows[rows["kind"] == "ranked"]
        axis.fill_between(part["k"], part["diff_low"], part["diff_high"], color=VERMILION, alpha=0.18, lw=0)
        axis.plot(part["k"], part["difference"], color=VERMILION, marker="o", ms=3.5, gid="ranked")
        for row in part.itertuples():
            said = f"{row.k} highest-ranked heads: {_change(row)}"
            if np.isfinite(row.p_random):
                said += f", p {row.p_random:.3f} among the random draws, {row.p_family:.3f} over all k and scopes"
            _target(axis, float(row.k), row.difference, said)
        if folds is not None:
            _halves(axis, folds[folds["scope"] == scope])
        axis.set_title({"QUERY<->DOC": "QUERY↔DOC only"}.get(scope, scope))
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator(counts))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticks(counts, [str(k) for k in counts])
    for axis in lowest(axes):
        axis.set_xlabel("heads removed, k")
    bounds = ", 95 % interval of the change" if curve["diff_low"].notna().any() else ""
    names: dict[str, dict[str, Any]] = {
        f"highest-ranked heads{bounds}": {"color": VERMILION, "marker": "o"},
        "one draw of random heads": {**_DOT, "ls": ""},
        "unablated": {"color": INK, "lw": 0.9, "ls": (0, (5, 3))},
    }
    if n_drawn:
        names = {
            f"highest-ranked, the {n_drawn} queries of the draws": {**_DIAMOND, "ls": ""},
            **names,
        }
    if folds is not None:
        names |= {"ranked on the other half of the queries": {**_SQUARE, "lw": 1.0}, "a half alone": _TRIANGLES["0"]}
    handles = [Line2D([], [], **style) for style in names.values()]
    legend_row(figure, handles, list(names), columns=1 if narrow else 2 if len(names) > 3 else 3)
    for axis in left_column(axes):
        axis.set_ylabel(f"change in nDCG@{cutoff}")
    return figure


def _draws(axis: Axes, draws: pd.DataFrame, rows: pd.DataFrame, n_drawn: int | None) -> None:
    """A dot a random draw, beside its k; the ranked heads on the same queries above them."""
    random = draws[draws["kind"] == "random"]
    for row in random.itertuples():
        (dot,) = axis.plot([row.k * BESIDE], [row.difference], ls="", gid="draw", **_DOT)
        hover(dot, f"{row.k} random heads ({row.heads}): {signed(row.difference)}")
    if n_drawn:
        for row in draws[(draws["kind"] == "ranked") & draws["k"].isin(random["k"])].itertuples():
            (mark,) = axis.plot([row.k * BESIDE], [row.difference], ls="", zorder=4, **_DIAMOND)
            tested = rows[(rows["kind"] == "ranked") & (rows["k"] == row.k)].iloc[0]
            hover(
                mark,
                f"{row.k} highest-ranked heads on the {n_drawn} queries of the draws: {signed(row.difference)}, "
                f"p {tested['p_random']:.3f} among the draws, {tested['p_family']:.3f} over all k and scopes",
            )


def _halves(axis: Axes, folds: pd.DataFrame) -> None:
    """The change with heads that the other half of the queries ranked, to the left of their k."""
    for row in folds.sort_values("k").itertuples():
        x, fold = row.k / BESIDE, str(row.fold)
        whole = fold == "both"
        if whole and np.isfinite(row.diff_low):
            axis.plot([x, x], [row.diff_low, row.diff_high], color=BLUE, lw=1.0, zorder=3)
        (mark,) = axis.plot([x], [row.difference], **({**_SQUARE, "ls": ""} if whole else _TRIANGLES[fold]), zorder=4)
        said = f"{row.k} heads ranked on the other half of the queries: {_change(row)}"
        said += holm_text(row.p_holm) if whole else f", on {row.n_queries} queries, heads {row.heads}"
        hover(mark, f"{said}; {signed(row.all_difference)} with the heads that all queries rank")


def _line(axis: Axes, rows: pd.DataFrame, x: str, colour: str, names: list[str], unablated: float) -> None:
    low, high = unablated + rows["diff_low"], unablated + rows["diff_high"]
    axis.fill_between(rows[x], low, high, color=colour, alpha=0.18, lw=0)
    axis.plot(rows[x], rows["mean"], color=colour, gid="mean")
    marked = rows["decrease_holm"].astype(bool)
    for chosen, face in ((marked, colour), (~marked, "white")):
        axis.plot(
            rows.loc[chosen, x], rows.loc[chosen, "mean"], ls="", marker="o", ms=3.2, mew=0.9, mec=colour, mfc=face
        )
    for name, row in zip(names, rows.itertuples(), strict=True):
        said = f"{name}: {row.mean:.3f}, {_change(row)} from unablated{holm_text(row.p_holm)}"
        _target(axis, float(getattr(row, x)), row.mean, said)


def _change(row: Any) -> str:
    return signed(row.difference) + interval_text(row.diff_low, row.diff_high, "+").replace("-", "−")


def _target(axis: Axes, x: float, y: float, text: str) -> None:
    """An invisible disc that is easier to hit than a marker."""
    (disc,) = axis.plot([x], [y], ls="", marker="o", ms=10, mew=0, mfc="white", alpha=0.0, label="_target")
    hover(disc, text)


def _baselines(axis: Axes, unablated: float, random: float) -> None:
    axis.axhline(unablated, color=INK, lw=0.9, ls=(0, (5, 3)), gid="unablated")
    axis.axhline(random, color=MUTED, lw=0.9, ls=(0, (1, 2)), gid="random")
