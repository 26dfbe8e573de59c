"""The four terms of the score, against a loop over token pairs on Hugging Face's hidden states in float64."""

import numpy as np
import pytest
import torch
from qk_references import encoded, heads, hidden_states
from tiny_models import D_MODEL, N_HEADS, N_LAYERS, port, tiny_rows, to_batch

from tl_crossenc.instruments.qk_terms import TERM_DIRECTIONS, TermMoments, term_moments

CODES = (1, 3)  # query, passage
SIDES = ((0, 1), (1, 0))  # attender, attended
EVERY = [(d, layer, head) for d in range(2) for layer in range(N_LAYERS) for head in range(N_HEADS)]


@pytest.fixture
def hf64(hf):
    """The tiny Hugging Face classifier in float64."""
    return hf.double()


@pytest.fixture
def some_rows():
    """Pairs of uneven length, one with an empty passage, three with a word piece on both sides, once twice."""
    rows = tiny_rows(((3, 5), (2, 8), (1, 1), (4, 0), (2, 3)))
    for pair, query, passage in ((0, 2, 7), (1, 1, 4), (1, 1, 9), (4, 2, 4)):
        rows[pair][0][passage] = rows[pair][0][query]
    return rows


@pytest.fixture
def mean():
    """Some q and d a layer, not those of the pairs: the algebra holds for any."""
    return np.random.default_rng(5).normal(size=(N_LAYERS, 2, D_MODEL))


def slow_terms(hf, rows, mean):
    """`{(direction, layer, head): [(pair, i, j, equal, four terms, whole score)]}`."""
    states = hidden_states(hf, rows)
    found = {}
    for d, (row, column) in enumerate(SIDES):
        for layer in range(N_LAYERS):
            attention = hf.bert.encoder.layer[layer].attention.self
            m, n = mean[layer, row], mean[layer, column]
            matrices = zip(heads(attention.query.weight), heads(attention.key.weight), strict=True)
            for head, (W_Q, W_K) in enumerate(matrices):
                A = W_Q @ W_K.T / np.sqrt(7)
                entries = found[d, layer, head] = []
                for pair, (tokens, _, parts) in enumerate(rows):
                    for i, p in enumerate(parts):
                        for j, o in enumerate(parts):
                            if (p, o) == (CODES[row], CODES[column]):
                                x, y = states[pair][layer, i] - m, states[pair][layer, j] - n
                                terms = [m @ A @ n, x @ A @ n, m @ A @ y, x @ A @ y]
                                score = states[pair][layer, i] @ A @ states[pair][layer, j]
                                entries.append((pair, i, j, tokens[i] == tokens[j], terms, score))
    return found


def centred_in_rows(entries, values):
    """`values` less their mean over the entries of the same pair and attender."""
    values, groups = np.asarray(values), {}
    for at, entry in enumerate(entries):
        groups.setdefault(entry[:2], []).append(at)
    centred = values.copy()
    for members in groups.values():
        centred[members] -= values[members].mean()
    return centred


@pytest.mark.parametrize("token_budget", [1, 23, 4096])
def test_every_share_equals_the_loop(hf64, some_rows, mean, token_budget):
    found = term_moments(port(hf64), encoded(some_rows), mean, token_budget=token_budget)
    assert [str(direction) for direction in TERM_DIRECTIONS] == ["QUERY->DOC", "DOC->QUERY"]
    for at, entries in slow_terms(hf64, some_rows, mean).items():
        terms, score = np.array([entry[4] for entry in entries]), np.array([entry[5] for entry in entries])
        assert np.allclose(terms.sum(1), score, atol=1e-9)  # the decomposition is exact
        epsilon = terms[:, 1] + terms[:, 2]
        assert found.count[at[0]] == len(entries) == 3 * 5 + 2 * 8 + 1 + 2 * 3
        assert found.mean_square[at] == pytest.approx((score**2).mean(), rel=1e-8)
        assert found.variance[at] == pytest.approx(score.var(), rel=1e-7)
        assert found.shares[at] == pytest.approx((terms * score[:, None]).mean(0) / (score**2).mean(), abs=1e-8)
        assert found.square_ratios[at] == pytest.approx((terms**2).mean(0) / (score**2).mean(), rel=1e-7)
        covariances = [np.cov(term, score, bias=True)[0, 1] for term in terms.T]
        assert found.variance_shares[at] == pytest.approx(np.array(covariances) / score.var(), abs=1e-7)
        assert found.epsilon_ratio[at] == pytest.approx(((epsilon**2).mean() / (score**2).mean()) ** 0.5, rel=1e-7)
        two_terms = terms[:, 0] + terms[:, 3]
        residual = ((score - two_terms) ** 2).sum() / ((score - score.mean()) ** 2).sum()
        assert found.two_term_r2[at] == pytest.approx(1 - residual, rel=1e-6)
        in_rows = centred_in_rows(entries, score)
        missed = in_rows - centred_in_rows(entries, terms[:, 3])
        assert found.row_r2[at] == pytest.approx(1 - (missed**2).sum() / (in_rows**2).sum(), rel=1e-6)
        equal = np.array([entry[3] for entry in entries])
        assert found.match_count[at[0]] == equal.sum() >= 4
        lift = (terms[equal, 3].mean() - terms[~equal, 3].mean()) / terms[:, 3].std()
        assert found.match_lift[at] == pytest.approx(lift, rel=1e-7)
    assert np.allclose(found.shares.sum(-1), 1)
    assert np.allclose(found.variance_shares.sum(-1), 1)


