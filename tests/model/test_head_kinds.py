"""Heads with another activation, or without a dense layer: worth by autograd, sums by hand, the scale by sampling."""

from dataclasses import replace

import family_texts as texts
import pytest
import torch
from family_worlds import build

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.instruments.direct_attribution import direct_attribution
from tl_crossenc.model.held_run import HeldRun

QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))
FUNCTIONS = {
    "electra": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "distilbert": lambda x: torch.where(x > 0, x, 0.0),
    "bert": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
}
UNBOUNDED = [name for name in FUNCTIONS if name != "bert"]


@pytest.fixture(scope="module", params=[(name, labels) for name in FUNCTIONS for labels in (1, 2)], ids=str)
def named(request, tmp_path_factory):
    """(world's name, model) in float64."""
    return request.param[0], opened(*request.param, tmp_path_factory.mktemp("head"))


def opened(name, n_labels, folder, dtype="float64"):
    build(name, n_labels).write(folder, "safetensors")
    return HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype=dtype)


def rows(seed=5, n=7, d_model=21):
    return torch.randn(n, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pre_of(model, row):
    return row @ model.pooler.weight.T + model.pooler.bias


def score(name, model, row):
    logits = FUNCTIONS[name](pre_of(model, row)) @ model.classifier.weight.T + model.classifier.bias
    return logits[:, 0] if model.cfg.n_labels == 1 else logits[:, 1] - logits[:, 0]


def test_the_head_is_the_familys(named):
    name, model = named
    row = rows()
    torch.testing.assert_close(
        model.score_of(model.head.logits(row[:, None])), score(name, model, row), rtol=0, atol=1e-12
    )


def test_by_the_tangent_a_row_is_worth_the_scores_gradient(named):
    name, model = named
    row = rows().requires_grad_()
    (expected,) = torch.autograd.grad(score(name, model, row).sum(), row)
    found = model.head.carry_back(HeldRun({"pooler.hook_pre": pre_of(model, row).detach()}), "tangent")
    torch.testing.assert_close(found.resid[:, 0], expected, rtol=0, atol=1e-12)


def test_by_the_secant_worth_and_constant_sum_to_the_score(named):
    name, model = named
    row = rows()
    found = model.head.carry_back(HeldRun({"pooler.hook_pre": pre_of(model, row).detach()}), "secant")
    torch.testing.assert_close(
        (found.resid[:, 0] * row).sum(-1) + found.constant, score(name, model, row).detach(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", UNBOUNDED)
def test_what_nothing_bounds_is_as_large_as_what_a_norm_gives_makes_it(name, tmp_path):
    model = opened(name, 2, tmp_path)
    normal = rows(seed=1, n=200_000)
    with torch.no_grad():
        pre = pre_of(model, normal * model.stack.ln2_weight[-1] + model.stack.ln2_bias[-1])
        sizes = pre.square().mean(0).sqrt()
        assert (FUNCTIONS[name](pre).square().mean(0).sqrt() <= sizes).all()
        terms = (model.classifier.weight * sizes).square().sum(1).sqrt()
        expected = float(terms.sum() + model.classifier.bias.abs().sum())
    assert model.score_scale == pytest.approx(expected, rel=0.01)  # sampling leaves some .2 %


def test_weights_moved_from_one_matrix_to_the_next_change_neither_scores_nor_their_scale(tmp_path):
    model = opened("distilbert", 2, tmp_path)
    scores, scale = model.score(QUERIES, PASSAGES), model.score_scale
    with torch.no_grad():
        for weight in (model.pooler.weight, model.pooler.bias):
            weight.mul_(37)
        model.classifier.weight.div_(37)
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), scores, rtol=0, atol=1e-12)
    assert model.score_scale == pytest.approx(scale, rel=1e-12)


@pytest.mark.parametrize("name", UNBOUNDED)
def test_the_scale_follows_the_classifiers_size_and_holds_float32s_noise(name, tmp_path):
    exact, rounded = (opened(name, 1, tmp_path / dtype, dtype) for dtype in ("float64", "float32"))
    noise = (exact.score(QUERIES, PASSAGES) - rounded.score(QUERIES, PASSAGES)).abs().max()
    assert 0 < noise < 1e-5 * exact.score_scale
    assert exact.score(QUERIES, PASSAGES).abs().max() < 10 * exact.score_scale
    before = exact.score_scale
    with torch.no_grad():
        for weight in (exact.classifier.weight, exact.classifier.bias):
            weight.mul_(-5)
    assert exact.score_scale == pytest.approx(5 * before, rel=1e-12)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_final_norm_is_read_through_where_there_is_no_dense_layer(pooling, tmp_path):
    dense = opened("modernbert-cls", 2, tmp_path)
    model = HookedCrossEncoder(replace(dense.cfg, head_dense=False, pooling=pooling), dense.tokenizer).eval()
    model.load_state_dict(dense.state_dict(), strict=False)
    assert model.pooler is None
    pairs = model.to_pairs(QUERIES, PASSAGES)
    norm, logits = model.ln_final, []
    for row, real in zip(model(pairs, return_type="resid"), pairs.attention_mask, strict=True):
        x = row[:1] if pooling == "cls" else row[real]
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
        logits.append(model.classifier.weight @ (x * norm.weight + norm.bias).sum(0) / len(x) + model.classifier.bias)
    expected = torch.stack(logits)
    torch.testing.assert_close(model(pairs, return_type="logits"), expected, rtol=0, atol=1e-12)
    with model.hooks(fwd_hooks=[("ln_final.hook_normalized", lambda x, hook: x * 1.25)]):
        split, scores = direct_attribution(model, pairs), model(pairs)
    assert split.explained == pytest.approx(scores.detach().numpy(), abs=1e-10)
