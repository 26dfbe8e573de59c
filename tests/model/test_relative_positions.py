"""DeBERTa's buckets and position terms against Hugging Face's own functions and module."""

import math

import numpy as np
import pytest
import torch
from tiny_models import tiny_rows, to_batch
from transformers import DebertaV2Config
from transformers.models.deberta_v2 import modeling_deberta_v2 as hf

from tl_crossenc.model.attention import explicit_pattern, explicit_scores
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.fused_attention import fused_attention
from tl_crossenc.model.relative_positions import RelativePositions

D_HEAD, N_HEADS = 7, 3
KINDS = [("c2p", "p2c"), ("p2c", "c2p"), ("c2p",), ("p2c",), ()]


@pytest.mark.parametrize("n", [1, 2, 13, 101, 512, 1031])
@pytest.mark.parametrize(
    ("n_buckets", "max_position"), [(256, 512), (16, 64), (5, 31), (32, 33), (4, 512), (-1, 37), (0, 512)]
)
def test_buckets_are_those_of_hugging_face(n, n_buckets, max_position):
    at = torch.zeros(1, n, 1)
    signed = hf.build_relative_position(at, at, bucket_size=n_buckets, max_position=max_position)[0]
    positions = RelativePositions(n_buckets, max_position)
    expected = (signed + positions.span).clamp(0, 2 * positions.span - 1)
    offsets = torch.arange(n)[:, None] - torch.arange(n)
    assert torch.equal(positions.buckets(offsets), expected)


def test_buckets_by_hand():
    """8 buckets to a side for 32 positions: 4 offsets each their own, then 4 + ceil(3 log(x / 4) / log(31 / 4))."""
    found = RelativePositions(8, 32).buckets(torch.arange(-35, 36)) - 8
    for offset, bucket in zip(range(-35, 36), found.tolist(), strict=True):
        x = abs(offset)
        beyond = math.copysign(4 + math.ceil(3 * math.log(max(x, 1) / 4) / math.log(31 / 4)), offset)
        assert bucket == (offset if x <= 4 else min(max(beyond, -8), 7))


def module(kinds, shared, n_buckets=6, max_position=24):
    """Hugging Face's attention in float64 with random weights, the embeddings of its buckets, and ours."""
    config = DebertaV2Config(
        hidden_size=D_HEAD * N_HEADS,
        num_attention_heads=N_HEADS,
        relative_attention=True,
        position_buckets=n_buckets,
        max_relative_positions=max_position,
        pos_att_type=list(kinds),
        share_att_key=shared,
    )
    theirs = hf.DisentangledSelfAttention(config).eval().double()
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.4)
    ours = RelativePositions(n_buckets, max_position, tuple(kinds))
    embeddings = torch.randn(2 * ours.span, D_HEAD * N_HEADS, generator=generator, dtype=torch.float64)
    return theirs, embeddings, ours


def split(tensor):
    return tensor.unflatten(-1, (N_HEADS, D_HEAD))


