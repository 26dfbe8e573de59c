"""Figure 1a of Vast et al. 2025: nDCG@10 when a direction is removed up to each layer.

For a direction and each layer l, three ways to choose the layers: `up_to` (0..l, the paper's), `from` (l..last, the mirror) and
`only` (l alone). Conditions share their prefixes: `up_to` over L layers costs L + L(L-1)/2 layer runs a direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.existing_cells import existing_cells
from tl_crossenc.experiments.ranking import rank_under
from tl_crossenc.interventions.conditions import UNABLATED, Condition, Mode
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.significance import compare, mean_interval
from tl_crossenc.store.cells import Store

Span = Literal["up_to", "from", "only"]
SPANS: tuple[Span, ...] = get_args(Span)
FIGURE_1A = tuple(
    Direction.parse(text) for text in ("QUERY->QUERY", "QUERY->DOC", "DOC->QUERY", "DOC->DOC", "CLS->QUERY", "CLS->DOC")
)
"""Between and within query and document, and what CLS reads of each."""


@dataclass(frozen=True)
class LayerSweep(Framed):
    """nDCG of directions removed in spans of layers.

    Attributes:
        curve: a row a direction and layer: `direction`, `layer`, `condition`, and all of `significance.compare` (Holm over all
            rows); of a model with windows also `existing_cells`, the share of the removed cells that exist.
        unablated: (mean, low, high) of the unablated model's nDCG, a 95 % t-interval over queries.
        random: mean expected nDCG of a random ranking.
        per_query: `[query x condition]` nDCG, indexed by (collection, query_id).
        span: how layers were chosen.
        layers_run, layers_alone, whole_job: what it cost, see `ranking.Ranked`.
    """

    curve: pd.DataFrame
    unablated: tuple[float, float, float]
    random: float
    per_query: pd.DataFrame
    span: Span
    layers_run: int
    layers_alone: int
    whole_job: tuple[int, int]

    __repr__ = short_repr


def span_layers(span: Span, layer: int, n_layers: int) -> range:
    """The layers in which a direction is removed for the point at `layer`."""
    return {"up_to": range(layer + 1), "from": range(layer, n_layers), "only": range(layer, layer + 1)}[span]


def sweep_conditions(
    directions: Sequence[Direction], n_layers: int, span: Span = "up_to", mode: Mode = "zero"
) -> dict[tuple[Direction, int], Condition]:
    """The condition of each (direction, layer)."""
    if span not in SPANS:
        raise ValueError(f"expected a span among {', '.join(SPANS)}, got {span!r}")
    return {
        (direction, layer): Condition.ablate(direction, layers=span_layers(span, layer, n_layers), mode=mode)
        for direction in directions
        for layer in range(n_layers)
    }


@recorded
def run_layer_sweep(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    directions: Sequence[Direction] = FIGURE_1A,
    span: Span = "up_to",
    mode: Mode = "zero",
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> LayerSweep:
    """Remove each direction in a span of layers that grows with l (or shrinks, or is l alone), and rank.

    Raises:
        ValueError: no directions, an unknown span, no pool, or a pool without passages to rank.
    """
    if not directions:
        raise ValueError("expected at least one direction to sweep, got none")
    chosen = sweep_conditions(directions, model.cfg.n_layers, span, mode)
    ranked = rank_under(
        model,
        pools,
        store,
        [UNABLATED, *chosen.values()],
        cutoff=cutoff,
        gain=gain,
        token_budget=token_budget,
        executor=executor,
        progress=progress,
    )
    ndcg = ranked.ndcg
    baseline = ndcg[str(UNABLATED)]
    comparison = compare(baseline, {str(condition): ndcg[str(condition)] for condition in chosen.values()})
    curve = pd.DataFrame(
        [
            {"direction": str(direction), "layer": layer, "condition": str(condition), **comparison.loc[str(condition)]}
            for (direction, layer), condition in chosen.items()
        ]
    )
    cells = existing_cells(model, pools)
    if cells is not None:
        curve["existing_cells"] = [cells.share(condition) for condition in chosen.values()]
    interval = mean_interval(baseline)
    return LayerSweep(
        curve=curve,
        unablated=(float(baseline.mean()), interval.low, interval.high),
        random=float(ranked.values["random", str(UNABLATED)].mean()),
        per_query=ndcg,
        span=span,
        layers_run=ranked.layers_run,
        layers_alone=ranked.layers_alone,
        whole_job=ranked.whole_job,
    )
