import math
import random
import string
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from planted_texts import graded_pool, passage_words, whole_words
from transformers import BertConfig, BertForSequenceClassification

from tl_crossenc.checkpoints.planted import (
    MATCHING_HEAD,
    MOVING_HEAD,
    N_HEADS,
    N_LAYERS,
    SINK_HEAD,
    open_planted,
    piece_codes,
    planted_tensors,
    vocabulary,
)
from tl_crossenc.inputs.parts import Part
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.parity import check_parity
from tl_crossenc.statistics.dcg import ndcg

NULL_HEADS = [
    (layer, head)
    for layer in range(4)
    for head in range(4)
    if (layer, head) not in (MATCHING_HEAD, SINK_HEAD, MOVING_HEAD)
]
QUERY = "how to tune a guitar by ear"
PASSAGES = ["cheese", "guitar", "bread and milk and a guitar", "tune the guitar and listen by ear to a note: how ?", ""]


@pytest.fixture(scope="module")
def planted():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu")


@pytest.fixture(scope="module")
def planted64():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def pairs(planted):
    return planted.to_pairs(QUERY, PASSAGES)


def scores_of(model, pairs, *ablations):
    with torch.no_grad(), model.ablating(*ablations) if ablations else nullcontext():
        return model(pairs)


def without(head, direction="ALL->ALL", mode="zero"):
    return Condition.ablate(direction, layers=[head[0]], heads=[head[1]], mode=mode)


def pattern_of(model, pairs, place):
    name = f"blocks.{place[0]}.attn.hook_pattern"
    with torch.no_grad():
        _, cache = model.run_with_cache(pairs, names_filter=name)
    return cache[name][:, place[1]]


def expected_score(query, passage):
    """By counting words: the mean over the passage of what each piece's attention finds, through two LayerNorms and a tanh."""
    found = []
    for piece in passage:
        copies = query.count(piece)
        found.append(copies / (copies + math.exp(27 - 32)))
    flags = [f / math.sqrt(1 + 2 * f**2 / 140) for f in found]
    share = sum(flags) / len(flags)
    return 10 * math.tanh(share / math.sqrt(1 + 2 * share**2 / 140))


# The weights.


def test_codes_are_balanced_and_never_look_more_than_a_quarter_equal():
    codes = np.array(piece_codes())
    assert codes.shape == (1054, 32)
    assert set(np.unique(codes)) == {-1, 1}
    assert (codes.sum(1) == 0).all()
    products = codes @ codes.T
    assert (np.diag(products) == 32).all()
    np.fill_diagonal(products, 0)
    assert set(np.unique(products)) == {-32, -8, 0, 8}


def test_every_embedding_has_mean_0_and_variance_1():
    state = planted_tensors()
    pieces, types = (state[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "token_type"))
    sums = pieces[:, None] + types[None]
    assert (sums.sum(-1) == 0).all()
    assert (sums.pow(2).sum(-1) == 140).all()


def test_heads_and_mlps_not_named_are_zero(planted):
    for layer, head in NULL_HEADS:
        for weight in (planted.W_Q, planted.W_K, planted.W_V, planted.W_O, planted.b_Q, planted.b_K, planted.b_V):
            assert not weight[layer, head].any()
    for weight in (planted.W_in, planted.W_out, planted.b_in, planted.b_out, planted.b_O, planted.W_pos):
        assert not weight.any()
    for layer, head in (MATCHING_HEAD, SINK_HEAD, MOVING_HEAD):
        for weight in (planted.W_Q, planted.W_K, planted.W_V, planted.W_O):
            assert weight[layer, head].any()


def test_the_matching_circuit_is_the_code_less_the_type(planted64):
    circuit = planted64.QK.AB[MATCHING_HEAD]
    scores = circuit / 35**0.5
    assert torch.allclose(scores[:32, :32], 20 / 32 * torch.eye(32, dtype=torch.float64))
    t = torch.zeros(140, dtype=torch.float64)
    t[32], t[33] = 1 / 12, -1 / 12
    assert torch.allclose(scores[32:, 32:], -12 * torch.outer(t, t)[32:, 32:])
    assert not scores[:32, 32:].any()
    sigma = torch.linalg.svdvals(circuit)
    assert float(circuit.trace() / sigma.sum()) == pytest.approx((20 - 12 / 72) / (20 + 12 / 72), abs=1e-6)


def test_two_openings_give_the_same_weights_and_revision():
    first, second = open_planted(), open_planted()
    assert first.revision == second.revision
    assert first.revision.startswith("sha256:")
    tensors = dict(first.read_tensors())
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in second.read_tensors())


# The tokenizer.


