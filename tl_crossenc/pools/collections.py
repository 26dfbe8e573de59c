"""A test collection: queries, qrels (graded judgments), and access to passages that are never all in memory.

A collection comes from a folder of three files, usually

- `docs.tsv`     doc_id TAB text
- `queries.tsv`  query_id TAB text
- `qrels.txt`    query_id iteration doc_id grade   (TREC's four columns, any white space, the second unused)

(`layouts.py` has the others: gzipped, JSON lines, BEIR's) or from an `ir_datasets` id. Decisions on what the files may hold:

- A negative grade (junk in some TREC tracks) is read as 0: -1 is the grade of easy negatives here. Grades
  above 3 are kept.
- A passage judged twice: the same grade twice is one judgment; two grades are an error in a folder, and the
  higher one counts in an ir_datasets collection, whose files are not the user's to correct.
- Judgments of queries that the collection does not have are left out, counted, and warned about.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tl_crossenc.pools.documents import FILES, Documents, FolderDocuments
from tl_crossenc.pools.ir_documents import IrDatasetsDocuments, default_text, reading
from tl_crossenc.pools.layouts import find_parts, is_header, missing_parts, qrels_header, reader_of
from tl_crossenc.pools.lines import malformed, read_lines

logger = logging.getLogger(__name__)

TREC_DL = {
    "trec-dl-2019": "msmarco-passage/trec-dl-2019/judged",
    "trec-dl-2020": "msmarco-passage/trec-dl-2020/judged",
    "trec-dl-2021": "msmarco-passage-v2/trec-dl-2021/judged",
    "trec-dl-2022": "msmarco-passage-v2/trec-dl-2022/judged",
}
_VALID_FORMS = (
    f"a collection is 'demo', one of {', '.join(TREC_DL)}, a folder with {', '.join(FILES)} (or BEIR's "
    "corpus.jsonl, queries.jsonl and qrels/test.tsv; each may be gzipped), "
    "or an ir_datasets id such as 'vaswani'"
)


@dataclass(frozen=True)
class Collection:
    """Queries in their own order, qrels of those queries, and access to the passages.

    Attributes:
        name: what results are labelled with.
        queries: query_id -> text.
        qrels: query_id -> doc_id -> grade (0 or more); a query without judgments has no entry.
        docs: access to the passages.
        provenance: source, versions or checksums, and counts of what was left out.
    """

    name: str
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    docs: Documents = field(compare=False)
    provenance: dict[str, Any] = field(compare=False, default_factory=dict)

    def __repr__(self) -> str:
        judgments, highest = sum(map(len, self.qrels.values())), self.provenance.get("highest_grade")
        scale = "" if highest is None else f" of 0..{highest}"
        return f"Collection({self.name}: {len(self.queries):,} queries, {judgments:,} judgments{scale}, {self.docs!r})"


def load_collection(name_or_folder: str | Path) -> Collection:
    """Load a collection's queries and qrels, and prepare access to its passages.

    Args:
        name_or_folder: "demo" (the collection in this package), "trec-dl-2019" … "trec-dl-2022", a folder
            with `docs.tsv`, `queries.tsv` and `qrels.txt`, or an ir_datasets id with docs, queries and qrels.

    Raises:
        ValueError: no such collection, a part of it is missing, or a line of its files is malformed.
        OSError: ir_datasets could not download or read it.

    >>> collection = load_collection("demo")
    >>> query_id = min(collection.qrels)
    >>> len(collection.qrels[query_id]) > 0, query_id in collection.queries
    (True, True)
    """
    text = str(name_or_folder)
    if text == "demo":
        return _load_folder(Path(str(importlib.resources.files("tl_crossenc.demo"))) / "collection", text)
    if text in TREC_DL:
        return _load_ir_dataset(TREC_DL[text], text)
    folder = Path(text).expanduser()
    if folder.is_dir() and (find_parts(folder) or any((folder / file).exists() for file in FILES)):
        return _load_folder(folder, folder.resolve().name)
    if folder.is_absolute() or text.startswith((".", "~")) or not text.strip() or folder.is_file():
        what = "is not a folder" if not folder.is_dir() else f"has none of {', '.join(FILES)}"
        raise ValueError(f"{text!r} {what}; {_VALID_FORMS}.")
    return _load_ir_dataset(text, text)


def _load_folder(folder: Path, name: str) -> Collection:
    """Read a folder with our own readers (`layouts.py` says which files, and why)."""
    parts = find_parts(folder)
    missing = missing_parts(parts)
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; {_VALID_FORMS}.")
    checksums = {part: hashlib.sha256() for part in ("queries", "qrels")}
    queries: dict[str, str] = {}
    path = parts["queries"]
    record = reader_of(path, "query_id")
    for number, _, line in read_lines(path, checksums["queries"]):
        if is_header(path, number, line):
            continue
        query_id, text = record(path, number, line)
        if not text.strip():
            malformed(path, number, line, "a query with text", "an empty one")
        if query_id in queries:
            malformed(path, number, line, "each query id once", f"{query_id!r} again")
        queries[query_id] = text
    if not queries:
        raise ValueError(f"{path} has no query; expected lines 'query_id TAB text'.")
    path = parts["qrels"]
    qrels, counts = _collect_qrels(_folder_judgments(path, checksums["qrels"]), queries, name, path)
    digests = {parts[part].relative_to(folder).as_posix(): checksum.hexdigest() for part, checksum in checksums.items()}
    provenance = {"source": "folder", "name": name, "sha256": digests, **counts}
    judged = frozenset(doc_id for grades in qrels.values() for doc_id in grades)
    path = parts["documents"]
    docs = FolderDocuments(path, judged, reader_of(path, "doc_id"), is_header)
    return Collection(name, queries, qrels, docs, provenance)


def _folder_judgments(path: Path, checksum: Any) -> Iterator[tuple[int, str, str, int]]:
    """(line, query_id, doc_id, grade) of TREC's four columns, or of BEIR's three where header or file name say so."""
    three = path.name.removesuffix(".gz").endswith(".tsv")
    first = True
    for number, _, line in read_lines(path, checksum):
        named = qrels_header(path, line) if first else None
        first = False
        if named is not None:
            three = named == 3
            continue
        columns = line.split()
        if len(columns) != (3 if three else 4):
            expected = (
                "three columns, query_id doc_id grade" if three else "four columns, query_id iteration doc_id grade"
            )
            malformed(path, number, line, expected, f"{len(columns)}")
        if not re.fullmatch(r"[+-]?[0-9]+", columns[-1]):
            malformed(path, number, line, "a whole number as the grade", repr(columns[-1]))
        yield number, columns[0], columns[-2], int(columns[-1])


def _collect_qrels(
    judgments: Iterable[tuple[int, str, str, int]], queries: dict[str, str], name: str, path: Path | None
) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Gather (line, query_id, doc_id, grade); two grades for a passage are an error where `path` is given."""
    by_query: dict[str, dict[str, int]] = {}
    first_line: dict[tuple[str, str], int] = {}
    counts = Counter(negative_grades_read_as_0=0, repeated_judgments=0, judgments_of_unknown_queries=0)
    for number, query_id, doc_id, given in judgments:
        if query_id not in queries:
            counts["judgments_of_unknown_queries"] += 1
            continue
        grades = by_query.setdefault(query_id, {})
        counts["negative_grades_read_as_0"] += given < 0
        grade = max(given, 0)
        if doc_id in grades:
            counts["repeated_judgments"] += 1
            if path is not None and grades[doc_id] != grade:
                came = f"{grade} after {grades[doc_id]} on line {first_line[query_id, doc_id]}"
                malformed(path, number, f"{query_id} {doc_id} {given}", "one grade a passage", came)
            grade = max(grade, grades[doc_id])
        else:
            first_line[query_id, doc_id] = number
        grades[doc_id] = grade
    if not by_query:
        raise ValueError(
            f"no judgment of collection {name!r} belongs to one of its {len(queries)} queries; "
            "check that its queries and qrels use the same query ids."
        )
    if counts["negative_grades_read_as_0"]:
        logger.info(
            "%s: %d judgments have a negative grade (junk, in some TREC tracks) and gain nothing, as grade 0",
            *(name, counts["negative_grades_read_as_0"]),
        )
    if counts["judgments_of_unknown_queries"]:
        unknown = counts["judgments_of_unknown_queries"]
        logger.warning("%s: %d judgments belong to queries that it does not have; left out", name, unknown)
    scale = max(grade for grades in by_query.values() for grade in grades.values())
    sizes = {"queries": len(queries), "judgments": sum(map(len, by_query.values())), "highest_grade": scale}
    return {query_id: by_query[query_id] for query_id in queries if query_id in by_query}, {**sizes, **counts}


