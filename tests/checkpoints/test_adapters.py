"""LoRA adapters: the merge against PEFT's own and against a slow reference, and every adapter that has to be refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import D_MLP, D_MODEL, D_VOCAB, N_CTX, N_HEADS, N_LAYERS, port, run_hf
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    PreTrainedTokenizerFast,
)

from tl_crossenc.checkpoints.adapters import is_adapter_folder, read_adapter
from tl_crossenc.checkpoints.checkpoint import open_checkpoint
from tl_crossenc.checkpoints.embedded import open_model
from tl_crossenc.checkpoints.merging import merge
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.porting import config_from_checkpoint, port_weights

RANK, ALPHA = 5, 13  # alpha / r = 2.6: no power of two, and not 1
MODULES = (
    [
        f"bert.encoder.layer.{layer}.attention.self.{which}"
        for layer in range(N_LAYERS)
        for which in ("query", "key", "value")
    ]
    + [
        f"bert.encoder.layer.{layer}.{which}"
        for layer in range(N_LAYERS)
        for which in ("attention.output.dense", "intermediate.dense", "output.dense")
    ]
    + ["bert.pooler.dense"]
)


def save_base(folder, kind=BertModel, n_labels=2, seed=0):
    """A tiny seeded BERT of the kind, in a folder of its own."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=D_VOCAB,
        hidden_size=D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        intermediate_size=D_MLP,
        max_position_embeddings=N_CTX,
        num_labels=n_labels,
    )
    model = kind(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


def shape_of(module):
    """[out, in] of a module's weight."""
    if "intermediate" in module:
        return D_MLP, D_MODEL
    return (D_MODEL, D_MLP) if module.endswith("output.dense") and "attention" not in module else (D_MODEL, D_MODEL)


def save_adapter(folder, base, n_labels=2, seed=1, rank=RANK, drop=(), rename=None, extra=None, **settings):
    """An adapter as PEFT writes it, both factors random; `settings` go into its configuration."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in MODULES:
        out, width = shape_of(module)
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, width, generator=generator)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.1
    tensors["base_model.model.classifier.weight"] = torch.randn(n_labels, D_MODEL, generator=generator)
    tensors["base_model.model.classifier.bias"] = torch.randn(n_labels, generator=generator)
    tensors = {(rename or {}).get(key, key): tensor for key, tensor in tensors.items() if key not in drop}
    folder.mkdir()
    save_file(tensors | (extra or {}), folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.1,
        "bias": "none",
        "target_modules": ["query", "key", "value", "dense"],
        "modules_to_save": ["classifier", "score"],
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


def hooked(checkpoint, dtype=torch.float32):
    model = HookedCrossEncoder(config_from_checkpoint(checkpoint, dtype))
    port_weights(model, checkpoint)
    return model.eval()


def refusal(folder):
    """The one sentence with which an adapter is refused, when it is opened or when its weights are ported."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        hooked(open_model(str(folder)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def base(tmp_path):
    return save_base(tmp_path / "base")


@pytest.fixture(params=["without head", "with head", "with pre-training heads"])
def any_base(request, tmp_path):
    kinds = {
        "without head": BertModel,
        "with head": BertForSequenceClassification,
        "with pre-training heads": BertForPreTraining,
    }
    return save_base(tmp_path / "base", kinds[request.param])


def test_merge_equals_pefts(any_base, tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft, of the extra dev or train")
    folder = save_adapter(tmp_path / "adapter", any_base)
    before = BertForSequenceClassification.from_pretrained(any_base, num_labels=2)
    theirs = peft.PeftModel.from_pretrained(before, folder).merge_and_unload().state_dict()

    ours = dict(open_model(str(folder)).read_tensors())

    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=0, atol=1e-6, msg=key)


def test_merge_equals_a_slow_sum_and_leaves_the_rest_alone(base, tmp_path):
    folder = save_adapter(tmp_path / "adapter", base)
    before, adapter = load_file(base / "model.safetensors"), load_file(folder / "adapter_model.safetensors")

    after = dict(open_model(str(folder)).read_tensors())

    assert len(after) == len(before) + 2
    for key, given in before.items():
        weight = given.double().numpy()
        module = f"base_model.model.bert.{key.removesuffix('.weight')}"
        if key.endswith(".weight") and f"{module}.lora_A.weight" in adapter:
            a, b = (adapter[f"{module}.lora_{side}.weight"].double().numpy() for side in "AB")
            change = np.zeros_like(weight)
            for i in range(RANK):
                change += ALPHA / RANK * np.outer(b[:, i], a[i])
            assert np.abs(change).max() > 0.05
            np.testing.assert_allclose(after[f"bert.{key}"].numpy(), weight + change, rtol=0, atol=1e-5)
        else:
            assert torch.equal(after[f"bert.{key}"], given), key
    for leaf in ("weight", "bias"):
        assert torch.equal(after[f"classifier.{leaf}"], adapter[f"base_model.model.classifier.{leaf}"])


def test_the_merged_model_computes_what_hugging_face_and_peft_compute(any_base, tmp_path, batch):
    peft = pytest.importorskip("peft", reason="needs peft, of the extra dev or train")
    folder = save_adapter(tmp_path / "adapter", any_base)
    before = BertForSequenceClassification.from_pretrained(any_base, num_labels=2, attn_implementation="eager")
    unmerged = peft.PeftModel.from_pretrained(before.double(), folder).double().eval()  # runs W x + (alpha / r) B (A x)

    model = hooked(open_model(str(folder)), torch.float64)

    logits = model(batch, return_type="logits")
    torch.testing.assert_close(logits, run_hf(unmerged, batch).logits, rtol=0, atol=1e-5)
    with unmerged.disable_adapter():
        assert (run_hf(unmerged, batch).logits - logits).abs().max() > 0.1


def test_an_adapter_with_a_zero_factor_is_its_base_to_the_bit(tmp_path, batch):
    base = save_base(tmp_path / "base", BertForSequenceClassification)
    folder = save_adapter(tmp_path / "adapter", base)
    file, whole = folder / "adapter_model.safetensors", load_file(base / "model.safetensors")
    tensors = {key: torch.zeros_like(t) if "lora_B" in key else t for key, t in load_file(file).items()}
    tensors |= {f"base_model.model.classifier.{leaf}": whole[f"classifier.{leaf}"] for leaf in ("weight", "bias")}
    save_file(tensors, file)

    theirs = port(BertForSequenceClassification.from_pretrained(base), torch.float32)

    assert torch.equal(hooked(open_model(str(folder)))(batch), theirs(batch))


def test_an_adapter_without_a_classifier_keeps_its_bases(tmp_path):
    base = save_base(tmp_path / "base", BertForSequenceClassification, n_labels=1)
    classifier = [f"base_model.model.classifier.{leaf}" for leaf in ("weight", "bias")]
    folder = save_adapter(tmp_path / "adapter", base, drop=classifier, modules_to_save=None)

    model = hooked(open_model(str(folder)))

    assert model.cfg.n_labels == 1
    assert torch.equal(model.classifier.weight.detach(), load_file(base / "model.safetensors")["classifier.weight"])


@pytest.mark.parametrize(("in_base", "in_adapter"), [(1, 2), (2, 1), (3, 2)])
def test_the_adapters_classifier_says_how_many_labels(tmp_path, in_base, in_adapter):
    base = save_base(tmp_path / "base", BertForSequenceClassification, n_labels=in_base)
    folder = save_adapter(tmp_path / "adapter", base, n_labels=in_adapter)

    model = hooked(open_model(str(folder)))

    wanted = load_file(folder / "adapter_model.safetensors")["base_model.model.classifier.weight"]
    assert model.cfg.n_labels == in_adapter
    assert torch.equal(model.classifier.weight.detach(), wanted)


def test_a_base_in_half_precision_is_merged_in_float32(base, tmp_path):
    folder = save_adapter(tmp_path / "adapter", base)
    file = base / "model.safetensors"
    halves = {key: tensor.half() for key, tensor in load_file(file).items()}
    save_file(halves, file, {"format": "pt"})
    adapter = load_file(folder / "adapter_model.safetensors")
    module = "base_model.model.bert.pooler.dense"
    change = ALPHA / RANK * adapter[f"{module}.lora_B.weight"].double() @ adapter[f"{module}.lora_A.weight"].double()

    merged = dict(open_model(str(folder)).read_tensors())["bert.pooler.dense.weight"]

    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged.double(), halves["pooler.dense.weight"].double() + change, rtol=0, atol=1e-5)


