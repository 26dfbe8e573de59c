"""Conditions, patching, paths, attribution and replacement on every family that opens, against whole runs with one hook."""

from dataclasses import replace

import family_texts as texts
import numpy as np
import pytest
import torch
from family_models import COVERED, labels_of
from family_worlds import SAME_MODEL, build
from patching_references import PART_NAMES, cache_of, patched_score, plain_loop, positions_of, replace_at

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.instruments.direct_attribution import direct_attribution, score_lens
from tl_crossenc.instruments.tl_tools import as_tl_model
from tl_crossenc.model.execution import run_conditions
from tl_crossenc.model.identity import model_identity
from tl_crossenc.model.untrained import untrained_twin
from tl_crossenc.patching.activation import activation_patch
from tl_crossenc.patching.attribution import attribution_patch
from tl_crossenc.patching.path import path_patch
from tl_crossenc.patching.replacement import replacing

NAMES = [name for name in COVERED if name not in SAME_MODEL]
QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))
SHORT = (["how do fleas reproduce", "bread"], ["fleas lay eggs on a host and the eggs drop off", "yeast"])
CONDITIONS = (
    "none",
    *("zero(DOC->QUERY; layers=0)", "mask(DOC->QUERY; layers=0-2)", "zero(CLS->ALL; layers=2)"),
    *("mask(SEP1->SEP1; layers=0-1; heads=1)", "zero(QUERY->DOC; layers=1; heads=0,2)", "mask(ALL->ALL; layers=0)"),
)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=NAMES)
def model(request, tmp_path_factory):
    folder = build(request.param, labels_of(request.param)[-1]).write(tmp_path_factory.mktemp("model"))
    return HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype="float64")


def twins(model, seed=0):
    """Pairs, and the same with every word piece of the passage replaced by another."""
    clean = model.encode_pairs(*SHORT)
    tokens, doc = clean.tokens.copy(), clean.parts == PART_NAMES.index("DOC")
    special = set(model.tokenizer.all_special_ids)
    words = [i for i in range(len(model.tokenizer)) if i not in special]
    tokens[doc] = np.random.default_rng(seed).choice(words, int(doc.sum()))
    corrupted = replace(clean, tokens=tokens)
    return clean, corrupted


def test_conditions_share_prefixes_and_rows(model):
    found = run_conditions(model, model.encode_pairs(QUERIES, PASSAGES), list(CONDITIONS), token_budget=300).values
    for condition, row in zip(CONDITIONS, found, strict=True):
        with model.ablating(condition):
            expected = model.score(QUERIES, PASSAGES)
        assert row == pytest.approx(expected.numpy(), abs=1e-11), condition


def test_hooks_that_ablate_do_what_the_fast_way_does(model):
    pairs = model.to_pairs(QUERIES, PASSAGES)
    for condition in CONDITIONS[1:]:
        hooks = model.ablation_hooks(condition, pairs=pairs)
        with model.ablating(condition):
            expected = model(pairs)
        torch.testing.assert_close(model.run_with_hooks(pairs, fwd_hooks=hooks), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"])
def test_the_stream_is_patched(model, site):
    clean, corrupted = twins(model)
    found = activation_patch(model, clean, corrupted, site, token_budget=61)
    expected = plain_loop(model, corrupted, clean, site, lambda b: [(0, positions_of(b, part)) for part in PART_NAMES])
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-10)
    assert np.ptp(found.scores, axis=(1, 2)).max() > 1e-3


@pytest.mark.parametrize("site", ["z", "q", "k", "v", "pattern"])
def test_heads_are_patched(model, site):
    clean, corrupted = twins(model)
    place = (lambda head: (0, head)) if site == "pattern" else (lambda head: (0, slice(None), head))
    found = activation_patch(model, clean, corrupted, site)
    heads = range(model.cfg.n_heads)
    expected = plain_loop(model, corrupted, clean, site, lambda b: [place(head) for head in heads])
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-10)


def test_attribution_patching_is_the_slope_of_patching(model):
    clean, corrupted = twins(model)
    found = attribution_patch(model, clean, corrupted, {"resid_mid": "all", "q": "head", "k": "head", "z": "head"})
    batch = corrupted.batch([0])
    own, donor = (cache_of(model, side.batch([0]))[1] for side in (corrupted, clean))
    n_layers = model.cfg.n_layers
    for layer in range(n_layers):
        for site, leaf, index in (
            ("resid_mid", "hook_resid_mid", ...),
            *((kind, f"attn.hook_{kind}", (0, slice(None), 1)) for kind in "qkz"),
        ):
            name, ends = f"blocks.{layer}.{leaf}", []
            for step in (1e-5, -1e-5):
                moved = own[name] + step * (donor[name] - own[name])
                ends.append(patched_score(model, batch, [(name, replace_at(index, moved))]))
            slope = (ends[0] - ends[1]) / 2e-5
            place = (0, layer, 0) if site == "resid_mid" else (0, layer, 1)
            difference = found[site].difference().reshape(len(clean), n_layers, -1)[place]
            assert difference == pytest.approx(slope, rel=1e-5, abs=1e-6), (site, layer)


