import json
from pathlib import Path

import pytest
import torch
from helpers import (
    D_MODEL,
    LAYOUTS,
    N_HEADS,
    N_LAYERS,
    bert_tokenizer,
    hf_model,
    monobert_config,
    one_sentence,
    random_weights,
    small_config,
    write_checkpoint,
    write_vocabulary,
)
from memory import peak_memory
from transformers import BertConfig, BertForSequenceClassification

from tl_crossenc.checkpoints.checkpoint import Checkpoint, open_checkpoint
from tl_crossenc.checkpoints.weight_names import WeightNames
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.porting import config_from_checkpoint, port_weights

CONFIG = monobert_config()
STATE = random_weights(CONFIG)
QUERIES = ["how do fleas lay", "egg", "the bread", "do"]
PASSAGES = ["fleas lay eggs , 7 a day !", "", "bread rising [SEP] é 😀 " * 9, "x"]
D_HEAD = D_MODEL // N_HEADS


def checkpoint(config=CONFIG, state=STATE, *more):
    """A checkpoint in memory; `more` are further (key, tensor) pairs at its end."""
    return Checkpoint("tiny", "sha256:0", config, lambda: iter([*state.items(), *more]), None, None)


def port(config=CONFIG, state=STATE, *more, dtype=torch.float64):
    given = checkpoint(config, state, *more)
    model = HookedCrossEncoder(config_from_checkpoint(given, dtype), bert_tokenizer())
    port_weights(model, given)
    return model.eval()


def refused(*given):
    """The one sentence with which a checkpoint is refused."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked here and by the caller
        port(*given)
    assert one_sentence(error.value), str(error.value)
    assert "tiny" in str(error.value)
    return str(error.value)


def run_hf(model, pairs):
    with torch.no_grad():
        return model(
            pairs.tokens,
            token_type_ids=pairs.token_type_ids,
            attention_mask=pairs.attention_mask.long(),
            output_hidden_states=True,
            output_attentions=True,
        )


@torch.no_grad()
def differences(model, hf, pairs):
    """Largest |ours - Hugging Face's| of logits, hidden states and patterns at real positions."""
    theirs = run_hf(hf, pairs)
    logits, cache = model.run_with_cache(pairs, return_type="logits")
    real = pairs.attention_mask
    names = ["hook_full_embed"] + [f"blocks.{i}.hook_normalized_resid_post" for i in range(model.cfg.n_layers)]
    hidden = [(cache[n] - h)[real].abs().max() for n, h in zip(names, theirs.hidden_states, strict=True)]
    rows = real[:, None, :, None].expand(-1, model.cfg.n_heads, -1, real.shape[1])
    patterns = [
        (cache[f"blocks.{i}.attn.hook_pattern"] - pattern)[rows].abs().max()
        for i, pattern in enumerate(theirs.attentions)
    ]
    fused = model(pairs, return_type="logits")
    return {
        "logits": float((logits - theirs.logits).abs().max()),
        "fused logits": float((fused - theirs.logits).abs().max()),
        "hidden states": float(max(hidden)),
        "patterns": float(max(patterns)),
    }


# MonoBERT's own layout: no model_type, pytorch_model.bin; here without its vocabulary, which lies elsewhere.


@pytest.mark.parametrize("layout", LAYOUTS)
def test_monoberts_layout_loads_and_equals_hugging_face(tmp_path, layout):
    folder, words = tmp_path / "monobert", write_vocabulary(tmp_path / "words")
    write_checkpoint(folder, CONFIG, STATE, layout)
    model = HookedCrossEncoder.from_pretrained(str(folder), device="cpu", dtype="float64", tokenizer=words)
    assert (model.cfg.n_labels, model.cfg.eps, model.cfg.act_fn) == (2, 1e-12, "gelu")
    assert model.cfg.model_name == str(folder)
    hf = BertForSequenceClassification.from_pretrained(
        str(folder), config=BertConfig.from_dict(CONFIG), dtype=torch.float64, attn_implementation="eager"
    ).eval()
    pairs = model.to_pairs(QUERIES, PASSAGES)
    assert pairs.attention_mask.sum(1).tolist()[1] == 4  # padded and uneven: an empty passage
    assert pairs.tokens.shape[1] == CONFIG["max_position_embeddings"]  # and one that was cut
    assert max(differences(model, hf, pairs).values()) < 1e-10


def test_a_layout_without_tokenizer_files_says_what_to_pass(tmp_path):
    write_checkpoint(tmp_path, CONFIG, STATE, "bin")
    with pytest.raises(ValueError, match=r"pass tokenizer=") as error:
        HookedCrossEncoder.from_pretrained(str(tmp_path), device="cpu")
    assert one_sentence(error.value)


