"""Frames of a reranked run: every ranking under every measure by query, their means and tests, and what the first stage holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from ir_measures.measures import Measure

from tl_crossenc.experiments.rankings import FIRST, Rankings
from tl_crossenc.experiments.run_tasks import LOST
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.pools.first_stage import RunPairs
from tl_crossenc.statistics.measures import Ranking, evaluate_rankings, ties_text
from tl_crossenc.statistics.significance import compare, mean_interval

QUERIES = 500
"""Evaluated at a time."""
_TESTS = ("difference", "diff_low", "diff_high", "p_paired", "p_holm")


def evaluated(rankings: Rankings, measures: Sequence[Measure], about: Mapping[str, Any]) -> pd.DataFrame:
    """Indexed by (ranking, query_id), the first stage before the conditions: `evaluate_rankings` of all judged queries.

    The first stage is as the run has it, down to the depth: what the collection lacks of it counts for it and for no other.

    Args:
        about: `dtype` and `scale` of the model's scores; those of the first stage tie where they are equal.
    """
    stage = rankings.pairs.stage
    judged = set(stage.judged)
    frames = {}
    for ranking in (FIRST, *rankings.conditions):
        own = {"dtype": "float64", "scale": 0.0} if ranking == FIRST else about
        found = ((query, (ids, scores)) for query, ids, scores in rankings.by_query(ranking) if query in judged)
        parts = [_evaluated(stage.collection.qrels, measures, block, own) for block in _blocks(found)]
        absent = judged - {query_id for part in parts for query_id in part.index}
        parts += [_evaluated(stage.collection.qrels, measures, dict.fromkeys(sorted(absent)), own)] if absent else []
        frames[ranking] = pd.concat(parts).reindex(list(stage.judged)) if parts else _evaluated({}, measures, {}, own)
    return pd.concat(frames, names=["ranking", "query_id"])


def _blocks(found: Iterable[tuple[str, Ranking]]) -> Iterator[dict[str, Ranking | None]]:
    found = iter(found)
    while block := dict(islice(found, QUERIES)):
        yield dict(block)


def _evaluated(
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[Measure],
    rankings: Mapping[str, Ranking | None],
    about: Mapping[str, Any],
) -> pd.DataFrame:
    own = {query_id: qrels[query_id] for query_id in rankings}
    there = {query_id: ranking for query_id, ranking in rankings.items() if ranking is not None}
    return evaluate_rankings(measures, there, own, **about)


def measure_table(per_query: pd.DataFrame, measures: Sequence[Measure], conditions: Sequence[str]) -> pd.DataFrame:
    """Means and paired tests, a row a measure and ranking.

    Returns:
        `measure`; `ties`, whether it is expected over ties or taken by doc_id; `ranking`; `n_queries`; `mean`, `mean_low`,
        `mean_high`, a 95 % t-interval; `difference`, `diff_low`, `diff_high`, `p_paired`, `p_holm` from the unablated model, Holm
        over the conditions; the same with `first_` before them from the first stage, Holm over all conditions and the unablated
        model; `tied`, the mean share of a query's pairs of passages that tie; `unjudged`, how many of the first ten passages of a
        query nobody judged, in the mean.
    """
    rows: list[dict[str, Any]] = []
    if not len(per_query):
        return pd.DataFrame(rows, columns=_columns())
    by_ranking = {ranking: per_query.loc[ranking] for ranking in (FIRST, *conditions)}
    for measure in measures:
        values = {ranking: frame[str(measure)] for ranking, frame in by_ranking.items()}
        none = str(UNABLATED)
        from_none = compare(values[none], {name: values[name] for name in conditions if name != none})
        from_first = compare(values[FIRST], {name: values[name] for name in conditions})
        for ranking, own in values.items():
            interval = mean_interval(own)
            row = {
                "measure": str(measure),
                "ties": ties_text(measure),
                "ranking": ranking,
                "n_queries": len(own),
                "mean": float(own.mean()),
                "mean_low": interval.low,
                "mean_high": interval.high,
                "tied": float(by_ranking[ranking]["tied"].mean()),
                "unjudged": float(by_ranking[ranking]["unjudged"].mean()),
            }
            for before, tests in (("", from_none), ("first_", from_first)):
                found = tests.loc[ranking] if ranking in tests.index else {}
                row |= {f"{before}{name}": found[name] if len(found) else np.nan for name in _TESTS}
            rows.append(row)
    return pd.DataFrame(rows, columns=_columns())


def _columns() -> list[str]:
    tests = [f"{before}{name}" for before in ("", "first_") for name in _TESTS]
    return [
        *("measure", "ties", "ranking", "n_queries", "mean", "mean_low", "mean_high"),
        *tests,
        *("tied", "unjudged"),
    ]


def pool_frame(pairs: RunPairs) -> pd.DataFrame:
    """What the first stage holds of each of its queries, in the collection's order.

    Returns:
        `query_id`; `passages` of the run, down to the depth; `missing`, those of them that the collection lacks; `judged`, those
        that somebody judged; `relevant`, the passages of grade 1 and more in all judgments; `relevant_in_pool`, those of them that
        the run holds and the collection has; `recall`, their share, NaN where none is relevant; `cut_passages` and `cut_tokens`,
        what the model does not read, as a pair has at most so many tokens.
    """
    stage, rows = pairs.stage, []
    for query_id, (doc_ids, _) in stage.top.items():
        own, judgments = pairs.of_query(query_id), stage.collection.qrels.get(query_id, {})
        relevant, held = sum(grade > 0 for grade in judgments.values()), int((pairs.grades[own] > 0).sum())
        lost = pairs.numbers[own, LOST]
        rows.append(
            {
                "query_id": query_id,
                "passages": len(doc_ids),
                "missing": len(doc_ids) - (own.stop - own.start),
                "judged": sum(doc_id in judgments for doc_id in doc_ids),
                "relevant": relevant,
                "relevant_in_pool": held,
                "recall": held / relevant if relevant else np.nan,
                "cut_passages": int((lost > 0).sum()),
                "cut_tokens": int(lost.sum()),
            }
        )
    return pd.DataFrame(rows)