def test_a_direct_path_to_a_head_is_what_it_reads_of_the_senders_write(model):
    """Where the stream is a plain sum: all heads and MLPs between are frozen, and the receiver's norm is not."""
    clean, corrupted = twins(model)
    batch = corrupted.batch([0])
    (_, own), (_, other) = cache_of(model, batch), cache_of(model, clean.batch([0]))
    for at, head, which in ((2, 1, "q"), (2, 0, "k"), (1, 2, "v")):
        found = path_patch(model, clean, corrupted, f"{at}.{head}.{which}")
        if not model.writes_add_up:
            assert np.isfinite(found.scores).all()
            continue
        weight, bias = (getattr(model, f"{kind}_{which.upper()}")[at, head] for kind in "Wb")
        for layer in range(at):
            for sender in range(model.cfg.n_heads):
                z = f"blocks.{layer}.attn.hook_z"
                stream = (
                    own[f"blocks.{at}.hook_resid_pre"] + (other[z] - own[z])[:, :, sender] @ model.W_O[layer, sender]
                )
                read = torch.nn.functional.layer_norm(stream, stream.shape[-1:], eps=model.cfg.eps)
                read = read * model.stack.ln1_weight[at] + model.stack.ln1_bias[at]
                donor = own[f"blocks.{at}.attn.hook_{which}"].clone()
                donor[:, :, head] = read @ weight + bias
                edit = replace_at((slice(None), slice(None), head), donor)
                expected = patched_score(model, batch, [(f"blocks.{at}.attn.hook_{which}", edit)])
                assert found.scores[0, layer, sender] == pytest.approx(expected, abs=1e-10)


def test_a_direct_path_to_the_score(model):
    clean, corrupted = twins(model)
    found = path_patch(model, clean, corrupted, "score")
    if not model.writes_add_up:
        assert np.isfinite(found.scores).all()
        return
    batch, last = corrupted.batch([0]), model.block(model.cfg.n_layers - 1).stream_name("after")
    (_, own), (_, other) = cache_of(model, batch), cache_of(model, clean.batch([0]))
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            z = f"blocks.{layer}.attn.hook_z"
            moved = own[last] + (other[z] - own[z])[:, :, head] @ model.W_O[layer, head]
            expected = patched_score(model, batch, [(last, lambda _, moved=moved: moved)])
            assert found.scores[0, layer, head] == pytest.approx(expected, abs=1e-10)


def unevenly(value, hook):
    """What a norm does not take back, as it would a factor or a constant."""
    return value * torch.linspace(0.7, 1.4, value.shape[-1], dtype=value.dtype)


def summed(split):
    fields = ("head", "attn_bias", "mlp", "embed", "ln_bias", "readout", "edit")
    return sum(getattr(split, name).reshape(len(split.scores), -1).sum(1) for name in fields)


def test_direct_attribution_adds_up_to_the_score(model):
    pairs = model.to_pairs(QUERIES, PASSAGES)
    split = direct_attribution(model, pairs)
    scores = model(pairs).numpy()
    assert np.abs(split.head).max() > 1e-3
    assert summed(split) == pytest.approx(scores, abs=1e-10)
    assert score_lens(model, pairs)[:, -1] == pytest.approx(scores, abs=1e-10)


