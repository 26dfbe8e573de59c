"""The words of texts in several scripts, written down by hand, and those of European ones by the regular expression for them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_crossenc.inputs.words import occurrences, word_spans, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The flea's e-mail, 20°C!", ["the", "flea", "s", "e", "mail", "20", "c"]),
        ("naïve Crème_brûlée", ["naïve", "crème_brûlée"]),
        ("cafe\u0301 o\u0308l", ["cafe\u0301", "o\u0308l"]),  # the accents as characters of their own
        ("跳蚤，把卵 abc产卵", ["跳", "蚤", "把", "卵", "abc", "产", "卵"]),
        ("หมัดวางไข่ แล้ว!", ["หมัดวางไข่", "แล้ว"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("the 🐕 has 😀🔥", ["the", "🐕", "has", "😀", "🔥"]),
        ("👩\u200d🔬 👍🏽 ❤\ufe0f", ["👩\u200d🔬", "👍🏽", "❤\ufe0f"]),
        ("\u0301 -- ", []),
        ("", []),
    ],
)
def test_words_by_hand(text, expected):
    assert words(text) == expected
    assert [text[start:stop].lower() for start, stop in word_spans(text)] == expected


@given(st.text(st.characters(max_codepoint=0x24F), max_size=40))
def test_in_latin_letters_words_are_those_of_the_regular_expression(text):
    assert word_spans(text) == [match.span() for match in re.finditer(r"\w+", text)]


@pytest.mark.parametrize(
    ("term", "text", "expected"),
    [
        ("flea", "Flea fleas FLEA", [(0, 4), (11, 15)]),
        ("跳蚤", "看跳蚤和跳蚤", [(1, 3), (4, 6)]),
        ("ไข่", "ไข่ ไข่ไก่", [(0, 3)]),
        ("cafe", "cafe\u0301 cafe", [(6, 10)]),
        ("new york", "in New York, new yorkers", [(3, 11)]),
        ("🔥", "😀🔥", [(1, 2)]),
        ("İ", "aİ İ", [(3, 4)]),
        ("", "a", []),
    ],
)
def test_occurrences_cut_no_word(term, text, expected):
    assert occurrences(term, text) == expected


@given(st.sampled_from(["a", "ab", "é", "1"]), st.text("aAbBéÉ1 ,'", max_size=20))
def test_in_latin_letters_occurrences_are_those_of_the_regular_expression(term, text):
    pattern = re.compile(rf"(?<!\w){re.escape(term)}(?!\w)", re.IGNORECASE)
    assert occurrences(term, text) == [match.span() for match in pattern.finditer(text)]
