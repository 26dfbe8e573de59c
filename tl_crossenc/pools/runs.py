"""The passages of a run as pairs: the first of each query's ranking, judged or not.

A run is a TREC file of lines `query_id Q0 doc_id rank score tag` (gzipped where its name ends in `.gz`), or query_id -> doc_id ->
score. It is ranked as trec_eval ranks it: by score, then doc_id, both descending; the column `rank` is not read.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_crossenc.console.shown import listed
from tl_crossenc.pools.collections import Collection
from tl_crossenc.pools.lines import malformed, read_lines
from tl_crossenc.pools.spec import PoolPair, check_depth

logger = logging.getLogger(__name__)

Run = Mapping[str, Mapping[str, float]]


def read_run(path: str | Path) -> tuple[dict[str, dict[str, float]], str]:
    """query_id -> doc_id -> score of a TREC run file, and the SHA-256 of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of six columns, has a score that is no finite number, or a passage again; or there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no run at {path}; expected a file of lines 'query_id Q0 doc_id rank score tag'."
        )
    checksum, found = hashlib.sha256(), dict[str, dict[str, float]]()
    for number, _, line in read_lines(path, checksum):
        columns = line.split()
        if len(columns) != 6:
            malformed(path, number, line, "six columns, query_id Q0 doc_id rank score tag", f"{len(columns)}")
        query_id, doc_id = columns[0], columns[2]
        try:
            score = float(columns[4])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            malformed(path, number, line, "a finite number as the score", repr(columns[4]))
        if doc_id in found.setdefault(query_id, {}):
            malformed(path, number, line, "each passage of a query once", f"{doc_id!r} again")
        found[query_id][doc_id] = score
    if not found:
        raise ValueError(f"{path} has no line; expected 'query_id Q0 doc_id rank score tag'.")
    return found, checksum.hexdigest()


def ranked_as_trec_eval(run: Run, query_id: str) -> list[tuple[float, str]]:
    """(score, doc_id) of a query, by score, then doc_id, both descending; none where the run lacks it.

    Raises:
        ValueError: a score that is no finite number.
    """
    ranked = sorted(((float(score), doc_id) for doc_id, score in run.get(query_id, {}).items()), reverse=True)
    if not all(math.isfinite(score) for score, _ in ranked):
        raise ValueError(f"the run has a score of query {query_id!r} that is no finite number; correct or remove it.")
    return ranked


def run_pairs(collection: Collection, run: Run, depth: int) -> tuple[list[PoolPair], dict[str, Any]]:
    """The first `depth` passages of every judged query of the collection, in the run's order, and what was met.

    A passage that nobody judged has grade 0: it is ranked and gains nothing.

    Raises:
        ValueError: a depth below 1, a score that is no finite number, or no query that the collection judges.
    """
    check_depth(depth)
    top: dict[str, list[str]] = {}
    for query_id in collection.qrels:
        top[query_id] = [doc_id for _, doc_id in ranked_as_trec_eval(run, query_id)[:depth]]
    if not any(top.values()):
        raise ValueError(
            f"the run has no query that collection {collection.name!r} judges (its queries: {', '.join(list(run)[:3])}, …); "
            "check that both use the same query ids."
        )
    texts = collection.docs.get_many({doc_id for doc_ids in top.values() for doc_id in doc_ids})
    pairs, missing = [], []
    for query_id, doc_ids in top.items():
        for doc_id in doc_ids:
            if not texts.get(doc_id, "").strip():
                missing.append(doc_id)
                continue
            grade = collection.qrels[query_id].get(doc_id, 0)
            pairs.append(PoolPair(query_id, collection.queries[query_id], doc_id, texts[doc_id], grade))
    if not pairs:
        raise ValueError(
            f"none of the {len(missing)} passages of the run has a text in collection {collection.name!r} "
            f"(for example {', '.join(missing[:3])}); check that both use the same document ids."
        )
    absent = [query_id for query_id, doc_ids in top.items() if not doc_ids]
    unknown = [query_id for query_id in run if query_id not in collection.qrels]
    for found, what in (
        (missing, "passages of the run have no text and are not ranked"),
        (absent, "judged queries are not in the run and count 0"),
        (unknown, "queries of the run have no judgments and are left out"),
    ):
        if found:
            logger.warning("%s: %d %s (%s)", collection.name, len(found), what, listed(found, 3))
    counts = {
        "depth": depth,
        "unjudged": sum(pair.doc_id not in collection.qrels[pair.query_id] for pair in pairs),
        "missing_texts": len(missing),
        "missing_examples": missing[:5],
        "queries_not_in_the_run": absent,
        "queries_without_judgments": len(unknown),
    }
    return pairs, counts
