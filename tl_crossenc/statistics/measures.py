"""Any measure that ir_measures knows, of the rankings of many queries; expected over ties where a closed form is at hand.

Measures are named as ir_measures names them: `nDCG@10`, `RR@10`, `AP(rel=2)`, `R@100`. A query whose passages do not tie is
ir_measures' to evaluate, whatever the measure. Where some tie, nDCG (linear or exponential gains) and RR are the expectation over
the orders of tied passages (`dcg.py`, `reciprocal_rank.py`); any other measure is that of one order, by doc_id descending, in which
trec_eval and the files of runs have tied passages.

**Conventions**, ir_measures' and trec_eval's. A passage that nobody judged counts as not relevant, but for `judged_only=True`. A
measure that asks only whether a passage is relevant takes grades from 1 on, but for `rel=`. The ideal of nDCG and the number of
relevant passages of R and AP are of all judgments. A judged query without a ranking gets the measure's least value, mostly 0.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ir_measures
import numpy as np
import pandas as pd
from ir_measures.measures import Measure

from tl_crossenc.statistics.dcg import expected_dcg, ideal_dcg, share_of_ideal
from tl_crossenc.statistics.reciprocal_rank import reciprocal_rank
from tl_crossenc.statistics.ties import TIE_TOLERANCE, finite_scores, tie_groups

MEASURES = ("nDCG@10", "RR@10")
"""Where none is named."""
EXAMPLES = "nDCG@10, RR@10, AP(rel=2), R(rel=2)@100, P@5 or Judged@10"
EXPECTED, BY_DOC_ID = "expected", "by doc_id"
"""What is done about ties."""
TOP = 10
"""Ranks in which passages that nobody judged are counted."""
_GAINS = {"log2": "linear", "exp-log2": "exponential"}

Ranking = tuple[Sequence[str], np.ndarray]
"""doc_ids and scores of a query, in any order."""


def parse_measures(texts: Iterable[str]) -> tuple[Measure, ...]:
    """The measures of some texts, each once.

    Raises:
        ValueError: a text is no measure, one with a cutoff below 1 or one that nothing installed computes; or there is none.
    """
    found = dict.fromkeys(_parsed(text) for text in texts)
    if not found:
        raise ValueError(f"expected at least one measure, such as {EXAMPLES}, got none")
    return tuple(found)


def _parsed(text: str) -> Measure:
    try:
        measure = ir_measures.parse_measure(text)
        text = str(measure)
        known = ir_measures.DefaultPipeline.supports(measure)
    except (NameError, ValueError, AssertionError, AttributeError, KeyError, TypeError, SyntaxError):
        raise ValueError(f"expected a measure as ir_measures names it, such as {EXAMPLES}, got {text[:60]!r}") from None
    if measure.params.get("cutoff", 1) < 1:
        raise ValueError(f"expected a cutoff from 1 on, got {text[:60]!r}: {EXAMPLES} are measures")
    if not known and not has_expectation(measure):
        raise ValueError(
            f"expected a measure that can be computed here, but {text[:60]} needs a package that is not installed: take another, "
            f"such as {EXAMPLES}"
        )
    return measure


def has_expectation(measure: Measure) -> bool:
    """Whether the measure's expectation over the orders of tied passages has a closed form here."""
    params = set(measure.params) - {name for name in ("judged_only",) if not measure.params.get(name)}
    if measure.NAME == "nDCG":
        return params <= {"cutoff", "dcg"}
    return measure.NAME == "RR" and params <= {"cutoff", "rel"}


def ties_text(measure: Measure) -> str:
    """What is done about the ties of a query, `expected` or `by doc_id`."""
    return EXPECTED if has_expectation(measure) else BY_DOC_ID


