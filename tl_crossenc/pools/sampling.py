"""The seeded draw of passages for each query, from a collection that is read no further than it has to be.

For each query, up to `per_grade` judged passages of each grade, and `easy_negatives` passages of the
collection that are not judged for it (grade -1). The draw of a query depends on the seed, the query id and
that query's own judgments, easy negatives also on the collection's passages and their order: other queries
change nothing. Easy negatives are matched in length to the query's relevant passages (`length_matching` says how), or plainly
random as in the paper (`match_length=False`).

A text enters a query's pool once. Near-duplicate ids (TREC DL 2022 judges about 5,000 ids a query, most of
them copies) are dropped where the normalized text is there already, and another passage of the same grade
takes the place. Grades are filled from the highest down, so a text found under two grades keeps the higher.
Texts are fetched in blocks, in the order of the draw, one fetch for all queries, until every quota is filled.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tl_crossenc.pools.collections import Collection
from tl_crossenc.pools.grades import relevant_grades
from tl_crossenc.pools.length_matching import CANDIDATES, NEAR, SAMPLE, length_balance, nearest, wanted_lengths
from tl_crossenc.pools.spec import EASY_NEGATIVE, PoolPair, PoolSpec

logger = logging.getLogger(__name__)

_Fetch = Callable[[list[Any]], dict[Any, tuple[str, str]]]  # candidates -> candidate: (doc_id, text)
_BLOCK = 64


def normalized_text(text: str) -> str:
    """What makes two passages one text: all but Unicode form, case and the amount of white space."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def generator(seed: int, query_id: str, grade: int) -> np.random.Generator:
    """A random generator for (seed, query, grade) alone, the same in every process and on every machine."""
    digest = hashlib.sha256(query_id.encode("utf-8", "surrogatepass")).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    return np.random.default_rng(np.random.SeedSequence([seed, *words], spawn_key=(grade - EASY_NEGATIVE,)))


@dataclass
class _Quota:
    """What one query still lacks at one grade: `candidates` in their drawn order, `limit` distinct texts."""

    query_id: str
    grade: int
    candidates: Sequence[Any]
    limit: int
    asked: int = 0
    drawn: int = 0

    def next_block(self) -> list[Any]:
        """The candidates to look at next: at first just enough, later enough for many duplicates."""
        lacking = self.limit - self.drawn
        if lacking <= 0:
            return []
        size = lacking if self.asked == 0 else max(lacking, _BLOCK)
        block = list(self.candidates[self.asked : self.asked + size])
        self.asked += len(block)
        return block


@dataclass
class _Draw:
    """The pairs drawn so far by query, the normalized texts in them, and what was passed over."""

    collection: Collection
    pairs: dict[str, list[PoolPair]] = field(default_factory=dict)
    texts: dict[str, set[str]] = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)
    duplicates: int = 0

    def fill(self, quotas: list[_Quota], fetch: _Fetch) -> None:
        """Look at blocks of candidates until every quota is filled or its candidates are used up."""
        while blocks := [(quota, block) for quota in quotas if (block := quota.next_block())]:
            found = fetch(list(dict.fromkeys(candidate for _, block in blocks for candidate in block)))
            for quota, block in blocks:
                for candidate in block:
                    if quota.drawn < quota.limit:
                        quota.drawn += self._take(quota, candidate, found.get(candidate))

    def _take(self, quota: _Quota, candidate: Any, passage: tuple[str, str] | None) -> bool:
        query_id, grade = quota.query_id, quota.grade
        if passage is None or not passage[1].strip():
            if grade != EASY_NEGATIVE:
                self.missing.append((query_id, candidate))
            return False
        doc_id, text = passage
        if grade == EASY_NEGATIVE and doc_id in self.collection.qrels[query_id]:
            return False
        normalized = normalized_text(text)
        if normalized in self.texts.setdefault(query_id, set()):
            self.duplicates += grade != EASY_NEGATIVE
            return False
        self.texts[query_id].add(normalized)
        self.add(query_id, doc_id, text, grade)
        return True

    def add(self, query_id: str, doc_id: str, text: str, grade: int) -> None:
        query = self.collection.queries[query_id]
        self.pairs.setdefault(query_id, []).append(PoolPair(query_id, query, doc_id, text, grade))


