"""Queries drawn at random: a sample of them, and two halves, so that what is chosen on one is measured on the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tl_crossenc.pools.pool import Pool
from tl_crossenc.results.unavailable import Unavailable

Query = tuple[str, str]
"""(collection, query_id)."""
Folds = tuple[tuple[Query, ...], tuple[Query, ...]]


def two_folds(queries: Sequence[Query], seed: int) -> Folds:
    """The queries in two halves, drawn at random, each in the order given; the first has one more where their number is odd.

    Raises:
        Unavailable: fewer than two queries.
    """
    if len(queries) < 2:
        raise Unavailable(
            f"choosing on one half of the queries and measuring on the other needs two, got {len(queries)}"
        )
    drawn = np.random.default_rng([seed, len(queries), 2]).permutation(len(queries))
    halves = np.sort(drawn[: (len(queries) + 1) // 2]), np.sort(drawn[(len(queries) + 1) // 2 :])
    first, second = (tuple(queries[i] for i in half) for half in halves)
    return first, second


def of_queries(pools: Sequence[Pool], queries: Sequence[Query]) -> list[Pool]:
    """The pools cut down to these queries; without queries that have no passages, and pools of which no query is left."""
    own = [{query_id for collection, query_id in queries if collection == pool.collection} for pool in pools]
    wanted = [
        [query_id for query_id in pool.by_query() if query_id in ids] for pool, ids in zip(pools, own, strict=True)
    ]
    return [pool.select(own) for pool, own in zip(pools, wanted, strict=True) if own]


def sampled_pools(pools: Sequence[Pool], count: int | None, seed: int) -> list[Pool] | None:
    """The pools cut down to `count` random queries of those with passages to rank; None where that is all of them.

    Raises:
        ValueError: fewer than one.
    """
    if count is not None and count < 1:
        raise ValueError(f"expected at least one query to draw, got {count}: leave the number away for all")
    every = [(pool.collection, query_id) for pool in pools for query_id in pool.ranked.by_query()]
    if count is None or count >= len(every):
        return None
    chosen = np.random.default_rng([seed, len(every)]).choice(len(every), count, replace=False)
    return of_queries(pools, [every[i] for i in chosen])