def test_a_folder_becomes_a_model_that_reads_texts_with_its_own_or_its_bases_tokenizer(base, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "fleas", "hop"]
    (base / "vocab.txt").write_text("\n".join(words) + "\n")
    folder = save_adapter(tmp_path / "adapter", base)
    of_base = HookedCrossEncoder.from_pretrained(str(folder), device="cpu")
    assert of_base.to_str_tokens("how", "fleas hop") == ["[CLS]", "how", "[SEP]", "fleas", "hop", "[SEP]"]
    assert of_base.cfg.model_name == str(folder)

    (folder / "vocab.txt").write_text("\n".join([*words[:6], "hop"]) + "\n")
    own = HookedCrossEncoder.from_pretrained(str(folder), device="cpu")

    assert own.to_str_tokens("how", "fleas hop") == ["[CLS]", "how", "[SEP]", "[UNK]", "hop", "[SEP]"]


def test_the_revision_tells_adapters_settings_and_bases_apart(tmp_path):
    bases = [save_base(tmp_path / f"base{seed}", seed=seed) for seed in (0, 1)]
    first = save_adapter(tmp_path / "first", bases[0])
    others = [
        save_adapter(tmp_path / "weights", bases[0], seed=2),
        save_adapter(tmp_path / "alpha", bases[0], lora_alpha=ALPHA + 1),
        save_adapter(tmp_path / "base", bases[1]),
    ]

    revisions = [open_model(str(folder)).revision for folder in (first, *others)]

    assert len(set(revisions)) == 4
    assert open_model(str(first)).revision == revisions[0]
    # The same adapter, to the byte, over other weights in the same place.
    (tmp_path / "base0" / "model.safetensors").write_bytes((tmp_path / "base1" / "model.safetensors").read_bytes())
    assert open_model(str(first)).revision not in revisions


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("use_rslora", True),
        ("use_dora", True),
        ("use_qalora", True),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("rank_pattern", {"pooler.dense": 3}),
        ("alpha_pattern", {"pooler.dense": 3}),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("modules_to_save", ["classifier", "pooler"]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("peft_type", "IA3"),
        ("task_type", "CAUSAL_LM"),
        ("layer_replication", [[0, 2], [1, 3]]),
        ("a_variant_of_tomorrow", {"strength": 1}),
    ],
)
def test_a_setting_that_the_merge_does_not_compute_is_refused(base, tmp_path, setting, value):
    sentence = refusal(save_adapter(tmp_path / "adapter", base, **{setting: value}))
    assert "expected a plain LoRA adapter" in sentence
    assert f"with {setting} " in sentence


