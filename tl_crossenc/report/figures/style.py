"""One look for all figures: light, two widths, colours that the colour-blind can tell apart, words instead of legends.

Every figure is drawn in two widths: `WIDE`, a paper's two columns, and narrow, one column or a phone. Type is 8 points in both.
Colours are those of Okabe & Ito 2008; differences are drawn from blue (less) over white (none) to red (more).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from textwrap import wrap
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tl_crossenc.statistics.significance import least_significant

WIDE, NARROW, PAGE = 7.2, 3.6, 9.0
"""Inches: the two widths, and the height that a page leaves for a figure."""
LINE = 8.5
"""Points from one line of small text to the next."""

BLUE, VERMILION, GREEN, PURPLE, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#B2578C", "#4AA5DA", "#C98A00"
BROWN = "#7B4F2A"
INK, MUTED, FAINT = "#1A1A1A", "#6B6B6B", "#E4E4E4"
DIVERGING = matplotlib.colormaps["RdBu_r"].resampled(101)  # its middle is no difference
PART_COLOURS = {"ALL": INK, "CLS": PURPLE, "QUERY": BLUE, "SEP1": SKY, "DOC": VERMILION, "SEP2": AMBER}
GROUP_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, AMBER, SKY)

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout everywhere
    "font.size": 8,
    "mathtext.fontset": "dejavusans",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "text.color": INK,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "figure.constrained_layout.use": False,
}

HOVER, HOVERS, BETWEEN = "hover:", "hovers:", "\x1f"
"""Marks of an artist's id that `svg.finish` turns into titles, which a browser shows under the pointer."""

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in our style, whatever the user's is."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return drawn


def panels(
    count: int,
    *,
    columns: int,
    narrow_columns: int,
    height: float,
    narrow: bool,
    sharey: bool = True,
    sharex: bool = True,
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` small multiples, each `height` inches high, row by row; no more axes than that."""
    across = min(narrow_columns if narrow else columns, count)
    down = -(-count // across)
    figure = Figure(figsize=(NARROW if narrow else WIDE, down * height + 0.25), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04, wspace=0.03, hspace=0.03)  # type: ignore[call-arg, union-attr]
    grid = figure.subplots(down, across, sharex=sharex, sharey=sharey, squeeze=False)
    axes = list(grid.ravel())
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def lay_out(figure: Figure) -> None:
    """Give the axes their places; a draw that renders nothing would do the same and then everything else that a draw does."""
    figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]


def left_column(axes: Sequence[Axes]) -> list[Axes]:
    """The axes that have nothing to their left."""
    return [axis for axis in axes if axis.get_subplotspec().is_first_col()]  # type: ignore[union-attr]


def lowest(axes: Sequence[Axes]) -> list[Axes]:
    """The axes that have none of the others below them, with their tick labels shown."""
    places = [axis.get_subplotspec() for axis in axes]
    columns = {
        place.colspan.start: place.rowspan.stop for place in places if place is not None
    }  # row by row: the last stays
    found = [
        axis
        for axis, place in zip(axes, places, strict=True)
        if place is not None and columns[place.colspan.start] == place.rowspan.stop
    ]
    for axis in found:
        axis.tick_params(labelbottom=True)
    return found


def legend_row(figure: Figure, handles: Sequence[Artist], names: Sequence[str], *, columns: int) -> None:
    """The names of lines in a row above all panels."""
    figure.legend(
        list(handles), list(names), loc="outside upper left", ncols=columns, frameon=False, fontsize=7.5,
        handlelength=1.7, columnspacing=1.5, handletextpad=0.6, borderaxespad=0.1, borderpad=0.2,
    )  # fmt: skip


def name_levels(axis: Axes, levels: Sequence[tuple[float, str, str]]) -> None:
    """The names (value, text, colour) of horizontal lines, at their right ends, outside of the axes, moved apart where they meet.

    Call it when all else is drawn: the axes' height and limits must be what they will be.
    """
    known = sorted((level for level in levels if np.isfinite(level[0])), key=lambda level: level[0])
    if not known:
        return
    low, high = axis.get_ylim()
    points = axis.get_position().height * axis.figure.get_figheight() * 72  # type: ignore[union-attr]
    at = [(value - low) / (high - low) * points for value, _, _ in known]
    placed = list(at)
    for i in range(1, len(placed)):  # each at least a line's height above the one below
        placed[i] = max(placed[i], placed[i - 1] + LINE)
    shift = (sum(placed) - sum(at)) / len(at)  # the group stays centred on its levels
    for (value, text, colour), there, here in zip(known, placed, at, strict=True):
        axis.annotate(
            text, (1.0, value), xycoords=("axes fraction", "data"), xytext=(3, there - shift - here),
            textcoords="offset points", color=colour, fontsize=7, ha="left", va="center", annotation_clip=False,
        )  # fmt: skip


def difference_bar(figure: Figure, mappable: Any, axes: Sequence[Axes], label: str) -> None:
    """The scale of a difference, below all panels."""
    bar = figure.colorbar(mappable, ax=list(axes), location="bottom", shrink=0.75, aspect=42, pad=0.03)
    bar.outline.set_visible(False)
    bar.solids.set(edgecolor="face", rasterized=False)  # type: ignore[union-attr]
    wide = figure.get_figwidth() > NARROW
    bar.ax.xaxis.set_major_locator(MaxNLocator(nbins=7 if wide else 4, symmetric=True))
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
    bar.set_label(label if wide else "\n".join(wrap(label, 46)))


def percent(value: float, _: object = None) -> str:
    """A share as a tick label, with the digits that it needs."""
    return f"{100 * value:.4g}%"


def layer_axis(axis: Axes, layers: Iterable[int], label: str = "layer") -> None:
    """A horizontal axis of layers."""
    known = list(layers)
    axis.set_xlim(min(known) - 0.4, max(known) + 0.4)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axis.set_xlabel(label)


def arrow(direction: str) -> str:
    """`QUERY->DOC` as it is shown."""
    return direction.replace("->", "→")


def centred(extent: float) -> Normalize:
    """A scale with 0 in its middle that ends at ±extent."""
    return TwoSlopeNorm(0.0, -extent, extent)


def difference_extent(difference: Any, standard_error: Any, n: int, significant: Any) -> float:
    """Where the colours of a map of differences end: at the largest difference, if any difference of the map is significant.

    If none is, at twice the smallest difference that would be significant where it is least certain: noise must not be drawn in
    the strongest colours, and so takes at most half of them.

    Args:
        difference: `[test]`, NaN where there is none.
        standard_error: `[test]`, of the difference.
        n: queries behind each.
        significant: `[test]`, after correction over all of them.
    """
    sizes, errors = (np.asarray(values, dtype=np.float64) for values in (np.abs(difference), standard_error))
    largest = float(np.max(sizes[np.isfinite(sizes)], initial=0.0))
    if np.any(significant):
        return largest or 1.0
    least = least_significant(errors, n, max(1, int(np.isfinite(sizes).sum())))
    return 2 * max(largest, float(np.max(least[np.isfinite(least)], initial=0.0))) or 1.0


def hover(artist: Artist, text: str) -> None:
    """What a browser shows while the pointer is on the artist."""
    artist.set_gid(HOVER + text)


def hover_each(artist: Artist, texts: Iterable[str]) -> None:
    """The same for each point or cell of a collection, in its order."""
    artist.set_gid(HOVERS + BETWEEN.join(texts))


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if float(text[1:]) else text[1:]
