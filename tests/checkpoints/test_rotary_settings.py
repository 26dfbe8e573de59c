"""Windows, rotary settings and fused weights that a ModernBERT or GTE may not have: each refused in one sentence."""

import json

import pytest
from family_worlds import build
from helpers import one_sentence
from safetensors.torch import load_file, save_file

from tl_crossenc.checkpoints.embedded import open_model
from tl_crossenc.checkpoints.families import family_of
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

FULL, SLIDING = "full_attention", "sliding_attention"


def shape_of(name, **changes):
    config = {**build(name).config, **changes}
    return family_of(config, "tiny").shape({key: value for key, value in config.items() if value != "absent"}, "tiny")


def rope(**changes):
    return {FULL: {"rope_type": "default", "rope_theta": 911.0, **changes}}


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("modernbert-cls", {"layer_types": [FULL] * 4}, "for each of 5 layers"),
        ("modernbert-cls", {"layer_types": [FULL] * 4 + ["chunked_attention"]}, "'chunked_attention'"),
        ("modernbert-cls", {"layer_types": 3}, "got 3"),
        ("modernbert-cls", {"local_attention": -1}, "local_attention as a whole number"),
        ("modernbert-cls", {"local_attention": [7, 7]}, "local_attention as a whole number"),
        ("modernbert-old", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers as a whole number"),
        ("modernbert-cls", {"rope_parameters": rope(rope_type="yarn")}, "'yarn'"),
        ("modernbert-cls", {"rope_parameters": rope(partial_rotary_factor=0.5)}, "partial_rotary_factor"),
        ("modernbert-cls", {"rope_parameters": {"rope_type": "default"}}, "full_attention and sliding_attention"),
        ("modernbert-cls", {"rope_parameters": rope(rope_theta="large")}, "rope_theta as a number"),
        ("modernbert-old", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ("modernbert-cls", {"classifier_pooling": "max"}, "classifier_pooling among cls, mean"),
        ("modernbert-cls", {"hidden_activation": "silu"}, "hidden_activation among"),
        ("modernbert-cls", {"head_dim": 8}, "head_dim among None, 10"),
        ("gte", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 9.0}}, "'dynamic'"),
        ("gte", {"rope_parameters": {"rope_type": "linear", "rope_theta": 9.0}}, "a factor above 0"),
        ("gte", {"rope_scaling": {"type": "ntk", "factor": 8}}, "which of the two"),
        ("gte-ntk-old", {"rope_scaling": {"type": "yarn", "factor": 8}}, "'yarn'"),
        ("gte-ntk-old", {"rope_scaling": {"type": "ntk", "factor": -8}}, "factor as a number from 0"),
        ("gte-old", {"position_embedding_type": "absolute"}, "position_embedding_type among rope"),
        ("gte-old", {"layer_norm_type": "rms_norm"}, "layer_norm_type among layer_norm"),
        ("gte-old", {"logn_attention_scale": True}, "logn_attention_scale among False"),
    ],
)
def test_a_setting_that_is_not_computed_is_refused(name, changes, said):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked below
        shape_of(name, **changes)
    assert said in str(error.value)
    assert one_sentence(error.value)


def test_windows_and_bases_are_read_from_either_names():
    new, old = shape_of("modernbert-cls"), shape_of("modernbert-old")
    assert new["windows"] == old["windows"] == (None, 7, 7, None, 7)
    assert new["rotary_bases"] == old["rotary_bases"] == (911.0, 13.0, 13.0, 911.0, 13.0)
    defaults = shape_of("modernbert-old", global_rope_theta="absent", local_rope_theta="absent")
    assert set(defaults["rotary_bases"]) == {160_000.0, 10_000.0}
    one = shape_of("modernbert-old", local_rope_theta=None)
    assert set(one["rotary_bases"]) == {911.0}


def test_the_older_scaling_of_gte_is_a_base_and_a_divisor():
    """8 x 20,000 and 8^(2 / 64), by hand."""
    changes = {"hidden_size": 192, "rope_theta": 20_000, "rope_scaling": {"type": "ntk", "factor": 8}}
    shape = shape_of("gte-ntk-old", **changes)
    assert set(shape["rotary_bases"]) == {160_000}
    assert shape["rotary_factor"] == pytest.approx(1.0671404, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("modernbert-cls", "model.layers.1.attn.Wqkv.weight", "(87, 30) instead of (90, 30)"),
        ("modernbert-cls", "model.layers.2.mlp.Wi.weight", "(103, 30) instead of (106, 30)"),
        ("gte", "gte.encoder.layer.1.attention.qkv_proj.weight", "(87, 30) instead of (90, 30)"),
        ("gte", "gte.encoder.layer.1.mlp.up_gate_proj.weight", "(103, 30) instead of (106, 30)"),
    ],
)
def test_fused_weights_of_a_wrong_shape(name, key, said, tmp_path):
    folder = build(name).write(tmp_path)
    state = load_file(folder / "model.safetensors")
    state[key] = state[key][:-3].contiguous()
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked below
        HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert said in str(error.value)
    assert one_sentence(error.value)


@pytest.mark.parametrize(("name", "others"), [("modernbert-cls", "xlm-roberta"), ("gte", "bert")])
def test_keys_of_another_family(name, others, tmp_path):
    folder = build(name).write(tmp_path)
    save_file(build(others).state, folder / "model.safetensors")
    with pytest.raises(ValueError, match="expected exactly the weights of a") as error:
        HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert one_sentence(error.value)
    assert (
        json.loads((folder / "config.json").read_text())["model_type"] == open_model(str(folder)).config["model_type"]
    )
