"""Where two models part: the distance of their residual streams, and the CKA, by layer and part."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tl_crossenc.report.figures.style import PART_COLOURS, hover, layer_axis, legend_row, panels, styled

LABELS = {"distance": "relative distance", "cka": "linear CKA"}


@styled
def divergence(layers: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """A panel of distances with their 95 % intervals, one of CKA; a line a part.

    Args:
        layers: `ModelComparison.layers`.
        narrow: one column instead of two.
    """
    figure, axes = panels(len(LABELS), columns=2, narrow_columns=1, height=2.5, narrow=narrow)
    parts = list(dict.fromkeys(layers["part"]))
    for axis, (value, label) in zip(axes, LABELS.items(), strict=True):
        for part in parts:
            rows, colour = layers[layers["part"] == part].set_index("layer").sort_index(), PART_COLOURS[part]
            if value == "distance" and np.isfinite(rows[["low", "high"]].to_numpy()).all():
                axis.fill_between(rows.index, rows["low"], rows["high"], color=colour, alpha=0.15, lw=0)
            (line,) = axis.plot(rows.index, rows[value], color=colour, lw=1.5, marker="o", ms=2.6)
            hover(line, f"{label}, {part}")
        layer_axis(axis, layers["layer"], "layers run")
        axis.set_ylabel(label)
    axes[0].set_ylim(bottom=min(0.0, float(layers[list(LABELS)].min(axis=None)) - 0.02))  # the panels share their scale
    legend_row(figure, [Line2D([], [], color=PART_COLOURS[part]) for part in parts], parts, columns=len(parts))
    return figure
