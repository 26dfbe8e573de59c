"""The one Parquet file of a pool: a row a pair, and in the schema's metadata what is no row, with the qrels compressed.

Format 2 has the qrels and how the ideal ranking is taken; format 1, which is still read, has neither.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tl_crossenc.pools.spec import PoolPair
from tl_crossenc.store.files import write_atomic

FORMAT_VERSION = 2
_METADATA_KEY = b"tl_crossenc.pool"
_QRELS_KEY = b"tl_crossenc.qrels"
_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("grade", pa.int32(), nullable=False),
    ]
)
Qrels = Mapping[str, Mapping[str, int]]


def write_pool_file(path: str | Path, pairs: Sequence[PoolPair], about: dict[str, Any], qrels: Qrels | None) -> None:
    """Write the file, whole or not at all; equal contents give equal bytes."""
    packed = {} if qrels is None else {_QRELS_KEY: pack_qrels(qrels)}
    record = {**about, "format_version": FORMAT_VERSION, "qrels_sha256": _sha256(packed)}
    metadata = {_METADATA_KEY: json.dumps(record, sort_keys=True).encode(), **packed}
    columns = [list(column) for column in zip(*pairs, strict=True)] or [[]] * len(_SCHEMA)
    data = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA.with_metadata(metadata)), data, compression="zstd")
    write_atomic(path, data.getvalue())


def read_pool_file(path: Path) -> tuple[tuple[PoolPair, ...], dict[str, Any], dict[str, dict[str, int]] | None]:
    """(pairs, what was written beside them, qrels) of a file; the qrels are None where it has none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a pool's, is damaged, or was written by a later format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no pool file at {path}; build one with build_pool and save it.")
    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()))
        metadata = table.schema.metadata or {}
        about = json.loads(metadata.get(_METADATA_KEY, b"null"))
        qrels = unpack_qrels(metadata[_QRELS_KEY]) if _QRELS_KEY in metadata else None
    except (pa.ArrowException, OSError, ValueError, zlib.error) as error:
        cause = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a readable pool file ({cause}); build the pool again.") from error
    if not isinstance(about, dict) or not table.schema.equals(_SCHEMA):
        raise ValueError(f"{path} is a Parquet file but not a pool; expected one that Pool.save wrote.")
    if about.get("format_version") not in (1, FORMAT_VERSION):
        raise ValueError(
            f"{path} has pool format {about.get('format_version')}, this version reads {FORMAT_VERSION}; "
            "update the package or build the pool again."
        )
    if about.get("qrels_sha256") != _sha256(metadata):
        raise ValueError(f"the qrels in {path} do not match their checksum; build the pool again.")
    rows = zip(*(table.column(name).to_pylist() for name in _SCHEMA.names), strict=True)
    return tuple(PoolPair(*row) for row in rows), about, qrels


def _sha256(metadata: Mapping[bytes, bytes]) -> str | None:
    return hashlib.sha256(metadata[_QRELS_KEY]).hexdigest() if _QRELS_KEY in metadata else None


def pack_qrels(qrels: Qrels) -> bytes:
    """Judgments in some bytes each: doc_ids by query and grade, compressed, as text."""
    by_grade: dict[str, dict[str, list[str]]] = {}
    for query_id, judgments in qrels.items():
        own = by_grade.setdefault(query_id, {})
        for doc_id, grade in judgments.items():
            own.setdefault(str(grade), []).append(doc_id)
    plain = json.dumps(by_grade, separators=(",", ":")).encode()
    return base64.b85encode(zlib.compress(plain, 9))


def unpack_qrels(packed: bytes) -> dict[str, dict[str, int]]:
    """The judgments that `pack_qrels` packed, by query in its order."""
    by_grade = json.loads(zlib.decompress(base64.b85decode(packed)))
    return {
        query_id: {doc_id: int(grade) for grade, doc_ids in own.items() for doc_id in doc_ids}
        for query_id, own in by_grade.items()
    }
