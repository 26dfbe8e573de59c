"""Tokenizers of every family: ids are AutoTokenizer's for every layout of files, another family's is refused, no code is run."""

import json
import logging

import family_texts as texts
import pytest
import torch
from family_models import COVERED
from family_worlds import build
from helpers import one_sentence
from transformers import AutoTokenizer

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.inputs.parts import Part
from tl_crossenc.model import tokenizers
from tl_crossenc.model.parity import check_parity

QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))
MAKERS = {
    "bert": texts.bert,
    "distilbert": texts.distilbert,
    "xlm-roberta": texts.xlm_roberta,
    "camembert": texts.camembert,
    "roberta": texts.roberta,
    "modernbert": texts.modernbert,
    "deberta": texts.deberta,
    "mpnet": texts.mpnet,
}


def fed_to(model):
    batch = model.to_pairs(QUERIES, PASSAGES)
    return [batch.tokens[i][real].tolist() for i, real in enumerate(batch.attention_mask)]


def refusal(folder, **given):
    with pytest.raises(ValueError, match="expected") as error:
        HookedCrossEncoder.from_pretrained(folder, device="cpu", **given)
    assert one_sentence(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", COVERED)
def test_ids_and_parts_are_those_of_the_familys_own_tokenizer(name, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    world = build(name)
    model = HookedCrossEncoder.from_pretrained(world.write(tmp_path), device="cpu")
    own = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(model.tokenizer) is type(own) is type(world.tokenizer) or name.startswith(("modernbert", "electra-un"))
    rows = own(QUERIES, PASSAGES, truncation="only_second", max_length=texts.N_CTX)["input_ids"]
    assert fed_to(model) == rows
    special = own.convert_tokens_to_ids([world.frame.cls, *world.frame.sep1, world.frame.sep2])
    for encoded, row in zip(model.to_pairs(QUERIES, PASSAGES).parts.codes.tolist(), rows, strict=True):
        kinds = (int(Part.CLS), *[int(Part.SEP1)] * len(world.frame.sep1), int(Part.SEP2))
        assert [code for code in encoded if code in kinds] == list(kinds)
        assert [row[i] for i, code in enumerate(encoded) if code in kinds] == special
    assert model.types_fed == (name.startswith(("bert", "electra", "lightning", "ernie")) and name != "electra-untyped")


@pytest.mark.parametrize("name", ["xlm-roberta", "roberta", "electra", "distilbert", "jina-v2", "lightning-mono"])
def test_tokenizer_json_alone_is_enough(name, tmp_path):
    world = build(name)
    folder = world.write(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert fed_to(model) == world.tokenizer(QUERIES, PASSAGES, truncation="only_second", max_length=67)["input_ids"]


def test_byte_level_words_and_merges_are_read(tmp_path):
    """RoBERTa's older files."""
    world = build("roberta")
    folder = world.write(tmp_path)
    rules = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(rules["vocab"]))
    merges = [" ".join(merge) for merge in rules["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert fed_to(model) == world.tokenizer(QUERIES, PASSAGES, truncation="only_second", max_length=67)["input_ids"]
    assert check_parity(folder, device="cpu", dtype="float64").passed


@pytest.mark.parametrize("name", ["xlm-roberta", "camembert"])
def test_a_sentencepiece_file_alone_is_read_with_the_package_and_needs_it(name, tmp_path, monkeypatch):
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("\n".join(texts.TEXTS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "m"),
        vocab_size=131,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=-1,
    )
    folder = build(name).write(tmp_path / "model")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    (tmp_path / "m.model").rename(folder / "sentencepiece.bpe.model")
    own = AutoTokenizer.from_pretrained(folder)
    config = json.loads(
        (folder / "config.json").read_text()
    )  # what transformers puts before the words differs by class
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": own.pad_token_id}))
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert fed_to(model) == own(QUERIES, PASSAGES, truncation="only_second", max_length=model.cfg.n_ctx)["input_ids"]
    monkeypatch.setattr(tokenizers.importlib.util, "find_spec", lambda _: None)
    assert "pip install sentencepiece" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("bert", ("xlm-roberta", "camembert", "roberta", "modernbert", "mpnet")),
        ("electra", ("xlm-roberta", "roberta", "mpnet")),
        ("distilbert", ("xlm-roberta", "roberta", "mpnet")),
        ("xlm-roberta", ("bert", "distilbert", "roberta", "modernbert", "deberta")),
        ("roberta", ("bert", "distilbert", "modernbert", "deberta")),
    ],
)
def test_another_familys_tokenizer_is_refused(name, others, tmp_path):
    """By the number of its word pieces, or by the special tokens that the configuration tells."""
    folder = build(name).write(tmp_path)
    for other in others:
        message = refusal(folder, tokenizer=MAKERS[other]())
        assert "belongs to another model" in message, (other, message)


def test_a_tokenizer_that_frames_no_pair_is_refused(tmp_path):
    folder = build("xlm-roberta").write(tmp_path)
    rules = json.loads((folder / "tokenizer.json").read_text())
    rules["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}))
    assert "framed as CLS, query, separator, passage, separator" in refusal(folder)


def test_types_that_the_tokenizer_does_not_name_are_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        HookedCrossEncoder.from_pretrained(build("electra").write(tmp_path / "named"), device="cpu")
        assert "token types" not in caplog.text
        HookedCrossEncoder.from_pretrained(build("electra-untyped").write(tmp_path / "unnamed"), device="cpu")
    assert "has 2 token types, but its tokenizer does not name token_type_ids" in caplog.text


@pytest.mark.parametrize("name", ["xlm-roberta", "roberta", "camembert", "jina-v2"])
def test_a_padding_token_inside_of_a_text_is_refused_where_positions_do_not_count_it(name, tmp_path):
    """Hugging Face gives it the row of padding, and the positions after it do not advance: other scores than of any other token."""
    world = build(name)
    model = HookedCrossEncoder.from_pretrained(world.write(tmp_path), device="cpu", dtype="float64")
    exact = world.in_dtype(torch.float64).model
    for query, passage in (("eggs <pad> live", "how long"), ("eggs", "the host <pad> of eggs")):
        fed = world.tokenizer([query], [passage], return_tensors="pt")
        positions = torch.arange(fed["input_ids"].shape[1])[None] + 2
        with torch.no_grad():
            counted = exact(**fed, position_ids=positions).logits
            assert (exact(**fed).logits - counted).abs().max() > 1e-4
        with pytest.raises(ValueError, match=r"without <pad>, the padding token.*<pad>.*take it out") as error:
            model.score(query, [passage])
        assert one_sentence(error.value)
    batch = model.score("eggs", ["a", "a longer passage of the host"])  # padding outside of the texts is none of them
    assert batch.isfinite().all()


def test_a_padding_token_inside_of_a_text_is_a_token_where_positions_count_all(tmp_path):
    world = build("bert")
    model = HookedCrossEncoder.from_pretrained(world.write(tmp_path), device="cpu", dtype="float64")
    fed = world.tokenizer(["eggs [PAD] live"], ["how long"], return_tensors="pt")
    with torch.no_grad():
        expected = world.in_dtype(torch.float64).model(**fed).logits[:, 0]
    torch.testing.assert_close(model.score("eggs [PAD] live", ["how long"]), expected, rtol=0, atol=1e-10)
