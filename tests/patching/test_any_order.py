"""Callers do not know a layer's order: all on a pre-LN model whose head reads the mean of all rows, against it written out."""

import numpy as np
import pytest
import torch
from other_orders import plain_model, plain_score
from patching_references import PART_NAMES, cache_of, patched_score, plain_loop, positions_of, replace_at, tiny_twins
from tiny_models import N_HEADS, N_LAYERS, to_batch

from tl_crossenc.instruments.direct_attribution import direct_attribution, score_lens
from tl_crossenc.instruments.tl_tools import as_tl_model
from tl_crossenc.model.execution import run_conditions
from tl_crossenc.model.resumed_run import finish
from tl_crossenc.patching.activation import activation_patch
from tl_crossenc.patching.attribution import attribution_patch
from tl_crossenc.patching.path import path_patch
from tl_crossenc.patching.replacement import replacing

FIELDS = ("head", "attn_bias", "mlp", "embed", "ln_bias", "readout", "edit")


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=[1, 2], ids=["1-label", "2-labels"])
def net(request):
    return plain_model(request.param, seed=4)


@pytest.fixture(scope="module")
def scores(net, rows):
    """Of the four pairs, written out."""
    with torch.no_grad():
        return np.array([plain_score(net, tokens, types) for tokens, types, _ in rows])


def test_the_forward_is_the_one_written_out(net, batch, scores):
    assert net(batch).numpy() == pytest.approx(scores, abs=1e-11)
    cached, _ = net.run_with_cache(batch)
    assert cached.numpy() == pytest.approx(scores, abs=1e-11)
    split = net.set_use_split_qkv_input
    split(True)
    try:
        assert net(batch).numpy() == pytest.approx(scores, abs=1e-11)
    finally:
        split(False)


def test_conditions_share_prefixes_and_rows(net, rows, batch):
    texts = ["none", "zero(DOC->QUERY)", "zero(CLS->DOC; layers=1)", "zero(QUERY->ALL; layers=0,2; heads=1)"]
    found = run_conditions(net, batch, texts).values
    sides = ((), ((3, (1,), range(3), range(3)),), ((0, (3,), (1,), range(3)),), ((1, range(5), (0, 2), (1,)),))
    for i, (tokens, types, parts) in enumerate(rows):
        for j, edits in enumerate(sides):

            def removed(layer, head, row, column, edits=edits, parts=parts):
                return any(
                    parts[row] == one and parts[column] in other and layer in layers and head in heads
                    for one, other, layers, heads in edits
                )

            assert found[j, i] == pytest.approx(plain_score(net, tokens, types, removed), abs=1e-11)


@pytest.mark.parametrize("stage", ["pre", "mid", "post"])
def test_a_run_is_finished_from_any_stage(net, batch, scores, stage):
    given = net.attention_input(batch.attention_mask, batch.parts)
    _, cache = cache_of(net, batch)
    for layer in range(N_LAYERS):
        resid = cache[net.block(layer).stream_name(stage)]
        found = finish(net, layer, stage, resid, given, (None,) * N_LAYERS)
        assert found.numpy() == pytest.approx(scores, abs=1e-11)


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"])
def test_the_stream_is_patched(net, site):
    clean, corrupted = tiny_twins(((3, 5), (2, 2)))
    found = activation_patch(net, clean, corrupted, site, token_budget=61)
    expected = plain_loop(net, corrupted, clean, site, lambda b: [(0, positions_of(b, part)) for part in PART_NAMES])
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-11)
    assert np.ptp(found.scores, axis=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("site", ["z", "q", "k", "v", "pattern"])
def test_heads_are_patched(net, site):
    clean, corrupted = tiny_twins(((3, 5), (2, 2)))
    place = (lambda head: (0, head)) if site == "pattern" else (lambda head: (0, slice(None), head))
    found = activation_patch(net, clean, corrupted, site)
    expected = plain_loop(net, corrupted, clean, site, lambda b: [place(head) for head in range(N_HEADS)])
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-11)


