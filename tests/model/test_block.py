"""What a layer can be asked: entered at every stage, and carried back through with its scales held, against a layer written out."""

import pytest
import torch
from tiny_models import N_HEADS, N_LAYERS, port, tiny_hf

from tl_crossenc.model.held_run import BEFORE, HeldRun

STAGES = {"pre": "hook_resid_pre", "mid": "hook_resid_mid", "post": "hook_resid_post"}


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def net(request):
    return port(tiny_hf(2, seed=11), request.param)


@pytest.fixture
def given(net, batch):
    return net.attention_input(batch.attention_mask, batch.parts)


def streams(net, batch):
    """What every layer's stages hold, and the last hook of every layer, with all LayerNorms fused."""
    names = [f"blocks.{i}.{leaf}" for i in range(N_LAYERS) for leaf in (*STAGES.values(), "hook_normalized_resid_post")]
    with torch.no_grad():
        return net.run_with_cache(batch, names_filter=names, return_type="resid")[1]


@pytest.mark.parametrize("stage", STAGES)
def test_the_stream_is_where_the_layer_says(net, batch, stage):
    for layer in range(N_LAYERS):
        block = net.block(layer)
        assert block.stream_name(stage) == f"blocks.{layer}.{STAGES[stage]}"
        assert block.stream_point(stage) is net.hook_dict[block.stream_name(stage)]
        assert block.stream_name("after") == f"blocks.{layer}.hook_normalized_resid_post"


def test_a_layer_entered_at_any_stage_gives_what_it_gave_bit_for_bit(net, batch, given):
    cache = streams(net, batch)
    with torch.no_grad():
        whole = net(batch, return_type="resid")
        for layer in range(N_LAYERS):
            block, after = net.block(layer), cache[f"blocks.{layer}.hook_normalized_resid_post"]
            assert torch.equal(block(cache[f"blocks.{layer}.hook_resid_pre"], given), after)
            for stage in ("mid", "post"):
                assert torch.equal(block.resume(stage, cache[f"blocks.{layer}.{STAGES[stage]}"]), after)
    assert torch.equal(after, whole)


def test_hooks_past_the_stage_see_a_resumed_run_and_those_at_it_do_not(net, batch):
    stream = streams(net, batch)["blocks.1.hook_resid_mid"]
    seen = []

    def see(activation, hook):
        seen.append(hook.name)

    points = ("hook_resid_mid", "hook_mlp_out", "hook_resid_post", "hook_normalized_resid_post")
    with net.hooks(fwd_hooks=[(f"blocks.1.{leaf}", see) for leaf in points]), torch.no_grad():
        net.block(1).resume("mid", stream)
        assert seen == [f"blocks.1.{leaf}" for leaf in points[1:]]
        seen.clear()
        net.block(1).resume("post", stream)
        assert seen == ["blocks.1.hook_normalized_resid_post"]


def norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def test_a_given_write_of_the_mlp_is_taken(net, batch):
    mid = streams(net, batch)["blocks.1.hook_resid_mid"]
    written = torch.randn(mid.shape, generator=torch.Generator().manual_seed(3)).to(mid.dtype)
    s, eps = net.stack, net.cfg.eps
    with torch.no_grad():
        found = net.block(1).resume("mid", mid, written)
        expected = norm(mid, s.ln1_weight[1], s.ln1_bias[1], eps) + written
        expected = norm(expected, s.ln2_weight[1], s.ln2_bias[1], eps)
    torch.testing.assert_close(found, expected, rtol=0, atol={torch.float32: 1e-5, torch.float64: 1e-12}[net.dtype])


def test_one_heads_projection_is_that_heads_own(net, batch):
    with torch.no_grad():
        _, cache = net.run_with_cache(batch)
        for which in "qkv":
            for head in range(N_HEADS):
                found = net.block(2).project_head(cache["blocks.2.hook_resid_pre"], head, which)
                expected = cache[f"blocks.2.attn.hook_{which}"][:, :, head]
                atol = {torch.float32: 1e-5, torch.float64: 1e-12}[net.dtype]
                torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def held_layer(net, layer, scales):
    """after(x, heads' write, MLP's write) of a post-LN layer whose two scales are held, in float64."""
    s = net.stack

    def through(x, scale, weight, bias):
        return (x - x.mean(-1, keepdim=True)) / scale * weight[layer].detach().double() + bias[layer].detach().double()

    def run(x, heads, mlp):
        normalized = through(x + heads, scales[0], s.ln1_weight, s.ln1_bias)
        return through(normalized + mlp, scales[1], s.ln2_weight, s.ln2_bias)

    return run