def test_any_ascii_text_is_spelled_in_known_pieces(planted):
    texts = [
        string.printable,
        "Xylophones & zebras' qwertyuiop_0123456789 99bottles",
        *(chr(i) for i in range(33, 127)),
    ]
    for text in texts:
        pieces = planted.tokenizer.tokenize(text)
        assert pieces
        assert "[UNK]" not in pieces
    assert planted.tokenizer.tokenize("Guitars, 42!") == ["guitar", "##s", ",", "4", "##2", "!"]
    assert planted.tokenizer.tokenize("\u6f22") == ["[UNK]"]


def test_the_vocabulary_has_no_piece_twice_and_a_code_for_each():
    assert len(set(vocabulary())) == len(vocabulary()) == 1000
    embeddings = planted_tensors()["bert.embeddings.word_embeddings.weight"]
    words = [i for i, piece in enumerate(vocabulary()) if not piece.startswith("[") or len(piece) == 1]
    assert len(words) == 995
    assert len(torch.unique(embeddings[words], dim=0)) == 995


# It is BERT.


def test_hugging_face_computes_the_same(planted, pairs):
    checkpoint = open_planted()
    config = BertConfig.from_dict(checkpoint.config)
    config._attn_implementation = "eager"
    theirs = BertForSequenceClassification(config).eval()
    theirs.load_state_dict(dict(checkpoint.read_tensors()), strict=True)
    with torch.no_grad():
        out = theirs(
            pairs.tokens,
            token_type_ids=pairs.token_type_ids,
            attention_mask=pairs.attention_mask.long(),
            output_hidden_states=True,
        )
        ours = planted(pairs, return_type="logits")
        resid = planted(pairs, return_type="resid")
    assert float((ours - out.logits).abs().max()) <= 1e-5
    real = pairs.attention_mask
    assert float((resid[real] - out.hidden_states[-1][real]).abs().max()) <= 1e-5


def test_its_parity_certificate_passes():
    assert check_parity("planted", device="cpu").passed


# The score.


@pytest.mark.parametrize("length", [1, 2, 11, 101])
def test_the_score_is_the_one_counted_by_hand(planted64, length):
    rng = random.Random(length)
    query = rng.sample(whole_words(), 5)
    passages = [passage_words(rng, query, matched, length) for matched in range(min(length, 7) + 1)]
    scores = planted64.score(" ".join(query), [" ".join(words) for words in passages])
    expected = [expected_score(query, words) for words in passages]
    assert scores.tolist() == pytest.approx(expected, abs=5e-3)
    assert min(np.diff(expected)) > 0.05
    assert (scores.diff() > 0).all()


def test_a_repeated_query_word_counts_once_a_passage_word(planted64):
    once, twice = planted64.score(["bread milk", "bread bread milk"], ["bread stone river", "bread stone river"])
    assert float(once) == pytest.approx(expected_score(["bread", "milk"], ["bread", "stone", "river"]), abs=5e-3)
    assert float(twice) == pytest.approx(
        expected_score(["bread", "bread", "milk"], ["bread", "stone", "river"]), abs=5e-3
    )
    assert float(twice - once) < 0.05


def test_case_counts_for_nothing_and_unknown_characters_never_match(planted):
    upper, lower = planted.score(["BREAD", "bread"], ["Bread stone", "bread stone"])
    assert upper == lower > 1
    assert abs(float(planted.score("\u6f22 milk", "\u6f22")[0])) < 0.01


def test_an_empty_passage_scores_0(planted):
    assert abs(float(planted.score("bread", "")[0])) < 1e-4


def test_a_graded_pool_is_ranked_perfectly(planted):
    pool = graded_pool()
    scores = planted.score([pair.query for pair in pool.pairs], [pair.text for pair in pool.pairs]).double().numpy()
    grades = np.array([pair.grade for pair in pool.pairs])
    for indices in pool.by_query().values():
        own = np.asarray(indices)
        assert ndcg(scores[own], np.maximum(grades[own], 0)) == 1.0
        for low, high in ((-1, 0), (0, 1), (1, 2), (2, 3)):
            assert scores[own][grades[own] == low].max() + 0.5 < scores[own][grades[own] == high].min()


def test_padding_changes_nothing(planted64):
    passages = ["bread", "stone", " ".join(whole_words()[:97])]
    together = planted64(planted64.to_pairs("bread and milk", passages))
    alone = [planted64(planted64.to_pairs("bread and milk", passage)) for passage in passages]
    assert torch.allclose(together, torch.cat(alone), atol=1e-9, rtol=0)


# What the heads attend to.


