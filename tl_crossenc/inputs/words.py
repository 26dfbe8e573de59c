"""The words of a text, in any script.

A word is a run of letters, digits and `_` with the marks that are set on letters (accents, Thai vowels and tones). Chinese
characters and emoji are words each of themselves, as texts of them have no spaces; a Thai run up to a space or a punctuation mark
is one word, since nothing in it says where another begins.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

IDEOGRAPHS = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
"""The blocks of Chinese characters that BERT's splitting sets apart (Google's `tokenization.py`, `_is_chinese_char`)."""
FIRST_EMOJI = 0x2600
"""Symbols from here on are emoji and the like; those below, such as the degree sign, belong to no word."""
_JOINER = "\u200d"


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text are, as half-open ranges of characters, in order.

    >>> text = "naïve: หมัด 跳蚤!"
    >>> [text[start:stop] for start, stop in word_spans(text)]
    ['naïve', 'หมัด', '跳', '蚤']
    """
    spans: list[tuple[int, int]] = []
    before = ""
    for at, character in enumerate(text):
        kind = _kind(character)
        goes_on = bool(spans) and spans[-1][1] == at
        if goes_on and (kind == "mark" or (kind == "letter" and before == "letter") or text[at - 1] == _JOINER):
            spans[-1] = spans[-1][0], at + 1
        elif kind in ("letter", "alone"):
            spans.append((at, at + 1))
        if kind != "mark" or not goes_on:
            before = kind
    return spans


def words(text: str) -> list[str]:
    """The words of a text, in lower case and in order."""
    return [text[start:stop].lower() for start, stop in word_spans(text)]


def occurrences(term: str, text: str) -> list[tuple[int, int]]:
    """Where a text has `term`, in any case, as a whole: no word is cut at either end."""
    if not term:
        return []
    inside = {at for start, stop in word_spans(text) for at in range(start + 1, stop)}
    found, at, low, sought = [], 0, _lowered(text), _lowered(term)
    while (start := low.find(sought, at)) >= 0:
        stop = start + len(sought)
        if start in inside or stop in inside:
            at = start + 1
        else:
            found.append((start, stop))
            at = stop
    return found


def is_ideograph(character: str) -> bool:
    """Whether it is a Chinese character."""
    return any(low <= ord(character) <= high for low, high in IDEOGRAPHS)


@lru_cache(maxsize=4096)
def stands_alone(character: str) -> bool:
    """Whether no word goes on from or to it: a Chinese character or a punctuation mark, as BERT's splitting has them.

    Source: Google's `tokenization.py`, `_is_punctuation`: ASCII that is no letter, digit or space, and the category P of Unicode.
    """
    ascii_mark = "!" <= character <= "~" and not character.isalnum()
    return ascii_mark or unicodedata.category(character)[0] == "P" or is_ideograph(character)


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    if is_ideograph(character):
        return "alone"
    if character.isalnum() or character == "_":
        return "letter"
    category = unicodedata.category(character)
    if category[0] == "M" or character == _JOINER or "\U0001f3fb" <= character <= "\U0001f3ff":
        return "mark"
    return "alone" if category == "So" and ord(character) >= FIRST_EMOJI else "none"


def _lowered(text: str) -> str:
    """In lower case, character by character, so that places stay what they are."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
