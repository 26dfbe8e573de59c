"""Figure 1b, of a model and of its twin: layer x head maps of the difference between relevant passages and negatives."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from tl_crossenc.report.figures.style import (
    DIVERGING,
    INK,
    arrow,
    centred,
    difference_bar,
    difference_extent,
    hover_each,
    left_column,
    lowest,
    panels,
    signed,
    styled,
)

QUANTITY_NAMES = {"mass": "attention mass", "density": "attention per position", "excess": "attention over even"}


def map_extent(*frames: pd.DataFrame) -> float:
    """Where the colours of maps of these frames end, so that one scale serves them all; see `style.difference_extent`."""
    rows = pd.concat(frames)
    significant = rows["passes"].astype(bool) | _less(rows)
    n_queries = int(rows["n_queries"].min())
    return difference_extent(rows["difference"], rows["standard_error"], n_queries, significant)


@styled
def figure1b(
    frame: pd.DataFrame, *, quantity: str = "mass", extent: float | None = None, narrow: bool = False
) -> Figure:
    """A map a direction: layers down, heads across; outlined what is significantly more, a bar in what is significantly less.

    Args:
        frame: of `matching_heads`: direction, layer, head, difference, standard_error, n_queries, p_holm, passes, less.
        quantity: "mass", "density" or "excess", for the scale's label.
        extent: where the colours end; None for `map_extent` of this frame alone.
        narrow: one column instead of two.
    """
    directions = list(dict.fromkeys(frame["direction"]))
    n_layers, n_heads = int(frame["layer"].max()) + 1, int(frame["head"].max()) + 1
    width = 3.0 if narrow or len(directions) > 1 else 6.2
    height = float(np.clip(width * n_layers / n_heads, 1.0, 4.2)) + (0.55 if narrow else 0.85)
    figure, axes = panels(len(directions), columns=2, narrow_columns=1, height=height, narrow=narrow)
    norm = centred(map_extent(frame) if extent is None else extent)
    for axis, direction in zip(axes, directions, strict=True):
        rows = frame[frame["direction"] == direction].sort_values(["layer", "head"])
        values = np.full((n_layers, n_heads), np.nan)
        values[rows["layer"], rows["head"]] = rows["difference"]
        mesh = axis.pcolormesh(
            np.arange(n_heads + 1) - 0.5, np.arange(n_layers + 1) - 0.5, values,
            cmap=DIVERGING, norm=norm, edgecolors="white", linewidth=0.6,
        )  # fmt: skip
        said = {(row.layer, row.head): _said(row) for row in rows.itertuples()}
        hover_each(mesh, [said.get(place, "") for place in np.ndindex(n_layers, n_heads)])
        for row in rows[rows["passes"].astype(bool)].itertuples():
            axis.add_patch(
                Rectangle((row.head - 0.44, row.layer - 0.44), 0.88, 0.88, fill=False, ec=INK, lw=1.1, zorder=3)
            )
        for row in rows[_less(rows)].itertuples():
            dark = norm(row.difference) < 0.25
            axis.plot(
                [row.head - 0.22, row.head + 0.22], [row.layer] * 2, color="white" if dark else INK, lw=1.3,
                solid_capstyle="butt", zorder=3, gid="less",
            )  # fmt: skip
        axis.set_title(f"{direction.split('->')[0]} attends to {direction.split('->')[1]}")
        axis.grid(False)
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_locator(MaxNLocator(nbins=12, integer=True))
        axis.set_xlim(-0.5, n_heads - 0.5)
        axis.set_ylim(n_layers - 0.5, -0.5)
    for axis in lowest(axes):
        axis.set_xlabel("head")
    for axis in left_column(axes):
        axis.set_ylabel("layer")
    label = f"difference in {QUANTITY_NAMES.get(quantity, quantity)}, relevant − negative"
    marks = "outlined: significantly more, with a bar: significantly less"
    difference_bar(figure, mesh, axes, f"{label}{chr(10) if narrow else ' '}({marks})")
    return figure


def _less(frame: pd.DataFrame) -> pd.Series:
    """What is significantly less; nothing in results of before that was marked."""
    return frame["less"].astype(bool) if "less" in frame else pd.Series(False, index=frame.index)


def _said(row: object) -> str:
    get = lambda name: getattr(row, name)  # noqa: E731
    return (
        f"head {get('layer')}.{get('head')}, {arrow(get('direction'))}: {signed(get('difference'))} "
        f"(standard error {get('standard_error'):.3f}, Holm p {get('p_holm'):.3g})"
    )
