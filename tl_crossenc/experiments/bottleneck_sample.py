"""Which pairs bottlenecks are measured on and which ones noise is estimated on: two folds over queries, each the other's noise.

Queries of one text are one query here, since their pairs may be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tl_crossenc.pools.pool import Pool, PoolPair
from tl_crossenc.results.unavailable import Unavailable


class Fold(NamedTuple):
    """Pairs that are measured, and those of the other fold's queries that noise is estimated on."""

    sample: Pool
    noise: Pool


def folds(pool: Pool, *, n_queries: int | None, per_query: int | None, noise_pairs: int, seed: int) -> list[Fold]:
    """The two folds of a pool, those that have something to measure.

    The queries are put in a random order and dealt out to the folds in turn; the first of them are measured.

    Args:
        pool: with easy negatives, which are never measured; noise is estimated on them, too.
        n_queries: that are measured; None for all.
        per_query: passages of each, drawn at random; None for all.
        noise_pairs: most pairs that noise is estimated on, drawn at random.
        seed: of all these draws.

    Raises:
        ValueError: a number below 1, or a seed below 0.
        Unavailable: fewer than two queries, or none with a passage to rank.
    """
    numbers = {
        "n_queries": (n_queries, 1),
        "per_query": (per_query, 1),
        "noise_pairs": (noise_pairs, 2),
        "seed": (seed, 0),
    }
    for name, (value, least) in numbers.items():
        if value is not None and value < least:
            raise ValueError(f"expected {name} of at least {least}, got {value}")
    texts: dict[str, list[PoolPair]] = {}
    for pair in pool.pairs:
        texts.setdefault(" ".join(pair.query.casefold().split()), []).append(pair)
    if len(texts) < 2:
        raise Unavailable(
            f"bottlenecks need at least two queries, since the noise for one is estimated on pairs of others, and the pool of "
            f"{pool.collection} has {len(texts)}: take a pool of more"
        )
    rng = np.random.default_rng(seed)
    order = [list(texts.values())[i] for i in rng.permutation(len(texts))]
    ranked = [[pair for pair in pairs if pair.grade >= 0] for pairs in order]
    measured = [i for i, pairs in enumerate(ranked) if pairs][:n_queries]
    if not measured:
        raise Unavailable(
            f"bottlenecks need passages to rank, and the pool of {pool.collection} has easy negatives alone"
        )
    found = []
    for side in (0, 1):
        own = [pair for i in measured if i % 2 == side for pair in _some(ranked[i], per_query, rng)]
        others = [pair for pairs in order[1 - side :: 2] for pair in pairs]
        if own:
            found.append(Fold(_part(pool, own), _part(pool, _some(others, noise_pairs, rng))))
    return found


def _some(pairs: Sequence[PoolPair], count: int | None, rng: np.random.Generator) -> list[PoolPair]:
    if count is None or len(pairs) <= count:
        return list(pairs)
    return [pairs[i] for i in np.sort(rng.choice(len(pairs), count, replace=False))]


def _part(pool: Pool, pairs: Sequence[PoolPair]) -> Pool:
    """A pool of some of the pairs, in its order."""
    kept = {(pair.query_id, pair.doc_id) for pair in pairs}
    return replace(pool, pairs=tuple(pair for pair in pool.pairs if (pair.query_id, pair.doc_id) in kept))