def test_settings_that_are_off_are_accepted_whatever_their_name(base, tmp_path):
    off = {"use_dora": False, "rank_pattern": {}, "a_variant_of_tomorrow": None, "init_lora_weights": "gaussian"}
    folder = save_adapter(tmp_path / "adapter", base, **off)
    assert len(dict(open_model(str(folder)).read_tensors())) > 0


@pytest.mark.parametrize(
    "settings",
    [{"r": 0}, {"r": None}, {"lora_alpha": "16"}, {"base_model_name_or_path": None}],
    ids=lambda s: next(iter(s)),
)
def test_a_configuration_without_what_the_merge_needs_is_refused(base, tmp_path, settings):
    assert next(iter(settings)) in refusal(save_adapter(tmp_path / "adapter", base, **settings))


A_KEY = "base_model.model.bert.encoder.layer.1.attention.self.key.lora_A.weight"
B_KEY = A_KEY.replace("lora_A", "lora_B")


def test_a_factor_that_the_base_has_no_place_for_is_an_error(base, tmp_path):
    moved = {key: key.replace("layer.1.", "layer.9.") for key in (A_KEY, B_KEY)}
    sentence = refusal(save_adapter(tmp_path / "adapter", base, rename=moved))
    assert "lacks bert.encoder.layer.9.attention.self.key.weight" in sentence
    assert "layer.1." not in sentence


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.bert.embeddings.word_embeddings.lora_embedding_A",
        "base_model.model.bert.pooler.dense.lora_magnitude_vector",
        "base_model.model.bert.pooler.dense.bias",
        "bert.pooler.dense.lora_A.weight",
    ],
)
def test_a_tensor_that_a_plain_adapter_does_not_have_is_an_error(base, tmp_path, key):
    assert key in refusal(save_adapter(tmp_path / "adapter", base, extra={key: torch.zeros(RANK, D_MODEL)}))


