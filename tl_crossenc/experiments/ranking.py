"""From scores under conditions to nDCG of every query: what all ablation experiments share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.scoring import PoolScores, score_pools
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.pool import Pool, require_distinct
from tl_crossenc.statistics.evaluation import per_query_ndcg
from tl_crossenc.store.cells import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranked(Framed):
    """How every query's pool is ranked under every condition.

    Attributes:
        values: `[query x (value, condition)]`, indexed by (collection, query_id), the values `ndcg`, `random`, `ideal_dcg`,
            `tie_rate` and `n_passages` of `evaluation.per_query_ndcg`.
        scores: a row a pair: collection, query_id, doc_id, grade, and a column of scores for each condition.
        layers_run: layers that the model ran, a layer of one pair counting 1; 0 when everything was stored.
        layers_alone: what running each missing condition alone would have taken.
        whole_job: layers of the whole job with shared prefixes, and without; the same whatever was stored.
        ideal: over what nDCG's ideal ranking is taken, see `pools.Pool`.
    """

    values: pd.DataFrame
    scores: pd.DataFrame
    layers_run: int
    layers_alone: int
    whole_job: tuple[int, int]
    ideal: str = "pool"

    __repr__ = short_repr

    @property
    def ndcg(self) -> pd.DataFrame:
        """`[query x condition]`."""
        return self.values["ndcg"]

    @property
    def one_gain(self) -> int:
        """How many queries cannot be ranked wrongly, see `queries_of_one_gain`."""
        return queries_of_one_gain(self.scores)


def queries_of_one_gain(scores: pd.DataFrame) -> int:
    """How many queries have passages of one gain only, so that every order of them is worth the same.

    Args:
        scores: a row a pair, with collection, query_id and grade.
    """
    gains = scores["grade"].clip(lower=0).groupby([scores["collection"], scores["query_id"]], sort=False)
    return int((gains.nunique() == 1).sum())


@recorded
def rank_under(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    conditions: Sequence[Condition],
    *,
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
    tell: bool = True,
) -> Ranked:
    """Rank the pools' graded passages (easy negatives left out) under every condition.

    Args:
        model, pools, store, conditions: what ranks what, and where scores are kept.
        cutoff, gain: of nDCG.
        token_budget: padded tokens a batch.
        executor: of what is missing.
        progress, tell: see `Executor.run`.

    Raises:
        ValueError: no pool, two pools of one name, pools of two kinds, or a pool without passages to rank.
        CellsFailed, Waiting: see `Executor.run`.
    """
    given: dict[str, Any] = {"cutoff": cutoff, "gain": gain, "token_budget": token_budget}
    return rank_each(model, [(pools, conditions)], store, executor=executor, progress=progress, tell=tell, **given)[0]


def rank_each(
    model: HookedCrossEncoder,
    asked: Sequence[tuple[Sequence[Pool], Sequence[Condition]]],
    store: Store,
    *,
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
    tell: bool = True,
) -> list[Ranked]:
    """`rank_under` of several groups of pools, each under conditions of its own, all computed at once.

    Raises:
        ValueError: see `rank_under`.
    """
    for pools, _ in asked:
        if not pools:
            raise ValueError("expected at least one pool, got none")
        one_ideal(pools)
        require_distinct([pool.collection for pool in pools])
    jobs = [(pool.ranked, conditions) for pools, conditions in asked for pool in pools]
    for pool, _ in jobs:
        if len(pool) == 0:
            raise ValueError(f"expected passages to rank in the pool of {pool.collection}, got none: check its qrels")
    how: dict[str, Any] = {"token_budget": token_budget, "executor": executor, "progress": progress}
    found = score_pools(model, jobs, store, tell=tell, **how)
    scored = list(zip((pool for pool, _ in jobs), found, strict=True))
    ranked = []
    for pools, _ in asked:
        own, scored = scored[: len(pools)], scored[len(pools) :]
        ranked.append(_ranked(model, own, cutoff, gain))
    return ranked


def _ranked(model: HookedCrossEncoder, scored: Sequence[tuple[Pool, PoolScores]], cutoff: int, gain: str) -> Ranked:
    frames = []
    for pool, scores in scored:
        columns = {str(condition): values for condition, values in zip(scores.conditions, scores.values, strict=True)}
        frames.append(evaluate_pool(model, pool, columns, cutoff=cutoff, gain=gain))
    every = [scores for _, scores in scored]
    found = Ranked(
        pd.concat(frames),
        pd.concat([_score_frame(pool, scores) for pool, scores in scored], ignore_index=True),
        sum(scores.layers_run for scores in every),
        sum(scores.layers_alone for scores in every),
        (sum(scores.whole_job[0] for scores in every), sum(scores.whole_job[1] for scores in every)),
        one_ideal([pool for pool, _ in scored]),
    )
    if found.one_gain:
        logger.warning(
            "%d of %d queries cannot be ranked wrongly: their passages all have one gain%s",
            *(found.one_gain, len(found.values)),
            "; these numbers tell no ranking from another" if found.one_gain == len(found.values) else "",
        )
    return found


def evaluate_pool(
    model: HookedCrossEncoder, pool: Pool, columns: Mapping[str, np.ndarray], *, cutoff: int, gain: str
) -> pd.DataFrame:
    """`[query x (value, column)]` of `per_query_ndcg`, of each column of the model's scores `[pair of the pool]`."""
    ids = [pair.query_id for pair in pool.pairs], [pair.doc_id for pair in pool.pairs]
    grades = [pair.grade for pair in pool.pairs]
    about: dict[str, Any] = {"dtype": str(model.dtype).removeprefix("torch."), "scale": model.score_scale}
    frames = {
        name: per_query_ndcg(*ids, grades, scores, cutoff=cutoff, gain=gain, qrels=pool.judgments, **about)
        for name, scores in columns.items()
    }
    frame = pd.concat(frames, axis=1).swaplevel(axis=1)
    frame.index = pd.MultiIndex.from_product([[pool.collection], frame.index], names=["collection", "query_id"])
    return frame


def one_ideal(pools: Sequence[Pool]) -> str:
    """Over what the ideal ranking of these pools is taken, "pool" or "qrels".

    Raises:
        ValueError: some pools are samples and some are runs: a mean over both measures nothing.
    """
    ideals = {pool.ideal: pool.collection for pool in pools}
    if len(ideals) > 1:
        raise ValueError(
            f"expected pools of one kind, but the ideal ranking of {ideals['pool']} is that of its pool and that of "
            f"{ideals['qrels']} that of all judgments: run them one by one"
        )
    return next(iter(ideals))


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
