"""Weights between QUERY and DOC tokens: each histogram and mass against plain loops over Hugging Face's own patterns."""

import math

import numpy as np
import pytest
import torch
from tiny_models import D_VOCAB, N_HEADS, N_LAYERS, port, run_hf, tiny_hf, tiny_rows, to_batch
from transformers import BertTokenizer

from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.instruments.token_matches import (
    BIN_WIDTH,
    CENTRES,
    EDGES,
    KINDS,
    N_BINS,
    PairMatches,
    Tally,
    measure_matches,
    pair_matches,
    word_codes,
)

SIZES = ((5, 11), (3, 17), (7, 2), (4, 0), (2, 13))
SOME = ("flea", "Flea", "##s", "##S", "egg", "##x", "lay", "s", "fleas", "the", "##ing")
PIECES = [f"[{i}]" for i in range(5)] + list(SOME) + [f"rare{i}" for i in range(D_VOCAB - 5 - len(SOME))]
ROWS = tiny_rows(SIZES, seed=3, vocabulary=5 + len(SOME))
NAMES = ("a", "b", "a", "c", "b")


def by_words(ids):
    """The word of each piece, by joining the pieces to a text and splitting it again."""
    texts = [PIECES[i] for i in ids]
    whole = " ".join(texts).replace(" ##", "\N{ZERO WIDTH SPACE}").split(" ")
    return [
        word.replace("\N{ZERO WIDTH SPACE}", "").lower() for word in whole for _ in word.split("\N{ZERO WIDTH SPACE}")
    ]


def slow(hf, rows):
    """`PairMatches` by loops over patterns, one pair at a time."""
    shape = (len(rows), 2, N_LAYERS, N_HEADS, 3)
    token_pairs, mass, counts = np.zeros((len(rows), 3), int), np.zeros(shape), np.zeros((*shape, 81), int)
    for p, (tokens, types, parts) in enumerate(rows):
        patterns = run_hf(hf, to_batch([(tokens, types, parts)])).attentions
        query = [i for i, part in enumerate(parts) if part == 1]
        doc = [i for i, part in enumerate(parts) if part == 3]
        query_words, doc_words = (by_words([tokens[i] for i in side]) for side in (query, doc))
        for a, i in enumerate(query):
            for b, j in enumerate(doc):
                kind = 0 if tokens[i] == tokens[j] else 1 if query_words[a] == doc_words[b] else 2
                token_pairs[p, kind] += 1
                for layer in range(N_LAYERS):
                    for head in range(N_HEADS):
                        for d, (row, column, n) in enumerate(((i, j, len(query)), (j, i, len(doc)))):
                            weight = float(patterns[layer][0, head, row, column])
                            mass[p, d, layer, head, kind] += weight / n
                            slot = 0 if weight < 1e-8 else min(int((math.log10(weight) + 8) * 10) + 1, 80)
                            counts[p, d, layer, head, kind, slot] += 1
    return PairMatches(token_pairs, mass, counts)


WRITTEN = Pieces(BertTokenizer(vocab={piece: i for i, piece in enumerate(PIECES)}))


def encoded(rows):
    columns = [np.concatenate([np.asarray(row[c]) for row in rows]) for c in range(3)]
    offsets = np.concatenate([[0], np.cumsum([len(row[0]) for row in rows])])
    return EncodedPairs(*columns, offsets, np.zeros(len(rows), dtype=bool), 0)


def measured(model, rows):
    batch = to_batch(rows)
    with torch.no_grad():
        return pair_matches(model, batch, word_codes(batch.tokens, batch.parts.codes, WRITTEN))


def sharp(hf):
    """The same model with such large queries that many weights underflow."""
    with torch.no_grad():
        for layer in hf.bert.encoder.layer:
            layer.attention.self.query.weight.mul_(9)
    return hf


@pytest.mark.parametrize("change", [lambda hf: hf, sharp], ids=["plain", "sharp"])
def test_every_pair_equals_loops_over_hugging_face_patterns(change):
    hf = change(tiny_hf(seed=2)).double()
    expected, found = slow(hf, ROWS), measured(port(hf), ROWS)
    assert (expected.token_pairs.sum(0) > 5).all()  # each kind is there
    if change is sharp:
        assert expected.counts[..., 0].sum() > 100
        assert expected.counts[..., -1].sum() > 5
    np.testing.assert_array_equal(found.token_pairs, expected.token_pairs)
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_allclose(found.mass, expected.mass, atol=1e-12)


