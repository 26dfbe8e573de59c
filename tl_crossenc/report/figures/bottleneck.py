"""Information bottlenecks: bits by layer of each part and the share of them, of matched tokens, and by position in the passage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from tl_crossenc.report.figures.style import (
    AMBER,
    BLUE,
    PART_COLOURS,
    VERMILION,
    hover,
    layer_axis,
    panels,
    styled,
)
from tl_crossenc.report.tables import interval_text

PARTS = ("CLS", "QUERY", "DOC")
KINDS = (
    ("same_piece", VERMILION, "word piece in the query"),
    ("same_word", AMBER, "word in the query"),
    ("other", BLUE, "neither"),
)
DEPTHS = 4
"""Lines of the panel by position, at most."""


@styled
def bottleneck(
    by_layer: pd.DataFrame, matches: pd.DataFrame, positions: pd.DataFrame, *, narrow: bool = False
) -> Figure:
    """Four panels, each with 95 % t-intervals over queries where there are any.

    Args:
        by_layer, matches, positions: of `BottleneckResult`.
        narrow: one column instead of two.
    """
    figure, axes = panels(4, columns=2, narrow_columns=1, height=1.95, narrow=narrow, sharey=False, sharex=False)
    total, share, matched, placed = axes
    for part in PARTS:
        rows = by_layer[by_layer["part"] == part]
        _line(total, rows["layer"], rows, "bits", PART_COLOURS[part], f"{part}: {{:,.4g}} bits")
        _line(share, rows["layer"], rows, "share", PART_COLOURS[part], f"{part}: {{:.1%}} of the bits")
    share.axhline(0.5, color=PART_COLOURS["CLS"], lw=0.8, ls=(0, (1, 2)))
    share.set_ylim(0, 1)
    share.yaxis.set_major_formatter(PercentFormatter(1.0))
    for kind, colour, name in KINDS:
        rows = matches[(matches["part"] == "DOC") & (matches["kind"] == kind)]
        if len(rows):
            _line(matched, rows["layer"], rows, "per_token", colour, f"{name}: {{:,.4g}} bits a token")
    for axis in (total, share, matched):
        layer_axis(axis, by_layer["layer"])
    for axis in (total, matched, placed):
        axis.set_yscale("log")
    layers = np.unique(positions["layer"])
    shown = np.unique(layers[np.linspace(0, len(layers) - 1, min(DEPTHS, len(layers))).round().astype(int)])
    shades = {layer: colormaps["viridis"](0.9 - 0.75 * i / max(len(shown) - 1, 1)) for i, layer in enumerate(shown)}
    for layer, shade in shades.items():
        rows = positions[positions["layer"] == layer]
        _line(placed, rows["decile"], rows, "per_token", shade, f"layer {layer}: {{:,.4g}} bits a token")
    placed.set_xticks([0, 4.5, 9], ["start", "middle", "end"])
    placed.set_xlabel("place in the passage, by tenths")
    for axis, title, label in (
        (total, "all tokens of a part", "bits"),
        (share, "share of the bits", "of all tokens"),
        (matched, "tokens of the passage", "bits a token"),
        (placed, "along the passage", "bits a token"),
    ):
        axis.set_title(title)
        axis.set_ylabel(label)
    _names(total, [(part, PART_COLOURS[part]) for part in PARTS])
    _names(matched, [(name, colour) for kind, colour, name in KINDS if (matches["kind"] == kind).any()])
    placed.set_ylim(top=placed.get_ylim()[1] * 8)  # room for the names
    _names(placed, [(f"after layer {layer}", shade) for layer, shade in shades.items()], loc="upper left", ncols=2)
    return figure


def _line(axis: Axes, at: pd.Series, rows: pd.DataFrame, quantity: str, colour: Any, said: str) -> None:
    """Means with their intervals; on a logarithmic axis the lower bound stays above 0."""
    low, high = rows[f"{quantity}_low"], rows[f"{quantity}_high"]
    known = np.isfinite(low) & np.isfinite(high)
    axis.fill_between(
        at[known], np.maximum(low, rows[quantity] / 100)[known], high[known], color=colour, alpha=0.15, lw=0
    )
    axis.plot(at, rows[quantity], color=colour, lw=1.3, zorder=3)
    for x, value, below, above in zip(at, rows[quantity], low, high, strict=True):
        (dot,) = axis.plot([x], [value], marker="o", ms=3.0, color=colour, zorder=4)
        hover(dot, f"{said.format(value)}{interval_text(below, above)}")


def _names(axis: Axes, entries: list[tuple[str, Any]], loc: Any = "best", ncols: int = 1) -> None:
    """What the lines are, in their colours, where the lines leave room."""
    axis.legend(
        [Line2D([], [], color=colour, lw=1.6) for _, colour in entries], [name for name, _ in entries], loc=loc, ncols=ncols,
        frameon=False, fontsize=7, handlelength=1.2, labelspacing=0.3, borderaxespad=0.2, labelcolor="linecolor",
    )  # fmt: skip