def scale_of(x, eps):
    x = x.double()
    return ((x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True) + eps).sqrt()


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_carrying_back_is_the_gradient_of_the_layer_with_its_scales_held(net, batch, layer):
    cache = streams(net, batch)
    rows = {name: value.flatten(0, 1) for name, value in cache.items()}
    block, eps = net.block(layer), net.cfg.eps
    mid, post = (f"blocks.{layer}.{leaf}" for leaf in block.HELD)
    assert (mid, post) == (f"blocks.{layer}.hook_resid_mid", f"blocks.{layer}.hook_resid_post")
    g = torch.randn(rows[mid].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(layer))
    worth = block.carry_back(HeldRun(rows), g)
    run = held_layer(net, layer, (scale_of(rows[mid], eps), scale_of(rows[post], eps)))
    x, heads, mlp = (torch.randn(g.shape, dtype=torch.float64).requires_grad_() for _ in range(3))
    expected = torch.autograd.grad((g * run(x, heads, mlp)).sum(), (x, heads, mlp))
    for found, gradient in zip((worth.resid_pre, worth.attn_out, worth.mlp_out), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=0, atol=1e-11)
    nothing = torch.zeros_like(g)
    torch.testing.assert_close(worth.bias, (g * run(nothing, nothing, nothing)).sum(-1).detach(), rtol=0, atol=1e-11)
    assert not worth.edit.any()
    assert not torch.allclose(worth.mlp_out, worth.attn_out, atol=1e-3)


@pytest.mark.parametrize("point", ["hook_resid_mid", "hook_resid_post", "hook_normalized_resid_post"])
def test_what_a_hook_added_to_the_stream_is_worth_what_stands_there(net, batch, point):
    cache = streams(net, batch)
    rows = {name: value.flatten(0, 1) for name, value in cache.items()}
    g = torch.randn(rows["blocks.1.hook_resid_mid"].shape, dtype=torch.float64)
    added = torch.linspace(-1, 2, g.shape[-1], dtype=torch.float64)
    name = f"blocks.1.{point}"
    held = {**rows, name: rows[name].double(), BEFORE + name: rows[name].double() - added}
    worth = net.block(1).carry_back(HeldRun(held), g)
    there = {"hook_resid_mid": worth.attn_out, "hook_resid_post": worth.mlp_out, "hook_normalized_resid_post": g}[point]
    torch.testing.assert_close(worth.edit, there @ added, rtol=0, atol=1e-11)


@pytest.mark.parametrize("point", ["ln1.hook_normalized", "ln2.hook_normalized"])
def test_what_a_hook_added_inside_of_a_norm_is_worth_the_norms_weight_times_what_comes_after(net, batch, point):
    cache = streams(net, batch)
    rows = {name: value.flatten(0, 1) for name, value in cache.items()}
    g = torch.randn(rows["blocks.1.hook_resid_mid"].shape, dtype=torch.float64)
    added = torch.linspace(-1, 2, g.shape[-1], dtype=torch.float64)
    name = f"blocks.1.{point}"
    worth = net.block(1).carry_back(HeldRun({**rows, name: added.expand_as(g), BEFORE + name: 0 * g}), g)
    norm_name = point.partition(".")[0]
    after = worth.mlp_out if norm_name == "ln1" else g
    weight = getattr(net.stack, f"{norm_name}_weight")[1].detach().double()
    torch.testing.assert_close(worth.edit, (after * weight) @ added, rtol=0, atol=1e-11)


def test_a_scale_that_hooks_left_is_the_one_held(net, batch):
    cache = streams(net, batch)
    rows = {name: value.flatten(0, 1) for name, value in cache.items()}
    g = torch.randn(rows["blocks.1.hook_resid_mid"].shape, dtype=torch.float64)
    plain = net.block(1).carry_back(HeldRun(rows), g)
    own = scale_of(rows["blocks.1.hook_resid_post"], net.cfg.eps)
    twice = net.block(1).carry_back(HeldRun({**rows, "blocks.1.ln2.hook_scale": 2 * own}), g)
    torch.testing.assert_close(twice.mlp_out, plain.mlp_out / 2, rtol=0, atol=1e-11)
    torch.testing.assert_close(twice.attn_out, plain.attn_out / 2, rtol=0, atol=1e-11)


def test_writes_of_a_post_ln_layer_do_not_add_up(net, batch):
    assert not net.writes_add_up
    cache = streams(net, batch)
    with torch.no_grad():
        _, writes = net.run_with_cache(batch, names_filter=["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"])
    plain = cache["blocks.1.hook_resid_pre"] + writes["blocks.1.hook_attn_out"] + writes["blocks.1.hook_mlp_out"]
    assert (plain - cache["blocks.1.hook_normalized_resid_post"]).abs().max() > 0.1
