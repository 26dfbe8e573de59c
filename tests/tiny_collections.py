"""Small collections for tests: folders written to disk, and datasets that behave as ir_datasets' own do."""

from pathlib import Path
from typing import Any, NamedTuple

import ir_datasets
from ir_datasets.datasets.base import Dataset
from ir_datasets.formats import BaseDocs, BaseQrels, BaseQueries, BaseScoredDocs, GenericQrel, GenericScoredDoc


def write_folder(folder: Path, docs: dict[str, str], queries: dict[str, str], qrels: list[tuple]) -> Path:
    """Write docs.tsv, queries.tsv and qrels.txt; a judgment is (query_id, doc_id, grade)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("docs.tsv", docs), ("queries.tsv", queries)):
        lines = "".join(f"{key}\t{text}\n" for key, text in table.items())
        (folder / name).write_bytes(lines.encode())
    (folder / "qrels.txt").write_text("".join(f"{q} 0 {d} {g}\n" for q, d, g in qrels))
    return folder


class Page(NamedTuple):
    """A document whose text is in two fields, so that only `default_text` knows it."""

    doc_id: str
    title: str
    body: str

    def default_text(self) -> str:
        return f"{self.title} {self.body}" if self.title else self.body


class Topic(NamedTuple):
    query_id: str
    title: str

    def default_text(self) -> str:
        return self.title


class BackwardStore:
    """A document store like ir_datasets': it answers in its own order, silent about ids it lacks."""

    def __init__(self, docs: dict[str, str]) -> None:
        self.docs = docs
        self.asked: list[str] = []

    def get_many(self, doc_ids: Any, field: Any = None) -> dict[str, Page]:
        self.asked += list(doc_ids)
        return {d: Page(d, "", self.docs[d]) for d in sorted(doc_ids, reverse=True) if d in self.docs}


class IndexedPages:
    """A document iterator with random access by whole numbers."""

    def __init__(self, docs: dict[str, str]) -> None:
        self.pages = [Page(d, "", text) for d, text in docs.items()]

    def __iter__(self) -> Any:
        return iter(self.pages)

    def __getitem__(self, key: int) -> Page:
        return self.pages[key]


class SlicedPages(IndexedPages):
    """A document iterator that takes slices alone, as ir_datasets' line iterator does."""

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, slice):
            raise TypeError("key must be slice")
        return self.pages[key]


class FakeDocs(BaseDocs):
    def __init__(self, docs: dict[str, str], iterator: Any = IndexedPages, count: Any = len) -> None:
        self.docs, self.iterator, self.count = docs, iterator, count
        self.store = BackwardStore(docs)

    def docs_iter(self) -> Any:
        return self.iterator(self.docs)

    def docs_count(self) -> int | None:
        return self.count(self.docs)

    def docs_store(self) -> BackwardStore:
        return self.store


class FakeQueries(BaseQueries):
    def __init__(self, queries: dict[str, str]) -> None:
        self.queries = queries

    def queries_iter(self) -> Any:
        return (Topic(query_id, text) for query_id, text in self.queries.items())


class FakeQrels(BaseQrels):
    def __init__(self, qrels: list[tuple]) -> None:
        self.qrels = qrels

    def qrels_iter(self) -> Any:
        return (GenericQrel(*row) for row in self.qrels)


class FakeScoredDocs(BaseScoredDocs):
    def __init__(self, rows: list[tuple]) -> None:
        self.rows = rows

    def scoreddocs_iter(self) -> Any:
        return (GenericScoredDoc(*row) for row in self.rows)


def register(monkeypatch: Any, name: str, *parts: Any) -> None:
    """Make `name` an ir_datasets id for the length of a test."""
    monkeypatch.setitem(ir_datasets.registry._registered, name, Dataset(*parts))