def draw(collection: Collection, spec: PoolSpec) -> tuple[list[PoolPair], dict[str, Any]]:
    """Draw every query's passages.

    Returns:
        Pairs by query in the collection's order, then grade descending, then doc_id; and what the draw met:
        judged passages without a text and dropped duplicates (among those looked at, not in all the qrels),
        queries without judgments, without passages, without a relevant one, short of easy negatives; and how the lengths of easy
        negatives compare with those of relevant passages (`length_matching.length_balance`).

    Raises:
        ValueError: no judged passage has a text.
    """
    state = _Draw(collection)
    _draw_judged(state, spec)
    if not state.pairs:
        examples = ", ".join(doc_id for _, doc_id in state.missing[:3])
        raise ValueError(
            f"none of the {len(state.missing)} judged passages of collection {collection.name!r} has a text "
            f"(for example {examples}); check that its qrels and documents use the same ids."
        )
    if state.missing:
        logger.warning(
            "%s: %d judged passages have no text (for example %s); passed over",
            *(collection.name, len(state.missing), state.missing[0][1]),
        )
    highest = max(grade for grades in collection.qrels.values() for grade in grades.values())
    scale = relevant_grades(highest) if spec.match_grades is None else spec.match_grades
    short: list[str] = []
    if spec.easy_negatives:
        short = _draw_matched(state, spec, scale) if spec.match_length else _draw_easy_negatives(state, spec)
    if short:
        logger.warning(
            "%s: %d queries have fewer than %d easy negatives, for want of passages not judged for them",
            *(collection.name, len(short), spec.easy_negatives),
        )
    pairs = []
    for query_id in collection.queries:
        pairs += sorted(state.pairs.get(query_id, []), key=lambda pair: (-pair.grade, pair.doc_id))
    relevant = {pair.query_id for pair in pairs if pair.grade > 0}
    balance = length_balance(_lengths(pairs, scale)) if spec.easy_negatives else None
    if balance and spec.match_length and balance["queries_near"] < balance["queries"]:
        logger.warning(
            "%s: the easy negatives of %d of %d queries differ by more than %d %% in mean length from their relevant passages, for "
            "want of passages of those lengths: differences between them are in part of length",
            *(collection.name, balance["queries"] - balance["queries_near"], balance["queries"], round(100 * NEAR)),
        )
    counts = {
        "duplicates_dropped": state.duplicates,
        "missing_texts": len(state.missing),
        "missing_examples": [doc_id for _, doc_id in state.missing[:5]],
        "queries_unjudged": len(collection.queries) - len(collection.qrels),
        "queries_without_passages": [q for q in collection.qrels if q not in state.pairs],
        "queries_without_relevant": [q for q in collection.qrels if q in state.pairs and q not in relevant],
        "queries_short_of_easy_negatives": short,
        "easy_negatives_lengths": balance,
    }
    return pairs, counts


def _lengths(pairs: Sequence[PoolPair], relevant: Sequence[int]) -> dict[str, tuple[list[int], list[int]]]:
    found: dict[str, tuple[list[int], list[int]]] = {}
    for pair in pairs:
        sides = found.setdefault(pair.query_id, ([], []))
        if pair.grade in relevant or pair.grade == EASY_NEGATIVE:
            sides[pair.grade == EASY_NEGATIVE].append(len(normalized_text(pair.text)))
    return found


def _draw_judged(state: _Draw, spec: PoolSpec) -> None:
    by_grade: dict[int, dict[str, list[str]]] = {}
    for query_id, grades in state.collection.qrels.items():
        for doc_id, grade in grades.items():
            by_grade.setdefault(grade, {}).setdefault(query_id, []).append(doc_id)

    def fetch(doc_ids: list[str]) -> dict[str, tuple[str, str]]:
        texts = state.collection.docs.get_many(doc_ids)
        return {doc_id: (doc_id, text) for doc_id, text in texts.items()}

    for grade in sorted(by_grade, reverse=True):
        quotas = []
        for query_id, doc_ids in by_grade[grade].items():
            doc_ids.sort()
            order = generator(spec.seed, query_id, grade).permutation(len(doc_ids))
            limit = len(doc_ids) if spec.per_grade is None else spec.per_grade
            quotas.append(_Quota(query_id, grade, [doc_ids[i] for i in order], limit))
        state.fill(quotas, fetch)


def _draw_easy_negatives(state: _Draw, spec: PoolSpec) -> list[str]:
    """Draw for every query that has judged passages; the queries that got fewer than the spec asks."""
    size, number = state.collection.docs.count(), spec.easy_negatives
    quotas = []
    for query_id in state.pairs:
        # Enough positions for the unjudged ones wanted, and some to spare, even if every judged one is drawn.
        reach = min(size, len(state.collection.qrels[query_id]) + 4 * number + 100)
        positions = generator(spec.seed, query_id, EASY_NEGATIVE).choice(size, size=reach, replace=False)
        quotas.append(_Quota(query_id, EASY_NEGATIVE, positions.tolist(), number))
    state.fill(quotas, state.collection.docs.at)
    return [quota.query_id for quota in quotas if quota.drawn < number]


def _draw_matched(state: _Draw, spec: PoolSpec, relevant: Sequence[int]) -> list[str]:
    """As `_draw_easy_negatives`, of the lengths of the relevant passages; of all judged passages where none is relevant."""
    docs = state.collection.docs
    size = docs.count()
    positions = generator(spec.seed, "", EASY_NEGATIVE).choice(size, size=min(size, SAMPLE), replace=False)
    found = docs.at(positions.tolist())
    passages = [(*found[position], normalized_text(found[position][1])) for position in positions.tolist()]
    short = []
    for query_id, pairs in state.pairs.items():
        rng = generator(spec.seed, query_id, EASY_NEGATIVE)
        like = [pair for pair in pairs if pair.grade in relevant] or pairs
        wanted = wanted_lengths([len(normalized_text(pair.text)) for pair in like], spec.easy_negatives, rng)
        candidates: dict[str, tuple[str, str]] = {}  # by normalized text: the first of several copies
        taken, judged = state.texts[query_id], state.collection.qrels[query_id]
        for index in rng.permutation(len(passages)):
            doc_id, text, normalized = passages[index]
            if normalized and normalized not in taken and doc_id not in judged:
                candidates.setdefault(normalized, (doc_id, text))
                if len(candidates) == CANDIDATES * spec.easy_negatives:
                    break
        texts = list(candidates)
        chosen = nearest(wanted, [len(text) for text in texts])
        for index in chosen:
            state.add(query_id, *candidates[texts[index]], EASY_NEGATIVE)
        if len(chosen) < spec.easy_negatives:
            short.append(query_id)
    return short