@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("n_labels", [1, 2])
def test_every_head_and_activation_equals_hugging_face(n_labels, act):
    config = small_config(n_labels, hidden_act=act, layer_norm_eps=1e-3)
    state = random_weights(config, n_labels)
    model, hf = port(config, state), hf_model(config, state, torch.float64)
    assert max(differences(model, hf, model.to_pairs(QUERIES, PASSAGES)).values()) < 1e-10


def test_float32_equals_hugging_face_to_its_rounding():
    model, hf = port(dtype=torch.float32), hf_model(CONFIG, STATE)
    pairs = model.to_pairs(QUERIES, PASSAGES)
    scale = max(float(state.abs().max()) for state in run_hf(hf, pairs).hidden_states)
    assert max(differences(model, hf, pairs).values()) < 1e-5 * max(1.0, scale)


@pytest.mark.parametrize("n_labels", [1, 2])
def test_the_score_is_the_logit_or_relevant_minus_not(n_labels):
    config = small_config(n_labels)
    state = random_weights(config, n_labels)
    model = port(config, state)
    logits = run_hf(hf_model(config, state, torch.float64), model.to_pairs(QUERIES, PASSAGES)).logits
    expected = logits[:, 0] if n_labels == 1 else logits[:, 1] - logits[:, 0]
    assert expected.std() > 1e-3
    assert torch.allclose(model.score(QUERIES, PASSAGES), expected, rtol=0, atol=1e-10)
    assert torch.allclose(model(model.to_pairs(QUERIES, PASSAGES)), expected, rtol=0, atol=1e-10)


def test_scores_come_in_the_order_given_whatever_the_batches():
    model = port()
    one_by_one = torch.cat([model.score(q, [p]) for q, p in zip(QUERIES, PASSAGES, strict=True)])
    for budget in (1, 30, 4096):
        done = []
        scores = model.score(QUERIES, PASSAGES, token_budget=budget, progress=done.append)
        assert torch.allclose(scores, one_by_one, rtol=0, atol=1e-10)
        assert sum(done) == 4
    assert model.score("egg", []).shape == (0,)


def test_weights_are_those_of_the_checkpoint_to_the_bit():
    model = port(dtype=torch.float32)
    assert sum(weight.numel() for weight in model.parameters()) == sum(weight.numel() for weight in STATE.values())
    for layer in range(N_LAYERS):
        at = f"bert.encoder.layer.{layer}."
        for head in range(N_HEADS):
            rows = slice(head * D_HEAD, (head + 1) * D_HEAD)
            for ours, name in ((model.W_Q, "query"), (model.W_K, "key"), (model.W_V, "value")):
                assert torch.equal(ours[layer, head], STATE[f"{at}attention.self.{name}.weight"][rows].T)
            for ours, name in ((model.b_Q, "query"), (model.b_K, "key"), (model.b_V, "value")):
                assert torch.equal(ours[layer, head], STATE[f"{at}attention.self.{name}.bias"][rows])
            assert torch.equal(model.W_O[layer, head], STATE[f"{at}attention.output.dense.weight"][:, rows].T)
        assert torch.equal(model.b_O[layer], STATE[f"{at}attention.output.dense.bias"])
        assert torch.equal(model.W_in[layer], STATE[f"{at}intermediate.dense.weight"].T)
        assert torch.equal(model.b_in[layer], STATE[f"{at}intermediate.dense.bias"])
        assert torch.equal(model.W_out[layer], STATE[f"{at}output.dense.weight"].T)
        assert torch.equal(model.b_out[layer], STATE[f"{at}output.dense.bias"])
    assert torch.equal(model.W_E, STATE["bert.embeddings.word_embeddings.weight"])
    assert torch.equal(model.W_pos, STATE["bert.embeddings.position_embeddings.weight"])


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_stored_in_another_float_type_are_converted(stored):
    state = {key: tensor.to(stored) for key, tensor in STATE.items()}
    model = port(CONFIG, state, dtype=torch.float32)
    assert model.dtype == torch.float32
    assert torch.equal(model.W_E, state["bert.embeddings.word_embeddings.weight"].float())


