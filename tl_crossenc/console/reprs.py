"""How results show themselves at a prompt: a line a field, however much is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import fields, is_dataclass
from typing import Any

LONGEST = 60


def short_repr(result: Any) -> str:
    """A dataclass or named tuple by its fields, tables and arrays by their sizes and long values cut.

    To be set as a class's `__repr__`: what a dataclass makes itself prints every table whole.
    """
    names = [own.name for own in fields(result)] if is_dataclass(result) else result._fields
    lines = "".join(f"\n  {name}: {_shown(getattr(result, name))}" for name in names if name != "made")
    return f"{type(result).__name__}({lines}\n)"


def _shown(value: Any) -> str:
    kind = type(value).__name__
    if hasattr(value, "columns") and hasattr(value, "shape"):
        names = ", ".join(map(str, value.columns[:6]))
        cut = _cut(names + (", …" if len(value.columns) > 6 else ""))
        return f"{kind} of {value.shape[0]:,} rows x {value.shape[1]:,} columns ({cut})"
    if hasattr(value, "shape"):
        return f"{kind} of shape {tuple(value.shape)}"
    text = value if isinstance(value, str) else " ".join(repr(value).split()) if _small(value) else ""
    if text and len(text) <= LONGEST:
        return text
    return f"{kind} of {len(value):,}" if isinstance(value, Sized) and not isinstance(value, str) else _cut(text)


def _small(value: Any) -> bool:
    """Whether its repr may be asked for: a long one of much data is slow."""
    if isinstance(value, Mapping):
        return len(value) <= 8 and all(_small(item) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return len(value) <= 12 and all(_small(item) for item in value)
    return not hasattr(value, "shape")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
