"""Access to the passages of a collection, by id and by position, never all in memory.

A folder's `docs.tsv` is checked in one pass that keeps the offsets of the judged passages and of every 256th
line; later reads seek. ir_datasets' own document store serves the rest.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from collections.abc import Collection as AbstractCollection
from pathlib import Path
from typing import Any, NoReturn

from tl_crossenc.pools.lines import decoded, malformed, read_lines, two_columns, unpacked

FILES = ("docs.tsv", "queries.tsv", "qrels.txt")


class Documents(ABC):
    """Access to a collection's passages, by id and by position."""

    @abstractmethod
    def get_many(self, doc_ids: AbstractCollection[str]) -> dict[str, str]:
        """Texts of the passages `doc_ids`; those it does not have are absent from the result."""

    def expect(self, doc_ids: AbstractCollection[str]) -> None:
        """Say that `get_many` will be called for these, some at a time; nothing has to be done about it."""
        return None

    @abstractmethod
    def count(self) -> int:
        """How many passages there are."""

    @abstractmethod
    def at(self, positions: Sequence[int]) -> dict[int, tuple[str, str]]:
        """(doc_id, text) of the passages at `positions`, each in 0..count()-1."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What identifies the passages that were read."""


def _tsv_record(path: Path, number: int, line: str) -> tuple[str, str]:
    return two_columns(path, number, line, "doc_id TAB text")


class FolderDocuments(Documents):
    """A file of a passage a line, checked in one pass that remembers where the judged passages and every 256th line start.

    Args:
        path: of the file, gzipped where its name ends in `.gz`: then each later read unpacks it from its beginning.
        judged: ids of the passages that are asked for by id.
        record: (path, line number, line) -> (doc_id, text); `docs.tsv`'s by default.
        is_header: (path, line number, line) -> whether the line is no record.
    """

    STRIDE = 256

    def __init__(
        self,
        path: Path,
        judged: frozenset[str],
        record: Callable[[Path, int, str], tuple[str, str]] = _tsv_record,
        is_header: Callable[[Path, int, str], bool] = lambda path, number, line: False,
    ) -> None:
        self._path, self._wanted, self._judged = path, judged, judged
        self._record, self._is_header = record, is_header
        self._offsets: dict[str, int] | None = None
        self._marks: list[int] = []
        self._count = 0
        self._sha256 = ""

    def _scan(self) -> dict[str, int]:
        offsets: dict[str, int] = {}
        self._marks, self._count = [], 0
        checksum = hashlib.sha256()
        for number, offset, line in read_lines(self._path, checksum):
            if (
                number == 1
                and line.partition("\t")[0] not in self._judged
                and self._is_header(self._path, number, line)
            ):
                continue
            doc_id, _ = self._record(self._path, number, line)
            if self._count % self.STRIDE == 0:
                self._marks.append(offset)
            if doc_id in self._wanted:
                if doc_id in offsets:
                    malformed(self._path, number, line, "each document id once", f"{doc_id!r} again")
                offsets[doc_id] = offset
            self._count += 1
        self._sha256 = checksum.hexdigest()
        self._offsets = offsets
        return offsets

    def _scanned(self) -> dict[str, int]:
        return self._scan() if self._offsets is None else self._offsets

    def expect(self, doc_ids: AbstractCollection[str]) -> None:
        """See `Documents.expect`: the file is read once for all of them."""
        if not self._wanted.issuperset(doc_ids):
            self._wanted, self._offsets = self._wanted.union(doc_ids), None

    def get_many(self, doc_ids: AbstractCollection[str]) -> dict[str, str]:
        """See `Documents.get_many`."""
        self.expect(doc_ids)
        offsets = self._scanned()
        texts = {}
        with unpacked(self._path) as file:
            for doc_id in sorted(set(doc_ids) & offsets.keys(), key=offsets.__getitem__):
                file.seek(offsets[doc_id])
                found, texts[doc_id] = self._parsed(self._next(file))
                if found != doc_id:
                    self._changed()
        return texts

    def _next(self, file: Any) -> str:
        """The next line that is not blank."""
        while True:
            at_start = file.tell() == 0
            raw = file.readline()
            line = decoded(self._path, 1 if at_start else 2, raw)
            if line.strip():
                return line
            if not raw:
                self._changed()

    def _parsed(self, line: str) -> tuple[str, str]:
        """(doc_id, text) of a line that the pass has found well formed."""
        try:
            return self._record(self._path, 0, line)
        except ValueError:
            self._changed()

    def _changed(self) -> NoReturn:
        raise ValueError(f"{self._path} changed while it was being read; start again.")

    def count(self) -> int:
        """See `Documents.count`."""
        self._scanned()
        return self._count

    def at(self, positions: Sequence[int]) -> dict[int, tuple[str, str]]:
        """See `Documents.at`."""
        self._scanned()
        found = {}
        with unpacked(self._path) as file:
            for position in sorted(set(positions)):
                file.seek(self._marks[position // self.STRIDE])
                for _ in range(position % self.STRIDE):
                    self._next(file)
                found[position] = self._parsed(self._next(file))
        return found

    def provenance(self) -> dict[str, Any]:
        """See `Documents.provenance`."""
        self._scanned()
        usual = {} if self._path.name == FILES[0] else {"file": self._path.name}
        return {"documents": self._count, "sha256": self._sha256, **usual}

    def __repr__(self) -> str:
        count = "not read yet" if self._offsets is None else f"{self._count:,} passages"
        return f"FolderDocuments({self._path.name}: {count})"
