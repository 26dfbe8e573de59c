"""Conductance against a slow literal integral, against captum, by its cuts, and by hand."""

import logging

import numpy as np
import pytest
import tiny_models as tiny
import torch
from captum.attr import LayerConductance
from family_models import opened
from type_checks import unchecked

from tl_crossenc.checkpoints.planted import MOVING_HEAD, SINK_HEAD
from tl_crossenc.instruments.baselines import Baseline
from tl_crossenc.instruments.conductance import conductance
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

PAIRS = tiny.encoded(tiny.tiny_rows())
POINTS = {"neurons": "mlp.hook_post", "heads": "attn.hook_z"}


@pytest.fixture(scope="module")
def model():
    return tiny.port(tiny.tiny_hf(n_labels=2, seed=3))


@pytest.fixture(scope="module")
def found(model):
    """Many nodes, whose types are those of the few below, which are checked."""
    with unchecked():
        return conductance(model, PAIRS, "query", nodes=256, token_budget=400)


def literal(model, row, name, nodes=24, step=1e-5):
    """One pair alone: Gauss-Legendre, dF/dh by a backward pass from a hooked run, dh/dt by a central difference; `[pos, ...]`."""
    batch = tiny.to_batch([row])
    base = tiny.to_batch([([7 if part == 1 else token for token, part in zip(row[0], row[2], strict=True)], *row[1:])])
    with torch.no_grad():
        end, start = (model(side, stop_at_layer=0) for side in (batch, base))
    seen = {}

    def run(t):
        resid = (start + t * (end - start)).requires_grad_()
        hook = (name, lambda activation, hook: seen.__setitem__("h", activation))
        with model.hooks(fwd_hooks=[hook]):
            scores = model(resid, attention_mask=batch.attention_mask, start_at_layer=0, return_type="scores")
        return scores, seen["h"]

    total = 0.0
    for at, weight in zip(*np.polynomial.legendre.leggauss(nodes), strict=True):
        t = 0.5 * (1 + at)
        scores, h = run(t)
        (slope,) = torch.autograd.grad(scores.sum(), h)
        speed = (run(t + step)[1] - run(t - step)[1]).detach() / (2 * step)
        total = total + 0.5 * weight * slope * speed
    return total[0].numpy()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("layer", [0, 2])
def test_values_are_those_of_a_slow_integral(model, found, layer):
    for i in (0, 2):
        row = tiny.tiny_rows()[i]
        neurons = literal(model, row, f"blocks.{layer}.mlp.hook_post").sum(0)
        heads = literal(model, row, f"blocks.{layer}.attn.hook_z").sum((0, 2))
        np.testing.assert_allclose(found.neurons[i, layer], neurons, rtol=0, atol=1e-3 * np.abs(neurons).max())
        np.testing.assert_allclose(found.heads[i, layer], heads, rtol=0, atol=1e-3 * np.abs(heads).max())
        assert np.abs(neurons).max() > 1e-3


@pytest.mark.usefixtures("unchecked")
def test_every_cut_adds_up_and_twice_the_steps_leave_a_quarter(model, found):
    half = conductance(model, PAIRS, "query", nodes=128)
    assert found.relative_error.shape == (2, 3, 4)
    assert found.relative_error.max() < 5e-3
    for cut in (0, 1):
        ratio = half.relative_error[cut].sum() / found.relative_error[cut].sum()
        assert ratio == pytest.approx(4, rel=0.05)
    by_hand = found.neurons.sum(-1) + found.around_neurons
    np.testing.assert_allclose(by_hand, np.tile(found.difference[:, None], (1, 3)), rtol=5e-3)
    assert (np.abs(found.neurons.sum(-1) - found.difference[:, None]) > 0.05 * np.abs(found.difference[:, None])).any()
    scores = model(PAIRS.batch()), model(Baseline("query").of(model, PAIRS).batch())
    np.testing.assert_allclose(found.difference, (scores[0] - scores[1]).detach().numpy(), rtol=1e-10)


