"""Tie-aware DCG and nDCG of one query, the random ranking and the ideal beside them.

**Formula.** A query has n passages with grades; a ranking puts the passage of gain g_i at rank i = 1..n:

    DCG@k  = sum_{i <= min(k, n)} g_i · d_i,     d_i = 1 / log2(i + 1)
    nDCG@k = DCG@k / (DCG@k of the passages sorted by gain)

Scores that are equal do not say how to rank their passages. trec_eval ranks them by document id, which is an
arbitrary number: when an ablation removes all that the classifier reads, every score of a query is equal, and
the truth is the random ranking. So DCG is replaced by its expectation when the order inside each group of
tied passages is drawn uniformly (McSherry & Najork, *Computing Information Retrieval Performance Measures
Efficiently in the Presence of Tied Scores*, ECIR 2008). A group G whose m passages fill the ranks r+1 .. r+m
gives

    E[DCG@k] = sum over G of  (sum of the gains in G / m) · sum_{r < i <= min(r + m, k)} d_i

so each rank simply receives the mean gain of the group that covers it, also where a group straddles the
cutoff. One group of all n passages is the random ranking. The ideal does not depend on the order of ties, so
the expected nDCG is the expected DCG over the ideal. Without ties this is nDCG as trec_eval and ir_measures
define it.

**Notation.** gain: g, `linear` max(grade, 0) as trec_eval, or `exponential` 2^max(grade, 0) − 1 (Burges et
al., ICML 2005). cutoff: k. Grade −1 (easy negative) gains nothing.

**Decisions.** A query without any relevant passage has nDCG 0 (as in trec_eval), and its random ranking has 0
too. The ideal is taken over the passages given, that is, over the pool; or, where the query's judgments are given
(`qrels`), over all of them, as trec_eval takes it. The first says how well a pool is ordered, the second how good a
run's ranking is. Which scores count as equal, `ties.py` says.

**Limits.** Ties are chained: a, b, c are one group if a~b and b~c, although a and c may differ by more than
the tolerance. Where scores are dense against the tolerance (bfloat16, large pools) groups grow: read the tie
rate.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from tl_crossenc.statistics.ties import TIE_TOLERANCE, tie_groups

_HIGHEST_EXPONENT = 1000


def gains(grades: ArrayLike, kind: str = "linear") -> Float64[np.ndarray, "passage"]:
    """The gain of each passage: `linear` max(grade, 0), `exponential` 2^max(grade, 0) − 1.

    Raises:
        ValueError: grades not one-dimensional or not finite, above 1000 for exponential gains, or another kind.
    """
    values = np.asarray(grades, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"expected a list of finite grades but got {grades!r}; give one number a passage")
    positive = np.maximum(values, 0.0)
    if kind == "linear":
        return positive
    if kind == "exponential":
        if positive.size and positive.max() > _HIGHEST_EXPONENT:
            raise ValueError(
                f"expected grades up to {_HIGHEST_EXPONENT} for exponential gains but got {positive.max():g}, whose gain is too "
                "large a number; use linear gains"
            )
        return np.exp2(positive) - 1.0
    raise ValueError(f"expected the gain 'linear' or 'exponential' but got {kind!r}; choose one of the two")


def expected_dcg(
    scores: ArrayLike,
    grades: ArrayLike,
    cutoff: int = 10,
    gain: str = "linear",
    tolerance: float = TIE_TOLERANCE["float32"],
    scale: float = 0.0,
) -> float:
    """DCG@cutoff of one query, expected over the orders of its tied passages.

    Args:
        scores: `[passage]`.
        grades: `[passage]`.
        cutoff: k, at least 1.
        gain: see `gains`.
        tolerance, scale: see `ties.tie_groups`.

    Raises:
        ValueError: lengths that differ, a bad cutoff, or what `tie_groups` and `gains` raise.
    """
    values = gains(grades, gain)
    groups = tie_groups(scores, tolerance, scale)
    ranked = sum(group.size for group in groups)
    if ranked != values.size:
        raise ValueError(f"expected {values.size} scores, one a grade, but got {ranked}; give one a passage")
    by_rank = [np.full(group.size, values[group].mean()) for group in groups]
    return _dcg(np.concatenate(by_rank) if by_rank else values, cutoff)


def ideal_dcg(grades: ArrayLike, cutoff: int = 10, gain: str = "linear") -> float:
    """The largest DCG@cutoff that a ranking of these passages can have; 0 if none is relevant."""
    return _dcg(np.sort(gains(grades, gain))[::-1], cutoff)


def random_dcg(grades: ArrayLike, cutoff: int = 10, gain: str = "linear") -> float:
    """DCG@cutoff of these passages expected over all their orders: every rank gets the mean gain."""
    values = gains(grades, gain)
    return _dcg(np.full(values.size, values.mean()) if values.size else values, cutoff)


def ndcg(
    scores: ArrayLike,
    grades: ArrayLike,
    cutoff: int = 10,
    gain: str = "linear",
    tolerance: float = TIE_TOLERANCE["float32"],
    scale: float = 0.0,
) -> float:
    """nDCG@cutoff of one query, expected over its ties; 0 if no passage is relevant. See `expected_dcg`."""
    return share_of_ideal(expected_dcg(scores, grades, cutoff, gain, tolerance, scale), ideal_dcg(grades, cutoff, gain))


def random_ndcg(grades: ArrayLike, cutoff: int = 10, gain: str = "linear") -> float:
    """nDCG@cutoff of one query expected for a random ranking; 0 if no passage is relevant."""
    return share_of_ideal(random_dcg(grades, cutoff, gain), ideal_dcg(grades, cutoff, gain))


def share_of_ideal(dcg: float, ideal: float) -> float:
    """nDCG from a DCG and the ideal one; 0 where nothing is relevant."""
    return dcg / ideal if ideal > 0 else 0.0


def _dcg(gains_by_rank: Float64[np.ndarray, "rank"], cutoff: int) -> float:
    if cutoff < 1:
        raise ValueError(f"expected a cutoff of at least 1 but got {cutoff}; nDCG@10 is the usual one")
    top = gains_by_rank[:cutoff]
    return float((top / np.log2(np.arange(2, top.size + 2))).sum())
