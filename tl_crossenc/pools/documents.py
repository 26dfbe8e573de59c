"""Access to the passages of a collection, by id and by position, never all in memory.

A folder's `docs.tsv` is checked in one pass that keeps the offsets of the judged passages and of every 256th
line; later reads seek. ir_datasets' own document store serves the rest.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Collection as AbstractCollection
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

FILES = ("docs.tsv", "queries.tsv", "qrels.txt")
_SIZES = {
    "msmarco-passage": "a download of 1.06 GB, with 14.4 GB of free disk for its document store",
    "msmarco-passage-v2": "a download of 21.8 GB, with 60.9 GB of free disk for its document store",
}


class Documents(ABC):
    """Access to a collection's passages, by id and by position."""

    @abstractmethod
    def get_many(self, doc_ids: AbstractCollection[str]) -> dict[str, str]:
        """Texts of the passages `doc_ids`; those it does not have are absent from the result."""

    @abstractmethod
    def count(self) -> int:
        """How many passages there are."""

    @abstractmethod
    def at(self, positions: Sequence[int]) -> dict[int, tuple[str, str]]:
        """(doc_id, text) of the passages at `positions`, each in 0..count()-1."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What identifies the passages that were read."""


def read_lines(path: Path, checksum: Any) -> Iterator[tuple[int, int, str]]:
    """(line number from 1, offset in bytes, text without its line end) of the lines that are not blank.

    A file whose name ends in `.gz` is unpacked, and offsets are those of the unpacked text; the checksum is of the file itself.
    """
    offset = 0
    with unpacked(path, checksum) as file:
        for number, raw in enumerate(file, 1):
            line = _decoded(path, number, raw)
            if line.strip():
                yield number, offset, line
            offset += len(raw)


@contextmanager
def unpacked(path: Path, checksum: Any = None) -> Iterator[Any]:
    """The file's bytes, unpacked where its name ends in `.gz`; what is read to the end is in the checksum.

    Raises:
        ValueError: it is not in gzip's format, or is cut short or damaged.
    """
    with path.open("rb") as raw:
        stream: Any = raw if checksum is None else io.BufferedReader(_Summed(raw, checksum))
        if path.suffix != ".gz":
            yield stream
            return
        try:
            with gzip.GzipFile(fileobj=stream) as file:
                yield file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is not a whole file of gzip's ({error}); copy it again, or unpack it.") from error


class _Summed(io.RawIOBase):
    """A file that adds what is read of it to a checksum."""

    def __init__(self, file: Any, checksum: Any) -> None:
        self._file, self._checksum = file, checksum

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._checksum.update(memoryview(buffer)[:count])
        return count


def _decoded(path: Path, number: int, raw: bytes) -> str:
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError:
        malformed(path, number, raw.decode("utf-8", "backslashreplace"), "UTF-8", "other bytes")
    return line.removeprefix("\ufeff" if number == 1 else "").rstrip("\r\n")


def malformed(path: Path, number: int, line: str, expected: str, came: str) -> NoReturn:
    """Raise the ValueError for a line: where, what was expected, what came, the line itself."""
    raise ValueError(
        f"{path}, line {number}: expected {expected}, found {came} in {_short(line, 80)!r}; correct or remove it."
    )


def two_columns(path: Path, number: int, line: str, expected: str) -> tuple[str, str]:
    """Split a line into id and text, or raise the ValueError that says what is wrong with it."""
    columns = line.split("\t")
    if len(columns) != 2:
        malformed(path, number, line, f"two columns, {expected}", f"{len(columns)}")
    if not columns[0] or len(columns[0].split()) != 1 or columns[0] != columns[0].strip():
        malformed(path, number, line, "an id without white space", repr(columns[0]))
    return columns[0], columns[1]


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


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

    def get_many(self, doc_ids: AbstractCollection[str]) -> dict[str, str]:
        """See `Documents.get_many`."""
        if not self._wanted.issuperset(doc_ids):
            self._wanted, self._offsets = self._wanted.union(doc_ids), None
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
            line = _decoded(self._path, 1 if at_start else 2, raw)
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


def default_text(record: Any, dataset_id: str) -> str:
    """The text of an ir_datasets query or document, whatever its fields are called."""
    if callable(getattr(record, "default_text", None)):
        return record.default_text()
    if isinstance(getattr(record, "text", None), str):
        return record.text
    fields = ", ".join(getattr(record, "_fields", ()))
    raise ValueError(
        f"the ir_datasets collection {dataset_id!r} has records without a text (their fields: {fields}); "
        f"write it as a folder with {', '.join(FILES)}."
    )


@contextmanager
def reading(dataset_id: str) -> Iterator[None]:
    """Turn what ir_datasets raises when a download or read fails into one sentence with what to do."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        size = _SIZES.get(dataset_id.split("/")[0])
        first = error.args[0] if error.args else ""
        cause = " ".join(f"{type(error).__name__}: {first if isinstance(first, str) else error}".split())
        raise OSError(
            f"the collection {dataset_id!r} could not be read through ir_datasets ({_short(cause, 200)}); "
            + (f"the first use needs {size}: " if size else "")
            + "check the network and the free disk, or set IR_DATASETS_HOME to where it is downloaded, "
            f"or give a folder with {', '.join(FILES)}."
        ) from error


class IrDatasetsDocuments(Documents):
    """An ir_datasets dataset's passages, through its document store and its iterator."""

    def __init__(self, dataset: Any, dataset_id: str) -> None:
        self._dataset, self._id = dataset, dataset_id

    def get_many(self, doc_ids: AbstractCollection[str]) -> dict[str, str]:
        """See `Documents.get_many`."""
        wanted = sorted(set(doc_ids))
        if not wanted:
            return {}
        with reading(self._id):  # unordered, and silent about ids that it does not have
            found = self._dataset.docs_store().get_many(wanted)
        return {doc_id: default_text(found[doc_id], self._id) for doc_id in wanted if doc_id in found}

    def count(self) -> int:
        """See `Documents.count`."""
        with reading(self._id):
            known = self._dataset.docs_count()  # None where only a pass would tell
            return int(known) if known is not None else sum(1 for _ in self._dataset.docs_iter())

    def at(self, positions: Sequence[int]) -> dict[int, tuple[str, str]]:
        """See `Documents.at`."""
        wanted = {int(position) for position in positions}
        with reading(self._id):
            docs = self._dataset.docs_iter()
            if hasattr(type(docs), "__getitem__"):
                try:
                    found = {position: docs[position] for position in sorted(wanted)}
                except (TypeError, IndexError):  # slices alone, or fewer passages than the published count
                    found = self._one_pass(wanted)
            else:
                found = self._one_pass(wanted)
        return {position: (doc.doc_id, default_text(doc, self._id)) for position, doc in found.items()}

    def _one_pass(self, wanted: set[int]) -> dict[int, Any]:
        passed = zip(range(max(wanted, default=-1) + 1), self._dataset.docs_iter(), strict=False)
        return {position: doc for position, doc in passed if position in wanted}

    def provenance(self) -> dict[str, Any]:
        """See `Documents.provenance`."""
        return {"id": self._id}

    def __repr__(self) -> str:
        return f"IrDatasetsDocuments({self._id})"
