"""The two files of a cell: its table (Parquet), and the manifest (JSON) that says what the table is."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .files import StoreError, explained, irregular, make_folder, place_copy, rename, staged, sync_folder
from .keys import CellKey, canonical_json

FORMAT = 1

_log = logging.getLogger(__name__)


class MissingCell(StoreError, LookupError):
    """No cell is stored under the key."""


class CorruptCell(StoreError, ValueError):
    """A cell is stored under the key, and its files are not what its manifest says."""


@dataclass(frozen=True)
class CellFiles:
    """Where the files of a cell lie or will lie."""

    key: CellKey
    table: Path
    manifest: Path

    def read(self) -> pa.Table:
        """See `Store.read`."""
        manifest = self.read_manifest()
        with explained(self.table, doing="read"):
            data = self.table.read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest.get("sha256"):
            raise self._corrupt("its checksum does not match")
        try:
            table = pq.ParquetFile(pa.BufferReader(data)).read()
        except (pa.ArrowException, OSError) as error:
            raise self._corrupt("its table is not Parquet") from error
        if table.num_rows != manifest.get("rows"):
            raise self._corrupt(f"it has {table.num_rows} rows, its manifest says {manifest.get('rows')}")
        return table

    def read_manifest(self) -> dict[str, Any]:
        """See `Store.manifest`."""
        path = self.manifest
        with explained(path, doing="read"):
            try:
                what = irregular(path)
                manifest = None if what else json.loads(path.read_bytes())
            except FileNotFoundError:
                raise MissingCell(f"no cell is stored for {self.key.canonical}: run the job that computes it") from None
            except ValueError as error:
                raise self._corrupt("its manifest is not JSON") from error
            if what:  # a pipe would be waited for
                raise self._corrupt(f"its manifest is {what}")
            if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
                raise self._corrupt(f"its manifest is not of format {FORMAT}")
            if canonical_json(manifest.get("key")) != self.key.canonical:
                raise self._corrupt("its manifest has another key")
            try:
                size = self.table.stat().st_size
            except FileNotFoundError:
                raise self._corrupt("its table is gone") from None
        if size != manifest.get("bytes"):
            raise self._corrupt(f"its table has {size} bytes, its manifest says {manifest.get('bytes')}")
        return manifest

    def write(self, table: pa.Table, meta: Mapping[str, object], versions: Mapping[str, str]) -> None:
        """See `Store.write`."""
        data = _parquet(table)
        content = {
            "format": FORMAT,
            "key": {"kind": self.key.kind, "fields": self.key.fields},
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "rows": table.num_rows,
            "schema": [{"name": field.name, "type": str(field.type)} for field in table.schema],
            "versions": dict(versions),
            "meta": dict(meta),
        }
        try:
            manifest = pretty_json(content).encode()
        except (TypeError, ValueError) as error:
            raise type(error)(f"expected JSON values in a cell's meta ({error}): convert them first") from error
        path = self.manifest
        with explained(self.table):
            stored = path.read_bytes() if path.is_file() else None
            if stored == manifest and self.stored(verify=True):
                return
            make_folder(path.parent)
            with staged(self.table, data) as new_table, staged(path, manifest) as new_manifest:
                if stored not in (None, manifest):  # the old manifest must never stand beside the new table
                    path.unlink(missing_ok=True)
                    sync_folder(path.parent)
                rename(new_table, self.table)
                rename(new_manifest, path)

    def take(self, other: "CellFiles") -> bool | None:
        """See `Store.take`."""
        if not other.stored(verify=True):
            return None
        if self.stored(verify=True):
            if self.read_manifest()["sha256"] == other.read_manifest()["sha256"]:
                return False
            raise ValueError(
                f"expected one result a cell, but {self.table} and {other.table} are different ones of {self.key.canonical}: "
                "which is right cannot be told; remove one of them, its .json beside it first, and run again"
            )
        with explained(self.table):
            make_folder(self.manifest.parent)
            self.manifest.unlink(missing_ok=True)  # a damaged cell's, which must never stand beside the new table
            place_copy(other.table, self.table)
            place_copy(other.manifest, self.manifest)
        return True

    def stored(self, *, verify: bool) -> bool:
        """Whether the cell is stored and, with `verify`, whole; warns of a damaged one."""
        try:
            self.read() if verify else self.read_manifest()
        except MissingCell:
            return False
        except CorruptCell as error:
            _log.warning("%s", error)
            return False
        return True

    def _corrupt(self, what: str) -> CorruptCell:
        return CorruptCell(f"the stored cell {self.table} is damaged ({what}): run its job again to compute it anew")


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


def pretty_json(value: object) -> str:
    """JSON to be looked at; ValueError or TypeError where the value has none."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n"