@pytest.mark.parametrize(("side", "separator"), [(Part.DOC, Part.SEP1), (Part.QUERY, Part.SEP2)])
def test_the_matching_head_looks_at_equal_pieces_across_or_else_at_the_separator_there(planted, pairs, side, separator):
    other = Part.QUERY if side == Part.DOC else Part.DOC
    pattern, codes = pattern_of(planted, pairs, MATCHING_HEAD), pairs.parts.codes
    matched = unmatched = 0
    for i, tokens in enumerate(pairs.tokens):
        across = (codes[i] == other).nonzero()[:, 0]
        for row in (codes[i] == side).nonzero()[:, 0]:
            equal = across[tokens[across] == tokens[row]]
            matched, unmatched = matched + bool(len(equal)), unmatched + (not len(equal))
            wanted = equal if len(equal) else (codes[i] == separator).nonzero()[:, 0]
            assert float(pattern[i, row, wanted].sum()) > (0.99 if len(equal) else 0.999)
    assert matched >= 5
    assert unmatched >= 5


def test_the_matching_head_still_falls_back_before_a_long_passage(planted):
    words = [word for word in whole_words() if word != "bread"]
    pairs = planted.to_pairs("bread", " ".join(words[:499]))
    assert pairs.tokens.shape == (1, 503)
    pattern = pattern_of(planted, pairs, MATCHING_HEAD)[0]
    assert float(pattern[1, -1]) > 0.9
    assert float(pattern[3:-1, 2].min()) > 0.9


def test_the_sink_head_looks_at_separators_and_the_rest_at_everything_alike(planted, pairs):
    real = pairs.attention_mask
    separators = (pairs.parts.codes == Part.SEP1) | (pairs.parts.codes == Part.SEP2)
    masses = (pattern_of(planted, pairs, SINK_HEAD) * separators[:, None]).sum(-1)
    assert float(masses[real].min()) > 0.999
    uniform = (real / real.sum(1, keepdim=True))[:, None].expand(-1, real.shape[1], -1)
    for place in NULL_HEADS:
        assert torch.allclose(pattern_of(planted, pairs, place)[real], uniform[real], atol=1e-6)


def test_the_moving_head_lets_cls_average_the_passage_and_the_rest_fall_back_on_cls(planted, pairs):
    pattern = pattern_of(planted, pairs, MOVING_HEAD)
    doc, real = pairs.parts.codes == Part.DOC, pairs.attention_mask.clone()
    full = doc.any(1)
    expected = doc / doc.sum(1, keepdim=True).clamp(min=1)
    assert full.sum() == 4
    assert torch.allclose(pattern[full, 0], expected[full], atol=1e-5)
    real[full, 0] = False
    assert float(pattern[..., 0][real].min()) > 0.9999


# What the heads are for.


def test_without_the_matching_head_the_matches_no_longer_count(planted):
    pool = graded_pool()
    pairs = planted.to_pairs([pair.query for pair in pool.pairs], [pair.text for pair in pool.pairs])
    intact = scores_of(planted, pairs)
    assert float(intact.max() - intact.min()) > 5
    for condition in (
        without(MATCHING_HEAD),
        without(MATCHING_HEAD, "DOC->QUERY"),
        without(MATCHING_HEAD, "DOC->QUERY", "mask"),
        without(MOVING_HEAD),
        without(MOVING_HEAD, "CLS->DOC"),
        without(MOVING_HEAD, "CLS->DOC", "mask"),
    ):
        scores = scores_of(planted, pairs, condition)
        assert float(scores.abs().max()) < 0.02, condition


def test_the_score_does_not_need_the_matches_that_the_query_finds(planted, pairs):
    intact = scores_of(planted, pairs)
    assert torch.allclose(scores_of(planted, pairs, without(MATCHING_HEAD, "QUERY->DOC")), intact, atol=1e-5)


@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_no_other_direction_of_the_three_heads_counts(planted, pairs, mode):
    intact = scores_of(planted, pairs)
    for attender in ("CLS", "QUERY", "SEP1", "SEP2"):
        ablated = scores_of(planted, pairs, without(MATCHING_HEAD, f"{attender}->QUERY", mode))
        assert torch.allclose(ablated, intact, atol=1e-4)
    for attended in ("CLS", "QUERY", "SEP1"):
        ablated = scores_of(planted, pairs, without(MOVING_HEAD, f"CLS->{attended}", mode))
        assert torch.allclose(ablated, intact, atol=1e-4)


def test_without_the_sink_head_or_a_null_head_nothing_changes(planted, pairs):
    intact = scores_of(planted, pairs)
    assert (scores_of(planted, pairs, without(SINK_HEAD)) - intact).abs().max() <= 1e-6
    for place in NULL_HEADS:
        assert torch.equal(scores_of(planted, pairs, without(place)), intact)
    all_of_them = [without(place) for place in (SINK_HEAD, *NULL_HEADS)]
    assert len(all_of_them) == N_LAYERS * N_HEADS - 2
    assert (scores_of(planted, pairs, *all_of_them) - intact).abs().max() <= 1e-6
