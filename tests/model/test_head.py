"""The head as one thing: what it reads, its activation made linear in both ways, its gradient at a point."""

import pytest
import torch
from tiny_models import D_MODEL, port, tiny_hf

from tl_crossenc.model.activations import BY_NAME
from tl_crossenc.model.held_run import BEFORE, HeldRun

FUNCTIONS = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "relu": lambda x: x * (x > 0),
    "tanh": lambda x: (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1),
}
POINTS = torch.tensor([-3.1, -1.7, -0.75, -0.2, -1e-4, 1e-4, 0.3, 0.9, 2.2, 4.7], dtype=torch.float64)


def test_every_activation_is_here():
    assert FUNCTIONS.keys() == BY_NAME.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_tangent_is_the_derivative(name):
    x = POINTS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(FUNCTIONS[name](x).sum(), x)
    torch.testing.assert_close(BY_NAME[name].slope(POINTS, "tangent"), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(BY_NAME[name].function(POINTS), FUNCTIONS[name](POINTS), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_secant_goes_through_0_and_the_point(name):
    slope = BY_NAME[name].slope(POINTS, "secant")
    torch.testing.assert_close(slope * POINTS, FUNCTIONS[name](POINTS), rtol=0, atol=1e-13)
    if name != "relu":
        near = BY_NAME[name].slope(torch.tensor([0.0, 1e-11, -1e-11], dtype=torch.float64), "secant")
        assert near.tolist() == pytest.approx([{"tanh": 1.0}.get(name, 0.5)] * 3, abs=1e-10)
    assert torch.isfinite(BY_NAME[name].slope(torch.zeros(3), "secant")).all()


def test_another_way_is_one_sentence():
    with pytest.raises(
        ValueError, match="expected a way of making an activation linear among secant, tangent, got 'x'"
    ):
        BY_NAME["tanh"].slope(POINTS, "x")


@pytest.fixture(scope="module", params=[1, 2], ids=["1-label", "2-labels"])
def net(request):
    return port(tiny_hf(request.param, seed=6))


@pytest.fixture
def resid():
    return torch.randn(7, 3, D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def score(net, row):
    """tanh pooler, linear, and of two labels the second minus the first."""
    pooled = torch.tanh(row @ net.pooler.weight.T + net.pooler.bias)
    logits = pooled @ net.classifier.weight.T + net.classifier.bias
    return logits[..., 0] if net.cfg.n_labels == 1 else logits[..., 1] - logits[..., 0]


def held(net, resid, **more):
    pre = (resid[:, 0] @ net.pooler.weight.T + net.pooler.bias).detach()
    return HeldRun({"pooler.hook_pre": pre, **more})


def test_only_the_first_row_is_read(net, resid):
    assert net.reads_only_first_row
    expected = score(net, resid[:, 0])
    moved = torch.cat([resid[:, :1], resid[:, 1:] + 1], 1)
    for given in (resid, moved, resid[:, :1]):
        torch.testing.assert_close(net.score_of(net.head.logits(given)), expected, rtol=0, atol=1e-12)


def test_by_the_tangent_the_row_is_worth_the_scores_gradient(net, resid):
    row = resid[:, 0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(score(net, row).sum(), row)
    found = net.head.carry_back(held(net, resid), "tangent")
    assert found.resid.shape == (7, 1, D_MODEL)
    torch.testing.assert_close(found.resid[:, 0], expected, rtol=0, atol=1e-12)


def test_by_the_secant_worth_and_constant_sum_to_the_score(net, resid):
    found = net.head.carry_back(held(net, resid), "secant")
    total = (found.resid[:, 0] * resid[:, 0]).sum(-1) + found.constant
    torch.testing.assert_close(total, score(net, resid[:, 0]), rtol=0, atol=1e-12)
    u = resid[:, 0] @ net.pooler.weight.T + net.pooler.bias
    w = net.classifier.weight[-1] - (net.classifier.weight[0] if net.cfg.n_labels == 2 else 0)
    c = net.classifier.bias[-1] - (net.classifier.bias[0] if net.cfg.n_labels == 2 else 0)
    constant = (torch.tanh(u) / u) @ (w * net.pooler.bias) + c
    torch.testing.assert_close(found.constant, constant, rtol=0, atol=1e-12)


def test_what_hooks_added_inside_of_the_head_is_in_the_constant(net, resid):
    plain = net.head.carry_back(held(net, resid), "secant")
    out = torch.linspace(-1, 1, D_MODEL, dtype=torch.float64).expand(7, -1)
    logits = torch.arange(7 * net.cfg.n_labels, dtype=torch.float64).reshape(7, -1) ** 2
    more = {
        "pooler.hook_pooler_out": out,
        BEFORE + "pooler.hook_pooler_out": out - 0.25,
        "classifier.hook_logits": logits,
        BEFORE + "classifier.hook_logits": torch.zeros_like(logits),
    }
    found = net.head.carry_back(held(net, resid, **more), "secant")
    w = net.classifier.weight[-1] - (net.classifier.weight[0] if net.cfg.n_labels == 2 else 0)
    added = 0.25 * w.sum() + (logits[:, -1] - (logits[:, 0] if net.cfg.n_labels == 2 else 0))
    torch.testing.assert_close(found.constant, plain.constant + added, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.resid, plain.resid, rtol=0, atol=0)


def test_the_size_of_a_scores_terms(net):
    weight, bias = net.classifier.weight.tolist(), net.classifier.bias.tolist()
    expected = sum(sum(x * x for x in row) ** 0.5 for row in weight) + sum(map(abs, bias))
    assert net.score_scale == net.head.score_scale == pytest.approx(expected, rel=1e-12)


def test_the_head_is_no_module_and_follows_the_models_own(net):
    names = {name for name, _ in net.named_modules()}
    assert {"pooler", "classifier"} <= names
    assert not any(name.startswith("head") for name in names)
    assert net.head.pooler is net.pooler
    assert net.head.classifier is net.classifier
