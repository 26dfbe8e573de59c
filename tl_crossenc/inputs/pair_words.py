"""The words of a pair's texts, and which tokens of the pair are whose.

A word is what `words.word_spans` finds in the text. Its tokens are the pieces that have characters of it; a piece of white space
alone belongs to the word that follows it, as the mark of a space inside of a piece does. Where one piece has characters of two
words (Chinese characters in Unigram's pieces, an unknown token that stands for several), the two are one word here, since neither
can be told from the other or taken away without it.

>>> from transformers import AutoTokenizer
>>> from tl_crossenc.checkpoints.planted import FOLDER
>>> encoder = PairEncoder(AutoTokenizer.from_pretrained(FOLDER), 512)
>>> found = pair_words(encoder, "tune it", "A guitar, tuned!", max_length=9)
>>> for word in found.words:
...     print(word.text, word.start, word.stop, word.tokens, word.cut)
tune 0 4 range(1, 2) 0
it 5 7 range(2, 3) 0
A 0 1 range(4, 5) 0
guitar 2 8 range(5, 6) 0
tuned 10 15 range(7, 8) 1
>>> found.passage_tokens, found.read  # in whole, and the characters of those that are read
(6, (0, 14))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np

from tl_crossenc.inputs.encoder import PairEncoder
from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.words import word_spans


class PairWord(NamedTuple):
    """A word of one of the texts.

    Attributes:
        part: QUERY or DOC.
        text: as it is written.
        start, stop: its characters in its text, half open.
        tokens: its positions in the pair as the model reads it; none where all of it is cut.
        cut: how many tokens of it truncation cut.
    """

    part: Part
    text: str
    start: int
    stop: int
    tokens: range
    cut: int


class PairWords(NamedTuple):
    """The words of a pair, and how much of its passage is read.

    Attributes:
        words: the query's first, each text's in order; those that have no token at all are left out.
        passage_tokens, read_tokens: of the whole passage, and of what the model reads of it.
        read: the characters of the passage's tokens that the model reads, half open.
    """

    words: tuple[PairWord, ...]
    passage_tokens: int
    read_tokens: int
    read: tuple[int, int]


def pair_words(encoder: PairEncoder, query: str, passage: str, *, max_length: int | None = None) -> PairWords:
    """The words of a pair.

    Args:
        encoder: of the model.
        query, passage: the texts.
        max_length: tokens the pair is cut to, by default the encoder's own limit.

    Raises:
        ValueError, TypeError: see `PairEncoder.encode`.
    """
    pair = encoder.encode([query], [passage], max_length=max_length)
    parts, spans = encoder.locate(query, passage)
    found: list[PairWord] = []
    for part, text in ((Part.QUERY, query), (Part.DOC, passage)):
        places, whole = np.flatnonzero(pair.parts == part), spans[parts == part]
        first = (
            len(whole) - len(places) if encoder.cuts_left else 0
        )  # of the whole text's tokens, the first that is read
        at = int(places[0]) - first if len(places) else 0
        for (start, stop), pieces in _words(text, whole):
            kept = range(max(pieces.start, first), min(pieces.stop, first + len(places)))
            tokens = range(at + kept.start, at + kept.stop) if kept else range(0)
            found.append(PairWord(part, text[start:stop], start, stop, tokens, len(pieces) - len(kept)))
    kept_spans = whole[first : first + len(places)]
    read = (int(kept_spans[:, 0].min()), int(kept_spans[:, 1].max())) if len(places) else (0, 0)
    return PairWords(tuple(found), len(whole), len(places), read)


def _words(text: str, spans: np.ndarray) -> Iterator[tuple[tuple[int, int], range]]:
    """(characters, pieces) of each word; words that share a piece are one."""
    words = word_spans(text)
    if not words or not len(spans):
        return
    starts, stops = np.array(words).T
    owners = [_owners(text, span, starts, stops) for span in spans.tolist()]
    for i in range(len(owners) - 2, -1, -1):  # white space goes to the word that follows
        if not owners[i] and not text[slice(*spans[i])].strip() and owners[i + 1]:
            owners[i] = range(owners[i + 1].start, owners[i + 1].start + 1)
    joined = {b for own in owners for b in own[1:]}  # words that are one with the word before
    names = np.cumsum([word not in joined for word in range(len(words))])
    held = [(int(names[own[0]]), piece) for piece, own in enumerate(owners) if own]
    for name, group in groupby(held, key=lambda pair: pair[0]):
        pieces = [piece for _, piece in group]
        own = np.flatnonzero(names == name)
        yield (int(starts[own[0]]), int(stops[own[-1]])), range(pieces[0], pieces[-1] + 1)


def _owners(text: str, span: list[int], starts: np.ndarray, stops: np.ndarray) -> range:
    """The words that a piece has characters of."""
    start, stop = span
    return range(int(np.searchsorted(stops, start, "right")), int(np.searchsorted(starts, stop, "left")))
