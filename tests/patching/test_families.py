"""Patching, attribution, paths and replacement in families whose attention, embeddings or head are not BERT's.

The references are whole runs of one unpadded pair with hooks, whose points `model.test_family_hooks` holds against Hugging Face.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from family_worlds import build
from patching_references import (
    PART_NAMES,
    cache_of,
    encode_rows,
    leaf,
    patched_score,
    plain_loop,
    positions_of,
    replace_at,
)
from tiny_models import tiny_rows

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.inputs.pairs import as_encoded
from tl_crossenc.patching.activation import activation_patch
from tl_crossenc.patching.attribution import attribution_patch
from tl_crossenc.patching.path import path_patch
from tl_crossenc.patching.replacement import replacing
from tl_crossenc.patching.replacement_values import ReplacementSamples

NAMES = ("electra-projected", "distilbert", "lightning-mono", "deberta-v2")
STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEADS = ("z", "q", "k", "v", "pattern")
SIZES = ((3, 17), (2, 3))  # further apart than DeBERTa's smallest buckets


@pytest.fixture(scope="module", params=NAMES)
def net(request, tmp_path_factory):
    """The model in float64."""
    folder = build(request.param, 2).write(tmp_path_factory.mktemp("model"))
    return HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def twins(net):
    """(clean, corrupted), all of whose words differ."""
    sides = []
    for seed in (0, 1):
        rows = tiny_rows(SIZES, seed, vocabulary=240)
        sides.append([(tokens, types if net.types_fed else [0] * len(types), parts) for tokens, types, parts in rows])
    return [encode_rows(side) for side in sides]


def index_of(site, rows, head):
    """The index into the activation of one unpadded pair."""
    return (0, rows) if site in STREAM else (0, head, rows) if site == "pattern" else (0, rows, head)


@pytest.mark.parametrize("site", STREAM)
def test_the_stream_is_patched(net, twins, site):
    clean, corrupted = twins
    found = activation_patch(net, clean, corrupted, site, token_budget=61)
    expected = plain_loop(net, corrupted, clean, site, lambda b: [(0, positions_of(b, part)) for part in PART_NAMES])
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-10)
    assert np.ptp(found.scores, axis=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("ablated", [False, True])
@pytest.mark.parametrize("site", HEADS)
def test_heads_are_patched(net, twins, site, ablated):
    clean, corrupted = twins

    def pieces(batch):
        places = [positions_of(batch, part) for part in ("CLS", "DOC")]
        return [index_of(site, rows, head) for head in range(net.cfg.n_heads) for rows in places]

    with net.ablating("DOC->QUERY", layers=[0, 2], heads=[0, 2]) if ablated else nullcontext():
        found = activation_patch(net, clean, corrupted, site, by="head_part", parts=["CLS", "DOC"])
        expected = plain_loop(net, corrupted, clean, site, pieces)
    np.testing.assert_allclose(found.scores.reshape(expected.shape), expected, rtol=0, atol=1e-10)
    assert np.abs(found.difference()).max() > 1e-3


@pytest.mark.parametrize("site", [*STREAM, *HEADS])
def test_attribution_is_the_derivative(net, twins, site):
    clean, corrupted = twins
    by, step = "part" if site in STREAM else "head_part", 1e-4
    found = attribution_patch(net, clean, corrupted, {site: by})[site].difference()
    for i in range(len(clean)):
        batch = corrupted.batch([i])
        own, donor = (cache_of(net, side.batch([i]))[1] for side in (corrupted, clean))
        for layer in range(net.cfg.n_layers):
            name = f"blocks.{layer}.{leaf(site)}"
            way = donor[name] - own[name]
            for part in (0, 3):
                index = index_of(site, positions_of(batch, PART_NAMES[part]), 1)
                ends = []
                for sign in (1, -1):
                    moved = own[name].clone()
                    moved[index] += sign * step * way[index]
                    ends.append(patched_score(net, batch, [(name, lambda _, moved=moved: moved)]))
                place = (i, layer, part) if site in STREAM else (i, layer, 1, part)
                assert found[place] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-5, rel=1e-5)


def path(net, base, donor, sender, receiver, mlps):
    """The score of one unpadded pair: senders set, all else frozen, then the receiver's input set to what came of it."""
    (_, own), (_, other) = cache_of(net, base), cache_of(net, donor)
    layer, head = sender
    edits, seen = [], {}
    for at in range(net.cfg.n_layers):
        z, mlp = f"blocks.{at}.attn.hook_z", f"blocks.{at}.hook_mlp_out"
        sent = own[z].clone()
        if at == layer:
            sent[:, :, head] = other[z][:, :, head]
        edits.append((z, lambda _, sent=sent: sent))
        if mlps == "frozen":
            edits.append((mlp, lambda _, held=own[mlp]: held))
    if receiver == "score":
        return patched_score(net, base, edits)
    at, its_head, which = receiver.split(".")
    name = f"blocks.{at}.attn.hook_{which}"

    def keep(activation):
        seen[name] = activation
        return activation

    patched_score(net, base, [*edits, (name, keep)])
    return patched_score(net, base, [(name, replace_at((slice(None), slice(None), int(its_head)), seen[name]))])


