"""Heads as rankers: every score by plain loops over Hugging Face's own float64 patterns, in every family that opens."""

import math

import family_oracle as oracle
import family_texts as texts
import numpy as np
import pytest
import torch
from family_models import COVERED, opened
from family_worlds import MODELS
from planted_texts import graded_pool
from tiny_models import encoded, port, tiny_hf, tiny_rows

from tl_crossenc.checkpoints.planted import MATCHING_HEAD
from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments import head_rankers
from tl_crossenc.instruments.head_rankers import (
    CONTENT_FREE,
    RANKER_DIRECTIONS,
    _token_attention,
    _TokenAttention,
    core_score,
    measure_head_scores,
    qr_score,
)
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

NAMES = [name for name in MODELS if name in COVERED]
PAIRS = (*texts.PAIRS, ("a", texts.LONG))  # a shorter query than "N/A", that leaves more room for the passage
QUERIES, PASSAGES = (list(side) for side in zip(*PAIRS, strict=True))
FREE = [(CONTENT_FREE, passage) for passage in PASSAGES]


def token_by_token(pattern, parts, half):
    """For each direction, DOC token -> what it gets or gives in each head, of those that have a cell; and rows averaged over."""
    query, doc = ([i for i, part in enumerate(parts) if part == Part[name]] for name in ("QUERY", "DOC"))
    near = [(r, t) for r in query for t in doc if half is None or abs(r - t) <= half]
    rows, tokens = sorted({r for r, _ in near}), sorted({t for _, t in near})
    gets = {doc.index(t): sum(pattern[:, r, t] for r in rows) / len(rows) for t in tokens}
    gives = {doc.index(t): sum(pattern[:, t, c] for c in query) for t in tokens}
    return gets, gives


def reference(pattern, parts, free_pattern, free_parts, half, rounding=1e-14):
    """(mass, calibrated) of one pair in one layer, `[direction, head]`."""
    n_heads = len(pattern)
    mass, calibrated = np.zeros((2, n_heads)), np.zeros((2, n_heads))
    sides = token_by_token(pattern, parts, half), token_by_token(free_pattern, free_parts, half)
    for direction, (ours, free) in enumerate(zip(*sides, strict=True)):
        if ours:
            mass[direction] = sum(ours.values()) / (len(ours) if direction else 1)
        both = sorted(set(ours) & set(free))
        for head in range(n_heads):
            values = [ours[t][head] - free[t][head] for t in both]
            if values:
                sd = np.std(values, ddof=1) if len(values) > 1 else 0.0
                kept = [value for value in values if value >= np.mean(values) - 2 * sd - rounding]
                calibrated[direction, head] = sum(kept) / (len(both) if direction else 1)
    return mass, calibrated


@pytest.mark.parametrize("name", NAMES)
def test_every_score_of_every_head(name, tmp_path):
    world, model = opened(name, tmp_path)
    batches = oracle.encode(world, PAIRS), oracle.encode(world, FREE)
    patterns = [[pattern.numpy() for pattern in oracle.run(world, batch, []).patterns] for batch in batches]
    parts = [batch.parts.numpy() for batch in batches]
    pairs, free = model.encode_pairs(QUERIES, PASSAGES), model.encode_pairs(CONTENT_FREE, PASSAGES)
    found = measure_head_scores(model, pairs, free, token_budget=100)
    expected = np.zeros((2, *found.mass.shape))
    for pair in range(len(QUERIES)):
        for layer, half in enumerate(world.half_windows):
            own = (patterns[0][layer][pair], parts[0][pair], patterns[1][layer][pair], parts[1][pair])
            expected[:, pair, :, layer] = reference(*own, half)
    np.testing.assert_allclose(found.mass, expected[0], atol=1e-10)
    np.testing.assert_allclose(found.calibrated, expected[1], atol=1e-10)
    dropped = _all_kept(model, pairs, free)
    assert (np.abs(dropped - found.calibrated) > 1e-6).any()  # some tokens are dropped