def test_a_tensor_of_a_module_that_bert_does_not_have_is_an_error(base, tmp_path):
    key = "base_model.model.score.weight"
    assert "not known: score.weight" in refusal(
        save_adapter(tmp_path / "adapter", base, extra={key: torch.zeros(2, D_MODEL)})
    )


def test_half_a_pair_of_factors_is_an_error(base, tmp_path):
    sentence = refusal(save_adapter(tmp_path / "adapter", base, drop=[B_KEY]))
    assert "layer.1.attention.self.key.weight with one factor of the two" in sentence


def test_half_a_classifier_is_an_error_even_where_the_base_has_one(tmp_path):
    base = save_base(tmp_path / "base", BertForSequenceClassification)
    sentence = refusal(save_adapter(tmp_path / "adapter", base, drop=["base_model.model.classifier.bias"]))
    assert "missing: classifier.bias" in sentence


def test_factors_of_another_rank_or_width_are_an_error(base, tmp_path):
    assert "of rank 5" in refusal(save_adapter(tmp_path / "rank", base, rank=3))
    wider = {A_KEY: torch.zeros(RANK, D_MODEL + 2)}
    sentence = refusal(save_adapter(tmp_path / "width", base, extra=wider))
    assert f"of shape ({D_MODEL}, {D_MODEL + 2})" in sentence
    assert f"got ({D_MODEL}, {D_MODEL})" in sentence


def test_files_that_are_missing_damaged_or_ambiguous_are_an_error(base, tmp_path):
    folder = save_adapter(tmp_path / "adapter", base)
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()

    weights.write_bytes(whole[:-7])
    assert "truncated" in refusal(folder)
    weights.unlink()
    assert "expected adapter_model.safetensors" in refusal(folder)
    weights.write_bytes(whole)
    (folder / "adapter_config.json").write_text("{")
    assert "expected a JSON object" in refusal(folder)
    (folder / "model.safetensors").write_bytes(b"")
    assert "got both (model.safetensors and adapter_config.json)" in refusal(folder)


def test_a_base_that_is_not_there_is_an_error_that_names_both(tmp_path):
    folder = save_adapter(tmp_path / "adapter", tmp_path / "nowhere")
    sentence = refusal(folder)
    assert str(folder) in sentence
    assert str(tmp_path / "nowhere") in sentence


def test_a_folder_without_an_adapter_is_none(base, tmp_path):
    assert not is_adapter_folder(base)
    assert not is_adapter_folder(tmp_path / "nowhere")
    assert is_adapter_folder(save_adapter(tmp_path / "adapter", base))


def test_merging_can_be_read_twice_and_changes_neither_source(base, tmp_path):
    adapter = read_adapter(save_adapter(tmp_path / "adapter", base), "mine")
    given = open_checkpoint(str(base))
    merged = merge(given, adapter)
    first, second = dict(merged.read_tensors()), dict(merged.read_tensors())
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert merged.name == "mine"
    assert "num_labels" not in given.config


@pytest.mark.parametrize("kind", [BertModel, BertForSequenceClassification])
def test_a_base_saved_inside_of_a_wrapper_merges_as_the_plain_one(tmp_path, kind, batch):
    plain = hooked(open_model(str(save_adapter(tmp_path / "a", save_base(tmp_path / "base", kind)))))
    wrapped = save_base(tmp_path / "wrapped", kind)
    state = load_file(wrapped / "model.safetensors")
    save_file({f"module.{key}": tensor for key, tensor in state.items()}, wrapped / "model.safetensors")
    found = hooked(open_model(str(save_adapter(tmp_path / "b", wrapped))))
    assert torch.equal(found(batch, return_type="logits"), plain(batch, return_type="logits"))