@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
@pytest.mark.parametrize("receiver", ["2.1.q", "2.0.k", "1.2.v", "1.1.k", "score"])
def test_paths(net, twins, receiver, mlps):
    clean, corrupted = twins
    found = path_patch(net, clean, corrupted, receiver, mlps=mlps, token_budget=37)
    for i in range(len(clean)):
        for layer, head in np.ndindex(found.scores.shape[1:]):
            expected = path(net, corrupted.batch([i]), clean.batch([i]), (layer, head), receiver, mlps)
            assert found.scores[i, layer, head] == pytest.approx(expected, abs=1e-10)
    assert np.abs(found.difference()).max() > 1e-4


@pytest.mark.parametrize("point", [None, "hook_q", "hook_k", "hook_attn_scores", "hook_pattern"])
@pytest.mark.parametrize("target", ["DOC->QUERY@1.2", "CLS->ALL@2.0", "ALL->DOC@0.1"])
def test_a_direction_that_is_replaced_by_zero_is_one_whose_cells_are_zero(net, twins, target, point):
    """Also past a hook of one's own, which the position terms follow."""
    batch = twins[0].batch([0, 1])
    direction, place = target.split("@")
    layer, head = map(int, place.split("."))
    sides = [range(5) if one == "ALL" else [PART_NAMES.index(one)] for one in direction.split("->")]
    rows, columns = (torch.isin(batch.parts.codes, torch.tensor(list(side))) for side in sides)

    def without_cells(pattern, hook):
        pattern = pattern.clone()
        pattern[:, head].masked_fill_(rows[:, :, None] & columns[:, None], 0.0)
        return pattern

    def moved(activation, hook):
        return activation * torch.linspace(0.5, 1.5, activation.shape[-1], dtype=activation.dtype)

    own = [] if point is None else [(f"blocks.{layer}.attn.{point}", moved)]
    with torch.no_grad():
        expected = net.run_with_hooks(batch, fwd_hooks=[*own, (f"blocks.{layer}.attn.hook_pattern", without_cells)])
        with net.hooks(fwd_hooks=own), replacing(net, target):
            found = net(batch)
        plain = net(batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert (found - plain).abs().max() > 1e-4


@pytest.mark.parametrize("target", ["DOC->QUERY@1.2", "2.0", "mlp.1", "attn.0"])
def test_a_pairs_own_values_change_nothing(net, twins, target):
    """Resampled from itself, and not from the other."""
    own, other = (side.batch([0]) for side in twins)
    with torch.no_grad():
        plain = net(own)
        with replacing(net, target, ReplacementSamples.fit(net, as_encoded(own), target, allow_self=True)):
            torch.testing.assert_close(net(own), plain, rtol=0, atol=1e-11)
        with replacing(net, target, ReplacementSamples.fit(net, as_encoded(other), target)):
            assert (net(own) - plain).abs().min() > 1e-5


def test_inputs_of_each_head_of_its_own_give_the_same(net, twins):
    batch = twins[0].batch([0, 1])
    with torch.no_grad():
        expected = net(batch)
        net.set_use_split_qkv_input(True)
        net.set_use_attn_result(True)
        try:
            torch.testing.assert_close(net(batch), expected, rtol=0, atol=1e-12)
            _, cache = net.run_with_cache(batch)
        finally:
            net.set_use_split_qkv_input(False)
            net.set_use_attn_result(False)
    assert cache["blocks.1.hook_q_input"].shape == (*batch.tokens.shape, net.cfg.n_heads, net.cfg.d_model)
    written = cache["blocks.1.attn.hook_result"].sum(2) + net.b_O[1]
    torch.testing.assert_close(cache["attn_out", 1], written, rtol=0, atol=1e-12)
