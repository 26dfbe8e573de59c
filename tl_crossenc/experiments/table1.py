"""Table 1 of Vast et al. 2025: what each direction of attention is worth, in nDCG@10.

Each of the 36 directions (five parts and ALL on either side) is removed in every layer and head; the passages of every query's
pool are ranked by the ablated scores; nDCG@10 is compared with the unablated model's over queries. The ALL row is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.existing_cells import existing_cells
from tl_crossenc.experiments.ranking import rank_under
from tl_crossenc.interventions.conditions import UNABLATED, Condition, Mode
from tl_crossenc.interventions.directions import Direction, direction_grid
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.significance import compare, mean_interval
from tl_crossenc.store.cells import Store


@dataclass(frozen=True)
class Table1(Framed):
    """Table 1 on some collections.

    Attributes:
        directions: the directions removed, one a row of `comparison`.
        mode: "zero" or "mask".
        per_query: `[query x condition]` nDCG@10, indexed by (collection, query_id); the column "none" is the unablated model.
        random: `[query]` the expected nDCG@10 of a random ranking of the same pool.
        ideal_dcg: `[query]` the DCG@10 of the best ranking of the pool.
        tie_rate: as `per_query`, the share of a query's passage pairs whose scores tie.
        comparison: a row a direction, see `significance.compare`.
        scores: a row a pair: collection, query_id, doc_id, grade, and a column of scores for each condition.
        cutoff: the k of nDCG@k.
        gain: "linear" or "exponential".
        layers_run, layers_alone: what it cost, see `execution.Scores`.
        ideal: over what nDCG's ideal ranking is taken, see `pools.Pool`.
        one_gain: queries that cannot be ranked wrongly, see `ranking.queries_of_one_gain`.
        existing_cells: of a model with windows, a row a direction and layer, see `existing_cells`; `comparison` has the share of a
            direction's cells that exist, over all layers, as `existing_cells`.
    """

    directions: tuple[Direction, ...]
    mode: Mode
    per_query: pd.DataFrame
    random: pd.Series
    ideal_dcg: pd.Series
    tie_rate: pd.DataFrame
    comparison: pd.DataFrame
    scores: pd.DataFrame
    cutoff: int
    gain: str
    layers_run: int
    layers_alone: int
    ideal: str = "pool"
    one_gain: int = 0
    existing_cells: pd.DataFrame | None = None

    __repr__ = short_repr

    @property
    def unablated(self) -> float:
        """Mean nDCG of the unablated model."""
        return float(self.per_query[str(UNABLATED)].mean())

    @property
    def unablated_interval(self) -> tuple[float, float]:
        """Its 95 % t-interval over queries."""
        interval = mean_interval(self.per_query[str(UNABLATED)])
        return interval.low, interval.high


def table1_conditions(mode: Mode = "zero") -> dict[Direction, Condition]:
    """The condition of each of the 36 directions, removed in every layer and head."""
    return {direction: Condition.ablate(direction, mode=mode) for direction in direction_grid()}


@recorded
def run_table1(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    mode: Mode = "zero",
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> Table1:
    """Compute Table 1 over the queries of all pools together, easy negatives left out of the ranking.

    Raises:
        ValueError: no pool, or a pool without passages to rank.
    """
    chosen = table1_conditions(mode)
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
    per_query, tie_rate = ranked.ndcg, ranked.values["tie_rate"]
    comparison = compare(
        per_query[str(UNABLATED)],
        {str(direction): per_query[str(condition)] for direction, condition in chosen.items()},
    )
    comparison["tie_rate"] = [float(tie_rate[str(condition)].mean()) for condition in chosen.values()]
    cells = existing_cells(model, pools)
    if cells is not None:
        comparison["existing_cells"] = [cells.share(condition) for condition in chosen.values()]
    return Table1(
        directions=tuple(chosen),
        mode=mode,
        per_query=per_query,
        random=ranked.values["random", str(UNABLATED)].rename("random"),
        ideal_dcg=ranked.values["ideal_dcg", str(UNABLATED)].rename("ideal_dcg"),
        tie_rate=tie_rate,
        comparison=comparison,
        scores=ranked.scores,
        cutoff=cutoff,
        gain=gain,
        layers_run=ranked.layers_run,
        layers_alone=ranked.layers_alone,
        ideal=ranked.ideal,
        one_gain=ranked.one_gain,
        existing_cells=None if cells is None else cells.frame(),
    )
