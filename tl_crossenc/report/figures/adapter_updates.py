"""Parts of an adapter: nDCG with the updates of some layers, and of some projections, applied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tl_crossenc.report.figures.style import (
    BLUE,
    INK,
    MUTED,
    VERMILION,
    hover,
    lay_out,
    layer_axis,
    legend_row,
    name_levels,
    panels,
    styled,
)
from tl_crossenc.report.tables import interval_text

SIDES = (("only", BLUE, "these alone"), ("without", VERMILION, "all but these"))
SPANS = (("up to layer", BLUE, "layers 0 to …"), ("from layer", VERMILION, "layers … to the last"))


@styled
def adapter_updates(rankings: pd.DataFrame, *, random: float, cutoff: int = 10, narrow: bool = False) -> Figure:
    """nDCG by layer (one layer's updates, or a span's) and by projection, between the base's and the whole model's.

    Args:
        rankings: `AdapterRankings.rankings`.
        random: mean nDCG of a random ranking.
        cutoff: the k of nDCG@k.
        narrow: one column instead of two.
    """
    figure, axes = panels(3, columns=3, narrow_columns=1, height=2.1, narrow=narrow, sharex=False)
    levels = {kind: float(rankings.loc[rankings["kind"] == kind, "mean"].iloc[0]) for kind in ("all", "none")}
    for axis in axes:
        axis.axhline(levels["all"], color=INK, lw=0.9, ls=(0, (5, 3)))
        axis.axhline(levels["none"], color=MUTED, lw=0.9)
        axis.axhline(random, color=MUTED, lw=0.9, ls=(0, (1, 2)))
    of_layers = rankings[rankings["layer"].notna()]
    for axis, kinds in ((axes[0], [(f"{side} layer", *rest) for side, *rest in SIDES]), (axes[1], SPANS)):
        for kind, colour, _ in kinds:
            rows = of_layers[of_layers["kind"] == kind].sort_values("layer")
            _points(axis, rows["layer"].astype(int), rows, colour, line=True)
        layer_axis(axis, of_layers["layer"].astype(int))
    axes[0].set_title("one layer")
    axes[1].set_title("layers up to …, from …")
    of_projections = rankings[rankings["projection"].notna()]
    names = list(dict.fromkeys(of_projections["projection"]))
    for shift, (side, colour, _) in zip((-0.14, 0.14), SIDES, strict=True):
        rows = of_projections[of_projections["kind"] == f"{side} projection"]
        places = pd.Series([names.index(name) + shift for name in rows["projection"]], index=rows.index)
        _points(axes[2], places, rows, colour, line=False)
    axes[2].set_title("one projection")
    axes[2].set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=35, ha="right")
    axes[2].set_xlim(-0.6, len(names) - 0.4)
    for axis in axes if narrow else axes[:1]:
        axis.set_ylabel(f"nDCG@{cutoff}")
    handles = [Line2D([], [], color=colour, marker="o", ms=3.4) for _, colour, _ in SIDES]
    said = [f"{one[2]}; {two[2]}" for one, two in zip(SIDES, SPANS, strict=True)]
    legend_row(figure, handles, said, columns=1 if narrow else 2)
    lay_out(figure)  # sizes are known only then
    shown: list[tuple[float, str, str]] = [(levels["all"], "all", INK), (levels["none"], "none", MUTED)]
    for axis in axes if narrow else axes[-1:]:
        name_levels(axis, [*shown, (random, "random", MUTED)])
    return figure


def _points(axis: Axes, places: pd.Series, rows: pd.DataFrame, colour: str, *, line: bool) -> None:
    """Means with the intervals of their paired differences from the whole model, drawn from the model's mean."""
    given: dict[str, Any] = {"color": colour, "zorder": 3}
    whole = rows["mean"] - rows["difference"]
    if line and np.isfinite(rows["diff_low"]).all():
        low, high = whole + rows["diff_low"], whole + rows["diff_high"]
        axis.fill_between(places, low, high, color=colour, alpha=0.15, lw=0)
    if line:
        axis.plot(places, rows["mean"], lw=1.2, **given)
    for x, (_, row) in zip(places, rows.iterrows(), strict=True):
        fallen = row["p_holm"] <= 0.05 and row["difference"] < 0
        (dot,) = axis.plot([x], [row["mean"]], marker="o", ms=3.8, mfc=colour if fallen else "white", **given)
        if not line and np.isfinite(row["diff_low"]):
            base = row["mean"] - row["difference"]
            axis.plot([x, x], [base + row["diff_low"], base + row["diff_high"]], lw=1.0, **given)
        bounds = interval_text(row["diff_low"], row["diff_high"], "+")
        hover(dot, f"{row['ranking']}: {row['mean']:.3f}, {row['difference']:+.3f}{bounds} from the whole model")
