"""The sinks: attention mass on CLS, the separators and full stops by layer, for each attender part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from tl_crossenc.report.figures.style import (
    FAINT,
    INK,
    MUTED,
    PART_COLOURS,
    hover,
    layer_axis,
    left_column,
    lowest,
    panels,
    styled,
)
from tl_crossenc.statistics.published import ZHAN_2020_CLS_MASS, ZHAN_2020_CLS_MASS_LATER, ZHAN_2020_SEP_MASS

SINK_NAMES = {
    "CLS": "CLS",
    "SEP1": "SEP1",
    "SEP2": "SEP2",
    "SEP": "SEP1 and SEP2",
    "STOPS": "full stops",
}


@styled
def sinks(by_layer: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """A panel a sink, a line an attender part; grey: the range over heads of every position together.

    Zhan et al.'s numbers for BERT-base, all positions, are dots at the same relative depth (triangles: at most).

    Args:
        by_layer: of `measure_sinks`: layer, attender, sink, mass, lowest_head, highest_head.
        narrow: one column instead of two.
    """
    shown = [sink for sink in SINK_NAMES if (by_layer["sink"] == sink).any()]
    figure, axes = panels(len(shown) + 1, columns=3, narrow_columns=2, height=1.75, narrow=narrow)
    last = int(by_layer["layer"].max())
    attenders = [part for part in PART_COLOURS if (by_layer["attender"] == part).any()]
    for axis, sink in zip(axes[:-1], shown, strict=True):
        rows = by_layer[by_layer["sink"] == sink]
        for attender in reversed(attenders):
            part = rows[rows["attender"] == attender].sort_values("layer")
            every = attender == "ALL"
            if every:
                axis.fill_between(
                    part["layer"], part["lowest_head"], part["highest_head"], color=FAINT, lw=0, zorder=0.5
                )
            (line,) = axis.plot(
                part["layer"], part["mass"], color=PART_COLOURS[attender], lw=2.0 if every else 1.1,
                marker="o" if every else "", ms=2.6, zorder=4 if every else 3,
            )  # fmt: skip
            line.set_label(attender)
            hover(line, f"{attender} attends to {SINK_NAMES[sink]}")
        _zhan(axis, sink, last)
        axis.set_title(SINK_NAMES[sink])
        layer_axis(axis, by_layer["layer"], "")
        axis.set_ylim(0, 1)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axis in lowest(axes[:-1]):
        axis.set_xlabel("layer")
    for axis in left_column(axes[:-1]):
        axis.set_ylabel("attention mass")
    _key(axes[-1], attenders)
    return figure


def zhan_points(sink: str, last: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(layers at the same relative depth of a model whose last layer is `last`, masses, how many are exact, not bounds)."""
    n = len(ZHAN_2020_SEP_MASS)
    depth = np.arange(n) * last / (n - 1)
    if sink == "SEP":
        return depth, np.array(ZHAN_2020_SEP_MASS), n
    exact = len(ZHAN_2020_CLS_MASS)
    return depth, np.array([*ZHAN_2020_CLS_MASS, *[ZHAN_2020_CLS_MASS_LATER] * (n - exact)]), exact


def _zhan(axis: Axes, sink: str, last: int) -> None:
    if sink not in ("SEP", "CLS"):
        return
    depth, mass, exact = zhan_points(sink, last)
    given: dict[str, Any] = {"ls": "", "mfc": "white", "mec": MUTED, "mew": 1.0, "zorder": 5, "clip_on": False}
    for marker, part in (("o", slice(exact)), ("v", slice(exact, None))):
        if not len(depth[part]):
            continue
        (dots,) = axis.plot(depth[part], mass[part], marker=marker, ms=3.6, gid="zhan", **given)
        hover(dots, f"Zhan et al. 2020, BERT-base: {'at most ' if marker == 'v' else ''}mass on {SINK_NAMES[sink]}")


def _key(axis: Axes, attenders: list[str]) -> None:
    """What the lines are, in the place of a last panel."""
    axis.set_axis_off()
    axis.set_title("key", color=INK)
    line: dict[str, Any] = {"lw": 1.3, "ls": "-"}
    entries: list[tuple[str, str, dict[str, Any]]] = [
        ("every position" if name == "ALL" else f"{name} attends", colour, line | {"lw": 2.0 if name == "ALL" else 1.3})
        for name, colour in PART_COLOURS.items()
        if name in attenders
    ]
    entries += [("range over heads", FAINT, {"lw": 6.0, "ls": "-", "solid_capstyle": "butt"})]
    entries += [("Zhan et al., BERT-base", MUTED, {"ls": "", "marker": "o", "ms": 3.6, "mfc": "white"})]
    for i, (text, colour, style) in enumerate(entries):
        y = 0.94 - 0.125 * i
        axis.add_artist(
            Line2D([0.03, 0.09, 0.15], [y] * 3, color=colour, markevery=[1], transform=axis.transAxes, **style)
        )
        said = MUTED if colour == FAINT else colour
        note = axis.text(0.19, y, text, transform=axis.transAxes, color=said, fontsize=7.5, va="center")
        note.set_in_layout(False)
