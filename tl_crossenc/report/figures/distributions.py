"""Figure 1c: distributions of the attention weights between QUERY and DOC tokens, and the mass on equal word pieces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tl_crossenc.report.figures.style import (
    BLUE,
    GREEN,
    GROUP_COLOURS,
    INK,
    MUTED,
    PAGE,
    VERMILION,
    arrow,
    hover,
    layer_axis,
    left_column,
    legend_row,
    lowest,
    panels,
    percent,
    styled,
)
from tl_crossenc.results.artefacts import drawn_kinds

KIND_NAMES = {"same_piece": "equal word pieces", "same_word": "equal words", "other": "no lexical match"}
GROUP_NAMES = {"relevant": "relevant", "hard": "hard negatives", "easy": "easy negatives"}
FRAME, RIDGE, LEAST_RIDGE = 0.6, 0.27, 0.145
"""Inches: what a panel needs around its ridges, what a ridge has where there is room, and what it needs for its number."""
_KNOWN = {"relevant": BLUE, "hard": GREEN, "easy": VERMILION}


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """A colour for each group."""
    spare = [colour for colour in GROUP_COLOURS if colour not in _KNOWN.values()]
    others = iter(spare * len(groups))
    return {group: _KNOWN.get(group) or next(others) for group in groups}


def ordered_groups(groups: Iterable[str]) -> list[str]:
    """Each group once: relevant first, easy negatives last where they are so named."""
    found = list(dict.fromkeys(groups))
    return [name for name in GROUP_NAMES if name in found] + [name for name in found if name not in GROUP_NAMES]


@styled
def figure1c(
    histogram: pd.DataFrame, distance: pd.DataFrame, token_pairs: pd.DataFrame, *, narrow: bool = False
) -> Figure:
    """A ridge a layer: the first group's distribution filled, the last group's a line; a panel a direction and kind of match.

    Args:
        histogram: `MatchDistributions.histogram`; rows of single heads are left out.
        distance: `MatchDistributions.distance`: written at the right of each ridge, bold where p_max <= .05.
        token_pairs: `MatchDistributions.token_pairs`.
        narrow: one column instead of two.
    """
    rows = histogram[histogram["head"].astype(str) == "all"]
    shown = str(distance["comparison"].iloc[-1]).split(" - ")  # the first group and the last
    kinds = drawn_kinds(token_pairs[token_pairs["group"].isin(shown)])
    places = [(direction, kind) for direction in dict.fromkeys(rows["direction"]) for kind in kinds]
    across = 1 if narrow else max(len(kinds), 1)
    most = PAGE / max(-(-len(places) // across), 1) - 0.1
    layers = spread(sorted(set(rows["layer"])), int((most - FRAME) / LEAST_RIDGE))
    figure, axes = panels(
        len(places),
        columns=across,
        narrow_columns=1,
        height=min(FRAME + RIDGE * len(layers), most),
        narrow=narrow,
        sharex=True,
    )
    depth = {layer: i for i, layer in enumerate(layers)}
    compared = distance[(distance["comparison"] == " - ".join(shown)) & (distance["head"].astype(str) == "all")]
    colours = group_colours(shown)
    for axis, (direction, kind) in zip(axes, places, strict=True):
        here = rows[(rows["direction"] == direction) & (rows["kind"] == kind)]
        _ridges(axis, here, shown, layers, colours)
        beside = compared[(compared["direction"] == direction) & (compared["kind"] == kind)].set_index("layer")
        _distances(axis, beside.loc[beside.index.isin(layers)], depth)
        axis.set_title(f"{arrow(direction)}: {KIND_NAMES.get(kind, kind)}")
        axis.set_ylim(len(layers) - 0.75, -1.35)
        axis.set_yticks(range(len(layers)), list(map(str, layers)))
        axis.xaxis.set_major_formatter(FuncFormatter(_power))
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    for axis in lowest(axes):
        axis.set_xlabel("attention weight")
    some = len(layers) < rows["layer"].nunique()
    for axis in left_column(axes):
        axis.set_ylabel("layer (some of all)" if some else "layer")
    _legend(figure, shown, colours, narrow)
    return figure


def spread(layers: Sequence[int], most: int) -> list[int]:
    """All layers where there are at most so many, else so many of them at even steps, the first and the last among them."""
    if len(layers) <= most:
        return list(layers)
    return [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, max(most, 2)).round().astype(int))]


@styled
def matches(mass: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """By layer and direction: the mass on equal word pieces, the mass on tokens without a lexical match, and the first's share.

    Args:
        mass: `MatchDistributions.mass`; rows of single heads are left out.
        narrow: one column instead of two.
    """
    rows = mass[mass["head"].astype(str) == "all"]
    groups, directions = ordered_groups(rows["group"]), list(dict.fromkeys(rows["direction"]))
    colours = group_colours(groups)
    quantities = (
        ("same_piece", "mass", "mass on equal pieces"),
        ("other", "mass", "mass without a match"),
        ("same_piece", "share", "share on equal pieces"),
    )
    places = [(*quantity, direction) for quantity in quantities for direction in directions]
    figure, axes = panels(len(places), columns=2, narrow_columns=2, height=1.6, narrow=narrow, sharey=False)
    for axis, (kind, quantity, label, direction) in zip(axes, places, strict=True):
        here = rows[(rows["kind"] == kind) & (rows["direction"] == direction)]
        for group in groups:
            part = here[here["group"] == group].sort_values("layer")
            low, high = part[f"{quantity}_low"].clip(lower=0), part[f"{quantity}_high"]
            axis.fill_between(part["layer"], low, high, color=colours[group], alpha=0.14, lw=0)
            (line,) = axis.plot(part["layer"], part[quantity], color=colours[group], marker="o", ms=2.8)
            hover(line, f"{GROUP_NAMES.get(group, group)}, {arrow(direction)}: {label}")
            if quantity == "share":
                axis.plot(part["layer"], part["pair_share"], color=colours[group], lw=0.9, ls=(0, (1, 2)))
        if direction == directions[0]:
            axis.set_ylabel(label if not narrow else label.replace(" on ", "\non ").replace(" without", "\nwithout"))
        axis.yaxis.set_major_formatter(FuncFormatter(percent))
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=3))
        layer_axis(axis, rows["layer"], "layer" if (kind, quantity) == quantities[-1][:2] else "")
        if (kind, quantity) == quantities[0][:2]:
            axis.set_title(arrow(direction))
    dotted = Line2D([], [], color=MUTED, lw=0.9, ls=(0, (1, 2)))
    _legend(figure, groups, colours, narrow, ("share of token pairs", dotted))
    return figure


def densities(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(centres as log10 weight, share of the weights per decade) of the bins of one histogram; NaN of an empty one."""
    part = rows.sort_values("bin_high")
    high = np.log10(part["bin_high"].to_numpy(dtype=float))
    width = float(high[-1] - high[-2]) if len(high) > 1 else 1.0
    count = part["count"].to_numpy(dtype=float)
    total = count.sum()
    return high - width / 2, count / (total * width) if total else np.full(len(count), np.nan)


