"""Table 1 of Vast et al. 2025: what each direction of attention is worth, in nDCG@10.

Each of the 36 directions (five parts and ALL on either side) is removed in every layer and head; the passages of every query's
pool are ranked by the ablated scores; nDCG@10 is compared with the unablated model's over queries. The ALL row is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tl_crossenc.batching import DEFAULT_TOKEN_BUDGET
from tl_crossenc.conditions import UNABLATED, Condition, Mode
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.directions import Direction, direction_grid
from tl_crossenc.evaluation import per_query_ndcg
from tl_crossenc.experiments.scoring import PoolScores, Progress, score_pool
from tl_crossenc.pools import Pool
from tl_crossenc.significance import compare, mean_interval
from tl_crossenc.store import Store


@dataclass(frozen=True)
class Table1:
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


def run_table1(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    mode: Mode = "zero",
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Progress | None = None,
) -> Table1:
    """Compute Table 1 over the queries of all pools together, easy negatives left out of the ranking.

    Raises:
        ValueError: no pool, or a pool without passages to rank.
    """
    if not pools:
        raise ValueError("expected at least one pool, got none")
    chosen = table1_conditions(mode)
    conditions = [UNABLATED, *chosen.values()]
    frames, score_frames, cost = [], [], np.zeros(2, dtype=np.int64)
    for pool in pools:
        ranked = pool.ranked
        if len(ranked) == 0:
            raise ValueError(f"expected passages to rank in the pool of {pool.collection}, got none: check its qrels")
        found = score_pool(model, ranked, conditions, store, token_budget=token_budget, progress=progress)
        cost += (found.layers_run, found.layers_alone)
        score_frames.append(_score_frame(ranked, found))
        frames.append(_evaluate(ranked, found, cutoff, gain, str(model.dtype).removeprefix("torch.")))
    evaluated = pd.concat(frames)
    per_query = evaluated["ndcg"]
    comparison = compare(
        per_query[str(UNABLATED)],
        {str(direction): per_query[str(condition)] for direction, condition in chosen.items()},
    )
    tie_rate = evaluated["tie_rate"]
    comparison["tie_rate"] = [float(tie_rate[str(condition)].mean()) for condition in chosen.values()]
    return Table1(
        directions=tuple(chosen),
        mode=mode,
        per_query=per_query,
        random=evaluated["random", str(UNABLATED)].rename("random"),
        ideal_dcg=evaluated["ideal_dcg", str(UNABLATED)].rename("ideal_dcg"),
        tie_rate=tie_rate,
        comparison=comparison,
        scores=pd.concat(score_frames, ignore_index=True),
        cutoff=cutoff,
        gain=gain,
        layers_run=int(cost[0]),
        layers_alone=int(cost[1]),
    )


def _evaluate(pool: Pool, found: PoolScores, cutoff: int, gain: str, dtype: str) -> pd.DataFrame:
    """Per-query values of every condition: columns (value, condition), rows (collection, query_id)."""
    ids = [pair.query_id for pair in pool.pairs], [pair.doc_id for pair in pool.pairs]
    grades = [pair.grade for pair in pool.pairs]
    columns = {
        str(condition): per_query_ndcg(*ids, grades, scores, cutoff=cutoff, gain=gain, dtype=dtype)
        for condition, scores in zip(found.conditions, found.values, strict=True)
    }
    frame = pd.concat(columns, axis=1).swaplevel(axis=1)
    frame.index = pd.MultiIndex.from_product([[pool.collection], frame.index], names=["collection", "query_id"])
    return frame


def _score_frame(pool: Pool, found: PoolScores) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "collection": pool.collection,
            "query_id": [pair.query_id for pair in pool.pairs],
            "doc_id": [pair.doc_id for pair in pool.pairs],
            "grade": [pair.grade for pair in pool.pairs],
        }
    )
    columns = {str(condition): values for condition, values in zip(found.conditions, found.values, strict=True)}
    return pd.concat([frame, pd.DataFrame(columns)], axis=1)
