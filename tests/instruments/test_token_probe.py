"""Zhan et al.'s probe against loops: its maximum over a pair's own tokens, its training step by step, and what it can find."""

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
import torch

from tl_crossenc.instruments.token_probe import TokenProbe, TokenProbeSettings, fit_token_probe, token_probe_scores

WIDTH = 7
LENGTHS = (3, 1, 5, 2, 4)


def tokens(lengths=LENGTHS, seed=0):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return np.random.default_rng(seed).normal(size=(offsets[-1], WIDTH)).astype(np.float32), offsets


def by_loops(probe, states, offsets):
    """Logits `[pair, 2]`, each number written out."""
    W, b, V, c = (p.detach().numpy() for p in (*probe.inner.parameters(), *probe.last.parameters()))
    found = []
    for start, stop in pairwise(offsets):
        each = [V @ np.tanh(W @ state + b) + c for state in states[start:stop]]
        found.append([max(logits[0] for logits in each), max(logits[1] for logits in each)])
    return np.array(found)


def test_a_pairs_logits_are_the_maximum_over_its_own_tokens():
    """Biases far below 0: what is padded with zeros would not show as much."""
    probe, (states, offsets) = TokenProbe(WIDTH).eval(), tokens()
    with torch.no_grad():
        probe.last.bias[:] = torch.tensor([-9.0, -7.0])
    expected = by_loops(probe, states, offsets)
    found = token_probe_scores(probe, states, offsets)
    np.testing.assert_allclose(found, expected[:, 1] - expected[:, 0], atol=1e-5)
    for pair in range(len(LENGTHS)):
        own = states[offsets[pair] : offsets[pair + 1]]
        np.testing.assert_allclose(token_probe_scores(probe, own, np.array([0, len(own)])), found[[pair]], atol=1e-6)


def test_training_is_adamw_on_clipped_gradients_with_a_rate_that_falls_to_nothing():
    """All pairs in one batch and no dropout, so that an epoch is a step; each step by hand."""
    states, offsets = tokens()
    labels = np.array([1, 0, 0, 1, 1])
    settings = TokenProbeSettings(dropout=0.0, learning_rate=0.05, weight_decay=0.3, epochs=4, clip=0.2)
    found = fit_token_probe(states, offsets, labels, settings, seed=3)
    torch.manual_seed(3)
    own = TokenProbe(WIDTH, 0.0).double()
    params = list(own.parameters())
    first, second = ([torch.zeros_like(p) for p in params] for _ in range(2))
    given, norms = torch.from_numpy(states).double(), []
    for step in range(4):
        logits = torch.stack(
            [
                own.last(torch.tanh(own.inner(given[offsets[i] : offsets[i + 1]]))).max(0).values
                for i in range(len(LENGTHS))
            ]
        )
        loss = -torch.log_softmax(logits, 1)[range(5), labels].mean()
        grads = torch.autograd.grad(loss, params)
        norm = torch.sqrt(sum((g**2).sum() for g in grads))
        norms.append(float(norm))
        rate = 0.05 * (1 - step / 4)
        with torch.no_grad():
            for p, g, m, v in zip(params, grads, first, second, strict=True):
                g = g * min(1.0, 0.2 / float(norm))
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                p.mul_(1 - rate * 0.3)
                p -= rate * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    assert min(norms) > 0.2  # each was clipped
    for mine, theirs in zip(params, found.parameters(), strict=True):
        np.testing.assert_allclose(theirs.detach().double(), mine.detach(), atol=2e-4)


def test_what_is_not_said_is_the_papers():
    """Zhan et al. 2020, probing/: AdamW 1e-4, weight decay 1e-5, batches of 32, five epochs, clipped at 1, dropout .1."""
    expected = {"learning_rate": 1e-4, "weight_decay": 1e-5, "batch": 32, "epochs": 5, "clip": 1.0, "dropout": 0.1}
    assert asdict(TokenProbeSettings()) == expected
    assert TokenProbe(WIDTH).dropout.p == 0.1


