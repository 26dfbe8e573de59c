"""Figure 2: contrast against alignment per head; the singular spectra; and the test of the decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tl_crossenc.report.figures.matching import map_extent
from tl_crossenc.report.figures.style import (
    BLUE,
    DIVERGING,
    FAINT,
    GROUP_COLOURS,
    INK,
    MUTED,
    arrow,
    centred,
    difference_bar,
    hover_each,
    lay_out,
    layer_axis,
    legend_row,
    lowest,
    panels,
    signed,
    styled,
)

CONTRASTS = {"QUERY->DOC": ("contrast", "qᵀA d − dᵀA d"), "DOC->QUERY": ("other_contrast", "dᵀA q − dᵀA d")}
TERM_PANELS = {
    "share_constant": "constant qᵀA d",
    "share_interaction": "interaction xᵀA y",
    "epsilon_ratio": "ε: RMS ε / RMS logit",
    "row_r2": "R² within a row",
}
FLOOR, CEILING = -0.5, 1.5
"""Values of the decomposition outside of these are drawn on the edge."""


@styled
def figure2(
    heads: pd.DataFrame, matching: pd.DataFrame | None = None, *, labelled: int = 6, narrow: bool = False
) -> Figure:
    """Contrast against alignment, a point a head: raw as in the paper, and scale-free; a row of panels a direction.

    Args:
        heads: `QKAlignment.heads`.
        matching: of `matching_heads`, for the colours and the labels; grey points where it could not be made.
        labelled: how many heads of the largest passing difference are named.
        narrow: one column instead of two.
    """
    directions = [name for name in CONTRASTS if matching is None or (matching["direction"] == name).any()]
    directions = directions or list(CONTRASTS)
    kinds = (
        ("trace", "", "Σ σₖ uₖ·vₖ (trace of A)", "raw"),
        ("alignment", "_relative", "alignment, trace / Σ σₖ", "free of scale"),
    )
    places = [(direction, *kind) for direction in directions for kind in kinds]
    figure, axes = panels(
        len(places),
        columns=2,
        narrow_columns=1,
        height=2.7 if not narrow else 2.6,
        narrow=narrow,
        sharex=False,
        sharey=False,
    )
    differences = heads[["layer", "head"]].copy()
    for direction in directions:
        differences[direction] = _difference(heads, matching, direction)
    norm = centred(1.0 if matching is None else map_extent(matching))
    for axis, (direction, x, suffix, label, kind) in zip(axes, places, strict=True):
        column, formula = CONTRASTS[direction]
        xs, ys, colour = heads[x], heads[column + suffix], differences[direction].to_numpy(dtype=float)
        axis.axhline(0, color=MUTED, lw=0.6, zorder=1)
        axis.axvline(0, color=MUTED, lw=0.6, zorder=1)
        known = np.isfinite(colour).any()
        order = np.argsort(np.abs(np.nan_to_num(colour)), kind="stable")  # the strongest on top
        given = {"c": colour[order], "cmap": DIVERGING, "norm": norm} if known else {"color": "#BDBDBD"}
        dots = axis.scatter(
            xs.to_numpy()[order], ys.to_numpy()[order], s=20, edgecolors=INK, linewidths=0.4, zorder=3, **given
        )
        hover_each(dots, [_said(heads.iloc[i], direction, column, colour[i]) for i in order])
        axis.set_title(f"{arrow(direction)}, {kind}")
        axis.set_xlabel(label)
        unit = "raw" if not suffix else "in SDs of the logit"
        axis.set_ylabel(f"{formula} ({unit})")
        axis.margins(0.08)
    if matching is not None:
        difference_bar(figure, dots, axes, "difference in attention of Figure 1b, relevant − negative")
    lay_out(figure)  # sizes are known only then
    for axis, (direction, x, suffix, *_) in zip(axes, places, strict=True):
        ys = heads[CONTRASTS[direction][0] + suffix]
        _label_heads(axis, heads, heads[x], ys, top_heads(matching, direction, labelled))
    return figure


@styled
def spectrum(frame: pd.DataFrame, heads: Sequence[tuple[int, int]] = (), *, narrow: bool = False) -> Figure:
    """Singular values, and the alignment of the first k directions: all heads as a band, some heads as lines.

    Args:
        frame: `QKAlignment.spectrum`: layer, head, k, sigma, cumulative_alignment.
        heads: those to draw as lines, at most six.
        narrow: one column instead of two.
    """
    figure, axes = panels(2, columns=2, narrow_columns=1, height=2.3, narrow=narrow, sharey=False)
    first = frame[frame["k"] == 1].set_index(["layer", "head"])["sigma"]
    largest = frame.set_index(["layer", "head"]).index.map(first).to_numpy(dtype=float)
    relative = np.divide(frame["sigma"], largest, out=np.full(len(frame), np.nan), where=largest > 0)
    table = frame.assign(relative=relative)
    quantities = (
        ("relative", "σₖ / σ₁", "singular values"),
        ("cumulative_alignment", "alignment of the first k", "alignment kept"),
    )
    for axis, (column, label, title) in zip(axes, quantities, strict=True):
        by_k = table.groupby("k")[column].quantile([0.1, 0.5, 0.9]).unstack()
        axis.fill_between(by_k.index, by_k[0.1], by_k[0.9], color=FAINT, lw=0)
        axis.plot(by_k.index, by_k[0.5], color=MUTED, lw=1.2)
        for (layer, head), colour in zip(heads, GROUP_COLOURS, strict=False):
            part = table[(table["layer"] == layer) & (table["head"] == head)].sort_values("k")
            axis.plot(part["k"], part[column], color=colour, lw=1.2)
        axis.set_title(title)
        axis.set_ylabel(label)
        axis.axhline(0, color=MUTED, lw=0.6, zorder=1)
    for axis in lowest(axes):
        axis.set_xlabel("k, singular directions kept")
    named = {f"head {layer}.{head}": colour for (layer, head), colour in zip(heads, GROUP_COLOURS, strict=False)}
    lines = [Line2D([], [], color=colour) for colour in (*named.values(), MUTED)]
    band = Line2D([], [], color=FAINT, lw=6, solid_capstyle="butt")
    names = [*named, "median", "10–90 % of heads"]
    legend_row(figure, [*lines, band], names, columns=3 if narrow else len(names))
    return figure


@styled
def decomposition(frame: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """What the terms of the decomposition explain, a dot a head and a line through the layers' medians.

    Args:
        frame: `QKAlignment.decomposition`.
        narrow: one column instead of two.
    """
    directions = list(dict.fromkeys(frame["direction"]))
    places = [(direction, column) for direction in directions for column in TERM_PANELS]
    figure, axes = panels(len(places), columns=4, narrow_columns=2, height=1.75, narrow=narrow)
    for axis, (direction, column) in zip(axes, places, strict=True):
        rows = frame[frame["direction"] == direction].sort_values(["layer", "head"])
        width = max(int(rows["head"].max()), 1)
        xs = rows["layer"] + 0.5 * (rows["head"] / width - 0.5)
        shown = rows[column].clip(FLOOR, CEILING)
        axis.axhline(0, color=MUTED, lw=0.6, zorder=1)
        axis.axhline(1, color=MUTED, lw=0.6, zorder=1)
        dots = axis.scatter(xs, shown, s=7, color=BLUE, alpha=0.45, linewidths=0, zorder=3)
        hover_each(dots, [f"head {row.layer}.{row.head}: {getattr(row, column):.2f}" for row in rows.itertuples()])
        median = rows.groupby("layer")[column].median().clip(FLOOR, CEILING)
        axis.plot(median.index, median, color=INK, lw=1.3, zorder=4)
        axis.set_title(TERM_PANELS[column], fontsize=7.5)
        layer_axis(axis, rows["layer"], "")
        axis.set_ylim(FLOOR - 0.08, CEILING + 0.08)
    for axis in lowest(axes):
        axis.set_xlabel("layer")
    for i, axis in enumerate(axes):
        if i % len(TERM_PANELS) == 0:
            axis.set_ylabel(arrow(directions[i // len(TERM_PANELS)]), fontweight="bold")
    return figure


def top_heads(matching: pd.DataFrame | None, direction: str, count: int) -> list[tuple[int, int]]:
    """The heads of the largest passing difference in a direction; none where nothing was tested."""
    if matching is None:
        return []
    passing = matching[matching["passes"].astype(bool) & (matching["direction"] == direction)]
    largest = passing.sort_values("difference", ascending=False, kind="stable").head(count)
    return list(zip(largest["layer"].astype(int), largest["head"].astype(int), strict=True))


def _difference(heads: pd.DataFrame, matching: pd.DataFrame | None, direction: str) -> np.ndarray:
    if matching is None:
        return np.full(len(heads), np.nan)
    known = matching[matching["direction"] == direction][["layer", "head", "difference"]]
    return heads[["layer", "head"]].merge(known, on=["layer", "head"], how="left")["difference"].to_numpy(dtype=float)


def _label_heads(
    axis: Axes, heads: pd.DataFrame, xs: pd.Series, ys: pd.Series, chosen: Sequence[tuple[int, int]]
) -> None:
    """Names beside points, each at the place around it that overlaps least with other points and names."""
    scale = 72 / axis.figure.dpi
    points = axis.transData.transform(np.column_stack([xs, ys]).astype(float)) * scale
    frame = np.array(axis.bbox.extents) * scale
    place = {(int(row.layer), int(row.head)): i for i, row in enumerate(heads.itertuples())}
    taken: list[np.ndarray] = []
    for layer, head in chosen:
        at = points[place[layer, head]]
        text = f"{layer}.{head}"
        size = np.array([4.4 * len(text), 7.5])
        costs = []
        for ring, angle in product((8.0, 14.0, 22.0, 30.0), np.arange(16) * np.pi / 8):
            centre = at + np.array([np.cos(angle), np.sin(angle)]) * (ring + size / 2 - 3.75)
            box = np.concatenate([centre - size / 2, centre + size / 2])
            cost = ring / 10 + 3 * _inside(points, box) + 20 * sum(_overlap(box, other) for other in taken)
            cost += 100 * (np.any(box[:2] < frame[:2]) or np.any(box[2:] > frame[2:]))
            costs.append((cost, ring, angle, centre, box))
        _, ring, _, centre, box = min(costs, key=lambda item: item[:3])
        taken.append(box)
        line = {"arrowstyle": "-", "lw": 0.5, "color": MUTED, "shrinkA": 0, "shrinkB": 2} if ring > 8 else None
        axis.annotate(
            text, (float(xs.iloc[place[layer, head]]), float(ys.iloc[place[layer, head]])), xytext=tuple(centre - at),
            textcoords="offset points", fontsize=7, ha="center", va="center_baseline", zorder=5, arrowprops=line,
        )  # fmt: skip


def _inside(points: np.ndarray, box: np.ndarray) -> int:
    """How many points are in a box, or within the radius of a marker of it."""
    return int(((points > box[:2] - 2.5) & (points < box[2:] + 2.5)).all(1).sum())


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())


def _said(row: pd.Series, direction: str, column: str, difference: float) -> str:
    return (
        f"head {int(row['layer'])}.{int(row['head'])}, {arrow(direction)}: alignment {signed(row['alignment'], 2)}, "
        f"contrast {signed(row[column + '_relative'], 2)} SDs, difference {signed(difference)}"
    )
