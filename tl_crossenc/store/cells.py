"""Result cells on disk: atomic, resumable, self-describing.

A cell is one table (Parquet) and one manifest (JSON) under one key:

    root/tl_crossenc.json                   marks the folder as ours; format version
    root/cells/<kind>/<digest>.parquet      the rows
    root/cells/<kind>/<digest>.json         key, checksum, row count, schema, versions, the caller's own

Each file is written whole or not at all, and a cell's manifest comes last: a cell without a manifest does not
exist. A process killed at any moment loses at most the cells in flight. Nothing written here depends on the
clock, the machine or the order of work: equal tables under equal keys are equal bytes, cut short or not.

Limits. There are no locks. Processes that write one cell at once all succeed if their tables are equal; else
the last one wins or, where the writers interleave, the checksum does not match: such a cell counts as missing
and is computed anew. Bytes are equal under one version of pyarrow, not across versions.
"""

import errno
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .files import (
    StoreError,
    explained,
    irregular,
    is_temporary,
    make_folder,
    regular,
    rename,
    staged,
    sweep,
    sync_folder,
    write_atomic,
)

__all__ = ["CellKey", "CorruptCell", "MissingCell", "Store", "StoreError", "write_atomic"]

FORMAT = 1
MARKER = "tl_crossenc.json"

_log = logging.getLogger(__name__)
_KIND = re.compile(r"[a-z][a-z0-9_-]*")


class MissingCell(StoreError, LookupError):
    """No cell is stored under the key."""


class CorruptCell(StoreError, ValueError):
    """A cell is stored under the key, and its files are not what its manifest says."""


