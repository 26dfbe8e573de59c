"""Full stops and stop words by the characters that the tokenizer says its pieces are of, and what cannot be told."""

import re

import family_texts as texts
import numpy as np
import pytest
from family_models import opened
from helpers import VOCABULARY
from small_worlds import tiny_model
from transformers import BertTokenizerFast

from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments.layer_features import layer_features
from tl_crossenc.instruments.layer_tokens import layer_tokens
from tl_crossenc.instruments.token_sets import ALL_SETS, SETS, TokenSets, full_stop_ids, stop_words
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.bm25 import words_of

LITERAL = ("the", "and", "a", "of", "on", "in", "it", "their", "with", "to", "is")
"""Of the thirty-three, those that the texts have."""
PAIRS = (
    ("the eggs of a flea. And on", "The flea lays her eggs on the host."),
    ("why does bread rise", "It is a band. The their yeast: off with-it, theirs"),
    ("why", ""),
    ("eggs", "quilt. sponge..  3.5 The"),
    ("why does bread rise. in the oven before it is baked", "Without thee."),
    ("eggs", texts.LONG),
)


def literal(model, passage, positions):
    """(full stops, stop words) among one pair's DOC positions, by the characters that each piece is of."""
    given = model.tokenizer(passage, add_special_tokens=False, return_offsets_mapping=True)
    spans = given["offset_mapping"][: len(positions)]
    read = passage[: spans[-1][1]] if spans else ""  # to where it is cut
    words = [m.span() for m in re.finditer(r"[^\W_]+", read) if m.group().lower() in LITERAL]
    stops, inside = [], []
    for position, (start, stop) in zip(positions, spans, strict=True):
        own = passage[start:stop].strip()
        if own == ".":
            stops.append(position)
        first = next((i for i in range(start, len(read)) if not read[i].isspace()), start)  # a lone space: what follows
        if any(low <= first < high for low, high in words):
            inside.append(position)
    return stops, inside


@pytest.mark.parametrize("name", ["electra", "modernbert-cls", "xlm-roberta"])
def test_full_stops_and_stop_words_of_the_passage_alone(name, tmp_path):
    """WordPiece, byte-level BPE and Unigram; a word of several pieces with all of them, a word that begins like one with none."""
    _, model = opened(name, tmp_path)
    queries, passages = (list(side) for side in zip(*PAIRS, strict=True))
    encoded = model.encode_pairs(queries, passages)
    batch = encoded.batch(range(len(PAIRS)))
    found = TokenSets(model, ("STOP_WORDS", "DOC", "STOPS")).members(batch).numpy()
    counts = []
    for pair, passage in enumerate(passages):
        doc = np.flatnonzero(batch.parts[Part.DOC][pair].numpy()).tolist()
        stops, inside = literal(model, passage, doc)
        assert np.flatnonzero(found[pair, 2]).tolist() == stops, passage
        assert np.flatnonzero(found[pair, 0]).tolist() == inside, passage
        assert np.flatnonzero(found[pair, 1]).tolist() == doc
        counts.append((len(stops), len(inside), len(doc)))
    for own in (counts[1], counts[-1]):
        assert own[2] > own[1] > 3
    assert sum(own[0] for own in counts) > 4

    features = layer_features(model, encoded, sets=("STOPS", "STOP_WORDS", "CLS"), token_budget=97)
    np.testing.assert_array_equal(features.counts, found[:, [2, 0, 1]].sum(-1) * [1, 1, 0] + [0, 0, 1])
    single = layer_tokens(model, encoded, "STOP_WORDS", layers=(1,))
    states = layer_tokens(model, encoded, "DOC", layers=(1,), most=10**3)
    for pair in range(len(PAIRS)):
        own, doc = (of.positions[slice(*of.offsets[pair : pair + 2])].tolist() for of in (single, states))
        assert own == np.flatnonzero(found[pair, 0]).tolist()[: len(own)]
        rows = [states.offsets[pair] + doc.index(i) for i in own]
        np.testing.assert_allclose(
            single.values[slice(*single.offsets[pair : pair + 2])], states.values[rows], atol=1e-9
        )
        if own and len(own) == features.counts[pair, 1]:
            mean = states.values[rows, 0].mean(0)
            np.testing.assert_allclose(features.values[pair, 1, 1], mean, atol=1e-9)


def test_stop_words_are_those_that_bm25_leaves_out():
    assert set(LITERAL) < stop_words()
    assert len(stop_words()) == 33
    assert words_of([" ".join(sorted(stop_words()))]) == [[]]


def test_full_stops_are_told_in_every_way_of_writing_pieces(tmp_path):
    cfg = tiny_model(tmp_path / "m").cfg
    pieces = (*VOCABULARY[:5], "Ġ.", "..", "▁.", "▁", ".", "##.", "a.")
    model = HookedCrossEncoder(cfg, BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)}))
    assert full_stop_ids(model) == (5, 7, 9)


def test_what_cannot_be_told_is_said_and_the_other_sets_need_no_tokenizer(tmp_path):
    model = tiny_model(tmp_path / "m")
    bare = HookedCrossEncoder(model.cfg)
    for sets, told in ((("DOC", "STOPS"), "STOPS"), (("STOPS", "STOP_WORDS"), "STOPS and STOP_WORDS")):
        with pytest.raises(ValueError, match=f"^expected a model with a tokenizer to tell {told} by, got one without$"):
            TokenSets(bare, sets)
    assert TokenSets(bare, SETS).names == SETS
    without = BertTokenizerFast(vocab={word: i for i, word in enumerate(w for w in VOCABULARY if w != ".")})
    other = HookedCrossEncoder(model.cfg, without)
    with pytest.raises(ValueError, match=r"^expected a vocabulary with a full stop to read STOPS, got one without"):
        TokenSets(other, ALL_SETS)
    assert TokenSets(other, ("STOP_WORDS",)).names == ("STOP_WORDS",)
