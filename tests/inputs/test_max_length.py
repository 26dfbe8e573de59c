"""The length that pairs are cut to: chosen when loading, when scoring, or on the tokenizer at any time."""

import json

import pytest
import torch
from helpers import bert_tokenizer, one_sentence
from small_worlds import CONTEXT, model_folder
from transformers import AutoTokenizer

from tl_crossenc.inputs.encoder import PairEncoder, token_limit
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.identity import model_identity

QUERY, LONG = "how do", "flea egg " * 90


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(model_folder(tmp_path_factory.mktemp("limit") / "m", n_labels=1))


def load(folder, **given):
    return HookedCrossEncoder.from_pretrained(folder, device="cpu", **given)


def width(model, **given):
    return model.encode_pairs(QUERY, [LONG], **given).lengths.tolist()[0]


def expected_score(model, length):
    """The score of the ids that AutoTokenizer cuts to this length."""
    ids = bert_tokenizer()([QUERY], [LONG], truncation="only_second", max_length=length, return_tensors="pt")
    logits = model(ids["input_ids"], token_type_ids=ids["token_type_ids"], attention_mask=ids["attention_mask"].bool())
    return logits[:, 0]


@torch.no_grad()
def test_a_limit_for_one_call_and_for_the_model(folder):
    model, short = load(folder), load(folder, max_length=17)
    assert width(model) == CONTEXT
    assert width(short) == 17
    for length in (6, 7, 23, CONTEXT):
        assert width(model, max_length=length) == width(short, max_length=length) == length
        torch.testing.assert_close(model.score(QUERY, [LONG], max_length=length), expected_score(model, length))
    torch.testing.assert_close(short.score(QUERY, [LONG]), expected_score(model, 17))
    assert width(model) == CONTEXT  # a call's limit is that call's alone


def test_a_tokenizers_limit_that_changes_is_noticed(folder):
    model = load(folder)
    before = model_identity(model)
    model.tokenizer.model_max_length = 19
    assert width(model) == model.encoder.max_length == 19
    assert model_identity(model) != before  # so that no stored result of another length is read
    model.tokenizer.model_max_length = 10**30
    assert width(model) == CONTEXT
    assert model_identity(model) == before


def test_another_tokenizer_is_the_one_that_reads(folder):
    model = load(folder)
    other = bert_tokenizer(model_max_length=13)
    model.tokenizer = other
    assert model.tokenizer is model.encoder.tokenizer is other
    assert width(model) == 13


def test_the_callers_own_tokenizer_is_not_changed(folder):
    given = bert_tokenizer(model_max_length=29)
    assert width(load(folder, tokenizer=given)) == 29
    assert width(load(folder, tokenizer=given, max_length=11)) == 11
    assert width(load(folder, tokenizer=given, max_length=37)) == 37  # the tokenizer's own limit may be raised
    assert given.model_max_length == 29


@pytest.mark.parametrize("length", [3, 0, -1, CONTEXT + 1, 10**9])
def test_a_limit_that_the_model_does_not_have_is_refused(folder, length):
    for run in (lambda: load(folder, max_length=length), lambda: load(folder).score(QUERY, [LONG], max_length=length)):
        with pytest.raises(ValueError, match=rf"expected max_length from 4 .* {CONTEXT} positions, got {length}") as e:
            run()
        assert one_sentence(e.value)


def test_a_limit_is_a_whole_number(folder):
    with pytest.raises(TypeError, match="max_length as a whole number"):
        load(folder).score(QUERY, [LONG], max_length=True)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *((31, 31), ("31", 31), (31.0, 31), ("31.0", None), (1e30, CONTEXT), (10**30, CONTEXT), (None, CONTEXT)),
        *(
            (float("inf"), CONTEXT),
            ("viele", None),
            (31.5, None),
            (True, None),
            ([31], None),
            ("", None),
            (float("nan"), None),
        ),
    ],
)
def test_a_tokenizers_limit_as_it_may_be_written(tmp_path, written, read):
    folder = model_folder(tmp_path, n_labels=1)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": written}))
    if read is not None:
        model = load(str(folder))
        assert width(model) == read
        if written == 31 and isinstance(written, int):
            ids = AutoTokenizer.from_pretrained(folder)([QUERY], [LONG], truncation="only_second")["input_ids"][0]
            assert model.to_pairs(QUERY, [LONG]).tokens[0].tolist() == ids
        return
    with pytest.raises(ValueError, match="expected a whole number of tokens as the tokenizer's model_max_length") as e:
        load(str(folder))
    assert one_sentence(e.value)


@pytest.mark.parametrize("limit", [0, 3, -5])
def test_a_tokenizers_limit_without_room_for_a_passage(limit):
    encoder = PairEncoder(bert_tokenizer(model_max_length=limit), 41)
    with pytest.raises(ValueError, match=rf"at least 4 tokens, got {limit} from the tokenizer") as e:
        encoder.encode(["how"], ["egg"])
    assert one_sentence(e.value)


def test_text_is_taken_for_the_number_that_it_is():
    tokenizer = bert_tokenizer()
    tokenizer.model_max_length = "23"
    assert token_limit(tokenizer) == tokenizer.model_max_length == 23
