"""Exported attention: Hugging Face's own patterns, and what bertviz and circuitsvis take."""

import numpy as np
import pytest
import torch
from small_worlds import model_folder
from transformers import AutoTokenizer, BertForSequenceClassification

from tl_crossenc import HookedCrossEncoder

QUERY, PASSAGE = "how do fleas rise", "the eggs in bread"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    return HookedCrossEncoder.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    """(tokens, types, patterns) of Hugging Face."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    hf = BertForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    fed = tokenizer(QUERY, PASSAGE, return_tensors="pt")
    with torch.no_grad():
        found = hf(**fed, output_attentions=True).attentions
    return tokenizer.convert_ids_to_tokens(fed["input_ids"][0]), fed["token_type_ids"][0].tolist(), found


def test_for_bertviz_it_is_what_hugging_face_gives(model, theirs):
    tokens, types, attentions = theirs
    found = model.export_attention(QUERY, PASSAGE)
    assert found["tokens"] == tokens
    assert found["sentence_b_start"] == types.index(1)  # as bertviz's own examples find it
    assert len(found["attention"]) == len(attentions) == 2
    for own, expected in zip(found["attention"], attentions, strict=True):
        assert own.dtype == torch.float32
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-6)
    one = model.export_attention(QUERY, PASSAGE, layer=-1, head=[0, 2])
    torch.testing.assert_close(one["attention"][0], attentions[1][:, [0, 2]], rtol=0, atol=1e-6)
    assert len(one["attention"]) == 1


def test_for_circuitsvis_it_is_one_layer(model, theirs):
    attention = pytest.importorskip("circuitsvis.attention")
    found = model.export_attention(QUERY, PASSAGE, to="circuitsvis", layer=0)
    torch.testing.assert_close(found["attention"], theirs[2][0][0], rtol=0, atol=1e-6)
    assert found["tokens"] == theirs[0]
    html = str(attention.attention_patterns(**found))
    assert "fleas" in html
    assert model.export_attention(QUERY, PASSAGE, to="circuitsvis", layer=0, head=1)["attention"].shape[0] == 1


def test_under_a_condition_weights_are_gone(model, theirs):
    """By hand: in layer 0 Hugging Face's weights from DOC to QUERY become 0 and the others stay."""
    _, types, attentions = theirs
    doc = np.flatnonzero(np.array(types) == 1)[:-1]
    query = np.arange(1, types.index(1) - 1)
    expected = attentions[0].clone()
    expected[:, :, doc[:, None], query] = 0
    found = model.export_attention(QUERY, PASSAGE, condition="zero(DOC->QUERY)")["attention"]
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)
    assert (found[1] - attentions[1]).abs().max() > 1e-6
    assert str(model.active_condition) == "none"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its files
def test_bertviz_takes_it(model):
    bertviz = pytest.importorskip("bertviz")
    shown = bertviz.head_view(**model.export_attention(QUERY, PASSAGE), html_action="return")
    assert "fleas" in shown.data


def test_one_head_of_the_last_layer_beside_what_is_ablated_from_a_model_of_float64(folder, theirs):
    """Of two conditions both hold: rows of CLS, and weights of DOC on QUERY, by hand in layer 0; else as Hugging Face has it."""
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype="float64")
    last = model.export_attention(QUERY, PASSAGE, to="circuitsvis", layer=-1, head=1)["attention"]
    assert last.dtype == torch.float32
    torch.testing.assert_close(last, theirs[2][1][0, 1:2], rtol=0, atol=1e-6)
    _, types, attentions = theirs
    doc = np.flatnonzero(np.array(types) == 1)[:-1]
    expected = attentions[0].clone()
    expected[:, :, doc[:, None], np.arange(1, types.index(1) - 1)] = 0
    expected[:, :, 0, doc] = 0
    with model.ablating("CLS->DOC"):
        found = model.export_attention(QUERY, PASSAGE, condition="DOC->QUERY", layer=0)["attention"][0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_what_there_is_not_is_refused(model):
    for given, said in (
        ({"to": "tensorboard"}, "expected to='bertviz' or 'circuitsvis', got 'tensorboard'"),
        ({"to": "circuitsvis"}, "expected a layer for circuitsvis"),
        ({"layer": 2}, "layer"),
        ({"head": 9}, "head"),
    ):
        with pytest.raises(ValueError, match=said):
            model.export_attention(QUERY, PASSAGE, **given)
    assert model.export_attention(QUERY, "")["sentence_b_start"] is None
