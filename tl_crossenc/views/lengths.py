"""A pair at other lengths: what truncation cuts of its passage, and the score of what is left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.inputs.encoder import PairEncoder
from tl_crossenc.inputs.pair_words import PairWord
from tl_crossenc.inputs.parts import Part
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

Lengths = int | Iterable[int] | None
"""A length in tokens, several, or None for the model's own."""


def asked_lengths(encoder: PairEncoder, max_length: Any) -> tuple[int, tuple[int, ...]]:
    """The length that a pair is explained at, and all lengths that it is scored at, rising.

    One length is the one explained; where several are asked for, or none, that is the model's own.

    Raises:
        TypeError: what is no whole number.
        ValueError: none, or one that the model does not have.
    """
    several = isinstance(max_length, Iterable) and not isinstance(max_length, str)
    given = tuple(max_length) if several else () if max_length is None else (max_length,)
    if several and not given:
        raise ValueError("expected max_length as a whole number of tokens, or several, got none: leave it out")
    if any(length is None for length in given):
        raise TypeError("expected max_length as whole numbers of tokens, got None among them")
    lengths = [encoder.length_limit(length.item() if isinstance(length, np.integer) else length) for length in given]
    explained = lengths[0] if len(lengths) == 1 else encoder.length_limit(None)
    return explained, tuple(sorted({explained, *lengths}))


def score_lengths(
    model: HookedCrossEncoder, query: str, passage: str, lengths: tuple[int, ...], explained: int, passage_tokens: int
) -> pd.DataFrame:
    """A row a length: `max_length`, `tokens` (of the pair at it), `cut` (tokens of the passage), `score`, `activated`, `explained`.

    Args:
        model: the model, with what it ablates at the moment.
        query, passage: the texts.
        lengths: in the order of the rows.
        explained: which of them the pair is explained at.
        passage_tokens: of the whole passage.
    """
    rows = []
    for length in lengths:
        pair = model.encode_pairs(query, passage, max_length=length)
        score = model.score(query, passage, max_length=length)
        activated = float(model.activated(score)[0]) if model.activation.computed else np.nan
        cut = passage_tokens - int((pair.parts == Part.DOC).sum())
        rows.append((length, int(pair.lengths[0]), cut, float(score[0]), activated, length == explained))
    return pd.DataFrame(rows, columns=["max_length", "tokens", "cut", "score", "activated", "explained"])


def cut_words(words: Iterable[PairWord]) -> pd.DataFrame:
    """A row a word of the passage that truncation cut: `word`, `start` and `stop` (characters), `cut` and `read` (tokens)."""
    rows = [(word.text, word.start, word.stop, word.cut, len(word.tokens)) for word in words if word.cut]
    return pd.DataFrame(rows, columns=["word", "start", "stop", "cut", "read"])