def evaluate_rankings(
    measures: Sequence[Measure],
    rankings: Mapping[str, Ranking],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    dtype: str = "float32",
    scale: float = 0.0,
) -> pd.DataFrame:
    """Evaluate the rankings of some queries.

    Args:
        measures: from `parse_measures`.
        rankings: query_id -> (doc_ids, scores); of queries without judgments nothing is looked at.
        qrels: query_id -> doc_id -> grade, of all queries to evaluate.
        dtype, scale: which scores tie, as in `evaluation.per_query_ndcg`; "float64" and 0 for scores that were written as they are
            meant.

    Returns:
        Indexed by `query_id`, in the order of the qrels: a column a measure, by its text; `tied`, the share of the query's pairs of
        passages that tie; `unjudged`, how many of its first `TOP` passages nobody judged; `n_passages`.

    Raises:
        ValueError: a document twice in a query, lengths that differ, NaN or infinite scores, an unknown dtype.
    """
    if dtype not in TIE_TOLERANCE:
        raise ValueError(f"expected a dtype of {', '.join(TIE_TOLERANCE)} but got {dtype!r}; choose one")
    ties = TIE_TOLERANCE[dtype], scale
    rows: dict[str, dict[str, Any]] = {}
    run: dict[str, dict[str, float]] = {}
    closed: list[str] = []  # those with ties
    for query_id, judgments in qrels.items():
        names, scores = rankings.get(query_id, ((), np.zeros(0)))
        values, n = finite_scores(scores), len(names)
        if values.size != n or len(set(names)) < n:
            raise ValueError(
                f"expected distinct documents with a score each but query {query_id} has {n} ids ({len(set(names))} distinct) and "
                f"{values.size} scores; give one of each for every passage"
            )
        tied = sum(group.size * (group.size - 1) for group in tie_groups(values, *ties))
        order = _by_score_then_doc_id(names, values)
        rows[query_id] = {
            "tied": tied / (n * (n - 1)) if tied else 0.0,
            "unjudged": sum(names[i] not in judgments for i in order[:TOP]),
            "n_passages": n,
        }
        closed += [query_id] if tied else []
        if n:  # ranks in place of scores: nobody's float32 ties them anew
            run[query_id] = {names[i]: float(n - rank) for rank, i in enumerate(order)}
    for measure in measures:
        expected = set(_in_closed_form(measure, run, closed))
        asked = {query_id: own for query_id, own in run.items() if query_id not in expected}
        found = _by_ir_measures(measure, asked, qrels) if asked else {}
        for query_id, row in rows.items():
            if query_id in expected:
                found[query_id] = _expected(measure, rankings[query_id], qrels[query_id], ties)
            row[str(measure)] = found.get(query_id, measure.DEFAULT)
    columns = [*map(str, measures), "tied", "unjudged", "n_passages"]
    return pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="query_id", dtype=object), columns=columns)


def _by_score_then_doc_id(names: Sequence[str], values: np.ndarray) -> list[int]:
    """Places in trec_eval's order, in the precision in which the files of runs have scores."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32).tolist()
    return sorted(range(len(names)), key=lambda i: (rounded[i], names[i]), reverse=True)


def _in_closed_form(measure: Measure, ranked: Iterable[str], tied: Iterable[str]) -> Iterable[str]:
    """The queries whose value is not ir_measures': of nDCG with exponential gains all, which it has to five decimals."""
    if not has_expectation(measure):
        return ()
    return ranked if measure.params.get("dcg") == "exp-log2" else tied


def _by_ir_measures(
    measure: Measure, run: Mapping[str, Mapping[str, float]], qrels: Mapping[str, Mapping[str, int]]
) -> dict[str, float]:
    """query_id -> value. Queries go by numbers: some of the programs that ir_measures calls know no other."""
    names = {str(i): query_id for i, query_id in enumerate(run, 1)}
    judged = {number: dict(qrels[query_id]) for number, query_id in names.items()}
    ranked = {number: dict(run[query_id]) for number, query_id in names.items()}
    try:
        return {names[m.query_id]: float(m.value) for m in ir_measures.iter_calc([measure], judged, ranked)}
    except (subprocess.SubprocessError, OSError, RuntimeError) as error:
        raise ValueError(
            f"expected {measure} from ir_measures, which failed ({type(error).__name__}: {error}): take another measure, such as "
            f"{EXAMPLES}"
        ) from error


def _expected(measure: Measure, ranking: Ranking, judgments: Mapping[str, int], ties: tuple[float, float]) -> float:
    names, scores = ranking
    grades = [judgments.get(name, 0) for name in names]
    most = max(len(names), len(judgments), 1)
    cutoff = min(measure.params.get("cutoff", most), most)
    if measure.NAME == "RR":
        return reciprocal_rank(scores, np.array(grades) >= measure.params.get("rel", 1), cutoff, *ties)
    gain = _GAINS[measure.params.get("dcg", "log2")]
    ideal = ideal_dcg(list(judgments.values()), cutoff, gain)
    return share_of_ideal(expected_dcg(scores, grades, cutoff, gain, *ties), ideal)