def _all_kept(model, pairs, free):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_rankers, "DROPPED_BELOW", math.inf)
        return measure_head_scores(model, pairs, free).calibrated


def test_a_batch_of_one_scores_as_a_batch_of_many():
    model = port(tiny_hf(seed=5), torch.float64)
    sizes = ((3, 5), (2, 8), (1, 1), (4, 0), (5, 13), (2, 3))
    rows = tiny_rows(sizes, seed=3)
    free = [_with_query(row, sizes[i][0]) for i, row in enumerate(rows)]
    found = [measure_head_scores(model, encoded(rows), encoded(free), token_budget=budget) for budget in (1, 41, 4096)]
    for other in found[1:]:
        np.testing.assert_allclose(other.mass, found[0].mass, atol=1e-14)
        np.testing.assert_allclose(other.calibrated, found[0].calibrated, atol=1e-13)
    assert (found[0].mass[3] == 0).all()
    assert (found[0].calibrated[3] == 0).all()
    assert (found[0].mass[[0, 1, 2, 4, 5]] > 0).all()
    assert measure_head_scores(model, encoded(rows)).calibrated is None


def _with_query(row, n_query):
    """The row with two other query tokens."""
    tokens, types, parts = row
    return (
        [tokens[0], 91, 92, *tokens[n_query + 1 :]],
        [0, 0, 0, *types[n_query + 1 :]],
        [0, 1, 1, *parts[n_query + 1 :]],
    )


def _attention(values):
    """Tokens of one pair, layer and head, the same in both directions."""
    values = torch.tensor(values, dtype=torch.float64).expand(1, 2, 1, 1, -1)
    return _TokenAttention(values, torch.ones(1, 1, values.shape[-1], dtype=torch.bool))


def test_tokens_far_below_the_mean_are_dropped_and_those_at_it_kept():
    """Nine tokens at 0 and one at -1: mean -.1, sd .316, threshold -.732."""
    free = _attention([0.5] * 10)
    found = _attention([0.5] * 9 + [-0.5]).calibrated(free, 0.0)
    assert found.ravel().tolist() == [0.0, 0.0]
    kept = _attention([0.5] * 5 + [-0.5] * 5).calibrated(free, 0.0)  # mean -.5, sd .527: -1 is above -1.554
    assert kept.ravel().tolist() == pytest.approx([-5.0, -0.5])


def test_tokens_that_differ_by_rounding_are_all_kept():
    """One of many lies below mean - 2 sd, by a last bit: it is no outlier."""
    values = [0.25] * 20
    values[7] -= 2.0**-52
    found = _attention(values).calibrated(_attention([0.125] * 20), 64 * np.finfo(float).eps)
    assert found.ravel().tolist() == pytest.approx([2.5, 0.125], abs=1e-12)
    assert _attention([0.25]).calibrated(_attention([0.5]), 0.0).ravel().tolist() == [-0.25, -0.25]  # a single token


def test_rounding_is_of_the_larger_of_the_two_runs():
    """What is left of 1e-6 less .9: beside .9 a last bit is nothing, beside 1e-6 much."""
    theirs = [0.9] * 20
    theirs[7] += 2.0**-52
    found = _attention([1e-6] * 20).calibrated(_attention(theirs), 64 * np.finfo(float).eps)
    assert found.ravel().tolist() == pytest.approx([20 * (1e-6 - 0.9), 1e-6 - 0.9], abs=1e-12)


