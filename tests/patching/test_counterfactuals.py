"""Aligned pairs: what is checked, padding, and where the check says that the sides part."""

import dataclasses

import numpy as np
import pytest
from helpers import bert_tokenizer, one_sentence
from hypothesis import given
from hypothesis import strategies as st
from planted_texts import whole_words

from tl_crossenc.inputs.encoder import PairEncoder
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.counterfactuals import AlignedPairs, align_pairs, align_passages, misalignments

QUERY = "tune a guitar by ear"  # 5 tokens: the passage starts at position 7
CLS, QUERY_START, DOC_START = 0, 1, 7


@pytest.fixture(scope="module")
def model():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu")


@pytest.fixture
def short_model(monkeypatch):
    """The planted model with room for 5 tokens of passage beside `QUERY` (13 in all)."""
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    model.encoder.max_length = 13
    return model


def test_two_passages_of_one_query(model):
    pairs = align_passages(model, QUERY, "the guitar garden", "the piano window")
    assert pairs.positions(0).tolist() == [DOC_START + 1, DOC_START + 2]
    assert pairs.differs.sum() == 2
    assert pairs.clean.lengths.tolist() == pairs.corrupted.lengths.tolist() == [3 + 5 + 3]
    assert dict(pairs.labels[0]) == {"query": QUERY, "clean": "the guitar garden", "corrupted": "the piano window"}
    assert repr(pairs) == "AlignedPairs(1 pair of 11 tokens, 2 differ)"


def test_several_twins_of_different_lengths(model):
    pairs = align_passages(model, QUERY, ["guitar", "the guitar garden"], ["piano", "a guitar garden"])
    assert [pairs.positions(i).tolist() for i in range(2)] == [[DOC_START], [DOC_START]]
    assert repr(pairs) == "AlignedPairs(2 pairs of 9 to 11 tokens, 2 differ)"
    frame = pairs.to_frame()
    assert frame["n_tokens"].tolist() == [9, 11]
    assert frame["n_different"].tolist() == [1, 1]
    assert frame["corrupted"].tolist() == ["piano", "a guitar garden"]


def test_the_query_may_be_the_side_that_differs(model):
    pairs = align_pairs(model, [("tune a guitar", "the garden")], [("tune a piano", "the garden")], [{"kind": "query"}])
    assert pairs.positions(0).tolist() == [3]
    assert pairs.labels[0]["corrupted_query"] == "tune a piano"
    assert pairs.labels[0]["kind"] == "query"


@pytest.mark.parametrize(("pad_to", "lengths"), [("longest", (3, 2)), (5, (5, 5))])
def test_padding_fills_up_with_a_neutral_word(model, pad_to, lengths):
    clean, corrupted = ["the guitar garden", "piano"], ["the garden", "the garden"]
    pairs = align_passages(model, QUERY, clean, corrupted, pad_to=pad_to)
    assert pairs.clean.lengths.tolist() == [n + 8 for n in lengths]
    for side, texts in (("clean", clean), ("corrupted", corrupted)):
        for pair, text in enumerate(texts):
            added = lengths[pair] - len(text.split())
            assert pairs.labels[pair][side] == " ".join([text, *["a"] * added])


def test_swapping_exchanges_sides_and_labels(model):
    pairs = align_passages(model, QUERY, "the guitar", "the piano")
    back = pairs.swapped
    np.testing.assert_array_equal(back.clean.tokens, pairs.corrupted.tokens)
    assert (back.labels[0]["clean"], back.labels[0]["corrupted"]) == ("the piano", "the guitar")
    np.testing.assert_array_equal(back.swapped.clean.tokens, pairs.clean.tokens)


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_concatenation_equals_encoding_all_at_once(model, lengths, seed):
    rng = np.random.default_rng(seed)
    known = whole_words()
    sides = []
    for _ in range(2):
        sides.append([" ".join(rng.choice(known, size=n)) for n in lengths])
    if any(a == b for a, b in zip(*sides, strict=True)):
        return
    together = align_passages(model, QUERY, *sides)
    one_by_one = AlignedPairs.concatenate([align_passages(model, QUERY, a, b) for a, b in zip(*sides, strict=True)])
    for side in ("clean", "corrupted"):
        for field in dataclasses.fields(together.clean):
            left, right = (getattr(getattr(pairs, side), field.name) for pairs in (together, one_by_one))
            np.testing.assert_array_equal(left, right)
    assert together.labels == one_by_one.labels
    for pair, (a, b) in enumerate(zip(*sides, strict=True)):  # words of one token each
        expected = [i for i, (x, y) in enumerate(zip(a.split(), b.split(), strict=True)) if x != y]
        assert (together.positions(pair) - DOC_START).tolist() == expected


