"""Models in memory: scores are the object's own, and those of the same thing saved and opened; what cannot be opened says so."""

import copy

import family_oracle as oracle
import family_texts as texts
import pytest
import torch
import transformers as hf
from family_models import COVERED, labels_of
from family_worlds import build
from helpers import one_sentence

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.model.parity import check_parity

QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))
OURS = ("lightning-mono", "lightning-cross-encoder", "modernbert-modular")
"""Whose models in the tests are classes of the tests' own."""
CLASSES = [name for name in COVERED if name not in OURS]


def opened(given, **more):
    return HookedCrossEncoder.from_pretrained(given, device="cpu", **more)


def refusal(given, kind=ValueError, **more):
    with pytest.raises(kind, match="expected") as error:
        opened(given, **more)
    assert one_sentence(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", CLASSES)
def test_a_sequence_classifier_scores_as_it_does_itself(name, tmp_path):
    world = build(name, labels_of(name)[-1])
    model = opened(world.model, tokenizer=world.tokenizer, dtype="float64")
    expected = oracle.run(world, oracle.encode(world, texts.PAIRS), []).score
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), expected, rtol=0, atol=1e-10)
    world.model.save_pretrained(tmp_path)
    world.tokenizer.save_pretrained(tmp_path)
    saved = opened(tmp_path, dtype="float64")
    assert torch.equal(saved.score(QUERIES, PASSAGES), model.score(QUERIES, PASSAGES))
    assert saved.types_fed == model.types_fed
    assert saved.encoder.max_length == model.encoder.max_length


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "electra", "distilbert", "gte", "modernbert-modular"])
def test_a_cross_encoder_scores_as_it_does_itself(name, tmp_path, caplog):
    CrossEncoder = pytest.importorskip("sentence_transformers").CrossEncoder
    cross = CrossEncoder(str(build(name).write(tmp_path / "given")), device="cpu", activation_fn=torch.nn.Tanh())
    cross.max_seq_length = 41
    model = opened(cross)
    assert model.encoder.max_length == 41
    assert cross.tokenizer is not model.tokenizer
    assert "prompt" not in caplog.text
    assert model.activation.name == "Tanh"
    theirs = cross.predict(list(texts.PAIRS), convert_to_tensor=True, show_progress_bar=False)
    torch.testing.assert_close(model.activated(model.score(QUERIES, PASSAGES)), theirs, rtol=0, atol=3e-5)
    cross.save_pretrained(str(tmp_path / "saved"))
    saved = opened(tmp_path / "saved")
    assert torch.equal(saved.score(QUERIES, PASSAGES), model.score(QUERIES, PASSAGES))
    assert saved.activation.name == "Tanh"
    cross.prompts, cross.default_prompt_name = {"q": "query: "}, "q"
    opened(cross)
    assert "the prompt 'query: '" in caplog.text


def test_weights_are_copied_as_they_are_now():
    world = build("electra")
    theirs = copy.deepcopy(world.model)
    model = opened(theirs, tokenizer=world.tokenizer)
    before = model.score(QUERIES, PASSAGES)
    with torch.no_grad():
        theirs.electra.encoder.layer[1].output.dense.bias[3] += 1
    assert torch.equal(model.score(QUERIES, PASSAGES), before)  # they are its own
    again = opened(theirs, tokenizer=world.tokenizer)
    assert not torch.allclose(again.score(QUERIES, PASSAGES), before)
    assert model.cfg.revision.startswith("sha256:")
    assert again.cfg.revision != model.cfg.revision
    assert opened(copy.deepcopy(world.model)).cfg.revision == model.cfg.revision


def test_an_object_has_parity_and_wrappers_are_looked_through():
    world = build("xlm-roberta")
    for given in (world.model, torch.nn.DataParallel(world.model), torch.compile(world.model)):
        assert check_parity(given, device="cpu", dtype="float64", tokenizer=world.tokenizer).passed


def test_without_a_tokenizer_it_takes_tensors():
    world = build("distilbert")
    model = opened(world.model)
    fed = world.tokenizer(QUERIES, PASSAGES, padding=True, truncation="only_second", max_length=67, return_tensors="pt")
    with torch.no_grad():
        expected = world.model(**fed).logits
    found = model(fed["input_ids"], attention_mask=fed["attention_mask"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="pass tokenizer= when it is made") as error:
        model.score("flea", ["egg"])
    assert one_sentence(error.value)


class Own(hf.BertForSequenceClassification):
    """Somebody's own."""


def test_what_cannot_be_opened_is_said():
    world = build("bert")
    bert = world.model
    assert "no head that scores" in refusal(bert.bert)
    assert "no head that scores" in refusal(hf.BertForTokenClassification(bert.config))
    assert "covered" in refusal(build("mpnet").model)
    assert "may compute otherwise" in refusal(Own(bert.config))
    assert "no revision" in refusal(bert, revision="main")
    assert "AutoModelForSequenceClassification" in refusal(torch.nn.Linear(2, 2), TypeError)
    with torch.device("meta"):
        assert "meta device" in refusal(hf.BertForSequenceClassification(bert.config))
    quantized = copy.deepcopy(bert)
    quantized.config.quantization_config = {"quant_method": "bitsandbytes"}
    assert "quantized" in refusal(quantized)


def test_adapters_have_to_be_merged():
    peft = pytest.importorskip("peft", reason="needs peft, of the extra dev or train")
    world = build("electra")
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["query", "value"], init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(world.model), settings)
    assert "merge_and_unload" in refusal(adapted)
    assert "merge_and_unload" in refusal(adapted.base_model.model)
    fed = world.tokenizer(QUERIES, PASSAGES, padding=True, truncation="only_second", max_length=67, return_tensors="pt")
    with torch.no_grad():
        expected = adapted.eval()(**fed).logits[:, 0]
    model = opened(adapted.merge_and_unload(), tokenizer=world.tokenizer)
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), expected, rtol=0, atol=3e-5)
