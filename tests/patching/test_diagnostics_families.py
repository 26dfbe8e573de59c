"""Diagnostic pairs with every kind of tokenizer: written by hand, and aligned by Hugging Face's own count of tokens."""

import numpy as np
import pytest
from family_models import opened

from tl_crossenc.inputs.parts import Part
from tl_crossenc.patching.diagnostics import diagnose
from tl_crossenc.patching.slots import STOPWORDS, closest_words, idf_of, whole_words

QUERY, PASSAGE = "how do fleas lay eggs", "the flea lays eggs on the host"


@pytest.fixture(scope="module", params=["bert", "xlm-roberta", "roberta", "modernbert-cls", "deberta-v2"])
def model(request, tmp_path_factory):
    return opened(request.param, tmp_path_factory.mktemp(request.param))[1]


def count(model, text):
    """Tokens of a text by the tokenizer itself."""
    return len(model.tokenizer([text], add_special_tokens=False)["input_ids"][0])


@pytest.mark.parametrize(
    ("query", "passage", "term", "clean", "cut"),
    [
        (QUERY, PASSAGE, "eggs", "the flea lays eggs on the host", "the flea lays {} on the host"),
        ("跳蚤产卵", "看跳蚤把卵产在宿主身上", "跳蚤", "看 跳蚤 把卵产在宿主身上", "看 {} 把卵产在宿主身上"),
        ("หมัดวางไข่", "สัตว์ หมัดวางไข่ แล้ว", "หมัดวางไข่", "สัตว์ หมัดวางไข่ แล้ว", "สัตว์ {} แล้ว"),
        ("naïve café", "the café in the sun", "café", "the café in the sun", "the {} in the sun"),
        ("the 🐕 has fleas", "the 🐕 has fleas", "🐕", "the 🐕 has fleas", "the {} has fleas"),
    ],
)
def test_a_term_replaced_by_as_many_tokens_of_filler(model, query, passage, term, clean, cut):
    pairs = diagnose(model, "TFC1", query, passage, form="replace", term=term)
    n = count(model, f"a {term}") - count(model, "a")
    (label,) = pairs.labels
    assert label["clean"] == clean
    assert label["corrupted"] == cut.format(" ".join(["a"] * n))
    sides = [side.tokens[side.parts == Part.DOC] for side in (pairs.clean, pairs.corrupted)]
    assert len(sides[0]) == len(sides[1]) == count(model, clean) == count(model, label["corrupted"])
    assert 1 <= (sides[0] != sides[1]).sum() <= n


def test_a_term_appended(model):
    pairs = diagnose(model, "TFC1", QUERY, PASSAGE, term="eggs")
    n = count(model, "a eggs") - count(model, "a")
    assert pairs.labels[0]["clean"] == f"{PASSAGE} eggs"
    assert pairs.labels[0]["corrupted"] == " ".join([PASSAGE, *["a"] * n])


def test_random_words_are_one_token_inside_of_a_text(model):
    known = whole_words(model)
    assert {"the", "eggs"} <= set(known)
    assert all(count(model, f"a {word}") - count(model, "a") == 1 for word in known)
    assert all(word.isalpha() and word.islower() for word in known)
    close = closest_words(model, "eggs", 3)
    table = model.W_E.detach().numpy()
    vectors = {
        word: table[model.tokenizer([f"a {word}"], add_special_tokens=False)["input_ids"][0][-1]]
        for word in (*known, "eggs")
    }

    def cosine(word):
        one, two = vectors["eggs"], vectors[word]
        return one @ two / np.sqrt((one @ one) * (two @ two))

    ranked = sorted((word for word in known if word not in {*STOPWORDS, "eggs"}), key=cosine, reverse=True)
    assert close == ranked[:3]


def test_idf_of_texts_in_any_script():
    found = idf_of(["跳蚤 naïve", "跳 หมัด 🐕", "หมัด x"])
    assert set(found) == {"跳", "蚤", "naïve", "หมัด", "🐕", "x"}
    assert found["跳"] == found["หมัด"] == pytest.approx(np.log(4 / 3))
    assert found["蚤"] == found["🐕"] == pytest.approx(np.log(4 / 2))