def test_without_biases_the_whole_is_the_models_own_score(hf64, some_rows, mean):
    with torch.no_grad():
        for layer in hf64.bert.encoder.layer:
            layer.attention.self.query.bias.zero_()
            layer.attention.self.key.bias.zero_()
    model = port(hf64)
    found = term_moments(model, encoded(some_rows), mean)
    batch = to_batch(some_rows)
    _, cache = model.run_with_cache(batch, return_type="logits")
    codes = batch.parts.codes
    for d, (row, column) in enumerate(SIDES):
        kept = (codes == CODES[row])[:, :, None] & (codes == CODES[column])[:, None, :]
        for layer in range(N_LAYERS):
            scores = cache[f"blocks.{layer}.attn.hook_attn_scores"].transpose(0, 1)[:, kept].detach()
            assert np.allclose(found.mean_square[d, layer], scores.square().mean(1), rtol=1e-8)
            assert np.allclose(found.variance[d, layer], scores.var(1, correction=0), rtol=1e-7)


def test_with_means_of_zero_the_interaction_is_all(model, some_rows):
    found = term_moments(model, encoded(some_rows), np.zeros((N_LAYERS, 2, D_MODEL)))
    for at in EVERY:
        assert found.shares[at] == pytest.approx([0, 0, 0, 1])
        assert found.epsilon_ratio[at] == 0
        assert found.two_term_r2[at] == found.row_r2[at] == 1


def test_directions_swap_with_the_weights(model, some_rows, mean):
    before = term_moments(model, encoded(some_rows), mean)
    swapped = model.W_Q[0].clone(), model.W_K[0].clone()
    model.W_Q[0].copy_(swapped[1])
    model.W_K[0].copy_(swapped[0])
    after = term_moments(model, encoded(some_rows), mean)
    order = [0, 2, 1, 3]  # attender and attended change places
    assert np.allclose(before.shares[0, 0], after.shares[1, 0][:, order], atol=1e-9)
    assert np.allclose(before.variance[1, 0], after.variance[0, 0], rtol=1e-9)


def test_sums_of_moments_are_moments_of_all(model, some_rows, mean):
    parts = [term_moments(model, encoded(rows), mean) for rows in (some_rows[3:], some_rows[:2], some_rows[2:3])]
    whole = term_moments(model, encoded(some_rows), mean)
    merged = parts[0] + (TermMoments.empty(N_LAYERS, N_HEADS) + parts[1]) + parts[2]
    for name in ("count", "sums", "products", "row_products", "match_count", "match_sums"):
        assert np.allclose(getattr(merged, name), getattr(whole, name), rtol=1e-9, atol=1e-9), name


def test_single_precision_is_near(hf, some_rows, mean):
    exact = term_moments(port(hf, torch.float64), encoded(some_rows), mean)
    near = term_moments(port(hf, torch.float32), encoded(some_rows), mean)
    assert np.allclose(near.shares, exact.shares, atol=1e-3)


def test_empty_passages_and_no_pairs_count_nothing(model, mean):
    for rows in (tiny_rows(((3, 0), (2, 0))), []):
        found = term_moments(model, encoded(rows), mean)
        assert found.count.tolist() == [0, 0]
        for name in ("mean_square", "variance", "shares", "epsilon_ratio", "two_term_r2", "row_r2", "match_lift"):
            assert np.isnan(getattr(found, name)).all(), name


def test_no_equal_word_pieces_no_lift(model, mean):
    rows = tiny_rows(((3, 5),))
    rows[0][0][1:4] = [50, 51, 52]
    rows[0][0][5:10] = [60, 61, 62, 63, 60]
    found = term_moments(model, encoded(rows), mean)
    assert found.match_count.tolist() == [0, 0]
    assert np.isnan(found.match_lift).all()
    assert np.isfinite(found.row_r2).all()


def test_a_head_without_weights_has_no_shares(model, some_rows, mean):
    model.W_K[1, 2].zero_()
    found = term_moments(model, encoded(some_rows), mean)
    assert found.mean_square[:, 1, 2].tolist() == [0, 0]
    assert np.isnan(found.shares[:, 1, 2]).all()
    assert np.isnan(found.epsilon_ratio[:, 1, 2]).all()
    assert np.isfinite(found.shares[:, 1, 1]).all()