def test_dropout_is_before_each_of_the_two_maps():
    states, offsets = tokens()
    probe = TokenProbe(WIDTH, 0.4).train()
    torch.manual_seed(5)
    found = probe(torch.from_numpy(states), torch.tensor(LENGTHS))
    torch.manual_seed(5)
    first, second = (torch.nn.functional.dropout(torch.ones(len(states), WIDTH), 0.4) for _ in range(2))
    each = probe.last(second * torch.tanh(probe.inner(first * torch.from_numpy(states))))
    expected = [each[start:stop].max(0).values for start, stop in pairwise(offsets)]
    torch.testing.assert_close(found, torch.stack(expected))
    assert (first == 0).any()
    assert (second == 0).any()


def test_batches_are_of_pairs_in_an_order_drawn_anew_each_epoch_and_the_last_is_what_is_left():
    """Five pairs in twos: three steps an epoch, of two epochs, at rates that fall by a sixth each."""
    states, offsets = tokens()
    labels, given = torch.tensor([1, 0, 0, 1, 1]), torch.from_numpy(states)
    settings = TokenProbeSettings(dropout=0.0, learning_rate=0.05, weight_decay=0.2, epochs=2, batch=2, clip=1e6)
    found = fit_token_probe(states, offsets, labels.numpy(), settings, seed=4)
    torch.manual_seed(4)
    own = TokenProbe(WIDTH, 0.0)
    steps = iter(range(6))
    optimizer = torch.optim.AdamW(own.parameters(), lr=1.0, weight_decay=0.2)
    seen = []
    for _ in range(2):
        order = torch.randperm(5).tolist()
        seen.append(order)
        for some in (order[:2], order[2:4], order[4:]):
            each = [own.last(torch.tanh(own.inner(given[offsets[i] : offsets[i + 1]]))).max(0).values for i in some]
            optimizer.param_groups[0]["lr"] = 0.05 * (6 - next(steps)) / 6
            optimizer.zero_grad()
            (-torch.log_softmax(torch.stack(each), 1)[range(len(some)), labels[some]].mean()).backward()
            optimizer.step()
    for mine, theirs in zip(own.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=1e-4)
    assert seen[0] != seen[1]


def test_it_finds_a_token_that_stands_out_in_pairs_it_has_not_seen_and_nothing_where_there_is_none():
    rng = np.random.default_rng(4)
    lengths = rng.integers(2, 9, 400)
    states, offsets = tokens(lengths)
    labels = rng.integers(0, 2, 400)
    plain = states.copy()
    for pair in np.flatnonzero(labels):
        states[rng.integers(offsets[pair], offsets[pair + 1])] += 3.0
    settings = TokenProbeSettings(learning_rate=1e-2, epochs=8)
    half, rest = slice(0, offsets[200]), slice(offsets[200], None)
    rank = []
    for given in (states, plain):
        probe = fit_token_probe(given[half], offsets[:201], labels[:200], settings, seed=1)
        scores = token_probe_scores(probe, given[rest], offsets[200:] - offsets[200])
        asked = labels[200:]
        rank.append(np.mean(scores[asked == 1][:, None] > scores[asked == 0]))
    assert rank[0] > 0.97
    assert 0.4 < rank[1] < 0.6


def test_the_same_seed_trains_the_same_probe_and_nothing_else_is_drawn_from():
    states, offsets = tokens()
    labels = np.array([1, 0, 0, 1, 1])
    torch.manual_seed(8)
    before = torch.get_rng_state()
    one, same, other = (fit_token_probe(states, offsets, labels, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.inner.weight, same.inner.weight)
    assert not torch.equal(one.inner.weight, other.inner.weight)
    assert not one.training


def test_what_cannot_be_trained_is_said():
    states, offsets = tokens()
    with pytest.raises(ValueError, match="leave out pairs whose set is empty"):
        fit_token_probe(states, np.array([0, 3, 3, 15]), np.array([1, 0, 1]))
    with pytest.raises(ValueError, match="expected a label 0 or 1 of each of 5 pairs, got"):
        fit_token_probe(states, offsets, np.array([1, 0, 2, 1, 1]))
    with pytest.raises(ValueError, match="expected positive numbers and a dropout below 1"):
        TokenProbeSettings(epochs=0)
