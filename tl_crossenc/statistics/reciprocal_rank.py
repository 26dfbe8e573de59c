"""Tie-aware reciprocal rank: of one query, and expected of the random ranking.

**Formula.** RR@k is 1 / rank of the first relevant passage, 0 where that is beyond rank k or there is none; MRR@k its mean over
queries. As in `dcg.py`, passages of equal scores are in an order drawn uniformly, and what is given is the expectation over these
orders. Let the first group of ties that has a relevant passage fill the ranks r+1 .. r+m, with R relevant ones of its m. The first
of these stands at place j of the group where the j − 1 before it are others, and so

    E[RR@k] = sum over j = 1 .. m − R + 1 with r + j <= k of  C(m − j, R − 1) / C(m, R) / (r + j)

One group of all passages is the random ranking. After McSherry & Najork (ECIR 2008).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import comb

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tl_crossenc.statistics.ties import TIE_TOLERANCE, tie_groups


def reciprocal_rank(
    scores: ArrayLike,
    relevant: ArrayLike,
    cutoff: int = 10,
    tolerance: float = TIE_TOLERANCE["float32"],
    scale: float = 0.0,
) -> float:
    """RR@cutoff of one query, expected over the orders of its tied passages.

    Args:
        scores: `[passage]`.
        relevant: `[passage]`, truth values.
        cutoff: k, at least 1.
        tolerance, scale: see `ties.tie_groups`.

    Raises:
        ValueError: lengths that differ, a bad cutoff, or what `tie_groups` raises.
    """
    if cutoff < 1:
        raise ValueError(f"expected a cutoff of at least 1 but got {cutoff}; MRR@10 is the usual one")
    wanted, groups = np.asarray(relevant, dtype=bool), tie_groups(scores, tolerance, scale)
    ranked = sum(group.size for group in groups)
    if ranked != wanted.size:
        raise ValueError(f"expected {wanted.size} scores, one a passage, but got {ranked}; give one a passage")
    before = 0
    for group in groups:
        m, found = int(group.size), int(wanted[group].sum())
        if found:
            places = range(1, min(m - found + 1, cutoff - before) + 1)
            return float(sum(comb(m - j, found - 1) / comb(m, found) / (before + j) for j in places))
        before += m
    return 0.0


def per_query_reciprocal_rank(
    query_ids: Iterable[Hashable],
    relevant: ArrayLike,
    scores: ArrayLike,
    *,
    cutoff: int = 10,
    dtype: str = "float32",
    scale: float | None = None,
) -> pd.DataFrame:
    """RR@cutoff of every query; the three inputs hold one entry a pair, in any order.

    Args:
        query_ids, relevant, scores: `[pair]`.
        cutoff: k, at least 1.
        dtype, scale: which scores tie, as in `evaluation.per_query_ndcg`.

    Returns:
        Indexed by `query_id`, in the order of first appearance: `rr`; `random`, what is expected of a random ranking.

    Raises:
        ValueError: lengths that differ, or what `reciprocal_rank` raises.
    """
    queries = [str(name) for name in query_ids]
    wanted, values = np.asarray(relevant, dtype=bool), np.asarray(scores, dtype=np.float64)
    if not len(queries) == wanted.size == values.size:
        raise ValueError(
            f"expected as many query ids, truth values and scores but got {len(queries)}, {wanted.size}, {values.size}; "
            "give one of each for every pair"
        )
    if dtype not in TIE_TOLERANCE:
        raise ValueError(f"expected a dtype of {', '.join(TIE_TOLERANCE)} but got {dtype!r}; choose one")
    ties = TIE_TOLERANCE[dtype], float(np.abs(values).max(initial=0.0)) if scale is None else scale
    members: dict[str, list[int]] = {}
    for position, query_id in enumerate(queries):
        members.setdefault(query_id, []).append(position)
    rows = [
        {
            "rr": reciprocal_rank(values[own], wanted[own], cutoff, *ties),
            "random": reciprocal_rank(np.zeros(len(own)), wanted[own], cutoff),
        }
        for own in members.values()
    ]
    return pd.DataFrame(rows, index=pd.Index(list(members), name="query_id"), columns=["rr", "random"])
