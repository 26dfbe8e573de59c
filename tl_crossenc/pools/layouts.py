"""Which files of a folder are a collection's documents, queries and qrels, and how their lines are read.

| part | files, each also gzipped (`.gz`) |
|---|---|
| documents | `docs.tsv`; `docs.jsonl`, `corpus.jsonl` (BEIR) |
| queries | `queries.tsv`; `queries.jsonl` |
| qrels | `qrels.txt`; `qrels/test.tsv` (BEIR; another split where it is the only one) |

A TSV line is an id, a tab, a text. A JSON line is an object with an id (`_id`, `id`, `doc_id`, `docno`, `query_id`), a `text` (or
`contents`), and where it has one a `title`, which is put before the text with a space, as ir_datasets does for BEIR. A first line
that names columns is passed over with a message. ir_datasets reads none of these without a document store of its own beside the
file (which it never makes anew), and a bad line ends it with a traceback, so the lines are read here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from tl_crossenc.pools.documents import FILES
from tl_crossenc.pools.lines import malformed, two_columns

logger = logging.getLogger(__name__)

PARTS = {
    "documents": ("docs.tsv", "docs.jsonl", "corpus.jsonl"),
    "queries": ("queries.tsv", "queries.jsonl"),
    "qrels": ("qrels.txt", "qrels/test.tsv"),
}
IDS = ("_id", "id", "doc_id", "docid", "docno", "query_id", "qid")
TEXTS = ("text", "contents")
_HEADER_IDS = {*IDS, "doc-id", "query-id", "pid", "did", "topic_id", "corpus-id"}
_HEADER_TEXTS = {*TEXTS, "content", "passage", "document", "body", "doc", "query", "question", "title", "topic"}
_HEADER_GRADES = {"score", "grade", "relevance", "rel", "label", "judgment", "judgement"}

Record = Callable[[Path, int, str], tuple[str, str]]


def find_parts(folder: Path) -> dict[str, Path]:
    """The file of each part that a folder has.

    Raises:
        ValueError: two files of one part.
    """
    found = {}
    for part, names in PARTS.items():
        there = [
            folder / f"{name}{end}" for name in names for end in ("", ".gz") if (folder / f"{name}{end}").is_file()
        ]
        if part == "qrels" and not there:
            there = sorted(
                path for end in (".tsv", ".tsv.gz") for path in folder.glob(f"qrels/*{end}") if path.is_file()
            )
        if len(there) > 1:
            names_there = " and ".join(str(path.relative_to(folder)) for path in there)
            raise ValueError(f"{folder} has {names_there}, each of which may be its {part}; remove all but one.")
        if there:
            found[part] = there[0]
    return found


def missing_parts(found: dict[str, Path]) -> list[str]:
    """The usual names of the parts that are not among those found."""
    return [file for file, part in zip(FILES, PARTS, strict=True) if part not in found]


def reader_of(path: Path, what: str) -> Record:
    """How a line of documents or queries (`what` an id is called, such as `doc_id`) becomes (id, text)."""
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        return _json_record
    return lambda file, number, line: two_columns(file, number, line, f"{what} TAB text")


def is_header(path: Path, number: int, line: str) -> bool:
    """Whether a TSV's line names its columns and is no record; said in a message where it is."""
    if number > 1 or not path.name.removesuffix(".gz").endswith(".tsv"):
        return False
    columns = [column.strip().casefold() for column in line.split("\t")]
    named = len(columns) == 2 and columns[0] in _HEADER_IDS and columns[1] in _HEADER_TEXTS
    if named:
        logger.info("%s, line 1 names the columns (%s); passed over", path, ", ".join(columns))
    return named


def qrels_header(path: Path, line: str) -> int | None:
    """How many columns a first line of qrels names, 3 (BEIR's) or 4 (TREC's), said in a message; None where it names none."""
    columns = [column.casefold() for column in line.split()]
    if len(columns) not in (3, 4) or columns[0] not in _HEADER_IDS or columns[-1] not in _HEADER_GRADES:
        return None
    logger.info("%s, line 1 names the columns (%s); passed over", path, ", ".join(columns))
    return len(columns)


def _json_record(path: Path, number: int, line: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        malformed(path, number, line, "a JSON object", "none")
    if not isinstance(record, dict):
        malformed(path, number, line, "a JSON object", type(record).__name__)
    key = next((key for key in IDS if key in record), None)
    text = next((record[key] for key in TEXTS if key in record), None)
    name = record[key] if key is not None else None
    if (
        isinstance(name, bool)
        or not isinstance(name, str | int)
        or len(str(name).split()) != 1
        or str(name) != str(name).strip()
    ):
        malformed(path, number, line, f"an id without white space under one of {', '.join(IDS)}", repr(name))
    title = record.get("title") or ""
    if not isinstance(text, str) or not isinstance(title, str):
        malformed(
            path, number, line, f"a text under {' or '.join(TEXTS)}", repr(text if isinstance(title, str) else title)
        )
    return str(name), f"{title} {text}" if title else text
