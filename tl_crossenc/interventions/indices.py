"""Layers, heads and positions as users name them: numbers, lists, ranges, or text such as `0-3,7`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import index as whole_number
from typing import Any, SupportsIndex, cast

import numpy as np

from tl_crossenc.console.shown import quoted

Indices = str | Iterable[SupportsIndex] | SupportsIndex | None
"""Layers or heads as a user names them: a number, several, `"0-3,7"`, or None or `"all"` for all of them."""
MOST_INDICES = 10_000


def format_indices(indices: Sequence[int]) -> str:
    """`0-3,7` for (0, 1, 2, 3, 7)."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def parse_indices(text: str, what: str = "indices") -> tuple[int, ...] | None:
    """(0, 1, 2, 3, 7) for `0-3,7`; None, which stands for all of them, for `all`.

    Raises:
        ValueError: the text is not such a list.
    """
    if text.strip().lower() == "all":
        return None
    indices: set[int] = set()
    for run in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", run)
        if match and any(len(number or "") > 9 or int(number or 0) >= MOST_INDICES for number in match.groups()):
            raise ValueError(f"expected {what} below {MOST_INDICES}, got {quoted(text)}: no model has so many")
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f"expected {what} such as 0-3,7 or all, got {quoted(text)}")
        indices.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(indices))


def as_indices(indices: Any, what: str, size: int | None = None) -> tuple[int, ...] | None:
    """`read_indices` sorted, each once.

    >>> as_indices("0-3,7", "layers"), as_indices([-1, 0], "layers", size=6)
    ((0, 1, 2, 3, 7), (0, 5))
    """
    found = read_indices(indices, what, size)
    return None if found is None else tuple(sorted(set(found)))


def read_indices(indices: Any, what: str, size: int | None = None) -> tuple[int, ...] | None:
    """The layers or heads that a user named, as they come; None, which stands for all of them, for None or "all".

    Args:
        indices: see `Indices`.
        what: "layers" or "heads", for the message.
        size: how many the model has, where one is at hand: then negative numbers count from its end.

    Raises:
        ValueError: anything but whole numbers, more than any model has, or a negative number where no model is at hand or
            that reaches beyond its start.
    """
    if indices is None or isinstance(indices, str):
        return None if indices is None else parse_indices(indices, what)
    several = isinstance(indices, Iterable) and getattr(indices, "ndim", 1) > 0
    values: list[Any] = list(islice(indices, MOST_INDICES + 1)) if several else [indices]
    if len(values) > MOST_INDICES:
        raise ValueError(f"expected at most {MOST_INDICES:,} {what}, got more: no model has so many")
    if any(isinstance(i, bool | np.bool_) or not hasattr(i, "__index__") for i in values):
        raise ValueError(f"expected {what} as whole numbers from 0, got {_shortened(values)}")
    numbers = [whole_number(i) for i in values]
    if size is None and any(i < 0 for i in numbers):
        raise ValueError(
            f"expected {what} as whole numbers from 0, got {_shortened(values)}: a condition is of no one model, so it cannot "
            "count from the end; model.ablating(...) can"
        )
    if size is not None and any(i < -size for i in numbers):
        raise ValueError(f"expected {what} -{size}..{size - 1}, got {_shortened(values)}")
    return tuple(i if i >= 0 else i + cast(int, size) for i in numbers)


def _shortened(values: Sequence[Any]) -> str:
    text = repr(tuple(values))
    return text if len(text) <= 80 else f"{text[:80]}..."


def within(chosen: Indices, size: int, what: str) -> tuple[int, ...]:
    """The indices chosen (all of `size` for None), in their order, none outside.

    Negative layers and heads count from the end; positions do not, whose ends differ from pair to pair.

    Raises:
        ValueError: none, one twice, or one that there is not.
    """
    found = read_indices(chosen, f"{what}s", None if what == "position" else size)
    indices = tuple(range(size)) if found is None else found
    outside = [index for index in indices if not 0 <= index < size]
    if outside:
        hint = ", the positions that every pair has" if what == "position" else ""
        raise ValueError(f"expected {what}s 0..{size - 1}{hint}, got {what} {outside[0]}")
    if not indices or len(set(indices)) < len(indices):
        raise ValueError(f"expected at least one {what}, each once, got {list(indices)}")
    return indices
