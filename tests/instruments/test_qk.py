"""Spectra against dense decompositions and known answers; part means against Hugging Face's hidden states, token by token."""

import numpy as np
import pytest
import torch
from qk_references import encoded, heads, hidden_states
from tiny_models import D_HEAD, D_MODEL, N_HEADS, N_LAYERS, SIZES, port, run_hf, tiny_hf, tiny_rows, to_batch

from tl_crossenc.instruments.qk import PartMoments, mean_scores, part_moments, spectrum, visit_reads

CODES = (1, 3)  # query, passage


@pytest.fixture
def hf64(hf):
    """The tiny Hugging Face classifier in float64."""
    return hf.double()


def one_head(matrix):
    """A as W_Q = A, W_K = I, with the axes of layer and head."""
    matrix = torch.as_tensor(matrix, dtype=torch.float64)[None, None]
    return spectrum(matrix, torch.eye(matrix.shape[-1], dtype=torch.float64)[None, None])


# Spectra.


def test_spectrum_equals_that_of_the_dense_matrix(hf64):
    model = port(hf64)
    found = spectrum(model.W_Q, model.W_K)
    assert found.sigma.shape == found.overlap.shape == (N_LAYERS, N_HEADS, D_HEAD)
    for layer in range(N_LAYERS):
        attention = hf64.bert.encoder.layer[layer].attention.self
        for head, (W_Q, W_K) in enumerate(zip(heads(attention.query.weight), heads(attention.key.weight), strict=True)):
            dense = W_Q @ W_K.T
            U, S, Vh = np.linalg.svd(dense)
            overlap = [U[:, k] @ Vh[k] for k in range(D_HEAD)]
            assert np.allclose(found.sigma[layer, head], S[:D_HEAD], rtol=1e-10)
            assert np.allclose(S[D_HEAD:], 0, atol=1e-10)
            assert np.allclose(found.overlap[layer, head], overlap, atol=1e-9)
            assert found.trace[layer, head] == pytest.approx(np.trace(dense), abs=1e-10)
            assert found.cumulative[layer, head, -1] == pytest.approx(np.trace(dense), abs=1e-10)
            assert found.sum_sigma[layer, head] == pytest.approx(S.sum(), rel=1e-10)
            for kept in (1, 3, D_HEAD):
                partial = sum(S[k] * overlap[k] for k in range(kept))
                assert found.cumulative[layer, head, kept - 1] == pytest.approx(partial, abs=1e-10)
                ratio = partial / S[:kept].sum()
                assert found.cumulative_alignment[layer, head, kept - 1] == pytest.approx(ratio, abs=1e-10)
    assert np.allclose(found.alignment, found.cumulative_alignment[..., -1], atol=1e-12)
    assert np.all(np.abs(found.alignment) < 1)


def test_rank_one_head():
    u, v = np.array([3.0, 4.0, 0.0]) / 5, np.array([0.0, 5.0, 12.0]) / 13
    found = spectrum(torch.tensor(7 * u).reshape(1, 1, 3, 1), torch.tensor(v).reshape(1, 1, 3, 1))
    assert found.sigma.ravel() == pytest.approx([7])
    assert found.overlap.ravel() == pytest.approx([20 / 65])
    assert found.trace.item() == pytest.approx(140 / 65)
    assert found.alignment.item() == pytest.approx(20 / 65)


