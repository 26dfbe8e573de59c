"""Figure 1b: layer x head maps of the difference between relevant passages and negatives."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from tl_crossenc.figures.style import (
    DIVERGING,
    INK,
    arrow,
    centred,
    difference_bar,
    hover_each,
    left_column,
    lowest,
    panels,
    signed,
    styled,
)


@styled
def figure1b(frame: pd.DataFrame, *, quantity: str = "mass", narrow: bool = False) -> Figure:
    """A map a direction: layers down, heads across; heads that pass the test are outlined.

    Args:
        frame: of `matching_heads`: direction, layer, head, difference, standard_error, p_holm, passes.
        quantity: "mass" or "density", for the scale's label.
        narrow: one column instead of two.
    """
    directions = list(dict.fromkeys(frame["direction"]))
    n_layers, n_heads = int(frame["layer"].max()) + 1, int(frame["head"].max()) + 1
    width = 3.0 if narrow or len(directions) > 1 else 6.2
    height = float(np.clip(width * n_layers / n_heads, 1.0, 4.2)) + (0.55 if narrow else 0.85)
    figure, axes = panels(len(directions), columns=2, narrow_columns=1, height=height, narrow=narrow)
    norm = centred(frame["difference"].to_numpy())
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
    label = f"difference in attention {quantity}, relevant − negative"
    difference_bar(figure, mesh, axes, label if narrow else f"{label} (outlined: significantly more)")
    return figure


def _said(row: object) -> str:
    get = lambda name: getattr(row, name)  # noqa: E731
    return (
        f"head {get('layer')}.{get('head')}, {arrow(get('direction'))}: {signed(get('difference'))} "
        f"(standard error {get('standard_error'):.3f}, Holm p {get('p_holm'):.3g})"
    )
