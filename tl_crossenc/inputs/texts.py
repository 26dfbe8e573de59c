"""Texts as they are passed: one or several, a query against many passages."""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Mapping, Set
from typing import Any

Texts = str | Iterable[str]
"""One text or several; of passages also a mapping of their ids to them."""


def broadcast_texts(query: Texts, passages: Texts) -> tuple[list[str], list[str]]:
    """One query against many passages, or lists of equal length, as two lists of equal length.

    Passages may be a mapping of ids to texts, in its order; queries may not, since theirs would have to be the passages'.

    Raises:
        TypeError: what has no order, or is neither a text nor several.
        ValueError: lists of different lengths.
    """
    if isinstance(query, Mapping):
        raise TypeError("expected one query, or a list of as many queries as passages, got a mapping: pass its texts")
    texts = _texts(passages.values() if isinstance(passages, Mapping) else passages, "passages")
    queries = [query] * len(texts) if isinstance(query, str) else _texts(query, "queries")
    if len(queries) != len(texts):
        raise ValueError(f"expected one query, or as many queries as passages, got {len(queries)} and {len(texts)}")
    return queries, texts


def _texts(given: Any, what: str) -> list[str]:
    if isinstance(given, str):
        return [given]
    if (isinstance(given, Set) and not isinstance(given, KeysView)) or not isinstance(given, Iterable):
        raise TypeError(f"expected {what} as a text or a list of texts, got {type(given).__name__}: pass them in order")
    return list(given)