def test_a_passage_without_tokens_gives_zeros(model):
    found = measured(model, ROWS)
    assert found.token_pairs[3].sum() == found.counts[3].sum() == found.mass[3].sum() == 0
    assert found.sums(NAMES).totals["pairs"].tolist() == [2, 2, 0]


def test_only_empty_passages(model):
    found = measured(model, tiny_rows(((3, 0), (2, 0))))
    assert found.counts.shape == (2, 2, N_LAYERS, N_HEADS, 3, 81)
    assert not found.counts.any()
    assert not found.mass.any()


@pytest.mark.parametrize(
    ("query", "passage", "kinds"),
    [
        (["flea", "##s"], ["flea", "##s"], ["01", "10"]),
        (["flea"], ["Flea"], ["1"]),
        (["flea", "##s"], ["fleas"], ["1", "1"]),
        (["flea", "##s"], ["Flea", "##S"], ["11", "11"]),
        (["flea"], ["flea", "##s"], ["02"]),  # the piece is equal, the words are not
        (["s"], ["##s"], ["2"]),  # a part may begin with a continuation, and that is not the word s
        (["##s"], ["##s"], ["0"]),
        (["egg", "##s"], ["flea", "##s"], ["22", "20"]),
        (["egg", "##ing", "##s"], ["egg", "##s"], ["02", "22", "20"]),
        (["egg"], ["lay", "egg"], ["20"]),
    ],
)
def test_kinds_of_match_by_hand(model, query, passage, kinds):
    ids = [PIECES.index(piece) for piece in (*query, *passage)]
    q, d = len(query), len(passage)
    row = ([2, *ids[:q], 3, *ids[q:], 3], [0] * (q + 2) + [1] * (d + 1), [0] + [1] * q + [2] + [3] * d + [4])
    found = measured(model, [row])
    flat = "".join(kinds)
    assert found.token_pairs[0].tolist() == [flat.count(kind) for kind in "012"]


def test_words_do_not_run_on_from_query_to_passage():
    tokens = torch.tensor([[2, PIECES.index("egg"), PIECES.index("##s"), PIECES.index("##s"), 3]])
    codes = torch.tensor([[0, 1, 1, 3, 4]])
    found = word_codes(tokens, codes, WRITTEN)[0].tolist()
    assert found[0] == found[4] == -1
    assert found[1] == found[2] != found[3]


def test_uniform_attention_is_in_one_bin_and_its_masses_are_shares_of_positions():
    hf = tiny_hf(seed=5).double()
    with torch.no_grad():
        for layer in hf.bert.encoder.layer:
            layer.attention.self.query.weight.zero_()
            layer.attention.self.query.bias.zero_()
    found = measured(port(hf), ROWS[:1])  # 19 positions: log10(1/19) = -1.28, between -1.3 and -1.2
    here = found.counts.sum((0, 1, 2, 3, 4)).nonzero()[0].tolist()
    assert here == [68]
    assert EDGES[68] == pytest.approx(10**-1.3)
    assert EDGES[69] == pytest.approx(10**-1.2)
    assert CENTRES[68] == pytest.approx(-1.25)
    per_kind = found.token_pairs[0] / 19
    expected = np.stack([per_kind / 5, per_kind / 11])[:, None, None] * np.ones((2, N_LAYERS, N_HEADS, 3))
    np.testing.assert_allclose(found.mass[0], expected, atol=1e-14)


def test_a_weight_on_a_bound_is_in_the_bin_above_it():
    """Ten positions that are attended alike get .1 each, to the bit, and the bin from 10^-1 on holds it; 1 is in the last one."""
    hf = tiny_hf(seed=5).double()
    with torch.no_grad():
        for layer in hf.bert.encoder.layer:
            layer.attention.self.query.weight.zero_()
            layer.attention.self.query.bias.zero_()
    model = port(hf)
    found = measured(model, tiny_rows(((3, 4),)))
    assert found.counts.sum((0, 1, 2, 3, 4)).nonzero()[0].tolist() == [71]
    assert EDGES[71] == 0.1
    assert math.log10(EDGES[72]) == pytest.approx(-0.9)


