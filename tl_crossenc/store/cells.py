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
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

import tl_crossenc

from .cell_files import FORMAT, CellFiles, pretty_json
from .files import StoreError, explained, irregular, is_temporary, regular, sweep, sync_folder, write_atomic
from .keys import CellKey
from .places import MACHINERY, MARKER


class Store:
    """A folder of cells.

    Args:
        root: the folder; made where absent. An empty one is taken over, a foreign one refused, unchanged. Of a folder of results
            it is the store in its machinery.
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
        self.root = _home(Path(root))
        self.read_only = read_only
        self.versions = {"pyarrow": pa.__version__, "tl_crossenc": tl_crossenc.__version__, **(versions or {})}
        with explained(self.root, doing="read" if read_only else "write"):
            if _is_ours(self.root):
                if not read_only and not os.access(self.root, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            elif read_only:
                raise ValueError(f"expected a folder of results, {self.root} has none: name a finished job's --out")
            else:
                write_atomic(self.root / MARKER, pretty_json({"package": "tl_crossenc", "format": FORMAT}))
        if not read_only:
            self.sweep()

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r}{', read only' if self.read_only else ''})"

    def has(self, key: CellKey) -> bool:
        """Whether the cell is stored, by its manifest and its table's size; warns of a damaged one."""
        return self._files(key).stored(verify=False)

    def missing(self, keys: Iterable[CellKey], *, verify: bool = True) -> list[CellKey]:
        """Return the keys whose cells are to be computed, in the order given, each once.

        With `verify` the tables are read: what is not missing is whole. A damaged cell is missing, with a warning, so that its job
        mends it.
        """
        return [key for key in dict.fromkeys(keys) if not self._files(key).stored(verify=verify)]

    def read(self, key: CellKey) -> pa.Table:
        """Return the stored table. Raises MissingCell; CorruptCell where checksum or row count differ."""
        return self._files(key).read()

    def read_many(self, keys: Iterable[CellKey]) -> list[pa.Table]:
        """Return the stored tables in the order of the keys. Raises as `read` does."""
        return [self.read(key) for key in keys]

    def manifest(self, key: CellKey) -> dict[str, Any]:
        """Return a stored cell's manifest; checks its table's size only. Raises MissingCell, CorruptCell."""
        return self._files(key).read_manifest()

    def write(self, key: CellKey, table: pa.Table, meta: Mapping[str, object] | None = None) -> None:
        """Store a table in the place of what the key has; the same content again changes no file.

        `meta`, JSON values, goes into the manifest: device, dtype, seed; nothing that differs from run to
        run, such as a time. Raises StoreError, and then no other cell has changed; ValueError or TypeError
        where `meta` is not JSON.
        """
        if self.read_only:
            raise StoreError(f"{self.root} was opened for reading only: open it for writing to store cells")
        self._files(key).write(table, meta or {}, self.versions)

    def take(self, key: CellKey, other: "Store") -> bool | None:
        """Store another store's cell too; call `settle` when all are taken.

        Returns:
            Whether it was not here yet; None where it is not whole there, which is warned of.

        Raises:
            ValueError: the cell is here and its table is another one.
            StoreError: see `write`.
        """
        return self._files(key).take(other._files(key))

    def settle(self, kind: str) -> None:
        """Wait until the cells of a kind that were taken are on the disk."""
        folder = self.root / "cells" / kind
        with explained(folder):
            if folder.is_dir():
                sync_folder(folder)

    def keys(self, kind: str, most: int | None = None) -> list[CellKey]:
        """Return the keys of the stored cells of a kind, sorted by their canonical text; with `most`, of at most so many, any."""
        found = []
        for path in islice((self.root / "cells" / kind).glob("*.json"), most):
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

    def _files(self, key: CellKey) -> CellFiles:
        return CellFiles(key, *self._paths(key))


def _home(root: Path) -> Path:
    """The folder that has the marker, where it is the machinery of the one given."""
    inner = root / MACHINERY
    return inner if os.path.isfile(inner / MARKER) and not os.path.lexists(root / MARKER) else root


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
