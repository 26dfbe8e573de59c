"""The passages of an ir_datasets dataset, and its errors as one sentence."""

from __future__ import annotations

from collections.abc import Collection as AbstractCollection
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tl_crossenc.pools.documents import FILES, Documents
from tl_crossenc.pools.lines import shortened

_SIZES = {
    "msmarco-passage": "a download of 1.06 GB, with 14.4 GB of free disk for its document store",
    "msmarco-passage-v2": "a download of 21.8 GB, with 60.9 GB of free disk for its document store",
}


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
            f"the collection {dataset_id!r} could not be read through ir_datasets ({shortened(cause, 200)}); "
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
