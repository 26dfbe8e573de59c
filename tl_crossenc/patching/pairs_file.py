"""Contrast pairs from a file, a JSON object a line:

    {"id": "g1", "query": "tune a guitar", "clean": "guitar by the window", "corrupted": "piano by the window"}
    {"query": "tune a guitar", "corrupted_query": "tune a piano", "clean": "the guitar", "corrupted": "the guitar"}

`query`, `clean` and `corrupted` are texts; `clean_query` and `corrupted_query` stand in for `query` on their side; `id` names the
pair in the tables, its line does where there is none. Pairs are run side by side, so both sides must have as many tokens in every
part: what does not is left out, by name and with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.counterfactuals import AlignedPairs, align_pairs

TEXTS = ("query", "clean", "corrupted", "clean_query", "corrupted_query")
EXPECTED = '{"query": …, "clean": …, "corrupted": …}'


class ContrastPair(NamedTuple):
    """A line of a file: (query, passage) on either side."""

    name: str
    line: int
    clean: tuple[str, str]
    corrupted: tuple[str, str]


class LeftOut(NamedTuple):
    """A pair that cannot be patched, and why."""

    pair: ContrastPair
    reason: str


def read_pairs(path: str | Path) -> list[ContrastPair]:
    """The contrast pairs of a file, in its order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line that is no such object, a key that means nothing, an id again, or no pair at all; the line is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of pairs at {path}; expected a line of JSON a pair: {EXPECTED}")
    found: dict[str, ContrastPair] = {}
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                pair = _pair(raw, number)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            if pair.name in found:
                raise ValueError(
                    f"{path}, line {number}: expected every id once, found {pair.name!r} of line {found[pair.name].line} again"
                )
            found[pair.name] = pair
    if not found:
        raise ValueError(f"{path} has no pair; expected a line of JSON a pair: {EXPECTED}")
    return list(found.values())


def _pair(raw: bytes, number: int) -> ContrastPair:
    try:
        given = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    except ValueError as error:
        raise ValueError(f"expected JSON ({error}), such as {EXPECTED}") from None
    except RecursionError:
        raise ValueError(f"expected a JSON object of texts, such as {EXPECTED}") from None
    if not isinstance(given, dict):
        raise ValueError(f"expected a JSON object, such as {EXPECTED}, found {type(given).__name__}")
    unknown = sorted(set(given) - {*TEXTS, "id"})
    if unknown:
        raise ValueError(f"expected keys among id, {', '.join(TEXTS)}, found {unknown[0]!r}")
    name = given.get("id", number)
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise ValueError(f"expected a text or a whole number as id, found {name!r}")
    query: Any = given.get("query")
    sides = []
    for side in ("clean", "corrupted"):
        own = given.get(f"{side}_query", query)
        for key, value in ((f"{side}_query" if f"{side}_query" in given else "query", own), (side, given.get(side))):
            if value is None:
                raise ValueError(f"expected a text as {key}, found none, as in {EXPECTED}")
            if not isinstance(value, str):
                raise ValueError(f"expected a text as {key}, found {type(value).__name__}")
        sides.append((own, given[side]))
    if not all(query.strip() for query, _ in sides):
        raise ValueError("expected a query with text, found an empty one")
    return ContrastPair(str(name), number, sides[0], sides[1])


def align_file(model: HookedCrossEncoder, pairs: Sequence[ContrastPair]) -> tuple[AlignedPairs, list[LeftOut]]:
    """The pairs that align, labelled by `pair`, their name; and those that do not.

    Raises:
        ValueError: none does, with the first reason.
    """
    aligned, left_out = [], []
    for pair in pairs:
        try:
            aligned.append(align_pairs(model, [pair.clean], [pair.corrupted], [{"pair": pair.name}]))
        except ValueError as error:
            left_out.append(LeftOut(pair, str(error).replace("pair 0", "the pair")))
    if not aligned:
        first = left_out[0]
        raise ValueError(
            f"expected pairs that align token by token, but none of {len(pairs)} does; the first, {first.pair.name!r}: "
            f"{first.reason}"
        )
    return AlignedPairs.concatenate(aligned), left_out