def test_attribution_patching_is_the_slope_of_patching(net):
    """Of a small step: half of the way to a donor that hardly differs, twice over."""
    clean, corrupted = tiny_twins(((3, 5),), changed={5})
    found = attribution_patch(net, clean, corrupted, {"resid_mid": "all", "z": "head"})
    own, donor = (cache_of(net, side.batch([0]))[1] for side in (corrupted, clean))
    for layer in range(N_LAYERS):
        for site, leaf, index in (("resid_mid", "hook_resid_mid", ...), ("z", "attn.hook_z", (0, slice(None), 1))):
            name, ends = f"blocks.{layer}.{leaf}", []
            for step in (1e-5, -1e-5):
                moved = own[name] + step * (donor[name] - own[name])
                ends.append(patched_score(net, corrupted.batch([0]), [(name, replace_at(index, moved))]))
            slope = (ends[0] - ends[1]) / 2e-5
            place = (0, layer, 0) if site == "resid_mid" else (0, layer, 1)
            difference = found[site].difference().reshape(1, N_LAYERS, -1)[place]
            assert difference == pytest.approx(slope, abs=1e-6), (site, layer)


def test_a_direct_path_adds_the_senders_write_to_the_last_stream(net):
    """With all else frozen the stream is a plain sum, so that the last is the base's and what the sender writes anew."""
    clean, corrupted = tiny_twins(((3, 5), (2, 2)))
    found = path_patch(net, clean, corrupted, "score")
    for i in range(len(clean)):
        batch = corrupted.batch([i])
        (_, own), (_, other) = cache_of(net, batch), cache_of(net, clean.batch([i]))
        last = net.block(N_LAYERS - 1).stream_name("after")
        for layer in range(N_LAYERS):
            for head in range(N_HEADS):
                z = f"blocks.{layer}.attn.hook_z"
                moved = own[last] + (other[z] - own[z])[:, :, head] @ net.W_O[layer, head]
                expected = patched_score(net, batch, [(last, lambda _, moved=moved: moved)])
                assert found.scores[i, layer, head] == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("receiver", ["2.1.q", "2.0.k", "1.2.v"])
def test_a_direct_path_to_a_head_goes_through_its_norm_alone(net, receiver):
    clean, corrupted = tiny_twins(((3, 5),))
    found = path_patch(net, clean, corrupted, receiver)
    at, head, which = int(receiver[0]), int(receiver[2]), receiver[4]
    batch = corrupted.batch([0])
    (_, own), (_, other) = cache_of(net, batch), cache_of(net, clean.batch([0]))
    weight, bias = getattr(net, f"W_{which.upper()}")[at, head], getattr(net, f"b_{which.upper()}")[at, head]
    for layer in range(at):
        for sender in range(N_HEADS):
            z = f"blocks.{layer}.attn.hook_z"
            stream = own[f"blocks.{at}.hook_resid_pre"] + (other[z] - own[z])[:, :, sender] @ net.W_O[layer, sender]
            centred = stream - stream.mean(-1, keepdim=True)
            scale = (centred.square().mean(-1, keepdim=True) + net.cfg.eps).sqrt()
            read = centred / scale * net.stack.ln1_weight[at] + net.stack.ln1_bias[at]
            donor = own[f"blocks.{at}.attn.hook_{which}"].clone()
            donor[:, :, head] = read @ weight + bias
            edit = replace_at((slice(None), slice(None), head), donor)
            expected = patched_score(net, batch, [(f"blocks.{at}.attn.hook_{which}", edit)])
            assert found.scores[0, layer, sender] == pytest.approx(expected, abs=1e-11)


def carried(net, cache, pair, n, write):
    """What a write `[pos, d_model]` of one pair of n positions adds to the score, taken forward through all that is linear.

    Final norm, mean, dense, GELU as a line through 0, norm, classifier; each scale is that of the run.
    """

    def through(vector, before):
        scale = torch.sqrt(((before - before.mean()) ** 2).mean() + net.cfg.eps)
        return (vector - vector.mean()) / scale * net.norm_weight

    last = cache[f"blocks.{N_LAYERS - 1}.hook_resid_post"][pair]
    mean = sum(through(write[i], last[i]) for i in range(n)) / n
    u, out = cache["pooler.hook_pre"][pair], cache["pooler.hook_pooler_out"][pair]
    logits = net.classifier.weight @ through(net.pooler.weight @ mean * (out / u), out)
    return float(logits[0] if len(logits) == 1 else logits[1] - logits[0])


