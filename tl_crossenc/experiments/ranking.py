"""From scores under conditions to nDCG of every query: what all ablation experiments share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from tl_crossenc.conditions import Condition
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.evaluation import per_query_ndcg
from tl_crossenc.experiments.scoring import PoolScores, Progress, score_pool
from tl_crossenc.pools import Pool
from tl_crossenc.store import Store


@dataclass(frozen=True)
class Ranked:
    """How every query's pool is ranked under every condition.

    Attributes:
        values: `[query x (value, condition)]`, indexed by (collection, query_id), the values `ndcg`, `random`, `ideal_dcg`,
            `tie_rate` and `n_passages` of `evaluation.per_query_ndcg`.
        scores: a row a pair: collection, query_id, doc_id, grade, and a column of scores for each condition.
        layers_run: layers that the model ran, a layer of one pair counting 1; 0 when everything was stored.
        layers_alone: what running each missing condition alone would have taken.
        whole_job: layers of the whole job with shared prefixes, and without; the same whatever was stored.
    """

    values: pd.DataFrame
    scores: pd.DataFrame
    layers_run: int
    layers_alone: int
    whole_job: tuple[int, int]

    @property
    def ndcg(self) -> pd.DataFrame:
        """`[query x condition]`."""
        return self.values["ndcg"]


def rank_under(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    conditions: Sequence[Condition],
    *,
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> Ranked:
    """Rank the pools' graded passages (easy negatives left out) under every condition.

    Raises:
        ValueError: no pool, two pools of one name, or a pool without passages to rank.
    """
    if not pools:
        raise ValueError("expected at least one pool, got none")
    require_distinct([pool.collection for pool in pools])
    values, scores, run, alone = [], [], 0, 0
    shared, unshared = 0, 0
    for pool in pools:
        ranked = pool.ranked
        if len(ranked) == 0:
            raise ValueError(f"expected passages to rank in the pool of {pool.collection}, got none: check its qrels")
        found = score_pool(model, ranked, conditions, store, token_budget=token_budget, progress=progress)
        run, alone = run + found.layers_run, alone + found.layers_alone
        shared, unshared = shared + found.whole_job[0], unshared + found.whole_job[1]
        scores.append(_score_frame(ranked, found))
        values.append(_evaluate(ranked, found, cutoff, gain, str(model.dtype).removeprefix("torch.")))
    return Ranked(pd.concat(values), pd.concat(scores, ignore_index=True), run, alone, (shared, unshared))


def require_distinct(names: Sequence[str]) -> None:
    """Whether collections can be told apart by their names.

    Raises:
        ValueError: two have one name.
    """
    if len(set(names)) < len(names):
        raise ValueError(
            f"expected collections of different names, got {', '.join(names)}: results are told apart by the name, so leave one "
            "out or rename its folder"
        )


def _evaluate(pool: Pool, found: PoolScores, cutoff: int, gain: str, dtype: str) -> pd.DataFrame:
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