def test_bins_cover_0_to_1_and_underflow_comes_first():
    assert (EDGES[0], EDGES[1], EDGES[-1], len(EDGES)) == (0.0, pytest.approx(1e-8), 1.0, N_BINS + 1)
    assert np.diff(CENTRES) == pytest.approx(BIN_WIDTH)
    assert (CENTRES[0], CENTRES[-1]) == (pytest.approx(-8.05), pytest.approx(-0.05))


@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_batches_change_nothing(model, budget):
    whole = measured(model, ROWS)
    sums, histograms, seen = [], [], []

    def use(indices, found):
        names = [NAMES[i] for i in indices]
        seen.extend(indices.tolist())
        sums.append(found.sums(names))
        histograms.append(found.histograms(names))

    measure_matches(model, encoded(ROWS), WRITTEN, use, token_budget=budget)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    for tallies, expected in ((sums, whole.sums(NAMES)), (histograms, whole.histograms(NAMES))):
        joined = Tally.join(tallies)
        assert set(joined.groups) == set(expected.groups)
        order = [joined.groups.index(group) for group in expected.groups]
        for name, values in expected.totals.items():
            np.testing.assert_allclose(joined.totals[name][order], values, atol=1e-13)


def test_group_totals_are_sums_over_its_pairs(model):
    found = measured(model, ROWS)
    sums, histograms = found.sums(NAMES), found.histograms(NAMES)
    assert sums.groups == histograms.groups == ("a", "b", "c")
    shares = found.token_pairs / np.maximum(found.token_pairs.sum(1), 1)[:, None]
    for g, members in enumerate(([0, 2], [1, 4], [3])):
        np.testing.assert_array_equal(sums.totals["token_pairs"][g], found.token_pairs[members].sum(0))
        np.testing.assert_allclose(sums.totals["token_share"][g], shares[members].sum(0), atol=1e-14)
        np.testing.assert_allclose(sums.totals["mass"][g], found.mass[members].sum(0), atol=1e-14)
        np.testing.assert_array_equal(histograms.totals["counts"][g], found.counts[members].sum(0))


def test_merging_is_associative_and_regrouping_is_merging(model):
    found = measured(model, ROWS)
    singles = [
        PairMatches(*(getattr(found, n)[i : i + 1] for n in ("token_pairs", "mass", "counts"))) for i in range(5)
    ]
    tallies = [one.histograms([name]) for one, name in zip(singles, NAMES, strict=True)]
    left = Tally.join([Tally.join(tallies[:2]), *tallies[2:]])
    right = Tally.join([tallies[0], Tally.join(tallies[1:])])
    everything = found.histograms(NAMES)
    for merged in (left, right):
        assert merged.groups == everything.groups
        np.testing.assert_array_equal(merged.totals["counts"], everything.totals["counts"])
    renamed = everything.regroup({"a": "x", "b": None, "c": "x"}.get)
    assert renamed.groups == ("x",)
    np.testing.assert_array_equal(renamed.totals["counts"][0], found.counts[[0, 2, 3]].sum(0))


def test_tallies_of_other_shapes_do_not_join():
    one, two = (Tally(("a",), {"x": np.zeros((1, n))}) for n in (2, 3))
    with pytest.raises(ValueError, match="same totals"):
        Tally.join([one, two])


def test_an_active_ablation_is_refused(model):
    with model.ablating("DOC->QUERY"), pytest.raises(ValueError, match="nothing ablated"):
        measure_matches(model, encoded(ROWS), WRITTEN, lambda indices, found: None)


def test_attention_that_is_not_finite_is_refused(model):
    with torch.no_grad():
        model.W_Q[1].fill_(math.nan)
    with pytest.raises(ValueError, match="finite attention"):
        measured(model, ROWS)


def test_nothing_is_left_on_the_model(model):
    measured(model, ROWS)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_kinds_are_in_the_order_of_the_documentation():
    assert KINDS == ("same_piece", "same_word", "other")
