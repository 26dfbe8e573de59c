"""A pool: for every query the passages to rerank, with their grades, frozen into one Parquet file.

By default up to 10 passages of each grade 0..3 and 10 easy negatives (grade -1: passages not judged for the
query, as long as its relevant ones) a query, drawn with a seed (`sampling.py` says how). Every later step reads
the pool, never the collection: a score belongs to a pair's place in `Pool.pairs`, and `Pool.digest` tells pools
apart.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from tl_crossenc.console.shown import shown
from tl_crossenc.pools.collections import Collection
from tl_crossenc.pools.files import Qrels, read_pool_file, write_pool_file
from tl_crossenc.pools.frame_pairs import frame_pairs
from tl_crossenc.pools.run_pairs import run_pairs
from tl_crossenc.pools.runs import Run
from tl_crossenc.pools.sampling import draw
from tl_crossenc.pools.spec import DEPTH, EASY_NEGATIVE, PoolPair, PoolSpec, digest_line

__all__ = ["Pool", "PoolPair", "PoolSpec", "build_pool"]

logger = logging.getLogger(__name__)

Ideal = Literal["pool", "qrels"]


@dataclass(frozen=True)
class Pool:
    """Pairs in their fixed order (by query, then grade descending, then doc_id, as `build_pool` leaves them).

    Attributes:
        collection: name of the collection, for labels.
        spec: how the pairs were drawn.
        pairs: the pairs; an index into them is what scores are aligned with.
        provenance: source, versions, counts; it does not enter equality or `digest`.
        ideal: what nDCG divides by: the best ranking of the "pool" (a sample, which holds a few of the relevant passages), or
            that of all judgments, "qrels" (a run's ranking, as trec_eval measures it).
        qrels: query_id -> doc_id -> grade, all judgments of the queries; None where they are not known. Not part of equality.

    Raises:
        ValueError: a passage twice for one query, two texts for one query id, a grade below -1, or an ideal by qrels without any.
    """

    collection: str
    spec: PoolSpec
    pairs: tuple[PoolPair, ...]
    provenance: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    ideal: Ideal = "pool"
    qrels: Qrels | None = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        judged = "" if self.qrels is None else f", {sum(map(len, self.qrels.values())):,} judgments"
        return f"Pool({self.collection}: {self.describe()}{judged}; ideal: {self.ideal})"

    def __post_init__(self) -> None:
        if self.ideal not in get_args(Ideal) or (self.ideal == "qrels" and self.qrels is None):
            raise ValueError(f"expected the ideal 'pool', or 'qrels' with qrels, got {self.ideal!r}.")
        seen: set[tuple[str, str]] = set()
        queries: dict[str, str] = {}
        for pair in self.pairs:
            if pair.grade < EASY_NEGATIVE:
                raise ValueError(
                    f"passage {pair.doc_id!r} of query {pair.query_id!r} has grade {pair.grade}; expected a "
                    "relevance grade from 0 on, or -1 for an easy negative."
                )
            if (pair.query_id, pair.doc_id) in seen:
                raise ValueError(f"passage {pair.doc_id!r} is in the pool of query {pair.query_id!r} twice; keep one.")
            if queries.setdefault(pair.query_id, pair.query) != pair.query:
                raise ValueError(f"query {pair.query_id!r} has two texts; give each text an id of its own.")
            seen.add((pair.query_id, pair.doc_id))

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the pairs in their order; neither the collection's name nor the provenance enters."""
        checksum = hashlib.sha256()
        for pair in self.pairs:
            checksum.update(digest_line(pair))
        return checksum.hexdigest()

    @property
    def highest_grade(self) -> int:
        """The top of the scale on which the collection is judged: of all its qrels where that is known, else of the pairs."""
        recorded = self.provenance.get("collection", {})
        known = recorded.get("highest_grade") if isinstance(recorded, dict) else None
        if known is not None:  # the pool's own qrels are those of its queries alone
            return int(known)
        if self.qrels:
            return max(max(judgments.values(), default=0) for judgments in self.qrels.values())
        return max((pair.grade for pair in self.pairs if pair.grade > 0), default=0)

    @property
    def title(self) -> str:
        """The collection's name; of a run's pool with the run, `fleas (the first 100 of bm25.run)`."""
        return title_with_run(self.collection, self.provenance)

    @cached_property
    def unjudged(self) -> int:
        """How many pairs nobody judged though they are ranked, with grade 0: some of a run's, none of a draw's."""
        if self.ideal == "pool" or self.qrels is None:
            return 0
        return sum(pair.doc_id not in self.qrels.get(pair.query_id, {}) for pair in self.ranked.pairs)

    @cached_property
    def ranked(self) -> Pool:
        """The judged pairs, those that are ranked and evaluated."""
        return self._where(lambda pair: pair.grade > EASY_NEGATIVE)

    @cached_property
    def negatives(self) -> Pool:
        """The easy negatives."""
        return self._where(lambda pair: pair.grade == EASY_NEGATIVE)

    def select(self, query_ids: Iterable[str]) -> Pool:
        """The pairs of these queries, in the pool's order; an id that it does not have is a ValueError."""
        wanted = set(query_ids)
        unknown = sorted(wanted - {pair.query_id for pair in self.pairs})
        if unknown or not wanted:
            came = f"{', '.join(unknown[:3])} is not among them" if unknown else "none was named"
            raise ValueError(f"expected query ids of the pool of {self.collection}, but {came}.")
        kept = self._where(lambda pair: pair.query_id in wanted)
        own = None if self.qrels is None else {query: self.qrels[query] for query in self.qrels if query in wanted}
        return replace(kept, qrels=own)

    def _where(self, keep: Callable[[PoolPair], bool]) -> Pool:
        return replace(self, pairs=tuple(pair for pair in self.pairs if keep(pair)))

    @property
    def judgments(self) -> Qrels | None:
        """The qrels where the ideal is theirs: what `evaluation.per_query_ndcg` wants to know."""
        return self.qrels if self.ideal == "qrels" else None

    def by_query(self) -> dict[str, list[int]]:
        """query_id -> indices into `pairs`, queries in the order of their first pair."""
        indices: dict[str, list[int]] = {}
        for index, pair in enumerate(self.pairs):
            indices.setdefault(pair.query_id, []).append(index)
        return indices

    def describe(self) -> str:
        """One line: queries, passages by grade, easy negatives."""
        grades = Counter(pair.grade for pair in self.pairs)
        easy = grades.pop(EASY_NEGATIVE, 0)
        parts = ", ".join(f"{grade}: {grades[grade]:,}" for grade in sorted(grades, reverse=True))
        judged = f"{grades.total():,} passages" + (f" ({parts})" if parts else "")
        return f"{len(self.by_query()):,} queries, {judged}, {easy:,} easy negatives"

    def to_frame(self) -> pd.DataFrame:
        """A row a pair, in order: query_id, query, doc_id, text, grade; `attrs` say how they were drawn, and their `digest`."""
        frame = pd.DataFrame(list(self.pairs), columns=list(PoolPair._fields)).astype({"grade": "int64"})
        about = {"collection": self.collection, "digest": self.digest, "ideal": self.ideal, "spec": asdict(self.spec)}
        frame.attrs = json.loads(json.dumps(about | {"provenance": self.provenance}))  # as a file would have it
        return frame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, name: str) -> Pool:
        """A pool of one's own from the columns of `to_frame`; other columns are ignored.

        Raises:
            ValueError: a column is missing, a cell is empty, a grade is not whole, or there is no row.
        """
        return cls(name, PoolSpec(None, 0, 0, match_length=False), frame_pairs(frame, name), {"source": "frame"})

    @classmethod
    def from_run(cls, collection: Collection, run: str | Path | Run, *, depth: int = DEPTH) -> Pool:
        """The first `depth` passages of each judged query in a run, in its order, to be reranked and measured as trec_eval does.

        A passage that nobody judged is ranked and gains nothing (grade 0); the ideal ranking is that of all judgments; a judged
        query that the run lacks counts 0.

        Args:
            collection: from `load_collection`.
            run: a TREC file, "scoreddocs" (the collection's own, of ir_datasets), or query_id -> doc_id -> score.
            depth: most passages a query.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a malformed run, a depth below 1, or nothing in common with the collection.
            OSError: ir_datasets could not download or read the collection's own.
        """
        pairs, met = run_pairs(collection, run, depth)
        provenance = {"source": "run", **_of_collection(collection, pairs), **met}
        return cls(collection.name, PoolSpec(None, 0, 0), tuple(pairs), provenance, "qrels", collection.qrels)

    def save(self, path: str | Path) -> None:
        """Write the pool to one Parquet file, whole or not at all; equal pools give equal bytes.

        A file already at `path` is replaced. Folders on the way are made.

        Raises:
            OSError: the file cannot be written; what was at `path` is untouched.
        """
        about = {
            "collection": self.collection,
            "spec": asdict(self.spec),
            "digest": self.digest,
            "provenance": self.provenance,
            "ideal": self.ideal,
        }
        write_pool_file(path, self.pairs, about, self.qrels)

    @classmethod
    def load(cls, path: str | Path) -> Pool:
        """Read a pool that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a pool, is damaged, or was written by a later format.
        """
        path = Path(path)
        pairs, about, qrels = read_pool_file(path)
        try:
            # Pools of before easy negatives could be matched do not say so: theirs are random.
            drawn = {"match_length": False, **about["spec"]}
            if drawn.get("match_grades") is not None:  # a list in JSON
                drawn["match_grades"] = tuple(drawn["match_grades"])
            spec = PoolSpec(**drawn)
            pool = cls(about["collection"], spec, pairs, about["provenance"], about.get("ideal", "pool"), qrels)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} has damaged contents ({error}); build the pool again.") from error
        if pool.digest != about.get("digest"):
            raise ValueError(f"the pairs in {path} do not match its checksum; build the pool again.")
        if about["format_version"] == 1:
            logger.info("%s was written before pools kept the collection's qrels; it has none", path)
        return pool