def test_a_bfloat16_port_scores_as_hugging_face_in_bfloat16(tmp_path):
    write_checkpoint(tmp_path, CONFIG, STATE)
    model = HookedCrossEncoder.from_pretrained(
        str(tmp_path), device="cpu", dtype="bfloat16", tokenizer=bert_tokenizer()
    )
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.W_E, STATE["bert.embeddings.word_embeddings.weight"].bfloat16())
    scores = model.score(QUERIES, PASSAGES)
    assert scores.dtype == torch.float32
    exact = run_hf(hf_model(CONFIG, STATE, torch.float64), model.to_pairs(QUERIES, PASSAGES)).logits
    expected = (exact[:, 1] - exact[:, 0]).float()
    assert torch.allclose(scores, expected, rtol=0, atol=0.05)
    assert not torch.equal(scores, expected)


# The audit of keys.


def test_names_of_tensorflow_conversions_are_read():
    renamed = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for key, tensor in STATE.items()
    }
    assert sum("gamma" in key for key in renamed) == 1 + 2 * N_LAYERS
    ours, plain = port(CONFIG, renamed).state_dict(), port().state_dict()
    assert all(torch.equal(ours[key], plain[key]) for key in plain)
    assert WeightNames()("bert.encoder.layer.1.output.LayerNorm.beta") == "bert.encoder.layer.1.output.LayerNorm.bias"


@pytest.mark.parametrize(
    "key",
    [
        "bert.embeddings.position_ids",
        "bert.embeddings.token_type_ids",
        "cls.predictions.bias",
        "cls.predictions.decoder.weight",
        "cls.predictions.transform.LayerNorm.gamma",
        "cls.seq_relationship.weight",
    ],
)
def test_keys_that_a_classifier_does_not_use_are_ignored(key):
    model = port(CONFIG, STATE, (key, torch.arange(17)))
    assert torch.equal(model.W_E, STATE["bert.embeddings.word_embeddings.weight"].double())


@pytest.mark.parametrize(
    "key",
    [
        "bert.encoder.layer.2.output.dense.weight",
        "bert.embeddings.extra.weight",
        "classifier.dense.weight",
        "bert.encoder.layer.0.attention.self.distance_embedding.weight",
        "bert.encoder.layer.0.crossattention.self.query.weight",
        "dropout.weight",
        "BERT.pooler.dense.bias",
        "module.classifier.bias",
    ],
)
def test_a_key_that_is_not_known_is_listed(key):
    assert f"not known: {key}" in refused(CONFIG, STATE, (key, torch.zeros(3)))


@pytest.mark.parametrize("key", list(STATE))
def test_each_weight_is_needed_in_its_own_shape_and_once(key):
    left = {name: tensor for name, tensor in STATE.items() if name != key}
    assert f"missing: {key}" in refused(CONFIG, left)
    tensor = STATE[key]
    larger = torch.zeros(tensor.shape[0] + 1, *tensor.shape[1:])
    message = refused(CONFIG, {**left, key: larger})
    assert f"{key} {tuple(larger.shape)} instead of {tuple(tensor.shape)}" in message
    assert "missing" not in message
    assert f"twice there: {key}" in refused(CONFIG, STATE, (key, tensor))


def test_a_transposed_matrix_and_a_scalar_are_of_another_shape():
    key = "bert.encoder.layer.1.intermediate.dense.weight"
    assert f"{key} (15, 37) instead of (37, 15)" in refused(CONFIG, {**STATE, key: STATE[key].T})
    assert "classifier.bias () instead of (2,)" in refused(CONFIG, {**STATE, "classifier.bias": torch.tensor(0.5)})


def test_both_names_of_a_layer_norm_are_one_weight_twice():
    key = "bert.embeddings.LayerNorm.gamma"
    assert f"twice there: {key}" in refused(CONFIG, STATE, (key, torch.ones(D_MODEL)))


def test_a_key_in_two_shards_is_there_twice(tmp_path):
    write_checkpoint(tmp_path, CONFIG, STATE, "sharded-bin")
    torch.save({"classifier.bias": torch.ones(2)}, tmp_path / "pytorch_model-extra.bin")
    index = json.loads((tmp_path / "pytorch_model.bin.index.json").read_text())
    index["weight_map"]["classifier.bias"] = "pytorch_model-extra.bin"
    index["weight_map"]["bert.pooler.dense.bias"] = "pytorch_model-00001-of-00003.bin"
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"twice there: classifier\.bias"):
        HookedCrossEncoder.from_pretrained(str(tmp_path), device="cpu", tokenizer=bert_tokenizer())


def test_quantized_weights_are_refused():
    key = "bert.pooler.dense.weight"
    assert f"{key} of torch.int8, no float" in refused(CONFIG, {**STATE, key: STATE[key].to(torch.int8)})


