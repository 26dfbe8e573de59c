"""Splits by query: all pairs of a query on one side, so that nothing which the query alone tells is learnt and asked at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Int64, Shaped

FOLDS = 5


def numbered(groups: Sequence[Hashable]) -> Int64[np.ndarray, "pair"]:
    """The number of each pair's group, in the order of first appearance."""
    place = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    return np.array([place[name] for name in groups], dtype=np.int64)


def query_folds(groups: Sequence[Hashable], n_folds: int = FOLDS, seed: int = 0) -> Int64[np.ndarray, "pair"]:
    """The fold of each pair, 0..n_folds - 1: the queries in a seeded order, dealt out one by one.

    Args:
        groups: the query of each pair.
        n_folds: at least 2. Every fold's others need two queries, since a penalty is chosen on queries left out among them.
        seed: of the order.

    Raises:
        ValueError: fewer than 2 folds, or too few queries for so many.
    """
    codes = numbered(groups)
    n_queries, least = int(codes.max(initial=-1)) + 1, 4 if n_folds == 2 else n_folds
    if n_folds < 2:
        raise ValueError(f"expected at least 2 folds, one to predict and others to fit on, got {n_folds}")
    if n_queries < least:
        raise ValueError(
            f"expected at least {least} queries for {n_folds} folds, got {n_queries}: take fewer folds or more queries, since no "
            "query may be on both sides of a split"
        )
    return dealt(codes, n_folds, seed)


def dealt(codes: Int64[np.ndarray, "pair"], n_folds: int, seed: int) -> Int64[np.ndarray, "pair"]:
    """`query_folds` of queries by number, for as many queries as there are."""
    names, place = np.unique(codes, return_inverse=True)
    fold = np.empty(len(names), dtype=np.int64)
    fold[np.random.default_rng([seed, len(names)]).permutation(len(names))] = np.arange(len(names)) % n_folds
    return fold[place]


def shuffled_within(
    values: Shaped[np.ndarray, "pair"], groups: Sequence[Hashable], seed: int = 0
) -> Shaped[np.ndarray, "pair"]:
    """The values in a seeded new order within every query: what they say of a query stays, what they say of a passage is lost."""
    given, codes = np.asarray(values), numbered(groups)
    rng = np.random.default_rng(seed)
    found = given.copy()
    for query in range(int(codes.max(initial=-1)) + 1):
        own = np.flatnonzero(codes == query)
        found[own] = given[rng.permutation(own)]
    return found