def test_captum_gives_nearly_the_same(model, found):
    """Its rule is of first order: gradients at the left end, differences forward."""
    batch = PAIRS.batch([1])
    with torch.no_grad():
        end, start = (model(side.batch([1]), stop_at_layer=0) for side in (PAIRS, Baseline("query").of(model, PAIRS)))

    def score(resid, mask):
        return model(resid, attention_mask=mask, start_at_layer=0, return_type="scores")

    values = LayerConductance(score, model.hook_dict["blocks.1.mlp.hook_post"]).attribute(
        end, start, additional_forward_args=(batch.attention_mask,), n_steps=700, method="riemann_trapezoid"
    )
    expected = values.detach().sum(1)[0].numpy()
    np.testing.assert_allclose(found.neurons[1, 1], expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_a_pair_alone_is_the_pair_in_a_batch_under_ablation(model):
    with model.ablating("DOC->QUERY", layers=1):
        together = conductance(model, tiny.to_batch(tiny.tiny_rows()), "query", nodes=32)
        alone = conductance(model, tiny.encoded(tiny.tiny_rows()[1:2]), "query", nodes=32)
        scores = model(PAIRS.batch()).detach().numpy()
    np.testing.assert_allclose(together.scores, scores, rtol=1e-12)
    for name in ("neurons", "heads", "around_neurons", "around_heads", "activity"):
        np.testing.assert_allclose(getattr(alone, name)[0], getattr(together, name)[1], rtol=0, atol=1e-12)


def test_activity_is_that_of_the_pair_where_the_score_depends_on_it(model, found):
    for i, row in enumerate(tiny.tiny_rows()):  # each alone; some of them were padded
        _, cache = model.run_with_cache(tiny.to_batch([row]))
        post = torch.stack([cache["post", layer][0] for layer in range(3)]).detach().numpy()
        expected = [np.sqrt((post[0] ** 2).mean(0)), np.sqrt((post[1] ** 2).mean(0)), np.abs(post[2, 0])]
        np.testing.assert_allclose(found.activity[i], expected, rtol=1e-10)


@pytest.mark.usefixtures("unchecked")
def test_errors_are_of_neurons_then_of_heads_and_of_the_score_asked_for(model, monkeypatch, caplog):
    monkeypatch.setattr("tl_crossenc.instruments.attributed_difference.LARGEST_ERROR", 1e-9)
    told = []
    with caplog.at_level(logging.WARNING):
        one = conductance(model, PAIRS, nodes=32, score="index:1", token_budget=100, progress=told.append)
    assert str(one.baseline) == "both:pad"
    scores = [
        model(side.batch(), return_type="logits")[:, 1].detach() for side in (PAIRS, one.baseline.of(model, PAIRS))
    ]
    np.testing.assert_allclose(one.difference, scores[0] - scores[1], rtol=1e-10)
    for cut, sums in enumerate((one.neurons.sum(-1) + one.around_neurons, one.heads.sum(-1) + one.around_heads)):
        expected = np.abs(sums.T / one.difference - 1)
        np.testing.assert_allclose(one.relative_error[cut], expected, rtol=0, atol=1e-9)
    assert np.abs(one.relative_error[0] - one.relative_error[1]).min() > 1e-8
    assert "24 of 24 sums of attributions to the baseline both:pad miss" in caplog.text
    assert len(told) > 1
    assert sum(told) == 4 * 2 * 33 * 3  # pairs, forth and back, a run more than steps, layers


def test_what_writes_nothing_has_none():
    model = tiny.port(tiny.tiny_hf(n_labels=1, seed=5, hidden_act="relu"))
    model.blocks[1].mlp.W_out[11] = 0.0
    model.blocks[0].mlp.b_in[7] = -1e3  # never above 0
    model.W_O[2, 1] = 0.0
    found = conductance(model, PAIRS, "both", nodes=32)
    assert (found.neurons[:, 1, 11] == 0).all()
    assert (found.neurons[:, 0, 7] == 0).all()
    assert (found.heads[:, 2, 1] == 0).all()
    assert (found.neurons[:3, 0] != 0).any(0).sum() > 20


@pytest.mark.usefixtures("unchecked")
def test_the_planted_moving_head_carries_all_and_the_mlps_nothing(caplog):
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu", dtype="float64")
    pairs = model.encode_pairs("tune a guitar", ["a guitar garden", ""])
    with caplog.at_level(logging.WARNING):
        found = conductance(model, pairs, "passage")
    share = found.heads[0] / found.difference[0]
    assert share[MOVING_HEAD] == pytest.approx(1, abs=1e-2)
    assert abs(share[SINK_HEAD]) < 1e-12
    assert (found.neurons == 0).all()
    assert (found.heads[1] == 0).all()
    assert "passage:pad of 1 of 2 pairs is the pair itself" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["modernbert-mean", "deberta-v2"])
def test_cuts_add_up_in_another_order_of_norms_and_with_other_heads(name, tmp_path):
    """Twice the steps leave about a quarter of the error, also where random weights make the path a rough one."""
    _, model = opened(name, tmp_path)
    pairs = model.encode_pairs("fleas", ["bread"])
    errors = [conductance(model, pairs, "query:mask", nodes=nodes).relative_error for nodes in (50, 100)]
    assert errors[1].max() < 0.05
    assert errors[1].mean() < 0.4 * errors[0].mean()


def test_bad_input_is_one_sentence(model):
    with pytest.raises(ValueError, match="expected at least 32 nodes, got 8"):
        conductance(model, PAIRS, nodes=8)
    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", tiny.no_op)]),
        pytest.raises(ValueError, match="expected a model without hooks"),
    ):
        conductance(model, PAIRS)
