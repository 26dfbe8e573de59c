"""The first-stage ranking that comes with an ir_datasets collection (its `scoreddocs`), as a run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Mapping
from pathlib import Path

from tl_crossenc.pools.collections import Collection
from tl_crossenc.pools.ir_documents import reading
from tl_crossenc.pools.runs import FirstPassages, Run, read_run
from tl_crossenc.pools.spec import SCOREDDOCS


def given_run(
    collection: Collection, run: str | Path | Run, depth: int | None = None, queries: Container[str] | None = None
) -> tuple[Run, str]:
    """query_id -> doc_id -> score of a TREC file, of "scoreddocs" (the collection's own), or as given; its SHA-256, "" as given.

    Args:
        collection: whose scoreddocs are meant.
        run: the three.
        depth, queries: what is kept of the first two, see `read_run`.

    Raises:
        ValueError: as `read_run` and `read_scoreddocs` do.
        OSError: as they do.
    """
    if isinstance(run, Mapping):
        return run, ""
    if run == SCOREDDOCS:
        return read_scoreddocs(collection, depth, queries)
    return read_run(run, depth, queries)


def read_scoreddocs(
    collection: Collection, depth: int | None = None, queries: Container[str] | None = None
) -> tuple[dict[str, dict[str, float]], str]:
    """query_id -> doc_id -> score of the collection's own ranking, and a SHA-256 of it, as `runs.read_run` gives those of a file.

    A passage that is there twice for a query counts with its higher score. The checksum is of lines `query_id TAB doc_id TAB score`
    in ir_datasets' order, all of them.

    Args:
        collection: of ir_datasets.
        depth, queries: what is kept, see `read_run`.

    Raises:
        ValueError: the collection is a folder, has no scoreddocs, or has a score that is no finite number.
        OSError: ir_datasets could not download or read them.
    """
    dataset_id = collection.provenance.get("id")
    if dataset_id is None:
        raise ValueError(
            f"expected a collection of ir_datasets for its {SCOREDDOCS}, got the folder of {collection.name!r}: name the file of a "
            "TREC run"
        )
    import ir_datasets  # slow to import, and IR_DATASETS_HOME is read when it is

    dataset = ir_datasets.load(dataset_id)
    if not dataset.has(SCOREDDOCS):
        raise ValueError(f"the ir_datasets collection {dataset_id!r} has no {SCOREDDOCS}: name the file of a TREC run")
    checksum, kept = hashlib.sha256(), FirstPassages(depth, queries)
    with reading(dataset_id):
        for query_id, doc_id, given in dataset.scoreddocs_iter():
            score = float(given)
            if not math.isfinite(score):
                raise ValueError(
                    f"the {SCOREDDOCS} of {dataset_id!r} score passage {doc_id!r} of query {query_id!r} with {given!r}, which is "
                    "no finite number: name the file of a TREC run"
                )
            checksum.update(f"{query_id}\t{doc_id}\t{score!r}\n".encode())
            kept.add(query_id, doc_id, score)
    found = kept.run()
    if not found:
        raise ValueError(f"the {SCOREDDOCS} of {dataset_id!r} are empty: name the file of a TREC run")
    return found, checksum.hexdigest()