def projected(theirs, embeddings, shared):
    """(keys, queries) of the embeddings, as the module projects them."""
    keys = theirs.key_proj if shared else getattr(theirs, "pos_key_proj", None)
    queries = theirs.query_proj if shared else getattr(theirs, "pos_query_proj", None)
    return tuple(None if linear is None else split(linear(embeddings)) for linear in (keys, queries))


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("n_buckets", "max_position"), [(6, 24), (-1, 11), (64, 128)])
@torch.no_grad()
def test_attention_is_that_of_hugging_face(kinds, shared, n_buckets, max_position):
    """Its z and its pattern, padded; by the fused kernel and in the open."""
    theirs, embeddings, ours = module(kinds, shared, n_buckets, max_position)
    batch = to_batch(tiny_rows(((3, 13), (6, 3), (1, 2))))
    real, n = batch.attention_mask, batch.tokens.shape[1]
    resid = torch.randn(3, n, D_HEAD * N_HEADS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    signed = hf.build_relative_position(resid, resid, bucket_size=n_buckets, max_position=max_position)
    mask = (real[:, None, :] & real[:, :, None])[:, None]
    expected_z, expected_pattern = theirs(resid, mask, True, None, signed, embeddings)
    q, k, v = (split(linear(resid)) for linear in (theirs.query_proj, theirs.key_proj, theirs.value_proj))
    given = AttentionInput(real, batch.parts, torch.float64)
    relative = ours.relative(q, k, *projected(theirs, embeddings, shared))
    more = {"relative": relative, "scale": ours.scale(D_HEAD)}
    assert (relative is None) == (not kinds)
    z = fused_attention(q, k, v, given, **more)
    pattern = explicit_pattern(explicit_scores(q, k, given, **more), given)
    # the scale that Hugging Face divides by is rounded to float32
    torch.testing.assert_close(z.flatten(2)[real], expected_z[real], rtol=0, atol=1e-6)
    assert (pattern - expected_pattern).transpose(1, 2)[real].abs().max() < 1e-6


def by_hand(ours, q, k, keys, queries):
    """The two terms cell by cell, with buckets from Hugging Face's function."""
    (n_pairs, n, _, _), span = q.shape, ours.span
    signed = hf.build_relative_position(q[:, :, 0], q[:, :, 0], ours.n_buckets, ours.max_position)[0]
    found = np.zeros((n_pairs, N_HEADS, n, n))
    for pair in range(n_pairs):
        for head in range(N_HEADS):
            for row in range(n):
                for column in range(n):
                    bucket = min(max(int(signed[row, column]) + span, 0), 2 * span - 1)
                    if "c2p" in ours.kinds:
                        found[pair, head, row, column] += float(q[pair, row, head] @ keys[bucket, head])
                    if "p2c" in ours.kinds:
                        found[pair, head, row, column] += float(k[pair, column, head] @ queries[bucket, head])
    return found / math.sqrt((1 + len(ours.kinds)) * q.shape[-1])


def inputs(ours, n=17):
    generator = torch.Generator().manual_seed(4)
    shapes = [(2, n, N_HEADS, D_HEAD)] * 2 + [(2 * ours.span, N_HEADS, D_HEAD)] * 2
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("kinds", KINDS[:4])
@pytest.mark.parametrize(("n_buckets", "max_position"), [(6, 24), (-1, 5), (32, 64)])
def test_terms_equal_those_by_hand_for_all_rows_and_for_some(kinds, n_buckets, max_position):
    ours = RelativePositions(n_buckets, max_position, kinds)
    q, k, keys, queries = inputs(ours)
    expected = by_hand(ours, q, k, keys, queries)
    np.testing.assert_allclose(ours.relative(q, k, keys, queries), expected, rtol=0, atol=1e-12)
    for low, high in ((0, 1), (0, 5), (4, 11), (16, 17)):
        found = ours.relative(q[:, low:high], k, keys, queries, first_row=low)
        np.testing.assert_allclose(found, expected[:, :, low:high], rtol=0, atol=1e-12)


def test_a_term_that_a_model_lacks_needs_no_projection():
    for kinds, missing in ((("c2p",), 3), (("p2c",), 2)):
        ours = RelativePositions(6, 24, kinds)
        given = inputs(ours)
        whole = ours.relative(*given)
        given[missing] = None
        assert torch.equal(ours.relative(*given), whole)


def test_gradients_are_those_of_gathering():
    """Against a plain gather of the same cells."""
    ours = RelativePositions(6, 24)
    given = [tensor.requires_grad_() for tensor in inputs(ours)]
    q, k, keys, queries = given
    bucket = ours.buckets(torch.arange(17)[:, None] - torch.arange(17))
    plain = torch.einsum("prhd,rchd->phrc", q, keys[bucket]) + torch.einsum("pchd,rchd->phrc", k, queries[bucket])
    weights = torch.randn(plain.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = torch.autograd.grad((plain * ours.scale(D_HEAD) * weights).sum(), given)
    found = torch.autograd.grad((ours.relative(*given) * weights).sum(), given)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="expected terms among c2p, p2c in pos_att_type, got p2p"):
        RelativePositions(256, 512, ("c2p", "p2p"))
    ours = RelativePositions(6, 24)
    q, k, keys, queries = inputs(ours)
    with pytest.raises(ValueError, match="expected the keys of 12 buckets for c2p/p2c, got None"):
        ours.relative(q, k, None, queries)
    with pytest.raises(ValueError, match="expected the keys of 12 buckets for c2p/p2c, got 11"):
        ours.relative(q, k, keys[1:], queries[1:])