def _load_ir_dataset(dataset_id: str, name: str) -> Collection:
    import ir_datasets  # slow to import, and IR_DATASETS_HOME is read when it is

    try:
        dataset = ir_datasets.load(dataset_id)
    except KeyError:
        near = get_close_matches(dataset_id, list(ir_datasets.registry), n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise ValueError(f"no collection is called {name!r}{hint}; {_VALID_FORMS}.") from None
    lacking = [part for part in ("docs", "queries", "qrels") if not dataset.has(part)]
    if lacking:
        raise ValueError(
            f"the ir_datasets collection {dataset_id!r} has no {' and no '.join(lacking)}; name one of its "
            "subsets that has docs, queries and qrels."
        )
    with reading(dataset_id):
        queries = {query.query_id: default_text(query, dataset_id) for query in dataset.queries_iter()}
        judgments = ((0, q.query_id, q.doc_id, int(q.relevance)) for q in dataset.qrels_iter())
        qrels, counts = _collect_qrels(judgments, queries, name, None)
    version = importlib.metadata.version("ir_datasets")
    provenance = {"source": "ir_datasets", "name": name, "id": dataset_id, "ir_datasets": version, **counts}
    return Collection(name, queries, qrels, IrDatasetsDocuments(dataset, dataset_id), provenance)
