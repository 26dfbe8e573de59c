"""Rotary positions against Hugging Face's modules and against turning each plane by hand."""

import math

import numpy as np
import pytest
import torch
from transformers import GteConfig, ModernBertConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gte import modeling_gte
from transformers.models.modernbert import modeling_modernbert

from tl_crossenc.model.rotary import Rotary


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def turned_by_hand(x, base, divisor=1.0, first=0):
    """Each plane (i, i + d/2) of each position turned by its angle."""
    x = x.numpy()
    out, d = np.zeros_like(x), x.shape[-1]
    for at in range(x.shape[1]):
        for i in range(d // 2):
            angle = (first + at) * base ** (-2 * i / d) / divisor
            a, b = x[:, at, :, i], x[:, at, :, i + d // 2]
            out[:, at, :, i] = a * math.cos(angle) - b * math.sin(angle)
            out[:, at, :, i + d // 2] = b * math.cos(angle) + a * math.sin(angle)
    return out


@pytest.mark.parametrize("first_row", [0, 5])
@pytest.mark.parametrize(("base", "d_head"), [(160000.0, 14), (10000.0, 2), (7.0, 6)])
def test_each_plane_is_turned_by_its_angle(base, d_head, first_row):
    x = random(3, 11, 5, d_head)
    before = x.clone()
    found = Rotary(base, d_head).rotate(x, first_row)
    np.testing.assert_allclose(found, turned_by_hand(x, base, first=first_row), rtol=0, atol=1e-13)
    assert torch.equal(x, before)


@pytest.mark.parametrize("n", [1, 13, 701, 8192])
@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention"])
def test_modernbert_to_the_bit(kind, n):
    config = ModernBertConfig(hidden_size=42, num_attention_heads=3)
    q, k = (random(1, n, 3, 14, dtype=torch.float32, seed=seed) for seed in (1, 2))
    angles = modeling_modernbert.ModernBertRotaryEmbedding(config)
    cos, sin = angles(q, torch.arange(n)[None], kind)
    expected = modeling_modernbert.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=2)
    rotary = Rotary({"full_attention": 160000.0, "sliding_attention": 10000.0}[kind], 14)
    assert torch.equal(rotary.frequencies(), getattr(angles, f"{kind}_inv_freq"))
    assert torch.equal(rotary.rotate(q), expected[0])
    assert torch.equal(rotary.rotate(k), expected[1])


def gte(n, d_head, parameters):
    """(inverse frequencies, cosine, sine) of Hugging Face's GTE."""
    config = GteConfig(hidden_size=3 * d_head, num_attention_heads=3, rope_parameters=parameters)
    angles = modeling_gte.GteRotaryEmbedding(config)
    return angles.inv_freq, *angles(torch.zeros(1), torch.arange(n)[None])


@pytest.mark.parametrize(
    ("parameters", "rotary"),
    [
        ({"rope_type": "default", "rope_theta": 20000.0}, Rotary(20000.0, 14)),
        ({"rope_type": "linear", "rope_theta": 20000.0, "factor": 8.0}, Rotary.linear(20000.0, 14, 8.0)),
        ({"rope_type": "linear", "rope_theta": 500.0, "factor": 3.7}, Rotary.linear(500.0, 14, 3.7)),
    ],
)
def test_gte_to_the_bit(parameters, rotary):
    frequencies, cos, sin = gte(97, 14, parameters)
    q, k = (random(2, 97, 3, 14, dtype=torch.float32, seed=seed) for seed in (1, 2))
    expected = modeling_gte.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=2)
    assert torch.equal(rotary.frequencies(), frequencies)
    assert torch.equal(rotary.rotate(q), expected[0])
    assert torch.equal(rotary.rotate(k), expected[1])


def test_the_older_models_ntk_scaling_stretches_the_wavelengths():
    """As the code that comes with them: the base times the factor, and all frequencies over factor^(2/d).

    The slowest plane is then slower by the factor itself.
    """
    base, d_head, factor = 20000.0, 14, 8.0
    found = Rotary.ntk(base, d_head, factor).frequencies(torch.float64)
    expected = [(base * factor) ** (-2 * i / d_head) / factor ** (2 / d_head) for i in range(d_head // 2)]
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    plain = Rotary(base, d_head).frequencies(torch.float64)
    np.testing.assert_allclose(plain[-1] / found[-1], factor, rtol=1e-14)


def test_dynamic_scaling_is_none_within_the_positions_that_a_model_has():
    """`rope_scaling` of the type `dynamic` only acts on longer inputs than are taken."""
    config = PreTrainedConfig(hidden_size=42, num_attention_heads=3, max_position_embeddings=512)
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 20000.0, "factor": 4.0}
    for seq_len in (None, 7, 512):
        frequencies, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, seq_len=seq_len)
        assert torch.equal(Rotary(20000.0, 14).frequencies(), frequencies)


@pytest.mark.parametrize(
    "rotary", [Rotary(160000.0, 14), Rotary.ntk(20000.0, 14, 8.0), Rotary.linear(10000.0, 14, 2.0)]
)
def test_the_matrix_of_an_offset_gives_the_score_of_both_sides_turned(rotary):
    q, k = random(1, 53, 1, 14, seed=1), random(1, 53, 1, 14, seed=2)
    turned_q, turned_k = rotary.rotate(q)[0, :, 0], rotary.rotate(k)[0, :, 0]
    for row, column in ((0, 0), (7, 7), (3, 41), (52, 0), (17, 16), (5, 52)):
        found = q[0, row, 0] @ rotary.rotation_matrix(column - row) @ k[0, column, 0]
        torch.testing.assert_close(found, turned_q[row] @ turned_k[column], rtol=0, atol=1e-12)
    assert torch.equal(rotary.rotation_matrix(0), torch.eye(14, dtype=torch.float64))
    composed = rotary.rotation_matrix(13) @ rotary.rotation_matrix(-31)
    torch.testing.assert_close(composed, rotary.rotation_matrix(-18), rtol=0, atol=1e-13)


def test_lengths_share_a_table_that_inference_mode_does_not_spoil():
    rotary = Rotary(313.0, 6)
    with torch.inference_mode():
        rotary.rotate(random(1, 11, 1, 6))
    x = random(2, 13, 3, 6).requires_grad_()
    (found,) = torch.autograd.grad(rotary.rotate(x).square().sum(), x)
    torch.testing.assert_close(found, 2 * x.detach(), rtol=0, atol=1e-13)  # turning keeps lengths
    cpu = torch.device("cpu")
    assert rotary.table(11, cpu, torch.float64)[0].data_ptr() == rotary.table(16, cpu, torch.float64)[0].data_ptr()
    assert rotary.table(17, cpu, torch.float64)[0].shape == (17, 1, 6)
    assert rotary.table(0, cpu, torch.float32)[1].shape == (0, 1, 6)


def test_float64_is_exact_where_float32_rounds_the_angle():
    x = torch.ones(1, 8192, 1, 2, dtype=torch.float64)
    rotary = Rotary(10000.0, 2, divisor=1.7)
    angle = 8191 / 1.7
    expected = [math.cos(angle) - math.sin(angle), math.cos(angle) + math.sin(angle)]
    np.testing.assert_allclose(rotary.rotate(x)[0, -1, 0], expected, rtol=0, atol=1e-11)
    half = rotary.rotate(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("base", "d_head", "divisor"), [(10000.0, 7, 1.0), (0.0, 6, 1.0), (10000.0, 6, 0.0), (1.0, 0, 1.0)]
)
def test_positions_that_make_no_sense_are_refused(base, d_head, divisor):
    with pytest.raises(ValueError, match="expected heads of an even width"):
        Rotary(base, d_head, divisor)


def test_heads_of_another_width_are_refused():
    with pytest.raises(ValueError, match="expected queries or keys of d_head 6, got 8"):
        Rotary(10000.0, 6).rotate(random(1, 3, 2, 8))