def test_a_long_list_of_problems_stays_one_sentence():
    message = refused(CONFIG, {})
    assert "and 35 more" in message  # 5 of the embeddings, 16 a layer, 2 of the pooler, 2 of the head; 6 are shown
    assert message.count("bert.") <= 7


def test_a_model_that_was_never_a_classifier_lacks_the_head():
    bare = {key: tensor for key, tensor in STATE.items() if not key.startswith("classifier")}
    assert "missing: classifier.bias, classifier.weight" in refused({**CONFIG, "architectures": ["BertModel"]}, bare)


# Configurations.


@pytest.mark.parametrize(
    ("labels", "n_labels"),
    [
        ({}, 2),
        ({"num_labels": 1}, 1),
        ({"num_labels": 2}, 2),
        ({"id2label": {"0": "LABEL_0"}}, 1),
        ({"id2label": {"0": "no", "1": "yes"}}, 2),
        ({"id2label": None}, 2),
    ],
)
def test_labels_are_counted_as_hugging_face_counts_them(labels, n_labels):
    config = {**CONFIG, **labels}
    assert config_from_checkpoint(checkpoint(config), torch.float32).n_labels == n_labels
    assert BertConfig.from_dict(config).num_labels == n_labels


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_labels": 3}, "a head with 1 or 2 logits, got 3"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "a head with 1 or 2 logits, got 3"),
        ({"is_decoder": True, "architectures": ["BertLMHeadModel"]}, "a decoder model (BertLMHeadModel)"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "gpt2"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "a decoder model (LlamaForCausalLM)"),
        (
            {"is_encoder_decoder": True, "model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
            "encoder-decoder",
        ),
        ({"is_encoder_decoder": True, "model_type": "encoder-decoder"}, "encoder-decoder model"),
        (
            {"model_type": "electra", "architectures": ["ElectraForSequenceClassification"]},
            "weights of an ELECTRA sequence classifier",
        ),
        (
            {"model_type": "roberta", "architectures": ["RobertaForSequenceClassification"]},
            "weights of a RoBERTa, XLM-R",
        ),
        (
            {"model_type": "xlm-roberta", "architectures": ["XLMRobertaForSequenceClassification"]},
            "weights of a RoBERTa, XLM-R",
        ),
        (
            {"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"]},
            "expected dim in the configuration",
        ),
        (
            {"model_type": "electra", "architectures": None, "embedding_size": 0},
            "expected embedding_size as a whole number from 1",
        ),
        (
            {"model_type": "modernbert", "architectures": ["ModernBertForSequenceClassification"], "hidden_size": 24},
            "weights of a ModernBERT sequence classifier",
        ),
        (
            {"model_type": "gte", "architectures": ["GteForSequenceClassification"], "hidden_size": 24},
            "weights of a GTE sequence classifier",
        ),
        ({"model_type": "modernbert", "architectures": None}, "expected heads of an even width"),
        ({"model_type": "nomic_bert", "architectures": None}, "'nomic_bert'"),
        ({"architectures": ["RobertaForSequenceClassification"]}, "not known: bert.embeddings"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type among absolute"),
        ({"position_embedding_type": "relative_key_query"}, "relative_key_query"),
        ({"hidden_act": "silu"}, "hidden_act among gelu, gelu_new, relu"),
        ({"hidden_act": None}, "hidden_act among gelu, gelu_new, relu"),
        ({"add_cross_attention": True}, "add_cross_attention among False"),
        ({"num_attention_heads": 4}, "n_heads x d_head = d_model"),
        ({"num_attention_heads": 0}, "cannot port 'tiny'"),
        ({"hidden_size": "fifteen"}, "cannot port 'tiny'"),
        ({"hidden_size": None}, "cannot port 'tiny'"),
    ],
)
def test_a_model_of_another_kind_is_refused(changes, said):
    assert said in refused({**CONFIG, **changes})


@pytest.mark.parametrize(
    "key",
    [
        "hidden_size",
        "num_attention_heads",
        "num_hidden_layers",
        "max_position_embeddings",
        "intermediate_size",
        "vocab_size",
    ],
)
def test_a_configuration_without_a_size_is_refused(key):
    config = {name: value for name, value in CONFIG.items() if name != key}
    assert f"expected {key} in the configuration" in refused(config)


def test_an_empty_configuration_is_refused():
    assert "in the configuration of 'tiny'" in refused({})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dtype": "float16"}, "dtype among"),
        ({"dtype": torch.int8}, "dtype among"),
        ({"device": "abacus"}, "device among"),
    ],
)
def test_a_dtype_or_device_that_is_none_is_refused(tmp_path, given, said):
    write_checkpoint(tmp_path, CONFIG, STATE)
    with pytest.raises(ValueError, match=said) as error:
        HookedCrossEncoder.from_pretrained(str(tmp_path), tokenizer=bert_tokenizer(), **{"device": "cpu", **given})
    assert one_sentence(error.value)