def test_alignment_of_symmetric_skew_and_rotating_heads():
    factor = np.random.default_rng(0).normal(size=(7, 5))
    semidefinite = factor @ factor.T
    skew = np.triu(np.random.default_rng(1).normal(size=(7, 7)), 1)
    angle = 1.1
    turn = np.kron(np.eye(3), [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert one_head(semidefinite).alignment.item() == pytest.approx(1, abs=1e-12)
    assert one_head(-semidefinite).alignment.item() == pytest.approx(-1, abs=1e-12)
    assert one_head(skew - skew.T).alignment.item() == pytest.approx(0, abs=1e-12)
    assert one_head(turn).alignment.item() == pytest.approx(np.cos(angle), abs=1e-12)
    assert one_head(1000 * turn).alignment.item() == pytest.approx(np.cos(angle), abs=1e-12)
    assert one_head(1000 * turn).trace.item() == pytest.approx(6000 * np.cos(angle))


def test_a_head_without_weights_has_no_alignment():
    found = one_head(np.zeros((5, 5)))
    assert found.trace.item() == found.sum_sigma.item() == 0
    assert np.isnan(found.alignment).all()
    assert np.isnan(found.cumulative_alignment).all()


# Part means.


def slow_moments(states, rows, layer, code, weighting):
    """(weight, tokens, mean, weighted sum of squared distances), one token at a time."""
    vectors, weights = [], []
    for state, (_, _, parts) in zip(states, rows, strict=True):
        at = [i for i, part in enumerate(parts) if part == code]
        vectors += [state[layer, i] for i in at]
        weights += [1.0 if weighting == "token" else 1 / max(len(at), 1)] * len(at)
    mean = sum(w * x for w, x in zip(weights, vectors, strict=True)) / sum(weights)
    square = sum(w * ((x - mean) ** 2).sum() for w, x in zip(weights, vectors, strict=True))
    return sum(weights), len(weights), mean, square


@pytest.mark.parametrize("weighting", ["token", "pair"])
@pytest.mark.parametrize("token_budget", [1, 17, 4096])
def test_part_means_and_spread(hf64, rows, weighting, token_budget):
    found = part_moments(port(hf64), encoded(rows), weighting=weighting, token_budget=token_budget)
    states = hidden_states(hf64, rows)
    for layer in range(N_LAYERS):
        for part, code in enumerate(CODES):
            weight, tokens, mean, square = slow_moments(states, rows, layer, code, weighting)
            assert found.weight[part] == pytest.approx(weight)
            assert found.tokens[part] == tokens
            assert np.allclose(found.mean[layer, part], mean, atol=1e-9)
            assert found.square[layer, part] == pytest.approx(square, rel=1e-9)
            assert found.spread[layer, part] == pytest.approx((square / weight) ** 0.5, rel=1e-9)


def test_weightings_differ_and_count_what_they_say(model, rows):
    by_token, by_pair = (part_moments(model, encoded(rows), weighting=w) for w in ("token", "pair"))
    assert by_token.weight.tolist() == [sum(q for q, _ in SIZES), sum(d for _, d in SIZES)]
    assert by_pair.weight == pytest.approx([4, 3])  # one passage is empty
    assert np.abs(by_token.mean - by_pair.mean).max() > 1e-3


@pytest.mark.parametrize("weighting", ["token", "pair"])
def test_sums_of_moments_are_moments_of_all(model, rows, weighting):
    parts = [part_moments(model, encoded(some), weighting=weighting) for some in (rows[:1], rows[1:3], rows[3:])]
    whole = part_moments(model, encoded(rows), weighting=weighting)
    for merged in (
        (parts[0] + parts[1]) + parts[2],
        parts[2] + (PartMoments.empty(N_LAYERS, D_MODEL) + parts[0]) + parts[1],
    ):
        assert np.allclose(merged.mean, whole.mean, atol=1e-12)
        assert np.allclose(merged.square, whole.square, rtol=1e-10)
        assert np.allclose(merged.weight, whole.weight)
        assert merged.tokens.tolist() == whole.tokens.tolist()


def test_only_empty_passages(model):
    found = part_moments(model, encoded(tiny_rows(((3, 0), (2, 0)))))
    assert found.weight.tolist() == [5, 0]
    assert np.isfinite(found.spread[:, 0]).all()
    assert np.isnan(found.spread[:, 1]).all()


def test_no_pairs_at_all(model):
    found = part_moments(model, encoded([]))
    assert found.weight.tolist() == [0, 0]
    assert found.mean.shape == (N_LAYERS, 2, D_MODEL)


def test_unknown_weighting(model, rows):
    with pytest.raises(ValueError, match="expected a weighting among token, pair, got 'word'"):
        part_moments(model, encoded(rows), weighting="word")


def test_ablations_change_later_means_and_not_the_first(model, rows):
    plain = part_moments(model, encoded(rows))
    with model.ablating("DOC->QUERY", layers=[0]):
        ablated = part_moments(model, encoded(rows))
    change = np.abs(plain.mean - ablated.mean).max(-1)
    assert change[0].tolist() == [0, 0]
    assert change[1, 0] == 0
    assert change[1, 1] > 1e-3
    assert change[2].min() > 1e-3


def test_a_model_of_one_layer():
    hf = tiny_hf(num_hidden_layers=1).double()
    seen = {}
    batch = to_batch(tiny_rows())
    with torch.no_grad():
        visit_reads(port(hf), batch, lambda layer, resid: seen.update({layer: resid}))
    assert list(seen) == [0]
    real = batch.attention_mask
    assert torch.allclose(seen[0][real], run_hf(hf, batch).hidden_states[0][real], atol=1e-12)


# Products of means.


@pytest.fixture
def mean():
    """Some q and d a layer."""
    return np.random.default_rng(5).normal(size=(N_LAYERS, 2, D_MODEL))


def test_products_and_contrasts_by_hand(hf64, mean):
    found = mean_scores(port(hf64), mean)
    assert found.scale == 7**0.5
    for layer in range(N_LAYERS):
        attention = hf64.bert.encoder.layer[layer].attention.self
        for head in range(N_HEADS):
            W_Q, W_K = heads(attention.query.weight)[head], heads(attention.key.weight)[head]
            b_Q, b_K = (
                m.bias.detach().numpy()[head * D_HEAD : (head + 1) * D_HEAD] for m in (attention.query, attention.key)
            )
            q, d = mean[layer]
            plain = {(x, y): s @ W_Q @ W_K.T @ t for x, s in enumerate((q, d)) for y, t in enumerate((q, d))}
            biased = {
                (x, y): (s @ W_Q + b_Q) @ (t @ W_K + b_K) for x, s in enumerate((q, d)) for y, t in enumerate((q, d))
            }
            for (x, y), value in plain.items():
                assert found.plain[layer, head, x, y] == pytest.approx(value, abs=1e-10)
                assert found.biased[layer, head, x, y] == pytest.approx(biased[x, y], abs=1e-10)
            at = layer, head
            assert found.contrast[at] == pytest.approx(plain[0, 1] - plain[1, 1], abs=1e-10)
            assert found.contrast_biased[at] == pytest.approx(biased[0, 1] - biased[1, 1], abs=1e-10)
            assert found.other_contrast[at] == pytest.approx(plain[1, 0] - plain[1, 1], abs=1e-10)
            assert found.other_contrast_biased[at] == pytest.approx(biased[1, 0] - biased[1, 1], abs=1e-10)


def test_each_contrast_ignores_one_bias(model, mean):
    before = mean_scores(model, mean)
    model.b_Q.add_(2.5)
    moved_q = mean_scores(model, mean)
    model.b_Q.sub_(2.5)
    model.b_K.add_(2.5)
    moved_k = mean_scores(model, mean)
    assert np.array_equal(before.contrast_biased, moved_q.contrast_biased)
    assert np.abs(before.contrast_biased - moved_k.contrast_biased).min() > 1e-6
    assert np.abs(before.other_contrast_biased - moved_q.other_contrast_biased).min() > 1e-6
    assert np.allclose(before.other_contrast_biased, moved_k.other_contrast_biased, rtol=0, atol=1e-12)
    for moved in (moved_q, moved_k):
        assert np.array_equal(before.plain, moved.plain)
        assert np.abs(before.biased - moved.biased).max() > 0.1


def test_means_of_another_model(model):
    with pytest.raises(ValueError, match=r"expected means of shape \(3, 2, 21\), got \(3, 2, 20\)"):
        mean_scores(model, np.zeros((3, 2, 20)))