def title_with_run(collection: str, provenance: Mapping[str, Any]) -> str:
    """`Pool.title`, from what a pool says of itself."""
    if provenance.get("source") != "run":
        return collection
    return f"{collection} (the first {provenance['depth']:,} of {shown(provenance.get('run', 'a run'))})"


def _of_collection(collection: Collection, pairs: Iterable[PoolPair]) -> dict[str, Any]:
    grades = Counter(pair.grade for pair in pairs)
    return {
        "collection": {**collection.provenance, "docs": collection.docs.provenance()},
        "passages_by_grade": {str(grade): grades[grade] for grade in sorted(grades, reverse=True)},
    }


def build_pool(collection: Collection, spec: PoolSpec | None = None) -> Pool:
    """Draw a pool; the same collection and spec give the same pool.

    Args:
        collection: from `load_collection`.
        spec: `PoolSpec()` where None.

    Raises:
        ValueError: no judged passage of the collection has a text.
        OSError: the collection could not be downloaded or read.

    >>> from tl_crossenc.pools.collections import load_collection
    >>> pool = build_pool(load_collection("demo"), PoolSpec(per_grade=2, easy_negatives=1))
    >>> sorted({pair.grade for pair in pool.pairs})
    [-1, 0, 1, 2, 3]
    """
    spec = spec or PoolSpec()
    pairs, counts = draw(collection, spec)
    easy = sum(pair.grade == EASY_NEGATIVE for pair in pairs)
    provenance = {
        **_of_collection(collection, pairs),
        "easy_negatives": "none asked for" if not spec.easy_negatives else easy,
        "numpy": importlib.metadata.version("numpy"),
        **counts,
    }
    drawn = {pair.query_id for pair in pairs}
    qrels = {query_id: judgments for query_id, judgments in collection.qrels.items() if query_id in drawn}
    return Pool(collection.name, spec, tuple(pairs), provenance, "pool", qrels)


def require_distinct(names: Sequence[str]) -> None:
    """Whether collections can be told apart by their names.

    Raises:
        ValueError: two have one name.
    """
    if len(set(names)) < len(names):
        raise ValueError(
            f"expected collections of different names, got {', '.join(names)}: results are told apart by the name, so leave one "
            "out or rename its folder"
        )