def test_a_heads_share_is_its_write_taken_through_the_head_of_the_model(model):
    """Where the stream is a plain sum: final norm, pooling, dense, a line for the bend, norm, classifier, scales held."""
    if not model.writes_add_up:
        return
    pairs = model.to_pairs(QUERIES, PASSAGES)
    split, (_, cache) = direct_attribution(model, pairs), cache_of(model, pairs)
    cfg, last = model.cfg, cache[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"]
    for pair in range(len(QUERIES)):
        real = int(pairs.attention_mask[pair].sum()) if cfg.pooling == "mean" else 1
        pre = cache["pooler.hook_pre"][pair]
        bent = torch.nn.functional.gelu(pre)

        def through(write, pair=pair, real=real, pre=pre, bent=bent):
            rows = [
                (write[i] - write[i].mean())
                / last[pair, i].var(correction=0).add(cfg.eps).sqrt()
                * model.ln_final.weight
                for i in range(real)
            ]
            out = model.pooler.weight @ (sum(rows) / real) * (bent / pre)
            eps = cfg.eps if cfg.head_eps is None else cfg.head_eps
            out = (out - out.mean()) / bent.var(correction=0).add(eps).sqrt() * model.pooler.ln.weight
            logits = model.classifier.weight @ out
            return float(logits[0] if len(logits) == 1 else logits[1] - logits[0])

        for layer in range(cfg.n_layers):
            z, mlp = (cache[f"blocks.{layer}.{leaf}"][pair] for leaf in ("attn.hook_z", "hook_mlp_out"))
            assert split.mlp[pair, layer] == pytest.approx(through(mlp), abs=1e-10)
            for head in range(cfg.n_heads):
                found = split.head[pair, layer, head]
                assert found == pytest.approx(through(z[:, head] @ model.W_O[layer, head]), abs=1e-10)


@pytest.mark.parametrize(
    "point",
    [
        *("ln_final.hook_normalized", "ln_final.hook_scale", "pooler.hook_pre", "pooler.ln.hook_normalized"),
        *("pooler.ln.hook_scale", "pooler.hook_pooler_out", "classifier.hook_logits"),
        *("blocks.1.hook_resid_mid", "blocks.2.hook_resid_post", "blocks.0.hook_attn_out", "blocks.1.hook_resid_pre"),
        *("blocks.1.ln1.hook_normalized", "blocks.1.ln2.hook_scale", "blocks.1.attn.hook_rot_q", "embed.ln.hook_scale"),
        "blocks.1.mlp.hook_pre_linear",
    ],
)
def test_what_a_hook_changes_is_in_the_sum(model, point):
    if point not in model.hook_dict:
        return
    pairs = model.to_pairs(QUERIES, PASSAGES)
    plain = model(pairs).numpy()
    with model.hooks(fwd_hooks=[(point, unevenly)]):
        split, scores = direct_attribution(model, pairs), model(pairs).numpy()
    assert np.abs(scores - plain).max() > 1e-6
    assert summed(split) == pytest.approx(scores, abs=1e-10)


def test_a_replaced_direction_takes_the_place_of_an_ablated_one(model):
    pairs = model.to_pairs(QUERIES, PASSAGES)
    with replacing(model, ["DOC->QUERY@1.2", "mlp.0"]), model.ablating("DOC->QUERY", layers=1, heads=2):
        twice = model(pairs)
    with replacing(model, "mlp.0"), model.ablating("DOC->QUERY", layers=1, heads=2):
        torch.testing.assert_close(model(pairs), twice, rtol=0, atol=1e-12)
    assert (twice - model(pairs)).abs().max() > 1e-6


def test_transformerlens_tools_get_the_same_run(model):
    pairs = model.to_pairs(QUERIES, PASSAGES)
    view = as_tl_model(model, pairs)
    scores, cache = view.run_with_cache(pairs.tokens)
    torch.testing.assert_close(scores, model(pairs), rtol=0, atol=1e-11)
    assert set(cache) == set(model.hook_dict)
    if model.cfg.d_embed is not None:
        with pytest.raises(ValueError, match="as wide as the residual stream"):
            view.tl_parameters()
        return
    assert view.tl_parameters()["blocks.1.mlp.W_in"].shape == (model.cfg.d_model, model.cfg.d_mlp)


def test_the_twin_has_norms_that_change_nothing_and_a_key_of_its_own(model):
    twin = untrained_twin(model)
    norms = [name for name, _ in twin.named_parameters() if "ln" in name and name.endswith("weight")]
    assert all(bool((twin.get_parameter(name) == 1).all()) for name in norms)
    assert len(norms) >= 3
    assert all(bool((weight == 0).all()) for name, weight in twin.named_parameters() if name.endswith("bias"))
    own, others = model_identity(model), model_identity(twin)
    assert own["weights"] != others["weights"]
    assert own["arithmetic"] == others["arithmetic"]
    assert torch.isfinite(twin.score(QUERIES, PASSAGES)).all()


def test_a_window_or_a_base_is_in_the_key(model):
    before = model_identity(model)["arithmetic"]
    for field in ("windows", "rotary_bases", "rotary_factor", "pooling", "head_eps", "positional_embedding_type"):
        kept = getattr(model.cfg, field)
        setattr(model.cfg, field, "another")
        try:
            assert model_identity(model)["arithmetic"] != before, field
        finally:
            setattr(model.cfg, field, kept)


def test_a_pair_is_explained(model):
    text = str(model.explain(SHORT[0][0], SHORT[1][0]))
    assert "DOC" in text
