"""The first passages of every query of a run, by id: what is reranked, however long the run is.

Ids, scores and numbers a pair are held, about 200 bytes a pair; a text is looked up where it is read, and then let go. The order is
trec_eval's: by score, then doc_id, both descending; the run's column `rank` is not read. Queries are in the collection's order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tl_crossenc.console.shown import listed
from tl_crossenc.pools.collections import Collection
from tl_crossenc.pools.runs import Run, Top, first_passages
from tl_crossenc.pools.scoreddocs import given_run
from tl_crossenc.pools.spec import MOST_PASSAGES, PoolPair, check_depth, digest_line

BLOCK = 1024
"""Passages looked up at a time."""
Numbers = Callable[[Sequence[PoolPair]], np.ndarray]
"""From some pairs to `[pair, number]` whole numbers that are kept of each."""


@dataclass(frozen=True)
class FirstStage:
    """What a run holds of a collection's queries, down to a depth.

    Attributes:
        collection: whose queries and passages they are.
        depth: passages a query, at most.
        top: query_id -> (doc_ids, scores), best first, queries in the collection's order.
        sha256: of the run's file; "" where it is none.
        unknown_queries: of the run, that the collection lacks; of `of_judged`, that it does not judge.
        unjudged_queries: of `top`, without judgments: they are reranked and not evaluated.
        absent_queries: judged, and not in the run: they count 0.
        cut_ties: queries whose last passage taken and first one left have one score, so that doc_ids decide which.
    """

    collection: Collection
    depth: int
    top: Top = field(repr=False)
    sha256: str
    unknown_queries: tuple[str, ...]
    unjudged_queries: tuple[str, ...]
    absent_queries: tuple[str, ...]
    cut_ties: tuple[str, ...]

    @classmethod
    def of(cls, collection: Collection, run: str | Path | Run, depth: int) -> FirstStage:
        """Read a run; no text is looked up.

        Args:
            collection: from `load_collection`.
            run: a TREC file, gzipped or not, "scoreddocs" (the collection's own, of ir_datasets), or query_id -> doc_id -> score.
            depth: most passages a query, at least 1.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a malformed run, a score that is no finite number, a depth below 1, or no query of the collection.
            OSError: ir_datasets could not download or read the collection's own.
        """
        check_depth(depth, MOST_PASSAGES)
        return cls._of(collection, run, depth, collection.queries, f"of collection {collection.name!r}")

    @classmethod
    def of_judged(cls, collection: Collection, run: str | Path | Run, depth: int) -> FirstStage:
        """As `of`, of the queries with judgments alone, in their order, down to any depth.

        Raises:
            FileNotFoundError, ValueError, OSError: see `of`; no query that the collection judges is a ValueError, too.
        """
        check_depth(depth)
        return cls._of(collection, run, depth, collection.qrels, f"that collection {collection.name!r} judges")

    @classmethod
    def _of(
        cls, collection: Collection, run: str | Path | Run, depth: int, queries: Mapping[str, Any], which: str
    ) -> FirstStage:
        given, checksum = given_run(collection, run, depth, queries)
        top, cut_ties = first_passages(given, queries, depth)
        if not top:
            raise ValueError(
                f"the run has no query {which} (its queries: {listed(given, 3) or 'none'}); check that both use the same query ids."
            )
        qrels = collection.qrels
        return cls(
            collection,
            depth,
            top,
            checksum,
            tuple(query_id for query_id in given if query_id not in queries),
            tuple(query_id for query_id in top if query_id not in qrels),
            tuple(query_id for query_id in qrels if query_id not in top),
            cut_ties,
        )

    def looked_up(self, at_a_time: int | None = None) -> Iterator[tuple[list[tuple[int, PoolPair]], list[str]]]:
        """The pairs with their texts, in order, a block at a time.

        Args:
            at_a_time: passages looked up at a time; all where None.

        Yields:
            (place of the query in `top`, pair) of the passages that the collection has; ids of those that it lacks, or that have no
            text. A passage that nobody judged has grade 0: it is ranked and gains nothing.

        Raises:
            ValueError: the collection has no passage of the run, or its files cannot be read.
        """
        queries, qrels, docs = self.collection.queries, self.collection.qrels, self.collection.docs
        docs.expect({doc_id for doc_ids, _ in self.top.values() for doc_id in doc_ids})
        every = (
            (place, query_id, doc_id)
            for place, (query_id, (doc_ids, _)) in enumerate(self.top.items())
            for doc_id in doc_ids
        )
        found, distinct = 0, dict[str, None]()
        while block := list(islice(every, at_a_time)):
            texts = docs.get_many({doc_id for _, _, doc_id in block})
            known, lacking = [], []
            for place, query_id, doc_id in block:
                text, grade = texts.get(doc_id, ""), qrels.get(query_id, {}).get(doc_id, 0)
                if text.strip():
                    known.append((place, PoolPair(query_id, queries[query_id], doc_id, text, grade)))
                else:
                    lacking.append(doc_id)
            distinct.update(dict.fromkeys(lacking))
            found += len(known)
            yield known, lacking
        if not found:
            raise ValueError(
                f"none of the {len(distinct):,} passages of the run has a text in collection {self.collection.name!r} (for example "
                f"{listed(list(distinct)[:3])}); check that both use the same document ids."
            )

    @property
    def judged(self) -> tuple[str, ...]:
        """The queries that are evaluated, all that have judgments; none where the run has none of them."""
        qrels = self.collection.qrels
        return tuple(qrels) if any(query_id in qrels for query_id in self.top) else ()

    def __len__(self) -> int:
        return sum(len(doc_ids) for doc_ids, _ in self.top.values())


@dataclass(frozen=True)
class RunPairs:
    """The pairs of a first stage whose passages the collection has, without their texts.

    Attributes:
        stage: what they are of.
        queries: `[query]` ids of those that have pairs.
        offsets: `[query + 1]`; query i has the pairs `offsets[i]:offsets[i + 1]`, as the run ranks them.
        doc_ids: `[pair]`.
        grades: `[pair]`, 0 where nobody judged.
        characters: `[pair]` of query and passage.
        numbers: `[pair, number]`, what the caller wanted to know of each.
        digest: as `Pool.digest` of the same pairs.
        missing: ids of passages that the collection lacks, or that have no text: they are not ranked. Each once.
        missing_pairs: how many places of the run they have.
    """

    stage: FirstStage = field(repr=False)
    queries: tuple[str, ...] = field(repr=False)
    offsets: np.ndarray = field(repr=False)
    doc_ids: tuple[str, ...] = field(repr=False)
    grades: np.ndarray = field(repr=False)
    characters: np.ndarray = field(repr=False)
    numbers: np.ndarray = field(repr=False)
    digest: str
    missing: tuple[str, ...]
    missing_pairs: int

    def __len__(self) -> int:
        return len(self.doc_ids)

    @classmethod
    def of(cls, stage: FirstStage, numbers: Numbers) -> RunPairs:
        """Look at every pair once, a block at a time.

        Raises:
            ValueError: the collection has no passage of the run, or its files cannot be read.
        """
        checksum, missing = hashlib.sha256(), list[str]()
        places, doc_ids, grades = [], [], []
        characters, found = [], []
        names = list(stage.top)
        for known, lacking in stage.looked_up(BLOCK):
            missing += lacking
            for place, pair in known:
                checksum.update(digest_line(pair))
                places.append(place)
                doc_ids.append(pair.doc_id)
                grades.append(pair.grade)
                characters.append(len(pair.query) + len(pair.text))
            if known:
                found.append(numbers([pair for _, pair in known]))
        chosen, counts = np.unique(places, return_counts=True)
        return cls(
            stage,
            tuple(names[i] for i in chosen),
            np.concatenate([[0], np.cumsum(counts)]),
            tuple(doc_ids),
            np.array(grades, np.int32),
            np.array(characters, np.int64),
            np.concatenate(found),
            checksum.hexdigest(),
            tuple(dict.fromkeys(missing)),
            len(missing),
        )

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[PoolPair, ...]:
        """Some of the pairs with their texts, which are looked up.

        Raises:
            ValueError: a passage is no longer there.
        """
        collection, chosen = self.stage.collection, np.asarray(indices)
        texts = collection.docs.get_many({self.doc_ids[i] for i in chosen})
        owners = np.searchsorted(self.offsets, chosen, side="right") - 1
        pairs = []
        for i, owner in zip(chosen.tolist(), owners.tolist(), strict=True):
            query_id, doc_id = self.queries[owner], self.doc_ids[i]
            if not texts.get(doc_id, "").strip():
                raise ValueError(f"the passage {doc_id!r} of collection {collection.name!r} is gone; start again.")
            query, grade = collection.queries[query_id], int(self.grades[i])
            pairs.append(PoolPair(query_id, query, doc_id, texts[doc_id], grade))
        return tuple(pairs)

    def of_query(self, query_id: str) -> slice:
        """The places of a query's pairs; an empty slice where it has none."""
        i = self._places.get(query_id)
        return slice(0, 0) if i is None else slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def left_out(self) -> list[str]:
        """What of the run is not ranked or not evaluated, a sentence each, with the first ids."""
        stage = self.stage
        found = (
            ("document", self.missing, "of the run, not in the collection or without text: left out"),
            ("query", stage.unknown_queries, "of the run, not in the collection: left out"),
            ("query", stage.unjudged_queries, "of the run without judgments: reranked, and not evaluated"),
            ("query", stage.absent_queries if stage.judged else (), "judged and not in the run: 0 under every measure"),
            ("query", stage.cut_ties, f"with a tie at depth {stage.depth}: doc_ids decide which passages are taken"),
        )
        plural = {"document": "documents", "query": "queries"}
        return [
            f"{len(ids):,} {name if len(ids) == 1 else plural[name]} {what} ({listed(ids, 3)})."
            for name, ids, what in found
            if ids
        ]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {query_id: i for i, query_id in enumerate(self.queries)}


class ShardPairs:
    """Some pairs of a run. Their texts are looked up whenever they are read, and go with them to another process, as a tuple.

    Args:
        pairs: of the run.
        indices: `[pair]`, which of them.
    """

    def __init__(self, pairs: RunPairs, indices: np.ndarray) -> None:
        self._pairs, self._indices = pairs, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[PoolPair]:
        return iter(self._pairs.read(self._indices))

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (self._pairs.read(self._indices),)
