"""The tiny checkpoints of every family: random all through, and read back from disk by those who wrote the formats."""

import json

import pytest
import torch
from family_oracle import encode
from family_texts import PAIRS
from family_world import LAYOUTS, backbone
from family_worlds import FAMILIES, SAME_MODEL, build
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GteForSequenceClassification

EVERY_FAMILY = pytest.mark.parametrize("name", FAMILIES)
UNKNOWN = ("jina-v2", "lightning-mono", "lightning-cross-encoder", "modernbert-modular", "gte-old", "gte-ntk-old")
GTE = [name for name in FAMILIES if name.startswith("gte")]


@EVERY_FAMILY
def test_every_weight_is_random_and_the_seeds_own(name):
    one, again, other = build(name, 2, 1), build(name, 2, 1), build(name, 2, 2)
    assert one.name == name
    assert one.n_labels == 2
    for key, weight in one.state.items():
        values = weight.double()
        assert values.std() > 0.05, key
        assert torch.equal(weight, again.state[key])
        assert not torch.equal(weight, other.state[key])
    assert len(set(one.state) ^ set(other.state)) == 0


@EVERY_FAMILY
def test_both_layouts_hold_what_the_world_says(name, tmp_path):
    world = build(name)
    whole, pickled = (world.write(tmp_path / layout, layout) for layout in LAYOUTS)
    state = load_file(whole / "model.safetensors")
    unpickled = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    assert set(state) == set(unpickled) == set(world.state)
    assert all(
        torch.equal(state[key], weight) and torch.equal(unpickled[key], weight) for key, weight in world.state.items()
    )
    assert json.loads((whole / "config.json").read_text(encoding="utf-8")) == world.config
    assert not list(pickled.rglob("*.safetensors"))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in UNKNOWN])
@pytest.mark.parametrize("n_labels", [1, 2])
def test_hugging_face_reads_the_folder(name, n_labels, tmp_path):
    world = build(name, n_labels, 3)
    read, report = AutoModelForSequenceClassification.from_pretrained(
        world.write(tmp_path), dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values())
    assert type(read) is type(world.model)
    inputs = encode(world).inputs
    with torch.no_grad():
        assert torch.equal(read.eval()(**inputs).logits, world.model(**inputs).logits)


@pytest.mark.parametrize("name", GTE)
def test_each_key_layout_of_gte_is_read_as_the_same_model(name, tmp_path):
    """Its configuration given, since transformers takes `new` for code of its own."""
    world = build(name, 1, 3)
    read, report = GteForSequenceClassification.from_pretrained(
        world.write(tmp_path), config=world.model.config, output_loading_info=True
    )
    assert not any(report.values())
    assert all(torch.equal(weight, read.state_dict()[key]) for key, weight in world.model.state_dict().items())


def test_layouts_of_one_model_differ_on_disk_only():
    for name, other in SAME_MODEL.items():
        world, twin = build(name, 2, 3), build(other, 2, 3)
        weights = twin.model.state_dict()
        assert all(torch.equal(weight, weights[key]) for key, weight in world.model.state_dict().items())
        assert set(world.state) != set(twin.state) or world.config != twin.config


def test_saving_a_model_gives_the_worlds_keys(tmp_path):
    """What `save_pretrained` writes, for GTE not the names of the modules."""
    for name in ("xlm-roberta", "electra-projected", "distilbert", "modernbert-cls", "gte", "deberta-v2", "mpnet"):
        world = build(name)
        world.model.save_pretrained(tmp_path / name)
        assert set(load_file(tmp_path / name / "model.safetensors")) == set(world.state), name


@EVERY_FAMILY
def test_the_tokenizer_is_read_as_it_is(name, tmp_path):
    world = build(name)
    read = AutoTokenizer.from_pretrained(world.write(tmp_path), trust_remote_code=False)
    texts = [list(column) for column in zip(*PAIRS, strict=True)]
    settings = {"truncation": "only_second", "padding": True}
    assert dict(read(*texts, **settings)) == dict(world.tokenizer(*texts, **settings))


def test_jinas_keys_are_xlm_rs_with_thirds_laid_one_below_the_other():
    jina, width = build("jina-v2"), 21
    weights = jina.model.state_dict()
    at, own = "roberta.encoder.layers.1.mixer.Wqkv", "roberta.encoder.layer.1.attention.self"
    for i, kind in enumerate(("query", "key", "value")):
        third = slice(i * width, (i + 1) * width)
        for part in ("weight", "bias"):
            assert torch.equal(jina.state[f"{at}.{part}"][third].float(), weights[f"{own}.{kind}.{part}"])
    assert jina.state[f"{at}.weight"].dtype == torch.bfloat16
    assert "model_type" not in jina.config
    assert sum(weight.numel() for weight in jina.state.values()) == sum(weight.numel() for weight in weights.values())
    expected = {"Wqkv", "out_proj", "norm1", "norm2", "fc1", "fc2"}
    assert {key.split(".")[-2] for key in jina.state if ".layers.1." in key} == expected


def test_lightnings_keys_have_no_prefix_and_a_head_without_bias():
    for name in ("lightning-mono", "lightning-cross-encoder"):
        world = build(name, 2)
        assert "embeddings.word_embeddings.weight" in world.state
        assert {key for key in world.state if key.startswith("linear")} == {"linear.weight"}
        assert world.config["backbone_model_type"] == "electra"
        assert world.config["model_type"] == name.removeprefix("lightning-")


@pytest.mark.parametrize("n_labels", [1, 2])
def test_sentence_transformers_gives_the_modular_worlds_scores(n_labels, tmp_path):
    from sentence_transformers import CrossEncoder

    world = build("modernbert-modular", n_labels, 3)
    read = CrossEncoder(str(world.write(tmp_path)), device="cpu")
    kinds = [type(module).__name__ for module in read]
    assert kinds == ["Transformer", "Pooling", "Dense", "LayerNorm", "Dense"]
    scores = read.predict(list(PAIRS[:5]), activation_fn=torch.nn.Identity(), convert_to_tensor=True)
    with torch.no_grad():
        expected = world.model(**encode(world, PAIRS[:5]).inputs).logits
    torch.testing.assert_close(scores.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)


def test_half_windows_are_those_of_the_configuration():
    for name in FAMILIES:
        world = build(name)
        config = backbone(world.model).config
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        expected = [config.local_attention // 2 if kind == "sliding_attention" else None for kind in kinds]
        assert list(world.half_windows) == expected, name
