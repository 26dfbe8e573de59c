"""Prefixes of a checkpoint's keys, against Hugging Face on the same or the stripped files."""

import pytest
import torch
from helpers import (
    LAYOUTS,
    bert_tokenizer,
    hf_model,
    monobert_config,
    one_sentence,
    random_weights,
    small_config,
    write_checkpoint,
    write_vocabulary,
)
from transformers import BertConfig, BertForSequenceClassification

from tl_crossenc.checkpoints.weight_names import WeightNames
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.parity import check_parity

CONFIG = monobert_config()
STATE = random_weights(CONFIG)
QUERIES = ["how do fleas lay", "egg", "the bread"]
PASSAGES = ["fleas lay eggs , 7 a day !", "", "bread rising"]
PREFIXES = ("module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module.")


def bare(key):
    """A key as BertModel's own, the classifier's as it is: what Hugging Face reads through `base_model_prefix`."""
    return key.removeprefix("bert.")


def load(folder, **given):
    return HookedCrossEncoder.from_pretrained(
        str(folder), device="cpu", dtype="float64", tokenizer=bert_tokenizer(), **given
    )


def refused(folder):
    with pytest.raises(ValueError, match="expected exactly the weights") as error:
        load(folder)
    assert one_sentence(error.value), str(error.value)
    return str(error.value)


def hf_scores(model, folder=None):
    """Scores of Hugging Face's model, from the folder itself or of the plain state."""
    if folder is None:
        hf = hf_model(CONFIG, STATE, torch.float64)
    else:
        config = BertConfig.from_dict(CONFIG)
        hf = BertForSequenceClassification.from_pretrained(folder, config=config, dtype=torch.float64).eval()
    pairs = model.to_pairs(QUERIES, PASSAGES)
    with torch.no_grad():
        logits = hf(
            pairs.tokens, attention_mask=pairs.attention_mask.long(), token_type_ids=pairs.token_type_ids
        ).logits
    return logits[:, 1] - logits[:, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_classifier_saved_without_its_base_prefix_scores_as_hugging_face_loads_it(tmp_path, layout):
    write_checkpoint(tmp_path, CONFIG, {bare(key): tensor for key, tensor in STATE.items()}, layout)
    model = load(tmp_path)
    theirs = hf_scores(model, tmp_path)
    assert theirs.std() > 1e-3
    assert torch.allclose(model.score(QUERIES, PASSAGES), theirs, rtol=0, atol=1e-10)
    assert torch.allclose(theirs, hf_scores(model), rtol=0, atol=1e-10)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("layout", ["safetensors", "sharded-bin"])
def test_a_wrapped_model_scores_as_the_stripped_one(tmp_path, prefix, base, layout):
    state = {prefix + (key if base else bare(key)): tensor for key, tensor in STATE.items()}
    write_checkpoint(tmp_path, CONFIG, state, layout)
    model = load(tmp_path)
    assert torch.allclose(model.score(QUERIES, PASSAGES), hf_scores(model), rtol=0, atol=1e-10)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_parity_holds_for_other_prefixes(tmp_path, prefix):
    config = small_config()
    state = {prefix + bare(key): tensor for key, tensor in STATE.items()}
    state[f"{prefix}embeddings.position_ids"] = torch.arange(41)[None]
    write_checkpoint(tmp_path, config, state)
    write_vocabulary(tmp_path)
    assert check_parity(str(tmp_path), device="cpu").passed


@pytest.mark.parametrize("name", [bare, lambda key: f"module.{key}", lambda key: f"model.{bare(key)}"])
def test_a_bare_encoder_is_no_reranker_under_any_prefix(tmp_path, name):
    write_checkpoint(
        tmp_path, CONFIG, {name(k): tensor for k, tensor in STATE.items() if not k.startswith("classifier")}
    )
    message = refused(tmp_path)
    assert "missing: classifier.bias, classifier.weight" in message
    assert "not known" not in message
    assert "is it a trained reranker" in message


@pytest.mark.parametrize(
    "extra",
    [
        "module.classifier.bias",
        "embeddings.LayerNorm.bias",
        "model.bert.pooler.dense.bias",
        "module.cls.predictions.bias",
    ],
)
def test_a_key_under_a_second_prefix_is_refused(tmp_path, extra):
    write_checkpoint(tmp_path, CONFIG, {**STATE, extra: torch.zeros(3)}, "bin")
    message = refused(tmp_path)
    assert f"not known: {extra}" in message
    assert "several prefixes" in message
    assert "missing" not in message


def test_two_halves_under_two_prefixes_are_refused(tmp_path):
    half = {("" if i % 2 else "module.") + key: tensor for i, (key, tensor) in enumerate(STATE.items())}
    write_checkpoint(tmp_path, CONFIG, half, "bin")
    message = refused(tmp_path)
    assert "missing" in message
    assert "under several prefixes ('module.bert.', 'bert.')" in message


def test_two_keys_of_one_name_are_there_twice(tmp_path):
    state = {f"model.{bare(key)}": tensor for key, tensor in STATE.items()}
    write_checkpoint(tmp_path, CONFIG, {**state, "model.embeddings.LayerNorm.gamma": torch.ones(15)})
    assert "twice there: model.embeddings.LayerNorm." in refused(tmp_path)


def test_names_by_hand():
    names = WeightNames()
    assert names("module._orig_mod.classifier.weight") == "classifier.weight"
    assert names("module._orig_mod.embeddings.LayerNorm.gamma") == "bert.embeddings.LayerNorm.weight"
    assert names("module._orig_mod.bert.pooler.dense.bias") is None
    assert names("module.classifier.bias") is None
    assert names("dropout.weight") == "dropout.weight"
    assert names.wrapped


# Types.


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_stored_float_types_score_as_hugging_face_reads_them(tmp_path, stored, layout):
    state = {key: (tensor * 0.5).to(getattr(torch, stored)) for key, tensor in STATE.items()}
    write_checkpoint(tmp_path, CONFIG, state, layout)
    model = load(tmp_path)
    theirs = hf_scores(model, tmp_path)
    assert theirs.std() > 1e-3
    assert torch.allclose(model.score(QUERIES, PASSAGES), theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_float8_weight_that_is_no_number_is_refused(tmp_path, stored):
    broken = STATE["bert.pooler.dense.bias"].clone()
    broken[3] = float("nan")
    write_checkpoint(tmp_path, CONFIG, {**STATE, "bert.pooler.dense.bias": broken.to(stored)})
    assert "NaN or infinite: bert.pooler.dense.bias" in refused(tmp_path)


@pytest.mark.parametrize(
    "stored", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e8m0fnu]
)
def test_weights_that_are_no_numbers_by_themselves_are_refused(tmp_path, stored):
    weight = STATE["bert.pooler.dense.weight"].abs().to(stored)
    write_checkpoint(tmp_path, CONFIG, {**STATE, "bert.pooler.dense.weight": weight})
    assert f"bert.pooler.dense.weight of {stored}, no float that is read here" in refused(tmp_path)


def test_scales_beside_float8_weights_are_refused(tmp_path):
    state = {**STATE, "bert.pooler.dense.weight_scale_inv": torch.ones(1, 1)}
    state["bert.pooler.dense.weight"] = state["bert.pooler.dense.weight"].to(torch.float8_e4m3fn)
    write_checkpoint(tmp_path, CONFIG, state)
    assert "not known: bert.pooler.dense.weight_scale_inv" in refused(tmp_path)
