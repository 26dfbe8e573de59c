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
too. The ideal is taken over the passages given, that is, over the pool; or, where the query's judgments are given
(`qrels`), over all of them, as trec_eval takes it. The first says how well a pool is ordered, the second how good a
run's ranking is. Which scores count as equal, `ties.py` says.

**Limits.** Ties are chained: a, b, c are one group if a~b and b~c, although a and c may differ by more than
the tolerance. Where scores are dense against the tolerance (bfloat16, large pools) groups grow: read the tie
rate.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

import ir_measures
import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from tl_crossenc.statistics.ties import TIE_TOLERANCE, finite_scores, tie_groups

_ASKED = 2**16
"""The largest gain of which ir_measures is asked: it keeps a table as long as the largest gain, and whole numbers up to 2^31."""
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
    return _ratio(expected_dcg(scores, grades, cutoff, gain, tolerance, scale), ideal_dcg(grades, cutoff, gain))


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
    scale: float | None = None,
    qrels: Mapping[str, Mapping[str, int]] | None = None,
) -> pd.DataFrame:
    """Evaluate the rankings of many queries; the four inputs hold one entry a pair, in any order.

    A query without ties is evaluated by ir_measures (`nDCG@k`, or `nDCG(gains=…)@k` for exponential gains),
    on scores made from the ranks so that its float32 comparison cannot create ties; a query with ties, or with
    gains too large for ir_measures, by the closed form.

    Args:
        query_ids: `[pair]`.
        doc_ids: `[pair]`, distinct within a query.
        grades: `[pair]`, whole numbers; below 1 is not relevant.
        scores: `[pair]`.
        cutoff: k, at least 1.
        gain: see `gains`.
        dtype: the arithmetic that made the scores, a key of `TIE_TOLERANCE`.
        scale: size of the terms that the scores are sums of (`ties.py`); None for the largest |score| of all pairs.
        qrels: query_id -> doc_id -> grade, all judgments of the queries. The ideal is then theirs, as in trec_eval, and a
            query that has judgments and no pair gets 0, after the others. None: the ideal is that of the pairs.

    Returns:
        Indexed by `query_id`, in the order of first appearance: `ndcg`; `random` (nDCG expected of a random
        ranking); `ideal_dcg`; `tie_rate` (share of the query's pairs of passages that are tied, 0..1);
        `n_passages`.

    Raises:
        ValueError: lengths that differ, no pairs, a document twice in a query, grades that are not whole
            numbers, NaN or infinite scores, an unknown dtype or gain, a cutoff below 1; a query without judgments or a
            grade other than its judgment's, where qrels are given.
    """
    if dtype not in TIE_TOLERANCE:
        raise ValueError(f"expected a dtype of {', '.join(TIE_TOLERANCE)} but got {dtype!r}; choose one")
    values, levels = finite_scores(scores), _whole_grades(grades)
    ties = TIE_TOLERANCE[dtype], float(np.abs(values).max(initial=0.0)) if scale is None else scale
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
    asked: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for query_id, own in members.items():
        names, own_levels, own_scores, n = [documents[i] for i in own], levels[own], values[own], len(own)
        if len(set(names)) < n:
            raise ValueError(
                f"expected distinct documents but query {query_id} has {n} with {len(set(names))} ids; "
                "drop the duplicates"
            )
        judged = dict(zip(names, np.maximum(own_levels, 0).tolist(), strict=True))
        if qrels is not None:
            judged = _with_judgments(query_id, judged, qrels)
        every = np.fromiter(judged.values(), dtype=np.float64, count=len(judged))
        groups = tie_groups(own_scores, *ties)
        tied = sum(group.size * (group.size - 1) for group in groups)
        closed = bool(tied) or gains(every, gain).max() > _ASKED
        ideal = ideal_dcg(every, cutoff, gain)
        rows[query_id] = {
            "ndcg": _ratio(expected_dcg(own_scores, own_levels, cutoff, gain, *ties), ideal) if closed else np.nan,
            "random": _ratio(random_dcg(own_levels, cutoff, gain), ideal),
            "ideal_dcg": ideal,
            "tie_rate": tied / (n * (n - 1)) if tied else 0.0,
            "n_passages": n,
        }
        if not closed:
            run[query_id] = {names[int(group[0])]: float(n - rank) for rank, group in enumerate(groups)}
            asked[query_id] = judged
    if run:
        highest = max(max(judged.values()) for judged in asked.values())
        for metric in ir_measures.iter_calc([_measure(cutoff, gain, highest)], asked, run):
            rows[metric.query_id]["ndcg"] = float(metric.value)
    for query_id, judgments in (qrels or {}).items():
        if query_id not in rows and judgments:
            ideal = ideal_dcg(list(judgments.values()), cutoff, gain)
            rows[query_id] = {"ndcg": 0.0, "random": 0.0, "ideal_dcg": ideal, "tie_rate": 0.0, "n_passages": 0}
    return pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="query_id"))


def _with_judgments(query_id: str, ranked: dict[str, int], qrels: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The grades of all that a query has: ranked and judged, ranked alone (0), relevant and not ranked."""
    judgments = qrels.get(query_id)
    if not judgments:
        raise ValueError(f"expected judgments of every query but query {query_id} has none; leave its pairs out")
    for name, grade in ranked.items():
        if grade != max(judgments.get(name, 0), 0):
            raise ValueError(
                f"expected the grades of the judgments but passage {name} of query {query_id} has {grade}, judged "
                f"{judgments.get(name, 'nowhere')}; take both from the same qrels"
            )
    return ranked | {name: grade for name, grade in judgments.items() if grade > 0}


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
        values = finite_scores(np.asarray(scores, dtype=np.float32))
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
    if levels.size and np.abs(levels).max() > 2**53:
        raise ValueError(f"expected grades below 2^53 but got {np.abs(levels).max():g}; give relevance grades")
    if (levels != np.round(levels)).any():
        raise ValueError("expected whole-number grades but got fractions; round them, or call ndcg() by query")
    return levels.astype(np.int64)


def _dcg(gains_by_rank: Float64[np.ndarray, "rank"], cutoff: int) -> float:
    if cutoff < 1:
        raise ValueError(f"expected a cutoff of at least 1 but got {cutoff}; nDCG@10 is the usual one")
    top = gains_by_rank[:cutoff]
    return float((top / np.log2(np.arange(2, top.size + 2))).sum())


def _ratio(dcg: float, ideal: float) -> float:
    return dcg / ideal if ideal > 0 else 0.0
