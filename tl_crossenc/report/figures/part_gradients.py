"""Integrated gradients by part: the share of a score's difference to a baseline that each part has before each layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from tl_crossenc.report.figures.style import (
    AMBER,
    MUTED,
    PART_COLOURS,
    hover,
    layer_axis,
    left_column,
    legend_row,
    panels,
    styled,
)
from tl_crossenc.statistics.published import ZHAN_2020_GRADIENTS

COLOURS = {
    "CLS": PART_COLOURS["CLS"],
    "QUERY": PART_COLOURS["QUERY"],
    "SEP": PART_COLOURS["SEP1"],
    "DOC": PART_COLOURS["DOC"],
    "STOPS": AMBER,
}
NAMES = {"SEP": "SEP1 and SEP2", "STOPS": "full stops of DOC"}
_TITLES = {"query:pad": "to an empty query", "passage:pad": "to an empty passage"}


@styled
def part_gradients(parts: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """A panel a baseline, a line a part with the 95 % interval of its share where that has one.

    Zhan et al.'s BERT-base are dots at the same relative depth.

    Args:
        parts: `PartGradients.parts`.
        narrow: one column instead of two.
    """
    baselines = list(dict.fromkeys(parts["baseline"]))
    figure, axes = panels(len(baselines), columns=2, narrow_columns=1, height=2.5, narrow=narrow)
    last = int(parts["layer"].max())
    for axis, baseline in zip(axes, baselines, strict=True):
        own = parts[parts["baseline"] == baseline]
        axis.axhline(0, color=MUTED, lw=0.7)
        for part, colour in COLOURS.items():
            rows = own[own["part"] == part].sort_values("layer").set_index("layer")
            if "share_low" in rows:  # tables of former versions have none
                axis.fill_between(rows.index, rows["share_low"], rows["share_high"], color=colour, alpha=0.15, lw=0)
            (line,) = axis.plot(rows.index, rows["share"], color=colour, lw=1.5, zorder=3)
            hover(line, f"{NAMES.get(part, part)}, {title(baseline)}")
            _published(axis, baseline, part, last, colour)
        axis.set_title(title(baseline))
        layer_axis(axis, own["layer"], "stream before layer")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axis in left_column(axes):
        axis.set_ylabel("share of s − s′")
    handles = [Line2D([], [], color=colour) for colour in COLOURS.values()]
    names = [NAMES.get(part, part) for part in COLOURS]
    if any(baseline in ZHAN_2020_GRADIENTS for baseline in baselines):
        handles.append(Line2D([], [], ls="", marker="o", ms=3.4, mfc="white", mec=MUTED))
        names.append("Zhan et al., BERT-base")
    legend_row(figure, handles, names, columns=2 if narrow else 6)
    return figure


def title(baseline: str) -> str:
    """What a path from a baseline is called."""
    return _TITLES.get(baseline, f"to {baseline}")


def published_points(baseline: str, part: str, last: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(layers at the same relative depth of a model whose head reads layer `last`, shares); None where nothing is published."""
    known = ZHAN_2020_GRADIENTS.get(baseline, {})
    if part not in known:
        return None
    total = np.sum([known[own] for own in ("CLS", "SEP", "QUERY", "DOC")], axis=0)
    return np.arange(len(total)) * last / len(total), np.array(known[part]) / total


def _published(axis: Axes, baseline: str, part: str, last: int, colour: str) -> None:
    points = published_points(baseline, part, last)
    if points is None or part == "STOPS":
        return
    given: dict[str, Any] = {"ls": "", "marker": "o", "ms": 3.2, "mfc": "white", "mec": colour, "mew": 0.9, "zorder": 4}
    (dots,) = axis.plot(*points, **given)
    hover(dots, f"Zhan et al. 2020, BERT-base: {NAMES.get(part, part)}")