def refused(call, said):
    with pytest.raises(ValueError, match=said) as error:
        call()
    assert one_sentence(error.value)


def test_unequal_lengths_say_where(model):
    refused(
        lambda: align_passages(model, QUERY, ["guitar", "the guitar"], ["piano", "the old piano"]),
        r"aligned token by token, but pair 1 has 10 and 11 tokens \(DOC 2 and 3\)",
    )
    refused(
        lambda: align_pairs(model, [("tune it", "the garden")], [("tune", "the old garden")]),
        r"pair 0 has the parts QUERY and SEP1 at position 2",
    )
    refused(
        lambda: align_passages(model, QUERY, ["guitar", "the guitar"], ["the piano", "piano"]), r"\(and 1 more pairs\)"
    )


def test_parts_and_types_that_differ_say_where(model):
    pairs = align_passages(model, QUERY, "the guitar", "the piano")
    wrong_types = dataclasses.replace(pairs.corrupted, token_type_ids=1 - pairs.corrupted.token_type_ids)
    assert misalignments(pairs.clean, wrong_types) == ["pair 0 has the types 0 and 1 at position 0"]
    parts = pairs.corrupted.parts.copy()
    parts[DOC_START] = 2
    assert misalignments(pairs.clean, dataclasses.replace(pairs.corrupted, parts=parts)) == [
        f"pair 0 has the parts DOC and SEP1 at position {DOC_START}"
    ]
    assert misalignments(pairs.clean, pairs.corrupted) == []


def test_texts_that_are_cut_or_equal_are_refused(model, short_model):
    words = ["one", "two", "three", "four", "five", "six"]
    fits = align_passages(short_model, QUERY, " ".join([*words[:4], "guitar"]), " ".join([*words[:4], "piano"]))
    assert fits.positions(0).tolist() == [DOC_START + 4]
    refused(
        lambda: align_passages(short_model, QUERY, " ".join([*words[:5], "guitar"]), " ".join([*words[:5], "piano"])),
        "differ, but pair 0 has the same tokens on both sides: it was cut away",
    )
    refused(
        lambda: align_passages(short_model, QUERY, " ".join(["guitar", *words]), " ".join(["piano", *words])),
        "fit into the model's 13 tokens, but pair 0 is cut",
    )
    refused(lambda: align_passages(model, QUERY, "Guitar", "guitar"), "pair 0 has the same tokens on both sides$")
    # Cut on one side only: what is left has as many tokens, with the same parts.
    longer, fitting = " ".join(["guitar", *words]), " ".join(["piano", *words[:4]])
    for sides in ((longer, fitting), (fitting, longer)):
        refused(lambda sides=sides: align_passages(short_model, QUERY, *sides), "13 tokens, but pair 0 is cut")


def test_numbers_of_texts_that_do_not_fit_are_refused(model):
    refused(lambda: align_pairs(model, [], []), "at least one clean pair, and as many corrupted pairs")
    refused(lambda: align_passages(model, QUERY, ["guitar"], ["piano", "piano"]), "got 1 and 2")
    refused(lambda: align_pairs(model, [("a", "b")], [("a", "c")], [{}, {}]), r"got 1 and 1 \(2\)")
    refused(
        lambda: align_passages(model, QUERY, "the guitar", "piano", pad_to=1),
        "at most pad_to=1 tokens, but pair 0 has 2",
    )
    refused(
        lambda: align_passages(model, QUERY, "the guitar", "piano", pad_to=3, neutral="qqzz"),
        r"neutral word of one token, but 'qqzz' has 4",
    )
    refused(lambda: AlignedPairs.concatenate([]), "to concatenate, got none")
    pairs = align_passages(model, QUERY, "guitar", "piano")
    refused(lambda: AlignedPairs(pairs.clean, pairs.corrupted, ()), "got 1, 1 and 0")


def test_families_without_types_align_too():
    encoder = PairEncoder(bert_tokenizer(), 41, use_types=False)
    sides = [encoder.encode(["how do"], [text]) for text in ("flea", "egg")]
    pairs = AlignedPairs(*sides, labels=({},))
    assert pairs.positions(0).tolist() == [4]