def _ridges(
    axis: Axes, rows: pd.DataFrame, groups: Sequence[str], layers: Sequence[int], colours: dict[str, str]
) -> None:
    drawn = {
        (layer, group): densities(rows[(rows["layer"] == layer) & (rows["group"] == group)])
        for layer in layers
        for group in groups
    }
    top = np.nanmax([density.max() for _, density in drawn.values()])
    scale = 1.25 / top if np.isfinite(top) and top > 0 else 1.0
    seen = [centres[density > 0.004] for centres, density in drawn.values()]
    found = np.concatenate(seen)
    if found.size:
        axis.set_xlim(found.min(), min(found.max() + 0.1, 0.0))
    for depth, layer in enumerate(layers):  # lower ridges over higher ones
        axis.axhline(depth, color=MUTED, lw=0.5, zorder=2 + depth)
        for i, group in enumerate(groups):
            centres, density = drawn[layer, group]
            inside = np.flatnonzero(density > 0)
            if not inside.size:
                continue
            shown = slice(max(inside[0] - 1, 0), inside[-1] + 2)
            xs, ys = centres[shown], depth - scale * density[shown]
            z = 2 + depth + 0.1 * (i + 1)
            if i == 0:
                closed = np.concatenate([[xs[0]], xs, [xs[-1]]]), np.concatenate([[depth], ys, [depth]])
                (area,) = axis.fill(*closed, color=colours[group], alpha=0.30, lw=0, zorder=z)
                hover(area, f"layer {layer}, {GROUP_NAMES.get(group, group)}")
            axis.plot(xs, ys, color=colours[group], lw=1.0, zorder=z + 0.05)
    axis.grid(False, axis="y")


def _distances(axis: Axes, rows: pd.DataFrame, depth: Mapping[int, int]) -> None:
    axis.annotate(
        "W₁", (1.0, 1.0), xycoords="axes fraction", xytext=(3, 0), textcoords="offset points",
        fontsize=7, ha="left", va="center", color=MUTED, annotation_clip=False,
    )  # fmt: skip
    for layer, row in rows.iterrows():
        if np.isfinite(row["distance"]):
            passes = bool(row["p_max"] <= 0.05)
            note = axis.annotate(
                f"{row['distance']:.2f}", (1.0, depth[layer]), xycoords=("axes fraction", "data"), xytext=(3, 1),
                textcoords="offset points", fontsize=7, ha="left", va="bottom", annotation_clip=False,
                color=INK if passes else MUTED, fontweight="bold" if passes else "normal",
            )  # fmt: skip
            hover(note, f"layer {layer}: distance {row['distance']:.3f} decades, p {row['p_max']:.3g}")


def _legend(
    figure: Figure, groups: Sequence[str], colours: dict[str, str], narrow: bool, *others: tuple[str, Line2D]
) -> None:
    handles = [Line2D([], [], color=colours[group]) for group in groups] + [line for _, line in others]
    names = [GROUP_NAMES.get(group, group) for group in groups] + [name for name, _ in others]
    legend_row(figure, handles, names, columns=2 if narrow else len(names))


def _power(value: float, _: int) -> str:
    superscript = str(round(value)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return "1" if value == 0 else f"10{superscript}"
