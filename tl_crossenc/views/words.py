"""The words of an explained pair and what they are worth, as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from tl_crossenc.console.progress import counted
from tl_crossenc.inputs.pair_words import PairWords
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.instruments.token_attributions import BOTTLENECK
from tl_crossenc.instruments.word_attributions import (
    TEXT_OF,
    WordAttributions,
    check_words,
    read_words,
    word_attributions,
    word_cost,
)
from tl_crossenc.model.cross_encoder import HookedCrossEncoder


def word_values(
    model: HookedCrossEncoder,
    query: str,
    passage: str,
    pair: EncodedPairs,
    found: PairWords,
    attribution: str | None,
    removal: str | None,
    max_length: int,
    statistics: LayerStatistics | None,
    progress: Callable[[int], Any] | bool | None,
) -> WordAttributions | None:
    """What `explain` shows of words; None where none are asked for, or the texts have none.

    Raises:
        ValueError: what is given does not go together, or see `word_attributions`.
    """
    if attribution is None and removal is not None:
        raise ValueError(f"expected an attribution beside removal {removal!r}, got none: leave the removal out")
    if statistics is not None and attribution != BOTTLENECK:
        raise ValueError(f"expected statistics beside attribution {BOTTLENECK!r} alone, got them with {attribution!r}")
    if attribution is None:
        return None
    check_words(model, pair, attribution, removal)
    if not read_words(found):
        return None
    with counted(progress, attribution, word_cost(model, pair, found, attribution)) as advance:
        return word_attributions(
            model,
            query,
            passage,
            attribution,
            found=found,
            way=removal,
            max_length=max_length,
            statistics=statistics,
            progress=advance,
        )


def word_frame(found: WordAttributions | None) -> pd.DataFrame:
    """A row a word that is read: see `ExplainedPair.words`."""
    rows = (
        []
        if found is None
        else [
            (TEXT_OF[word.part], word.text, float(value), word.start, word.stop, word.tokens.start, len(word.tokens))
            for word, value in zip(found.words, found.values, strict=True)
        ]
    )
    return pd.DataFrame(rows, columns=["text", "word", "value", "start", "stop", "position", "pieces"])


def completeness_frame(found: WordAttributions | None) -> pd.DataFrame:
    """A row a sum that is told of: see `ExplainedPair.completeness`."""
    rows = (
        []
        if found is None
        else [(own.text, own.total, found.others, own.difference, own.error) for own in found.completeness]
    )
    return pd.DataFrame(rows, columns=["text", "sum", "others", "difference", "error"])
