"""Conditions in a file, one a line:

    # what carries the match
    DQ: zero(DOC->QUERY)
    early: zero(DOC->QUERY; layers=0-3) + mask(CLS->ALL)
    mask(@zhan-q2d:4)
    none

Blank lines and what follows a `#` mean nothing. A name before a colon and a space is what results call the condition; without one
it is called by its text. Presets (`@...`) are allowed where the number of layers is known.
"""

from __future__ import annotations

import re
from pathlib import Path

from tl_crossenc.console.shown import quoted
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.interventions.presets import resolve_condition

_NAMED = re.compile(r"([^\s:()@]+):\s+(.*)")
_LARGEST = 1 << 20
"""Bytes: far above what anybody would run."""


def read_conditions(path: str | Path, n_layers: int | None = None, n_heads: int | None = None) -> dict[str, Condition]:
    """Name -> condition, in the file's order.

    Args:
        path: of the file, in UTF-8.
        n_layers, n_heads: of a model: presets may be named then, and layers and heads have to be there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line that is no condition, a name or a condition again, or no condition at all; the line is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file of conditions at {path}; expected one condition a line, such as zero(DOC->QUERY)"
        )
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"expected a file of conditions, one a line, got one of {path.stat().st_size:,} bytes: {path}")
    found: dict[str, Condition] = {}
    lines: dict[str, int] = {}
    for number, raw in enumerate(path.read_bytes().splitlines(), 1):
        try:
            line = raw.decode("utf-8").removeprefix("\ufeff").partition("#")[0].strip()
        except UnicodeDecodeError:
            raise ValueError(
                f"{path}, line {number}: expected UTF-8, found other bytes: save the file as UTF-8"
            ) from None
        if not line:
            continue
        named = _NAMED.fullmatch(line)
        try:
            condition = _condition(named[2] if named else line, n_layers, n_heads)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        name = named[1] if named else str(condition)
        same = next((other for other, known in found.items() if known == condition), None)
        if name in found or same is not None:
            what = f"the name {quoted(name)}" if name in found else f"the condition {condition}"
            raise ValueError(
                f"{path}, line {number}: expected every name and condition once, found {what} of line {lines[same or name]} again: "
                "remove one"
            )
        found[name], lines[name] = condition, number
    if not found:
        raise ValueError(f"{path} has no condition; expected one a line, such as zero(DOC->QUERY)")
    return found


def _condition(text: str, n_layers: int | None, n_heads: int | None) -> Condition:
    if n_layers is None:
        if "@" in text:
            raise ValueError(
                f"expected edits, such as zero(DOC->QUERY), where no model is given, got the preset in {quoted(text)}"
            )
        return Condition.parse(text)
    condition = resolve_condition(text, n_layers)
    if n_heads is not None:
        condition.compile(n_layers, n_heads)
    return condition