def test_a_base_that_has_a_matrix_twice_is_an_error(base, tmp_path):
    adapter = read_adapter(save_adapter(tmp_path / "adapter", base), "tiny")
    given = open_checkpoint(str(base))
    key = "encoder.layer.0.output.dense.weight"
    again = [(key, torch.zeros(D_MODEL, D_MLP))]
    twice = dataclasses.replace(given, read_tensors=lambda: iter([*given.read_tensors(), *again]))
    with pytest.raises(ValueError, match=f"twice there: bert.{key}"):
        hooked(merge(twice, adapter))


@pytest.mark.parametrize("stored", [torch.int8, torch.uint8, torch.float8_e8m0fnu])
def test_weights_that_are_no_numbers_by_themselves_are_not_merged(tmp_path, stored):
    base = save_base(tmp_path / "base")
    state = load_file(base / "model.safetensors")
    key = "encoder.layer.0.output.dense.weight"
    save_file({**state, key: state[key].abs().to(stored)}, base / "model.safetensors")
    assert str(stored) in refusal(save_adapter(tmp_path / "adapter", base))
    save_file(state, base / "model.safetensors")
    factor = f"base_model.model.bert.{key.removesuffix('.weight')}.lora_A.weight"
    extra = {factor: torch.ones(RANK, D_MLP).to(stored)}
    assert f"{factor} of {stored}" in refusal(save_adapter(tmp_path / "other", base, extra=extra))


def test_a_float8_base_is_merged_in_float32(tmp_path, batch):
    base = save_base(tmp_path / "base")
    state = {key: tensor.to(torch.float8_e5m2) for key, tensor in load_file(base / "model.safetensors").items()}
    save_file(state, base / "model.safetensors")
    low = hooked(open_model(str(save_adapter(tmp_path / "a", base))))
    save_file({key: tensor.float() for key, tensor in state.items()}, base / "model.safetensors")
    assert torch.equal(
        low(batch, return_type="logits"),
        hooked(open_model(str(save_adapter(tmp_path / "b", base))))(batch, return_type="logits"),
    )


@pytest.mark.parametrize("in_adapter", [True, False])
def test_texts_are_read_by_the_rules_of_the_adapters_tokenizer_or_of_its_bases(tmp_path, in_adapter):
    """A cased tokenizer saved by transformers 5, which names no token types, beside a lower-casing one of the other side."""
    base = save_base(tmp_path / "base")
    folder = save_adapter(tmp_path / "adapter", base)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "How", "flea", "Flea"]
    backend = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, do_lower_case=False).backend_tokenizer
    named = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    own, other = (folder, base) if in_adapter else (base, folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(own)
    if in_adapter:
        (other / "vocab.txt").write_text("\n".join(words) + "\n")

    model = HookedCrossEncoder.from_pretrained(str(folder), device="cpu")

    assert model.to_str_tokens("How", "flea Flea") == ["[CLS]", "How", "[SEP]", "flea", "Flea", "[SEP]"]
    assert not model.types_fed
    assert (
        model.to_pairs("How", "flea").tokens[0].tolist()
        == AutoTokenizer.from_pretrained(own)("How", "flea")["input_ids"]
    )


@pytest.mark.parametrize(("in_base", "score"), [(2, "difference:0"), (3, "difference")])
def test_the_bases_names_of_labels_are_kept_where_the_adapter_has_as_many(tmp_path, in_base, score):
    base = save_base(tmp_path / "base", BertForSequenceClassification, n_labels=in_base)
    config = json.loads((base / "config.json").read_text())
    names = ("relevant", "not_relevant", "neutral")[:in_base]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (base / "config.json").write_text(json.dumps(config))
    folder = save_adapter(tmp_path / "adapter", base, n_labels=2)
    assert hooked(open_model(str(folder))).cfg.score == score
