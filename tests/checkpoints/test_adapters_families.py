"""LoRA adapters that PEFT saved over every family's own names of queries, keys, values, MLP and head, against PEFT itself."""

import copy
import json

import family_texts as texts
import pytest
import torch
from family_worlds import build
from helpers import one_sentence

from tl_crossenc import HookedCrossEncoder

peft = pytest.importorskip("peft", reason="needs peft, of the extra dev or train")

QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))
BERTS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
NAMES = {
    "bert": (*BERTS, "pooler.dense"),
    "xlm-roberta": BERTS,
    "roberta": ("query", "value"),
    "camembert": ("key",),
    "electra": BERTS,
    "electra-projected": ("query", "key", "value", "embeddings_project"),
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    "modernbert-cls": ("Wqkv", "Wo", "Wi", "head.dense"),
    "modernbert-mean": ("Wqkv",),
    "deberta-v2": ("query_proj", "key_proj", "value_proj", "attention.output.dense", "pooler.dense"),
    "ernie-without-tasks": ("query", "output.dense", "pooler.dense"),
    "gte": ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"),
    "gte-split": ("q_proj", "v_proj", "up_proj"),
    "gte-old": ("k_proj", "gate_proj", "o_proj"),
}
"""World -> what is adapted, by the names of transformers' modules."""


def adapted(name, folder, n_labels=1, targets=None, **settings):
    """(world, PEFT's model with random factors and a head trained in full, the adapter's folder)."""
    world = build(name, n_labels)
    base = world.write(folder / "base")
    given = {"r": 5, "lora_alpha": 13, "init_lora_weights": False, **settings}
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=list(targets or NAMES[name]), **given)
    torch.manual_seed(0)
    model = peft.get_peft_model(copy.deepcopy(world.model), config).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "modules_to_save" in key:
                weight.normal_(0, 0.3)
            if "lora_" in key:
                weight.normal_(0, 0.2)
    model.save_pretrained(folder / "adapter")
    file = folder / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": str(base), "init_lora_weights": True}
    file.write_text(json.dumps(config))
    return world, model, folder / "adapter"


@pytest.mark.parametrize("n_labels", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_pefts(name, n_labels, tmp_path):
    world, theirs, folder = adapted(name, tmp_path, n_labels)
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu")
    fed = world.tokenizer(QUERIES, PASSAGES, padding=True, truncation="only_second", max_length=67, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(**fed).logits
        plain = world.model(**fed).logits
    assert (logits - plain).abs().max() > 0.1
    expected = logits[:, 0] if n_labels == 1 else logits[:, 1] - logits[:, 0]
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), expected, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("name", ["xlm-roberta", "electra", "distilbert"])
def test_a_base_without_a_head_gets_the_adapters(name, tmp_path):
    """With as many labels as that has."""
    world, theirs, folder = adapted(name, tmp_path, 2)
    heads = ("classifier", "pre_classifier")
    from safetensors.torch import load_file, save_file

    file = tmp_path / "base" / "model.safetensors"
    save_file({key: weight for key, weight in load_file(file).items() if not key.startswith(heads)}, file)
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in ("id2label", "label2id", "num_labels")}
    (tmp_path / "base" / "config.json").write_text(json.dumps(kept | {"num_labels": 1}))
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu")
    fed = world.tokenizer(QUERIES, PASSAGES, padding=True, truncation="only_second", max_length=67, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(**fed).logits
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), logits[:, 1] - logits[:, 0], rtol=1e-4, atol=5e-5)


def test_an_adapter_of_another_family_is_refused(tmp_path):
    _, _, folder = adapted("electra", tmp_path)
    other = build("bert").write(tmp_path / "other")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(other)}))
    with pytest.raises(ValueError, match="is it the model that the adapter was trained on") as error:
        HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert one_sentence(error.value)


def test_a_factor_of_one_part_of_a_fused_matrix_has_to_fit_it(tmp_path):
    from safetensors.torch import load_file, save_file

    _, _, folder = adapted("gte", tmp_path, targets=("k_proj",))
    file = folder / "adapter_model.safetensors"
    state = load_file(file)
    key = next(key for key in state if "k_proj.lora_B" in key)
    save_file(state | {key: state[key][:-1].contiguous()}, file)
    with pytest.raises(ValueError, match=r"shape \(29, 30\)") as error:
        HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert one_sentence(error.value)
