"""The relevant passages of some queries: what attributions are taken of, which cost hundreds of scores each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tl_crossenc.experiments.matching import relevant_by_scale
from tl_crossenc.experiments.query_folds import sampled_pools
from tl_crossenc.pools.pool import Pool
from tl_crossenc.results.unavailable import Unavailable


def relevant_pools(
    pools: Sequence[Pool],
    relevant_grades: Sequence[int] | None,
    *,
    queries: int | None = None,
    passages: int | None = None,
    seed: int = 0,
) -> tuple[list[Pool], tuple[int, ...]]:
    """The pools cut down to relevant passages, of all queries that have any or of some drawn at random; and the grades.

    Args:
        pools: the pools; those without a relevant passage are left out.
        relevant_grades: None for the upper half of the collections' scale.
        queries: how many are drawn, of all pools together; None for all.
        passages: the most passages of a query, drawn at random; None for all.
        seed: of the draws.

    Raises:
        Unavailable: no passage is relevant, or see `matching.relevant_by_scale`.
        ValueError: fewer than one query or passage asked for.
    """
    if min(queries or 1, passages or 1) < 1 or 0 in (queries, passages):
        raise ValueError(f"expected at least one query and one passage each, got {queries} and {passages}")
    grades = relevant_by_scale(pool.highest_grade for pool in pools) if relevant_grades is None else relevant_grades
    wanted = tuple(sorted(set(grades)))
    relevant = [replace(pool, pairs=tuple(p for p in pool.pairs if p.grade in wanted)) for pool in pools]
    relevant = [pool for pool in relevant if len(pool)]
    if not relevant:
        raise Unavailable(
            f"attributions are taken of relevant passages, but the pool has none of grades {list(wanted)}"
        )
    chosen = sampled_pools(relevant, queries, seed) or relevant
    return [_fewer(pool, passages, seed) for pool in chosen], wanted


def _fewer(pool: Pool, passages: int | None, seed: int) -> Pool:
    if passages is None:
        return pool
    kept: list[int] = []
    for own in pool.by_query().values():
        drawn = np.random.default_rng([seed, len(own), own[0]]).permutation(len(own))[:passages]
        kept += [own[i] for i in drawn]
    return replace(pool, pairs=tuple(pool.pairs[i] for i in sorted(kept)))
