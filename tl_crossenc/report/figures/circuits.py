"""Circuits: how much of the ranking the first k units keep and take away, what the circuits found keep, and where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tl_crossenc.report.figures.style import BLUE, INK, MUTED, VERMILION, hover, layer_axis, legend_row, panels, styled

SIDES = (("faithfulness", BLUE, "kept, all else removed"), ("completeness", VERMILION, "lost, these removed"))
FOLDS = ("o", "D")


@styled
def circuits(circuits: pd.DataFrame, units: pd.DataFrame, curve: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Shares of what the ranking is worth over a random one, on the queries that nothing was chosen on; a marker a half.

    Args:
        circuits, units, curve: of `Circuits`.
        narrow: one column instead of two.
    """
    figure, axes = panels(3, columns=3, narrow_columns=1, height=2.1, narrow=narrow, sharex=False, sharey=False)
    first, second, third = axes
    for axis in (first, second):
        for level in (0.0, 1.0):
            axis.axhline(level, color=MUTED if level == 0 else INK, lw=0.9, ls=(0, (5, 3)))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    for fold, rows in curve.groupby("fold"):
        for name, colour, said in SIDES:
            if name in rows:
                (line,) = first.plot(
                    rows["k"], rows[name], color=colour, lw=1.1, marker=FOLDS[int(fold)], ms=3.0, mfc="white"
                )
                hover(line, f"half {int(fold) + 1}: {said}")
    first.set_xscale("log")
    first.set_xlabel("units, most important first")
    first.set_title("the first k units")
    shares = sorted(circuits["share"].unique())
    for row in circuits.itertuples():
        for shift, (name, colour, said) in zip((-0.16, 0.16), SIDES, strict=True):
            x = shares.index(row.share) + shift + (0.06 if row.fold else -0.06)
            value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
            second.plot([x, x], [low, high], color=colour, lw=1.0)
            (dot,) = second.plot([x], [value], marker=FOLDS[row.fold], ms=3.8, color=colour, mfc="white", ls="")
            hover(
                dot,
                f"half {row.fold + 1}, {row.n_units} of {row.n_all} units: {said} {value:.2f} [{low:.2f}, {high:.2f}]",
            )
        base = row.unablated - row.random
        drawn = (row.drawn - row.random) / base if base > 0 else np.nan
        second.plot([shares.index(row.share)], [drawn], marker="x", ms=3.6, color=MUTED, ls="")
    second.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
    second.set_xlim(-0.5, len(shares) - 0.5)
    second.set_xlabel("asked for, on the other half")
    second.set_title("circuits found")
    layers = range(int(units["layer"].max()) + 1)
    widest = max(shares)
    for fold, colour in ((0, INK), (1, MUTED)):
        own = units[(units["fold"] == fold) & (units["share"] == widest)]
        counts = own.groupby("layer").size().reindex(layers, fill_value=0)
        third.plot(list(layers), counts, color=colour, marker=FOLDS[fold], ms=3.4, lw=1.1, mfc="white")
    third.set_title(f"where: {widest:.0%}")
    third.set_ylabel("units")
    third.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    third.set_ylim(bottom=0)
    layer_axis(third, layers)
    plain: dict[str, Any] = {"ls": "", "mfc": "white", "ms": 3.8}
    handles = [Line2D([], [], color=colour, lw=1.3) for _, colour, _ in SIDES]
    handles += [Line2D([], [], color=INK, marker=marker, **plain) for marker in FOLDS]
    handles += [Line2D([], [], color=MUTED, marker="x", ls="", ms=3.6)]
    names = [said for *_, said in SIDES] + ["half 1", "half 2", "as many at random"]
    legend_row(figure, handles, names, columns=2 if narrow else 5)
    return figure
