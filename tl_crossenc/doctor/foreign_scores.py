"""Pairs with the scores that another system gave them, read from a file.

Three forms, by the file's name, gzipped where it ends in `.gz`: columns parted by tabs (`.tsv`, `.txt`), as the csv module reads
them (`.csv`), or an object a line (`.jsonl`). Columns are found by a header's names, in any order and beside others, or without a
header are query, passage and score.

How exact a score is, is read off its digits. A file is written with a fixed number of decimals or of digits, and trailing zeros may
have been dropped; so a score counts as exact to the coarser of half a unit in the file's last decimal and half a unit in the last
of as many digits as the file's longest score has.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float, Int

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.console.shown import listed, quoted, shown
from tl_crossenc.pools.lines import decoded, unpacked
from tl_crossenc.store.files import regular

NAMES = {
    "query": ("query", "query_text", "question", "text_a", "sentence1"),
    "passage": ("passage", "passage_text", "document", "doc", "doc_text", "text", "text_b", "sentence2"),
    "score": ("score", "scores", "relevance_score", "logit", "prediction"),
}
"""What a column may be called."""
FORMS = {".tsv": "tsv", ".txt": "tsv", ".tab": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
LONGEST_NUMBER = 400
"""Characters of a number; the longest that a float needs are fewer."""


@dataclass(frozen=True)
class ForeignScores:
    """Distinct pairs with another system's scores.

    Attributes:
        source: the file's name, or what was given.
        queries, passages: the texts of each pair.
        values: `[pair]`, the scores; of a pair that was there several times the first.
        exact_to: `[pair]`, how far a score may lie from what was computed, by its digits.
        decimals: the most decimals that a score has.
        lines: `[pair]`, the line of each, from 1.
        rows: `[row]`, the number of the pair in each row of the file, those that repeat one included.
        repeated: how many more times a pair was there.
        apart: the largest distance between two scores of one pair.
    """

    source: str
    queries: tuple[str, ...]
    passages: tuple[str, ...]
    values: Float[np.ndarray, "pair"]
    exact_to: Float[np.ndarray, "pair"]
    decimals: int
    lines: Int[np.ndarray, "pair"]
    rows: Int[np.ndarray, "row"]
    repeated: int = 0
    apart: float = 0.0

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.values)

    def chosen(self, pairs: Int[np.ndarray, "chosen"]) -> ForeignScores:
        """Some of the pairs, each in one row."""
        return replace(
            self,
            queries=tuple(self.queries[i] for i in pairs),
            passages=tuple(self.passages[i] for i in pairs),
            values=self.values[pairs],
            exact_to=self.exact_to[pairs],
            lines=self.lines[pairs],
            rows=np.arange(len(pairs)),
        )


def read_scores(path: str | Path) -> ForeignScores:
    """The pairs and scores of a file.

    Raises:
        ValueError: no such file, or one of another form; a line without the three, or whose score is no finite number; or no pair.
    """
    path = Path(path)
    form = FORMS.get(Path(path.name.removesuffix(".gz")).suffix.lower())
    if form is None:
        raise ValueError(
            f"expected a file of query, passage and score that ends in {', '.join(FORMS)} (or those with .gz), got "
            f"{shown(path.name, 80)}: rename it as what it is"
        )
    regular(path)
    return _gathered(path.name, _rows(path, form))


def scores_of(queries: Iterable[str], passages: Iterable[str], scores: Iterable[Any]) -> ForeignScores:
    """The same of values in memory, each exact to the digits that its shortest text has.

    Raises:
        ValueError: lists of different lengths, none, or a score that is no finite number.
    """
    columns = [list(queries), list(passages), list(scores)]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(
            f"expected as many queries as passages and scores, got {', '.join(str(len(column)) for column in columns)}"
        )
    rows = ((i, query, passage, str(score)) for i, (query, passage, score) in enumerate(zip(*columns, strict=True), 1))
    return _gathered("the values given", rows)


def _gathered(source: str, rows: Iterable[tuple[int, str, str, str]]) -> ForeignScores:
    at: dict[tuple[str, str], int] = {}
    kept: list[tuple[int, str, str, Decimal]] = []
    order: list[int] = []
    repeated, apart = 0, 0.0
    for line, query, passage, text in rows:
        value = _number(source, line, text)
        known = at.setdefault((query, passage), len(kept))
        order.append(known)
        if known < len(kept):
            repeated += 1
            apart = max(apart, abs(float(kept[known][3]) - float(value)))
            continue
        kept.append((line, query, passage, value))
    if not kept:
        raise ValueError(f"expected pairs of query, passage and score in {shown(source, 80)}, got none")
    lines, queries, passages, numbers = zip(*kept, strict=True)
    decimals = max(max(-_exponent(number), 0) for number in numbers)
    digits = max(len(number.as_tuple().digits) for number in numbers)
    units = [max(-decimals, number.adjusted() + 1 - digits if number else -decimals) for number in numbers]
    return ForeignScores(
        source=source,
        queries=queries,
        passages=passages,
        values=np.asarray([float(number) for number in numbers]),
        exact_to=np.asarray([0.5 * 10.0**unit for unit in units]),
        decimals=decimals,
        lines=np.asarray(lines, dtype=np.int64),
        rows=np.asarray(order, dtype=np.int64),
        repeated=repeated,
        apart=apart,
    )


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _number(source: str, line: int, text: str) -> Decimal:
    try:
        number = Decimal(text.strip()) if len(text) <= LONGEST_NUMBER else Decimal("nan")
        finite = number.is_finite() and math.isfinite(float(number))
    except (InvalidOperation, ValueError):
        finite = False
    if not finite or "_" in text:
        _malformed(source, line, "a finite number as the score", quoted(text.strip(), 40))
    return number


def _malformed(source: str, line: int, expected: str, came: str) -> NoReturn:
    raise ValueError(f"{shown(source, 80)}, line {line}: expected {expected}, got {came}: correct or remove it")


def _rows(path: Path, form: str) -> Iterator[tuple[int, str, str, str]]:
    """(line, query, passage, score as text)."""
    with unpacked(path) as file:
        lines = ((number, decoded(path, number, raw)) for number, raw in enumerate(file, 1))
        if form == "jsonl":
            yield from _objects(path.name, lines)
        elif form == "tsv":
            cells = ((number, line.split("\t")) for number, line in lines if line.strip())
            yield from _columns(path.name, cells)
        else:
            yield from _columns(path.name, _of_csv(path.name, lines))


def _of_csv(source: str, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line + "\n" for _, line in lines), strict=True)
    start = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        _malformed(source, reader.line_num, "columns as the csv module reads them", f"an error ({error})")


def _columns(source: str, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, str, str, str]]:
    places: list[int] | None = None
    for line, cells in rows:
        if places is None:
            places, is_header = _places(source, line, cells)
            if is_header:
                width = len(cells)
                continue
            width = 3
        if len(cells) != width:
            wanted = f"{width} columns" + (", query, passage and score" if width == 3 else " as in the first line")
            _malformed(source, line, wanted, str(len(cells)))
        query, passage, score = (cells[place] for place in places)
        yield line, query, passage, score


def _places(source: str, line: int, cells: list[str]) -> tuple[list[int], bool]:
    """Where query, passage and score stand, and whether the first line is a header that says so."""
    called = [cell.strip().lower() for cell in cells]
    found = {kind: [i for i, cell in enumerate(called) if cell in names] for kind, names in NAMES.items()}
    if all(len(places) == 1 for places in found.values()):
        return [places[0] for places in found.values()], True
    if len(cells) == 3:
        try:
            Decimal(cells[2].strip())
        except InvalidOperation:
            if not any(found.values()):
                _malformed(source, line, "a number as the score, or a header", quoted(cells[2].strip(), 40))
        else:
            return [0, 1, 2], False
    wanted = ", ".join(f"{kind} ({', '.join(names[1:3])}, ...)" for kind, names in NAMES.items())
    got = f"{len(cells)} column(s): {listed(map(quoted, (cell[:30] for cell in cells)), 4)}"
    _malformed(source, line, f"three columns, or a header that names {wanted} once each", got)


def _objects(source: str, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str, str, str]]:
    for line, text in lines:
        if not text.strip():
            continue
        try:
            given = json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=Decimal)
        except (ValueError, RecursionError, InvalidOperation) as error:
            _malformed(source, line, "a JSON object", f"what cannot be read ({shown(error, 80)})")
        if not isinstance(given, Mapping):
            _malformed(source, line, "a JSON object", quoted(given, 40))
        values = [_field(source, line, given, kind) for kind in NAMES]
        for kind, value in zip(("query", "passage"), values, strict=False):
            if not isinstance(value, str):
                _malformed(source, line, f"a text as the {kind}", quoted(value, 40))
        if not isinstance(values[2], Decimal):
            _malformed(source, line, "a finite number as the score", quoted(values[2], 40))
        yield line, values[0], values[1], str(values[2])


def _field(source: str, line: int, given: Mapping[str, Any], kind: str) -> Any:
    found = [key for key in given if key.lower() in NAMES[kind]]
    if len(found) != 1:
        came = f"{len(found)} of them" if found else f"the keys {listed(map(quoted, list(given)[:6]), 6) or 'none'}"
        _malformed(source, line, f"one key for the {kind} ({', '.join(NAMES[kind][:3])}, ...)", came)
    return given[found[0]]