def test_the_limit_is_the_smaller_of_the_models_and_the_tokenizers():
    model = port()
    assert model.encode_pairs("how", "lay " * 99).lengths.tolist() == [CONFIG["max_position_embeddings"]]
    shorter = HookedCrossEncoder(model.cfg, bert_tokenizer(model_max_length=19))
    assert shorter.encode_pairs("how", "lay " * 99).lengths.tolist() == [19]


# A checkpoint of MonoBERT's size.

BIG = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 512,
    "vocab_size": 30522,
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_model_of_monoberts_size_ports_in_one_copy_and_equals_hugging_face(tmp_path, record_property):
    config, words = monobert_config(**BIG), write_vocabulary(tmp_path / "words")
    state = random_weights(config, scale=0.04)
    for layout in ("legacy", "bin", "safetensors"):
        write_checkpoint(tmp_path / layout, config, state, layout)
    del state
    imports = peak_memory()
    figures = {}
    for layout, file in (
        ("legacy", "pytorch_model.bin"),
        ("bin", "pytorch_model.bin"),
        ("safetensors", "model.safetensors"),
    ):
        size = (tmp_path / layout / file).stat().st_size
        assert 1.34e9 < size < 1.35e9
        figures[f"memory, {layout}"] = (peak_memory(tmp_path / layout, words) - imports) / size

    model = HookedCrossEncoder.from_pretrained(str(tmp_path / "legacy"), device="cpu", tokenizer=words)
    pairs = model.to_pairs(["how do fleas lay", "egg", "do"], ["fleas lay eggs , 7 a day !", "", "bread"])
    hf = BertForSequenceClassification.from_pretrained(
        str(tmp_path / "legacy"),
        config=BertConfig.from_dict(config),
        dtype=torch.float32,
        attn_implementation="eager",
    ).eval()
    theirs = run_hf(hf, pairs)
    scales = {
        "logits": theirs.logits.abs().max(),
        "fused logits": theirs.logits.abs().max(),
        "hidden states": max(hidden.abs().max() for hidden in theirs.hidden_states),
        "patterns": torch.tensor(1.0),
    }
    found = differences(model, hf, pairs)
    for what, value in {**figures, **found}.items():
        record_property(what, value)
        print(f"{what}: {value:.3g}")
    assert all(0.99 < value <= 1.25 for value in figures.values()), figures  # less than one copy: nothing was measured
    assert float(theirs.logits[:, 1].std()) > 1e-3  # the pairs differ, so equality says something
    for what, scale in scales.items():
        assert found[what] <= 1e-5 * max(1.0, float(scale)), (what, found[what])


# Published models.


@pytest.mark.network
def test_minilm_gives_its_published_scores():
    model = HookedCrossEncoder.from_pretrained("cross-encoder/ms-marco-MiniLM-L12-v2", device="cpu")
    passage = "College acceptance rates in the USA are becoming more competitive."
    scores = model.score("what is the acceptance rate at wellesley", [f"{passage} wellesley", f"{passage} a"])
    assert scores.tolist() == pytest.approx([4.3892, -5.6513], abs=1e-3)


@pytest.mark.network
def test_monobert_loads_from_the_hub():
    name = "castorini/monobert-large-msmarco"
    model = HookedCrossEncoder.from_pretrained(name, device="cpu")
    cfg = model.cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_mlp, cfg.n_labels) == (24, 16, 1024, 4096, 2)
    assert (cfg.n_ctx, cfg.d_vocab, cfg.act_fn) == (512, 30522, "gelu")
    assert len(model.tokenizer) == 30522
    assert "model_type" not in open_checkpoint(name).config
    relevant, off_topic = model.score(
        "how do fleas reproduce", ["Fleas lay eggs on their host, and the larvae hatch.", "Paris is in France."]
    )
    assert relevant > off_topic


def test_weights_that_are_not_numbers_are_refused():
    key = "bert.encoder.layer.0.output.dense.bias"
    broken = {**STATE, key: STATE[key].clone().index_fill_(0, torch.tensor(2), float("nan"))}
    found = checkpoint(state=broken)
    with pytest.raises(ValueError, match=f"NaN or infinite: {key}"):
        port_weights(HookedCrossEncoder(config_from_checkpoint(found, torch.float32)), found)
