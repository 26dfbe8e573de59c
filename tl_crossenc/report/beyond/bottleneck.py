"""The figure of information bottlenecks, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tl_crossenc.report.figures.bottleneck import bottleneck
from tl_crossenc.report.run_record import Run
from tl_crossenc.report.tables import queries_text
from tl_crossenc.results.artefacts import load_table

KEY = "bottleneck"


def _draw(folder: Path) -> Callable[[bool], Figure]:
    by_layer, matches, positions = (load_table(folder, KEY, name) for name in ("by_layer", "matches", "positions"))
    return lambda narrow: bottleneck(by_layer, matches, positions, narrow=narrow)


def _caption(folder: Path, scalars: dict[str, Any], run: Run) -> str:
    by_layer, scores = load_table(folder, KEY, "by_layer"), load_table(folder, KEY, "scores")
    cls = by_layer[by_layer["part"] == "CLS"].set_index("layer")["share"]
    drawn = f"a sample drawn with seed {scalars['sample_seed']}" if scalars["sampled"] else "all of them"
    kept = "kept" if scalars["objective"] == "keep" else "raised"
    half = scalars["first_half"]
    rest = by_layer[by_layer["part"].isin(["SEP1", "SEP2"])].groupby("layer")["share"].sum().max()
    first, last = cls.index.min(), cls.index.max()
    where = "after no layer" if half is None else f"first after layer {half}" if half < last else "only after the last"
    return (
        f"Information bottlenecks of {run.where}: the bits of each token from which the score can be {kept}, masked after one "
        f"layer ({scalars['pairs']:,} passages of {queries_text(scalars['queries'])}, {drawn}; beta {scalars['beta']:g}, "
        f"{scalars['steps']} steps; noise distributed as the layer's tokens of other queries). Bands: 95 % t-intervals over "
        f"queries. Dotted: half of the bits, which CLS has {where} ({cls[first]:.0%} after layer {first}, {cls[last]:.0%} after "
        f"layer {last}); the separators, not drawn, have up to {rest:.0%}. Jiang et al. 2021 say of MonoBERT that CLS mainly "
        f"gathers information at the last layer. Scores under the masks are {scores['error'].min():.2f} to "
        f"{scores['error'].max():.2f} standard deviations from the model's own."
    )


DRAWERS = {KEY: _draw}
CAPTIONS = {KEY: _caption}
