"""What of ELECTRA's, lightning-ir's and DistilBERT's checkpoints is refused, and what a model without a table says of it."""

import family_texts as texts
import pytest
import torch
from family_worlds import build
from helpers import one_sentence

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.instruments.tl_tools import as_tl_model

QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))


def opened(folder, name, changes=(), **keys):
    """The model of a world with changes to its configuration (None takes a field out), and keys of its weights renamed."""
    world = build(name)
    config = {key: value for key, value in {**world.config, **dict(changes)}.items() if value is not None}
    world.config.clear()
    world.config.update(config)
    for old, new in keys.items():
        for key in [key for key in world.state if old in key]:
            world.state[key.replace(old, new)] = world.state.pop(key)
    world.write(folder, "safetensors")
    return HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype="float64")


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("lightning-mono", {"pooling_strategy": "mean"}, "expected pooling_strategy among first"),
        ("lightning-mono", {"pooling_strategy": "bert_pool"}, "expected pooling_strategy among first"),
        ("lightning-mono", {"_bert_pool": True}, "expected _bert_pool among False"),
        ("lightning-mono", {"tokenizer_pattern": "{query} {doc}"}, "expected tokenizer_pattern among None"),
        ("lightning-mono", {"scoring_strategy": "pair"}, "expected scoring_strategy among rank, mono"),
        ("lightning-mono", {"scoring_strategy": "mono"}, "linear.weight (1, 21) instead of (2, 21)"),
        ("lightning-mono", {"linear_bias": True}, "missing: linear.bias"),
        ("lightning-cross-encoder", {"backbone_model_type": "bert"}, "expected backbone_model_type among electra"),
        ("lightning-mono", {"architectures": ["MonoBertModel"]}, "'mono' (MonoBertModel)"),
        ("electra", {"embedding_size": 11}, "missing: electra.embeddings_project.bias"),
        ("electra", {"embedding_size": None}, "(67, 21) instead of (67, 128)"),
        ("electra-projected", {"embedding_size": 21}, "not known: electra.embeddings_project"),
        ("distilbert", {"activation": "silu"}, "expected activation among gelu, gelu_new, relu"),
        ("distilbert", {"n_layers": 2}, "not known: distilbert.transformer.layer.2"),
    ],
)
def test_a_configuration_of_something_else_is_refused(name, changes, said, tmp_path):
    with pytest.raises(ValueError, match=r"expected") as error:
        opened(tmp_path, name, changes)
    assert said in str(error.value)
    assert one_sentence(error.value)


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("electra", {"electra.": "bert."}, "not known: bert."),
        ("distilbert", {"pre_classifier": "pooler.dense"}, "missing: pre_classifier.bias"),
        ("lightning-mono", {"linear.weight": "classifier.weight"}, "missing: linear.weight"),
    ],
)
def test_keys_of_another_family_are_refused(name, keys, said, tmp_path):
    with pytest.raises(ValueError, match="expected exactly the weights") as error:
        opened(tmp_path, name, **keys)
    assert said in str(error.value)
    assert one_sentence(error.value)


def test_a_head_with_a_bias_reads_it(tmp_path):
    """lightning-ir's `linear_bias`: every score is moved by it."""
    plain = opened(tmp_path / "plain", "lightning-mono").score(QUERIES, PASSAGES)
    world = build("lightning-mono")
    world.config["linear_bias"] = True
    world.state["linear.bias"] = torch.tensor([0.375])
    world.write(tmp_path / "biased", "safetensors")
    model = HookedCrossEncoder.from_pretrained(tmp_path / "biased", device="cpu", dtype="float64")
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), plain + 0.375, rtol=0, atol=1e-14)


def test_texts_that_lightning_ir_cuts_by_themselves_are_told_of(tmp_path, caplog):
    opened(tmp_path / "cut", "lightning-mono")
    assert "query_length 11, doc_length 41" in caplog.text
    caplog.clear()
    opened(tmp_path / "whole", "lightning-mono", {"query_length": None, "doc_length": None})
    assert "lightning-ir cuts" not in caplog.text


def test_a_model_without_token_types_says_so(tmp_path):
    model = opened(tmp_path, "distilbert")
    assert model.cfg.d_vocab_types == 0
    assert "embed.hook_token_type_embed" not in model.hook_dict
    assert "embed.hook_pos_embed" in model.hook_dict
    with pytest.raises(ValueError, match="got one without") as error:
        _ = model.W_token_type
    assert one_sentence(error.value)
    pairs = model.to_pairs(QUERIES, PASSAGES)
    assert not pairs.token_type_ids.any()
    beside = {"attention_mask": pairs.attention_mask}
    expected = model(pairs, return_type="logits")
    assert torch.equal(model(pairs.tokens, **beside), expected)
    assert torch.equal(model(pairs.tokens, token_type_ids=pairs.token_type_ids, **beside), expected)
    with pytest.raises(ValueError, match=r"expected token_type_ids 0\.\.0, got 1") as error:
        model(pairs.tokens, token_type_ids=torch.ones_like(pairs.tokens), **beside)
    assert one_sentence(error.value)


def test_views_of_embeddings_are_the_checkpoints(tmp_path):
    world, model = build("electra-projected"), opened(tmp_path, "electra-projected")
    for view, key in (
        (model.W_E, "word_embeddings"),
        (model.W_pos, "position_embeddings"),
        (model.W_token_type, "token_type_embeddings"),
    ):
        assert torch.equal(view, world.state[f"electra.embeddings.{key}.weight"].double())
    assert torch.equal(model.embed.project.W.T, world.state["electra.embeddings_project.weight"].double())
    model.W_token_type[1] += 1
    assert torch.equal(
        model.embed.W_token_type[1], world.state["electra.embeddings.token_type_embeddings.weight"][1].double() + 1
    )


def test_words_are_read_off_the_stream_only_where_embeddings_are_as_wide(tmp_path):
    for name in ("electra", "electra-projected"):
        model = opened(tmp_path / name, name)
        view = as_tl_model(model, model.to_pairs(QUERIES, PASSAGES))
        if model.cfg.d_embed is None:
            assert torch.equal(view.tl_parameters()["unembed.W_U"], model.W_E.T)
            continue
        with pytest.raises(ValueError, match="expected word embeddings as wide as the residual stream") as error:
            view.tl_parameters()
        assert one_sentence(error.value)
