"""nDCG of the rankings of many queries, the random ranking and the ideal beside it: `dcg.py` has the formula.

Queries without ties are left to ir_measures, so that what is reported is what others report.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

import ir_measures
import numpy as np
import pandas as pd
from jaxtyping import Int64
from numpy.typing import ArrayLike

from tl_crossenc.statistics.dcg import expected_dcg, gains, ideal_dcg, random_dcg, share_of_ideal
from tl_crossenc.statistics.ties import TIE_TOLERANCE, finite_scores, tie_groups

_ASKED = 2**16
"""The largest gain of which ir_measures is asked: it keeps a table as long as the largest gain, and whole numbers up to 2^31."""


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
        gain: see `dcg.gains`.
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
            "ndcg": share_of_ideal(expected_dcg(own_scores, own_levels, cutoff, gain, *ties), ideal)
            if closed
            else np.nan,
            "random": share_of_ideal(random_dcg(own_levels, cutoff, gain), ideal),
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