@dataclass(frozen=True, eq=False)
class CellKey:
    """What a cell's content depends on: a kind and named values. Build it with `CellKey.of`.

    Two keys are equal when their canonical JSON is: in any order; `1`, `1.0`, `"1"` and `True` differ.
    """

    kind: str
    items: tuple[tuple[str, str | int | float | None], ...]

    @classmethod
    def of(cls, kind: str, /, **fields: object) -> "CellKey":
        """Return the key of a kind, which names a folder, and named values: text, numbers, booleans or None.

        Raises ValueError for a kind that is not of lower-case letters, digits, `-` and `_`, and for NaN and
        infinity; TypeError for any other type of value.
        """
        if not _KIND.fullmatch(kind):
            raise ValueError(
                f"expected a cell kind of lower-case letters, digits, '-' and '_', got {kind!r}: rename it"
            )
        items: list[tuple[str, str | int | float | None]] = []
        for name, value in sorted(fields.items()):
            if value is not None and not isinstance(value, str | int | float):
                got = type(value).__name__
                raise TypeError(f"expected text, a number or None for {name!r} in a cell key, got {got}: convert it")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"expected a finite number for {name!r} in a cell key, got {value}: use text")
            items.append((name, value))
        return cls(kind, tuple(items))

    @property
    def fields(self) -> dict[str, str | int | float | None]:
        """The named values, sorted by name."""
        return dict(self.items)

    @property
    def canonical(self) -> str:
        """The key as JSON: names sorted, no spaces, ASCII."""
        return _canonical({"kind": self.kind, "fields": self.fields})

    @property
    def digest(self) -> str:
        """First 24 hexadecimal digits of the SHA-256 of `canonical`: the cell's file name."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:24]

    def __eq__(self, other: object) -> bool:
        return self.canonical == other.canonical if isinstance(other, CellKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.canonical)


class Store:
    """A folder of cells.

    Args:
        root: the folder; made where absent. An empty one is taken over, a foreign one refused, unchanged.
        versions: of what computes the cells, say torch, for the manifests; ours and pyarrow's are added.
        read_only: open a store that exists and change nothing.

    Raises:
        ValueError: `root` is a file, holds something else, or was written by a newer version.
        StoreError: the file system refused.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        versions: Mapping[str, str] | None = None,
        read_only: bool = False,
    ) -> None:
        self.root = Path(root)
        self.read_only = read_only
        self.versions = {"pyarrow": pa.__version__, "tl_crossenc": _own_version(), **(versions or {})}
        with explained(self.root, doing="read" if read_only else "write"):
            if _is_ours(self.root):
                if not read_only and not os.access(self.root, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            elif read_only:
                raise ValueError(f"expected a folder of results, {self.root} has none: name a finished job's --out")
            else:
                write_atomic(self.root / MARKER, _pretty({"package": "tl_crossenc", "format": FORMAT}))
        if not read_only:
            self.sweep()

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r}{', read only' if self.read_only else ''})"

    def has(self, key: CellKey) -> bool:
        """Whether the cell is stored, by its manifest and its table's size; warns of a damaged one."""
        return self._holds(key, verify=False)

    def missing(self, keys: Iterable[CellKey], *, verify: bool = True) -> list[CellKey]:
        """Return the keys whose cells are to be computed, in the order given, each once.

        With `verify` the tables are read: what is not missing is whole. A damaged cell is missing, with a warning, so that its job
        mends it.
        """
        return [key for key in dict.fromkeys(keys) if not self._holds(key, verify=verify)]

    def read(self, key: CellKey) -> pa.Table:
        """Return the stored table. Raises MissingCell; CorruptCell where checksum or row count differ."""
        manifest, path = self.manifest(key), self._paths(key)[0]
        with explained(path, doing="read"):
            data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest.get("sha256"):
            raise self._corrupt(key, "its checksum does not match")
        try:
            table = pq.ParquetFile(pa.BufferReader(data)).read()
        except (pa.ArrowException, OSError) as error:
            raise self._corrupt(key, "its table is not Parquet") from error
        if table.num_rows != manifest.get("rows"):
            raise self._corrupt(key, f"it has {table.num_rows} rows, its manifest says {manifest.get('rows')}")
        return table

    def read_many(self, keys: Iterable[CellKey]) -> list[pa.Table]:
        """Return the stored tables in the order of the keys. Raises as `read` does."""
        return [self.read(key) for key in keys]

    def manifest(self, key: CellKey) -> dict[str, Any]:
        """Return a stored cell's manifest; checks its table's size only. Raises MissingCell, CorruptCell."""
        table_path, path = self._paths(key)
        with explained(path, doing="read"):
            try:
                what = irregular(path)
                manifest = None if what else json.loads(path.read_bytes())
            except FileNotFoundError:
                raise MissingCell(f"no cell is stored for {key.canonical}: run the job that computes it") from None
            except ValueError as error:
                raise self._corrupt(key, "its manifest is not JSON") from error
            if what:  # a pipe would be waited for
                raise self._corrupt(key, f"its manifest is {what}")
            if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
                raise self._corrupt(key, f"its manifest is not of format {FORMAT}")
            if _canonical(manifest.get("key")) != key.canonical:
                raise self._corrupt(key, "its manifest has another key")
            try:
                size = table_path.stat().st_size
            except FileNotFoundError:
                raise self._corrupt(key, "its table is gone") from None
        if size != manifest.get("bytes"):
            raise self._corrupt(key, f"its table has {size} bytes, its manifest says {manifest.get('bytes')}")
        return manifest

    def write(self, key: CellKey, table: pa.Table, meta: Mapping[str, object] | None = None) -> None:
        """Store a table in the place of what the key has; the same content again changes no file.

        `meta`, JSON values, goes into the manifest: device, dtype, seed; nothing that differs from run to
        run, such as a time. Raises StoreError, and then no other cell has changed; ValueError or TypeError
        where `meta` is not JSON.
        """
        if self.read_only:
            raise StoreError(f"{self.root} was opened for reading only: open it for writing to store cells")
        data = _parquet(table)
        content = {
            "format": FORMAT,
            "key": {"kind": key.kind, "fields": key.fields},
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "rows": table.num_rows,
            "schema": [{"name": field.name, "type": str(field.type)} for field in table.schema],
            "versions": self.versions,
            "meta": dict(meta or {}),
        }
        try:
            manifest = _pretty(content).encode()
        except (TypeError, ValueError) as error:
            raise type(error)(f"expected JSON values in a cell's meta ({error}): convert them first") from error
        table_path, path = self._paths(key)
        with explained(table_path):
            stored = path.read_bytes() if path.is_file() else None
            if stored == manifest and self._holds(key, verify=True):
                return
            make_folder(path.parent)
            with staged(table_path, data) as new_table, staged(path, manifest) as new_manifest:
                if stored not in (None, manifest):  # the old manifest must never stand beside the new table
                    path.unlink(missing_ok=True)
                    sync_folder(path.parent)
                rename(new_table, table_path)
                rename(new_manifest, path)

    def keys(self, kind: str) -> list[CellKey]:
        """Return the keys of the stored cells of a kind, sorted by their canonical text."""
        found = []
        for path in (self.root / "cells" / kind).glob("*.json"):
            with suppress(OSError, ValueError, TypeError, LookupError):
                key = json.loads(regular(path).read_bytes())["key"]
                found.append(CellKey.of(key["kind"], **key["fields"]))
        return sorted((key for key in found if self.has(key)), key=lambda key: key.canonical)

    def sweep(self) -> int:
        """Remove what dead processes left unfinished here; return how many files. Every opening does it."""
        return sweep(self.root)

    def _paths(self, key: CellKey) -> tuple[Path, Path]:
        folder = self.root / "cells" / key.kind
        return folder / f"{key.digest}.parquet", folder / f"{key.digest}.json"

    def _corrupt(self, key: CellKey, what: str) -> CorruptCell:
        path = self._paths(key)[0]
        return CorruptCell(f"the stored cell {path} is damaged ({what}): run its job again to compute it anew")

    def _holds(self, key: CellKey, *, verify: bool) -> bool:
        try:
            self.read(key) if verify else self.manifest(key)
        except MissingCell:
            return False
        except CorruptCell as error:
            _log.warning("%s", error)
            return False
        return True


def _is_ours(root: Path) -> bool:
    """Whether the marker is there; False where nothing is yet; ValueError where something else is."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise ValueError(f"expected a folder for the results, {root} is a file: choose another --out")
    empty = all(is_temporary(name) for name in os.listdir(root))  # a killed first opening leaves such a one
    try:
        path = root / MARKER
        marker = None if irregular(path) else json.loads(path.read_bytes())
    except FileNotFoundError:
        if empty:
            return False
        marker = None
    except ValueError:
        marker = None
    if not isinstance(marker, dict) or marker.get("package") != "tl_crossenc":
        raise ValueError(f"{root} holds files that are not ours: choose another --out or an empty folder")
    if marker.get("format") != FORMAT:
        came = marker.get("format")
        raise ValueError(f"expected results of format {FORMAT} in {root}, got {came}: choose another --out")
    return True


def _parquet(table: pa.Table) -> bytes:
    """The table as bytes that depend on schema and rows, not on chunks or the order of the metadata."""
    metadata = {name: text for name, text in sorted((table.schema.metadata or {}).items()) if name != b"pandas"}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata or None).combine_chunks(),
        sink,
        row_group_size=1 << 20,
        version="2.6",
        compression="zstd",
        compression_level=3,
        write_statistics=False,
        use_compliant_nested_type=False,
    )
    return sink.getvalue().to_pybytes()


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _pretty(value: object) -> str:
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n"


def _own_version() -> str:
    try:
        return version("tl-crossenc")
    except PackageNotFoundError:
        return "unknown"
