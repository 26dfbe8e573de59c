"""Tie-aware nDCG per query, the random ranking and the ideal beside it, and TREC runs.

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
too. The ideal is taken over the passages given, that is, over the pool. Which scores count as equal is set by
`TIE_TOLERANCE`.

**Limits.** Ties are chained: a, b, c are one group if a~b and b~c, although a and c may differ by more than
the tolerance. Where scores are dense against the tolerance (bfloat16, large pools) groups grow: read the tie
rate.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from types import MappingProxyType

import ir_measures
import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

# How far two scores of one query may lie apart and still be a tie, relative to max(1, largest |score| of the
# query). Scores that ought to be equal differ in the last bits with the batch's shape and the kernel: that is
# no ranking. The tolerance has to exceed that noise, and stay below any difference that the model could mean.
#   float64   machine epsilon 2.2e-16; 1e-12 is some 4,500 of them: what dozens of layers of long sums leave.
#   float32   machine epsilon 1.2e-7; 1e-5 is some 84, and the difference at which two implementations of one
#             model count as equal. The scores of 40 passages over a range of 10 lie .25 apart on average.
#   bfloat16  machine epsilon 7.8e-3 (8 bits of significand); 2e-2 is about 2.6. The arithmetic did not tell
#             closer passages apart, whatever the bits say. It costs ties: the tie rate reports them.
TIE_TOLERANCE: Mapping[str, float] = MappingProxyType({"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2})


def tie_groups(scores: ArrayLike, tolerance: float = TIE_TOLERANCE["float32"]) -> list[Int64[np.ndarray, "tied"]]:
    """Group the passages of one query by score, best group first.

    Args:
        scores: `[passage]`, higher is better.
        tolerance: neighbours in the sorted scores are tied when their gap is at most
            `tolerance * max(1, max|score|)`; 0 ties only what is equal.

    Returns:
        Index arrays that partition `range(passage)`; inside a group by score, then in the order given.

    Raises:
        ValueError: scores not one-dimensional, NaN or infinite scores, or a negative tolerance.
    """
    values = _finite_scores(scores)
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"expected a finite tolerance >= 0 but got {tolerance}; 0 ties only equal scores")
    if values.size == 0:
        return []
    order = np.argsort(-values, kind="stable")
    with np.errstate(over="ignore"):  # a gap that overflows is infinite, hence no tie
        gaps = values[order[:-1]] - values[order[1:]]
    threshold = tolerance * max(1.0, float(np.abs(values).max()))
    return np.split(order, np.flatnonzero(gaps > threshold) + 1)


def gains(grades: ArrayLike, kind: str = "linear") -> Float64[np.ndarray, "passage"]:
    """The gain of each passage: `linear` max(grade, 0), `exponential` 2^max(grade, 0) − 1.

    Raises:
        ValueError: grades not one-dimensional or not finite, or another kind.
    """
    values = np.asarray(grades, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"expected a list of finite grades but got {grades!r}; give one number a passage")
    positive = np.maximum(values, 0.0)
    if kind == "linear":
        return positive
    if kind == "exponential":
        return np.exp2(positive) - 1.0
    raise ValueError(f"expected the gain 'linear' or 'exponential' but got {kind!r}; choose one of the two")


def expected_dcg(
    scores: ArrayLike,
    grades: ArrayLike,
    cutoff: int = 10,
    gain: str = "linear",
    tolerance: float = TIE_TOLERANCE["float32"],
) -> float:
    """DCG@cutoff of one query, expected over the orders of its tied passages.

    Args:
        scores: `[passage]`.
        grades: `[passage]`.
        cutoff: k, at least 1.
        gain: see `gains`.
        tolerance: see `tie_groups`.

    Raises:
        ValueError: lengths that differ, a bad cutoff, or what `tie_groups` and `gains` raise.
    """
    values = gains(grades, gain)
    groups = tie_groups(scores, tolerance)
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
) -> float:
    """nDCG@cutoff of one query, expected over its ties; 0 if no passage is relevant. See `expected_dcg`."""
    return _ratio(expected_dcg(scores, grades, cutoff, gain, tolerance), ideal_dcg(grades, cutoff, gain))


def random_ndcg(grades: ArrayLike, cutoff: int = 10, gain: str = "linear") -> float:
    """nDCG@cutoff of one query expected for a random ranking; 0 if no passage is relevant."""
    return _ratio(random_dcg(grades, cutoff, gain), ideal_dcg(grades, cutoff, gain))


def per_query_ndcg(
    query_ids: Iterable[Hashable],
    doc_ids: Iterable[Hashable],
    grades: ArrayLike,
    scores: ArrayLike,
    *,
    cutoff: int = 10,
    gain: str = "linear",
    dtype: str = "float32",
) -> pd.DataFrame:
    """Evaluate the rankings of many queries; the four inputs hold one entry a pair, in any order.

    A query without ties is evaluated by ir_measures (`nDCG@k`, or `nDCG(gains=…)@k` for exponential gains),
    on scores made from the ranks so that its float32 comparison cannot create ties; a query with ties by the
    closed form.

    Args:
        query_ids: `[pair]`.
        doc_ids: `[pair]`, distinct within a query.
        grades: `[pair]`, whole numbers; below 1 is not relevant.
        scores: `[pair]`.
        cutoff: k, at least 1.
        gain: see `gains`.
        dtype: the arithmetic that made the scores, a key of `TIE_TOLERANCE`.

    Returns:
        Indexed by `query_id`, in the order of first appearance: `ndcg`; `random` (nDCG expected of a random
        ranking); `ideal_dcg`; `tie_rate` (share of the query's pairs of passages that are tied, 0..1);
        `n_passages`.

    Raises:
        ValueError: lengths that differ, no pairs, a document twice in a query, grades that are not whole
            numbers, NaN or infinite scores, an unknown dtype or gain, a cutoff below 1.
    """
    if dtype not in TIE_TOLERANCE:
        raise ValueError(f"expected a dtype of {', '.join(TIE_TOLERANCE)} but got {dtype!r}; choose one")
    tolerance = TIE_TOLERANCE[dtype]
    values, levels = _finite_scores(scores), _whole_grades(grades)
    queries, documents = [str(name) for name in query_ids], [str(name) for name in doc_ids]
    lengths = len(queries), len(documents), levels.size, values.size
    if len(set(lengths)) > 1 or not values.size:
        raise ValueError(
            "expected as many query ids, doc ids, grades and scores, at least one of each, "
            f"but got {', '.join(map(str, lengths))}; give one of each for every pair"
        )
    members: dict[str, list[int]] = {}
    for position, query_id in enumerate(queries):
        members.setdefault(query_id, []).append(position)

    rows: dict[str, dict[str, float | int]] = {}
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for query_id, own in members.items():
        names, own_levels, own_scores, n = [documents[i] for i in own], levels[own], values[own], len(own)
        if len(set(names)) < n:
            raise ValueError(
                f"expected distinct documents but query {query_id} has {n} with {len(set(names))} ids; "
                "drop the duplicates"
            )
        groups = tie_groups(own_scores, tolerance)
        tied = sum(group.size * (group.size - 1) for group in groups)
        rows[query_id] = {
            "ndcg": ndcg(own_scores, own_levels, cutoff, gain, tolerance) if tied else np.nan,
            "random": random_ndcg(own_levels, cutoff, gain),
            "ideal_dcg": ideal_dcg(own_levels, cutoff, gain),
            "tie_rate": tied / (n * (n - 1)) if tied else 0.0,
            "n_passages": n,
        }
        if not tied:
            run[query_id] = {names[int(group[0])]: float(n - rank) for rank, group in enumerate(groups)}
            qrels[query_id] = dict(zip(names, np.maximum(own_levels, 0).tolist(), strict=True))
    if run:
        for metric in ir_measures.iter_calc([_measure(cutoff, gain, int(levels.max()))], qrels, run):
            rows[metric.query_id]["ndcg"] = float(metric.value)
    return pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="query_id"))


def trec_run_lines(query_id: Hashable, doc_ids: Iterable[Hashable], scores: ArrayLike, tag: str) -> list[str]:
    """The lines of a TREC run for one query: `query_id Q0 doc_id rank score tag`, ranks from 1, no line ends.

    Scores are written as float32 with nine significant digits: the precision in which trec_eval compares, and
    enough digits to read the same float32 back. The order is trec_eval's: by score, then doc_id, both
    descending.

    Args:
        query_id: the query.
        doc_ids: `[passage]`, distinct.
        scores: `[passage]`.
        tag: the run's name.

    Raises:
        ValueError: lengths that differ, a repeated document, white space or nothing in a name, scores that
            are NaN or infinite or do not fit float32.
    """
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is rejected with the rest
        values = _finite_scores(np.asarray(scores, dtype=np.float32))
    names = [str(doc_id) for doc_id in doc_ids]
    if len(names) != values.size or len(set(names)) < len(names):
        raise ValueError(
            f"expected distinct documents with a score each but query {query_id} has {len(names)} ids "
            f"({len(set(names))} distinct) and {values.size} scores; give one of each for every passage"
        )
    for word in [str(query_id), tag, *names]:
        if word.split() != [word]:
            raise ValueError(f"expected ids and a tag without white space but got {word!r}; rename it")
    values = values + 0.0  # −0 becomes 0
    ranked = enumerate(sorted(zip(values.tolist(), names, strict=True), reverse=True), start=1)
    return [f"{query_id} Q0 {name} {rank} {score:.9g} {tag}" for rank, (score, name) in ranked]


def _measure(cutoff: int, gain: str, highest_grade: int) -> ir_measures.measures.Measure:
    if gain == "linear":
        return ir_measures.nDCG @ cutoff
    return ir_measures.nDCG(gains={g: 2**g - 1 for g in range(1, max(highest_grade, 1) + 1)}) @ cutoff


def _whole_grades(grades: ArrayLike) -> Int64[np.ndarray, "pair"]:
    gains(grades)  # rejects what is no list of finite numbers
    levels = np.asarray(grades)
    if (levels != np.round(levels)).any():
        raise ValueError("expected whole-number grades but got fractions; round them, or call ndcg() by query")
    return levels.astype(np.int64)


def _finite_scores(scores: ArrayLike) -> Float64[np.ndarray, "passage"]:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected scores of shape [passage] but got {values.shape}; give a list of numbers")
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(
            f"expected finite scores but {bad} of {values.size} are NaN or infinite; "
            "score these pairs again in float32, or check the edit and the checkpoint that made them"
        )
    return values


def _dcg(gains_by_rank: Float64[np.ndarray, "rank"], cutoff: int) -> float:
    if cutoff < 1:
        raise ValueError(f"expected a cutoff of at least 1 but got {cutoff}; nDCG@10 is the usual one")
    top = gains_by_rank[:cutoff]
    return float((top / np.log2(np.arange(2, top.size + 2))).sum())


def _ratio(dcg: float, ideal: float) -> float:
    return dcg / ideal if ideal > 0 else 0.0