def test_a_model_whose_attention_is_even_but_for_last_bits_drops_no_token():
    """float32, logits of some 1e-7: tokens differ by a bit or two, and the calibrated score is the difference of the masses."""
    model = port(tiny_hf(seed=5), torch.float32)
    for block in model.blocks:
        block.attn.W_K.data *= 3e-7
        block.attn.b_K.data *= 0
    rows = tiny_rows(((3, 17), (2, 19), (1, 23)), seed=3)
    free = [_with_query(row, n) for row, n in zip(rows, (3, 2, 1), strict=True)]
    found = measure_head_scores(model, encoded(rows), encoded(free))
    others = measure_head_scores(model, encoded(free)).mass
    np.testing.assert_allclose(found.calibrated, found.mass - others, atol=2e-6)
    tokens = _token_attention(model, encoded(rows).batch([0, 1, 2])).values
    assert (tokens[0, :, :, :, :17].diff() != 0).any()  # last bits there are


def test_the_core_score_is_a_softmax_with_one_relevant_passage_at_a_time():
    scores = np.array([[0.3, 0.1], [0.1, 0.4], [0.2, 0.2], [0.25, 0.1], [0.9, 0.9]])
    relevant, negative = np.array([1, 1, 0, 0, 0], bool), np.array([0, 0, 1, 1, 0], bool)
    found = core_score(scores, relevant, negative, 0.1)
    for head, (a, b, c, d) in enumerate(scores[:4].T.tolist()):
        others = math.exp(c / 0.1) + math.exp(d / 0.1)
        each = [math.exp(x / 0.1) / (math.exp(x / 0.1) + others) for x in (a, b)]
        assert found[head] == pytest.approx(sum(each) / 2, abs=1e-14)
    assert qr_score(scores, relevant).tolist() == pytest.approx([0.2, 0.25])
    sharp = core_score(scores, relevant, negative, 1e-6)  # the share of relevant passages above all negatives
    assert sharp.tolist() == [0.5, 0.5]
    assert core_score(np.full((4, 1), 0.3), relevant[:4], negative[:4], 0.001).tolist() == pytest.approx([1 / 3])


def test_a_query_without_a_side_and_impossible_temperatures_are_refused():
    scores, some, none = np.zeros((2, 1)), np.array([True, False]), np.zeros(2, bool)
    with pytest.raises(ValueError, match="with negative passages, got none"):
        core_score(scores, some, none, 0.1)
    with pytest.raises(ValueError, match="with relevant passages, got none"):
        qr_score(scores, none)
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a temperature above 0"):
            core_score(scores, some, ~some, temperature)


def test_passages_must_be_the_same_on_both_sides():
    model = port(tiny_hf(seed=5), torch.float64)
    rows = tiny_rows(((3, 5), (2, 8)))
    with pytest.raises(ValueError, match="for each of 2 pairs, got 1"):
        measure_head_scores(model, encoded(rows), encoded(rows[:1]))
    with pytest.raises(ValueError, match="expected the passage of pair 0 with a content-free query"):
        measure_head_scores(model, encoded(rows), encoded(rows[::-1]))
    with model.ablating("DOC->QUERY"), pytest.raises(ValueError, match="nothing ablated"):
        measure_head_scores(model, encoded(rows))


def test_the_planted_matching_head_scores_the_share_of_matched_pieces():
    """A matched piece gives 1/(1 + e^-5) of its attention across, others almost none; evenly attending heads give by length."""
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    pairs = graded_pool(n_queries=2, per_grade=2).pairs
    found = measure_head_scores(
        model, model.encode_pairs([pair.query for pair in pairs], [pair.text for pair in pairs])
    ).mass
    assert [str(direction) for direction in RANKER_DIRECTIONS] == ["QUERY->DOC", "DOC->QUERY"]
    for pair, own in zip(pairs, found, strict=True):
        query, passage = pair.query.split(), pair.text.split()
        for direction, (side, other) in enumerate(((query, passage), (passage, query))):
            counts = [other.count(word) for word in side]
            expected = sum(m / (m + math.exp(-5)) for m in counts if m) / len(side)
            assert own[direction][MATCHING_HEAD] == pytest.approx(expected, abs=2e-3)
            assert own[direction][0, 0] == pytest.approx(len(other) / (len(query) + len(passage) + 3), abs=1e-5)