def test_direct_attribution_is_exact(net, rows, batch, scores):
    split = direct_attribution(net, batch)
    total = sum(getattr(split, name).reshape(len(rows), -1).sum(1) for name in FIELDS)
    assert np.abs(total - scores).max() < 1e-11
    assert np.abs(split.remainder).max() < 1e-11
    _, cache = cache_of(net, batch)
    for pair, (tokens, _, _) in enumerate(rows):
        n = len(tokens)
        embed = sum(cache[f"embed.hook_{kind}"][pair] for kind in ("embed", "pos_embed", "token_type_embed"))
        centred = embed - embed.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + net.cfg.eps).sqrt()
        found = carried(net, cache, pair, n, centred / scale * net.embed.ln_weight)
        assert split.embed[pair] == pytest.approx(found, abs=1e-12)
        found = carried(net, cache, pair, n, net.embed.ln_bias.expand(n, -1))
        assert split.ln_bias[pair, 0] == pytest.approx(found, abs=1e-12)
        assert not split.ln_bias[pair, 1:].any()
        for layer in range(N_LAYERS):
            z, mlp = cache[f"blocks.{layer}.attn.hook_z"][pair], cache[f"blocks.{layer}.hook_mlp_out"][pair]
            assert split.mlp[pair, layer] == pytest.approx(carried(net, cache, pair, n, mlp), abs=1e-12)
            found = carried(net, cache, pair, n, net.b_O[layer].expand(n, -1))
            assert split.attn_bias[pair, layer] == pytest.approx(found, abs=1e-12)
            for head in range(N_HEADS):
                found = carried(net, cache, pair, n, z[:, head] @ net.W_O[layer, head])
                assert split.head[pair, layer, head] == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("name", ["blocks.1.hook_resid_mid", "blocks.2.hook_resid_post", "blocks.0.hook_attn_out"])
def test_what_a_hook_puts_into_the_stream_is_an_edit(net, batch, name):
    with net.hooks(fwd_hooks=[(name, lambda value, hook: value * 1.3 + 0.1)]):
        split, scores = direct_attribution(net, batch), net(batch).numpy()
    total = sum(getattr(split, field).reshape(len(batch), -1).sum(1) for field in FIELDS)
    assert np.abs(total - scores).max() < 1e-11
    layer = int(name[7])
    assert np.abs(split.edit[:, layer + 1]).min() > 1e-6
    assert not np.delete(split.edit, layer + 1, 1).any()


def test_a_replaced_direction_and_the_lens(net, batch, scores):
    with replacing(net, ["DOC->QUERY@1.2", "mlp.0"]), net.ablating("DOC->QUERY", layers=1, heads=2):
        twice = net(batch)
    with replacing(net, "mlp.0"), net.ablating("DOC->QUERY", layers=1, heads=2):
        assert torch.allclose(net(batch), twice, rtol=0, atol=1e-12)
    assert score_lens(net, batch)[:, -1] == pytest.approx(scores, abs=1e-11)


def test_what_needs_a_plain_sum_is_given(net, batch):
    assert net.writes_add_up
    net.set_use_attn_result(True)
    try:
        _, cache = net.run_with_cache(batch)
    finally:
        net.set_use_attn_result(False)
    last = cache["blocks.2.hook_resid_post"]
    assert torch.equal(cache.accumulated_resid()[-1], last)
    parts = cache.stack_head_results(incl_remainder=True)
    assert len(parts) == N_LAYERS * N_HEADS + 1
    torch.testing.assert_close(parts.sum(0), last, rtol=0, atol=1e-12)
    written = cache["hook_full_embed"] + sum(
        cache[f"blocks.{layer}.{leaf}"] for layer in range(N_LAYERS) for leaf in ("hook_attn_out", "hook_mlp_out")
    )
    torch.testing.assert_close(written, last, rtol=0, atol=1e-12)
    assert (cache["embed.hook_embed"] - cache["hook_full_embed"]).abs().max() > 0.1
    for call in (cache.decompose_resid, cache.logit_lens, lambda: cache.accumulated_resid(apply_ln=True)):
        with pytest.raises(
            ValueError, match=r"expected a residual stream.*pre-LN encoder normalizes its embeddings"
        ) as no:
            call()
        assert "post-LN" not in str(no.value)
    with pytest.raises(ValueError, match="which no layer here has a hook on"):
        as_tl_model(net, batch).set_use_hook_mlp_in(True)


def test_float32_scores_of_padded_pairs_are_those_alone(rows):
    model = plain_model(1, seed=2, dtype=torch.float32)
    together = model(to_batch(rows)).numpy()
    alone = np.concatenate([model(to_batch([row])).numpy() for row in rows])
    assert together == pytest.approx(alone, abs=1e-5)
