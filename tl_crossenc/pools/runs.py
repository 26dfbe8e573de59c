"""A run: query_id -> doc_id -> score, and which of its passages are the first of each query.

A run is a TREC file of lines `query_id Q0 doc_id rank score tag` (gzipped where its name ends in `.gz`), or query_id -> doc_id ->
score. It is ranked as trec_eval ranks it: by score, then doc_id, both descending; the column `rank` is not read.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tl_crossenc.pools.lines import malformed, read_lines

Run = Mapping[str, Mapping[str, float]]
Top = dict[str, tuple[tuple[str, ...], np.ndarray]]
"""query_id -> (doc_ids, scores), best first."""


def read_run(
    path: str | Path, depth: int | None = None, queries: Container[str] | None = None
) -> tuple[dict[str, dict[str, float]], str]:
    """query_id -> doc_id -> score of a TREC run file, and the SHA-256 of the file.

    The whole file is checked, whatever is kept of it: that each passage is there once is known from eight bytes a line.

    Args:
        path: of the file, gzipped where its name ends in `.gz`.
        depth: passages of a query that are kept, its first ones, and one more, which tells whether a tie is cut; all where None.
        queries: whose passages are kept, of others the query_id alone; all where None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of six columns, has a score that is no finite number, or a passage again; or there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no run at {path}; expected a file of lines 'query_id Q0 doc_id rank score tag'."
        )
    checksum, kept, hashes, fault = hashlib.sha256(), FirstPassages(depth, queries), array("q"), None
    try:
        for _, _, query_id, doc_id, score in _rows(path, checksum):
            hashes.append(hash((query_id, doc_id)))
            kept.add(query_id, doc_id, score)
    except ValueError as error:
        fault = error
    _refuse_repeated(path, np.frombuffer(hashes, np.int64))  # before a fault of a later line
    if fault is not None:
        raise fault
    if not len(hashes):
        raise ValueError(f"{path} has no line; expected 'query_id Q0 doc_id rank score tag'.")
    return kept.run(), checksum.hexdigest()


def _rows(path: Path, checksum: Any) -> Iterator[tuple[int, str, str, str, float]]:
    """(line number, line, query_id, doc_id, score) of every line, or the ValueError of the first that is malformed."""
    for number, _, line in read_lines(path, checksum):
        columns = line.split()
        if len(columns) != 6:
            malformed(path, number, line, "six columns, query_id Q0 doc_id rank score tag", f"{len(columns)}")
        try:
            score = float(columns[4])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            malformed(path, number, line, "a finite number as the score", repr(columns[4]))
        yield number, line, columns[0], columns[2], score


def _refuse_repeated(path: Path, hashes: np.ndarray) -> None:
    """Raise the ValueError of the first passage that is there again for its query; `hashes`, `[line]`, are sorted in place.

    Equal passages have equal hashes, so the file is read again only where two hashes are equal, and then their lines are compared.
    """
    hashes.sort()
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not suspects:
        return
    met = set()
    for number, line, query_id, doc_id, _ in _rows(path, None):
        if hash((query_id, doc_id)) in suspects:
            if (query_id, doc_id) in met:
                malformed(path, number, line, "each passage of a query once", f"{doc_id!r} again")
            met.add((query_id, doc_id))


class FirstPassages:
    """The first passages of each query of a run whose passages come in any order, as `read_run` keeps them.

    While they come, up to a quarter more of a query is held, so that it is seldom sorted.

    Args:
        depth: see `read_run`.
        queries: see `read_run`.
    """

    def __init__(self, depth: int | None, queries: Container[str] | None) -> None:
        self._depth, self._queries = depth, queries
        self._held = math.inf if depth is None else (depth + 1) * 5 // 4 + 8
        self._kept: dict[str, dict[str, float]] = {}
        self._last: dict[str, tuple[float, str]] = {}

    def add(self, query_id: str, doc_id: str, score: float) -> None:
        """One more passage; of one that comes again the higher score counts."""
        own = self._kept.get(query_id)
        if own is None:
            own = self._kept[query_id] = {}
        if self._queries is not None and query_id not in self._queries:
            return
        last = self._last.get(query_id)
        if last is not None and (score, doc_id) <= last:  # as many are before it as are kept
            return
        own[doc_id] = max(score, own.get(doc_id, score))
        if len(own) > self._held:
            self._cut(query_id)

    def run(self) -> dict[str, dict[str, float]]:
        """query_id -> doc_id -> score of what came so far."""
        for query_id in self._kept:
            self._cut(query_id)
        return self._kept

    def _cut(self, query_id: str) -> None:
        if self._depth is not None and len(self._kept[query_id]) > self._depth + 1:
            ranked = ranked_as_trec_eval(self._kept, query_id)[: self._depth + 1]
            self._kept[query_id] = {doc_id: score for score, doc_id in ranked}
            self._last[query_id] = ranked[-1]


def ranked_as_trec_eval(run: Run, query_id: str) -> list[tuple[float, str]]:
    """(score, doc_id) of a query, by score, then doc_id, both descending; none where the run lacks it.

    Raises:
        ValueError: a score that is no finite number.
    """
    ranked = sorted(((float(score), doc_id) for doc_id, score in run.get(query_id, {}).items()), reverse=True)
    if not all(math.isfinite(score) for score, _ in ranked):
        raise ValueError(f"the run has a score of query {query_id!r} that is no finite number; correct or remove it.")
    return ranked


def first_passages(run: Run, query_ids: Iterable[str], depth: int) -> tuple[Top, tuple[str, ...]]:
    """The first `depth` passages of each of the queries that the run has, in the order of these; and the queries with a cut tie.

    A tie is cut where the last passage taken and the first one left have one score, so that doc_ids decide which is taken.

    Raises:
        ValueError: a score that is no finite number.
    """
    top, cut = {}, []
    for query_id in query_ids:
        ranked = ranked_as_trec_eval(run, query_id)
        if not ranked:
            continue
        if len(ranked) > depth and ranked[depth - 1][0] == ranked[depth][0]:
            cut.append(query_id)
        taken = ranked[:depth]
        top[query_id] = tuple(doc_id for _, doc_id in taken), np.array([score for score, _ in taken])
    return top, tuple(cut)
