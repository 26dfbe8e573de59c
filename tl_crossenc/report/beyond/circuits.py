"""The figure of the circuits, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tl_crossenc.report.figures.circuits import circuits
from tl_crossenc.report.run_record import Run
from tl_crossenc.results.artefacts import load_table

KEY = "circuits"


def _draw(folder: Path) -> Callable[[bool], Figure]:
    frames = [load_table(folder, KEY, name) for name in ("circuits", "units", "curve")]
    return lambda narrow: circuits(*frames, narrow=narrow)


def _caption(folder: Path, scalars: dict[str, Any], run: Run) -> str:
    table = load_table(folder, KEY, "circuits")
    sizes = []
    for share, rows in table.groupby("share"):
        counts = " and ".join(f"{count:,}" for count in rows["n_units"])
        costs = " and ".join(f"{cost:.1%}" for cost in rows["multiply_adds"])
        sizes.append(f"{share:.0%} with {counts} units ({costs} of attention's multiply–adds)")
    unsure = int((~table["minimal"].astype(bool)).sum())
    queries = " and ".join(str(n) for n in table.drop_duplicates("fold")["n_queries"])
    return (
        f"Circuits of {run.where}: sets of (direction, layer, head) that keep a share of what {run.measure} is worth over a "
        f"random ranking when all others are removed (mode {scalars['mode']}). Found greedily on one half of the queries, shown "
        f"on the other ({queries} queries), and the reverse (seed {scalars['seed']}): {'; '.join(sizes)}, "
        f"of {int(table['n_all'].iloc[0]):,}. "
        f"Bars: 95 % bootstrap intervals over queries. Crosses: the mean of {scalars['n_draws']} random sets of as many units. "
        + (
            f"In {unsure} of {len(table)} the search ended at {scalars['most_runs']} ablations, before every unit was tried alone."
            if unsure
            else "No unit of a circuit can be left out by itself."
        )
        + run.one_gain
    )


DRAWERS = {KEY: _draw}
CAPTIONS = {KEY: _caption}
