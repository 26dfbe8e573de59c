"""A pool: for every query the passages to rerank, with their grades, frozen into one Parquet file.

By default up to 10 passages of each grade 0..3 and 10 easy negatives (grade -1: passages not judged for the
query, as long as its relevant ones) a query, drawn with a seed (`sampling.py` says how). Every later step reads
the pool, never the collection: a score belongs to a pair's place in `Pool.pairs`, and `Pool.digest` tells pools
apart.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tl_crossenc.collections import Collection
from tl_crossenc.files import write_atomic
from tl_crossenc.sampling import EASY_NEGATIVE, PoolPair, PoolSpec, draw

__all__ = ["Pool", "PoolPair", "PoolSpec", "build_pool"]

FORMAT_VERSION = 1
_METADATA_KEY = b"tl_crossenc.pool"
_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("grade", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Pool:
    """Pairs in their fixed order (by query, then grade descending, then doc_id, as `build_pool` leaves them).

    Attributes:
        collection: name of the collection, for labels.
        spec: how the pairs were drawn.
        pairs: the pairs; an index into them is what scores are aligned with.
        provenance: source, versions, counts; it does not enter equality or `digest`.

    Raises:
        ValueError: a passage twice for one query, two texts for one query id, or a grade below -1.
    """

    collection: str
    spec: PoolSpec
    pairs: tuple[PoolPair, ...]
    provenance: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
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
            checksum.update(json.dumps(list(pair)).encode() + b"\n")
        return checksum.hexdigest()

    @property
    def highest_grade(self) -> int:
        """The top of the scale on which the collection is judged: of its qrels where they are known, else of the pairs."""
        recorded = self.provenance.get("collection", {})
        known = recorded.get("highest_grade") if isinstance(recorded, dict) else None
        return (
            int(known) if known is not None else max((pair.grade for pair in self.pairs if pair.grade > 0), default=0)
        )

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
        return self._where(lambda pair: pair.query_id in wanted)

    def _where(self, keep: Callable[[PoolPair], bool]) -> Pool:
        return replace(self, pairs=tuple(pair for pair in self.pairs if keep(pair)))

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
        """A row a pair, in order: query_id, query, doc_id, text, grade."""
        frame = pd.DataFrame(list(self.pairs), columns=list(PoolPair._fields))
        return frame.astype({"grade": "int64"})

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, name: str) -> Pool:
        """A pool of one's own from the columns of `to_frame`; other columns are ignored.

        Raises:
            ValueError: a column is missing, a cell is empty, a grade is not whole, or there is no row.
        """
        missing = [column for column in PoolPair._fields if column not in frame.columns]
        if missing:
            raise ValueError(f"frame {name!r} lacks {', '.join(missing)}; expected {', '.join(PoolPair._fields)}.")
        chosen = frame[list(PoolPair._fields)]
        if chosen.empty or chosen.isna().any(axis=None):
            what = "no row" if chosen.empty else "empty cells"
            raise ValueError(f"frame {name!r} has {what}; expected a value in every cell.")
        grades = pd.to_numeric(chosen["grade"], errors="coerce")
        if not grades.mod(1).eq(0).all():
            raise ValueError(f"frame {name!r} has a grade that is not a whole number; expected 0, 1, 2, 3 or -1.")
        texts = [[str(cell) for cell in chosen[column]] for column in PoolPair._fields[:4]]
        pairs = [PoolPair(*row) for row in zip(*texts, [int(grade) for grade in grades], strict=True)]
        return cls(name, PoolSpec(None, 0, 0, match_length=False), tuple(pairs), {"source": "frame"})

    def save(self, path: str | Path) -> None:
        """Write the pool to one Parquet file, whole or not at all; equal pools give equal bytes.

        A file already at `path` is replaced. Folders on the way are made.

        Raises:
            OSError: the file cannot be written; what was at `path` is untouched.
        """
        about = {
            "format_version": FORMAT_VERSION,
            "collection": self.collection,
            "spec": asdict(self.spec),
            "digest": self.digest,
            "provenance": self.provenance,
        }
        columns = [list(column) for column in zip(*self.pairs, strict=True)] or [[]] * len(_SCHEMA)
        schema = _SCHEMA.with_metadata({_METADATA_KEY: json.dumps(about, sort_keys=True).encode()})
        table = pa.table(columns, schema=schema)
        data = io.BytesIO()
        pq.write_table(table, data, compression="zstd")
        write_atomic(path, data.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Pool:
        """Read a pool that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a pool, is damaged, or was written by a later format.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no pool file at {path}; build one with build_pool and save it.")
        try:
            table = pq.read_table(pa.BufferReader(path.read_bytes()))
            about = json.loads((table.schema.metadata or {}).get(_METADATA_KEY, b"null"))
        except (pa.ArrowException, OSError, ValueError) as error:
            cause = str(error).partition("\n")[0]
            raise ValueError(f"{path} is not a readable pool file ({cause}); build the pool again.") from error
        if not isinstance(about, dict) or not table.schema.equals(_SCHEMA):
            raise ValueError(f"{path} is a Parquet file but not a pool; expected one that Pool.save wrote.")
        if about.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{path} has pool format {about.get('format_version')}, this version reads {FORMAT_VERSION}; "
                "update the package or build the pool again."
            )
        rows = zip(*(table.column(name).to_pylist() for name in _SCHEMA.names), strict=True)
        pairs = tuple(PoolPair(*row) for row in rows)
        try:
            # Pools of before easy negatives could be matched do not say so: theirs are random.
            spec = PoolSpec(**{"match_length": False, **about["spec"]})
            pool = cls(about["collection"], spec, pairs, about["provenance"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} has damaged contents ({error}); build the pool again.") from error
        if pool.digest != about.get("digest"):
            raise ValueError(f"the pairs in {path} do not match its checksum; build the pool again.")
        return pool


def build_pool(collection: Collection, spec: PoolSpec | None = None) -> Pool:
    """Draw a pool; the same collection and spec give the same pool.

    Args:
        collection: from `load_collection`.
        spec: `PoolSpec()` where None.

    Raises:
        ValueError: no judged passage of the collection has a text.
        OSError: the collection could not be downloaded or read.

    >>> from tl_crossenc.collections import load_collection
    >>> pool = build_pool(load_collection("demo"), PoolSpec(per_grade=2, easy_negatives=1))
    >>> sorted({pair.grade for pair in pool.pairs})
    [-1, 0, 1, 2, 3]
    """
    spec = spec or PoolSpec()
    pairs, counts = draw(collection, spec)
    grades = Counter(pair.grade for pair in pairs)
    provenance = {
        "collection": {**collection.provenance, "docs": collection.docs.provenance()},
        "passages_by_grade": {str(grade): grades[grade] for grade in sorted(grades, reverse=True)},
        "easy_negatives": "none asked for" if not spec.easy_negatives else grades[EASY_NEGATIVE],
        "numpy": importlib.metadata.version("numpy"),
        **counts,
    }
    return Pool(collection.name, spec, tuple(pairs), provenance)
