import json
import logging
import shutil

import huggingface_hub
import pytest
import torch
from helpers import VOCABULARY, bert_tokenizer, one_sentence, small_config, write_vocabulary
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.model import tokenizers
from tl_crossenc.model.porting import config_from_checkpoint
from tl_crossenc.model.tokenizers import load_tokenizer

N_WORDS = len(VOCABULARY)


def load(folder=None, choice=None, d_vocab=N_WORDS, name="some/model"):
    config = small_config(vocab_size=d_vocab)
    checkpoint = Checkpoint(name, "sha256:0", config, lambda: iter(()), folder, folder)
    return load_tokenizer(checkpoint, config_from_checkpoint(checkpoint, torch.float32), choice)


def refused(**given):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked here and by the caller
        load(**given)
    assert one_sentence(error.value) or str(error.value).startswith("no tokenizer to be had"), str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def no_hub(monkeypatch):
    """A hub that is out of reach; gives the files asked for."""
    asked = []

    def fetch(name, file, revision=None):
        asked.append((name, file))
        raise LocalEntryNotFoundError("no connection\nat all")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    return asked


def test_files_of_every_kind_give_the_same_tokenizer(tmp_path):
    write_vocabulary(tmp_path / "vocab")
    bert_tokenizer().save_pretrained(tmp_path / "saved")
    shutil.copytree(tmp_path / "saved", tmp_path / "alone")
    (tmp_path / "alone" / "tokenizer_config.json").unlink()
    # beside a configuration without model_type, as MonoBERT's
    (tmp_path / "vocab" / "config.json").write_text(json.dumps({"hidden_size": 3}))
    for name in ("vocab", "saved", "alone"):
        for tokenizer in (load(tmp_path / name), load(choice=tmp_path / name), load(choice=str(tmp_path / name))):
            encoded = tokenizer("HOW do fleas", "lay")
            words = [VOCABULARY[i] for i in encoded["input_ids"]]
            assert words == ["[CLS]", "how", "do", "fleas", "[SEP]", "lay", "[SEP]"]
            assert encoded.sequence_ids() == [None, 0, 0, 0, None, 1, None]
            assert tokenizer.is_fast


def test_case_is_kept_where_the_files_say_so(tmp_path):
    bert_tokenizer(do_lower_case=False).save_pretrained(tmp_path)
    assert load(tmp_path).tokenize("how HOW") == ["how", "[UNK]"]


def test_a_tokenizer_that_is_given_is_taken(tmp_path):
    tokenizer = bert_tokenizer()
    write_vocabulary(tmp_path)
    assert load(tmp_path, choice=tokenizer) is tokenizer


def test_the_one_chosen_comes_before_the_models_own(tmp_path):
    write_vocabulary(tmp_path / "own")
    write_vocabulary(tmp_path / "chosen")
    other = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lay", "how"]
    (tmp_path / "chosen" / "vocab.txt").write_text("\n".join(other) + "\n")
    assert load(tmp_path / "own", choice=tmp_path / "chosen").convert_tokens_to_ids(["how", "lay"]) == [6, 5]


def test_a_folder_without_a_vocabulary_is_refused(tmp_path):
    """transformers makes a tokenizer of five special tokens of it, for which every word is [UNK]."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert "tokenizer.json or vocab.txt" in refused(choice=tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", b"{broken"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b""),
        ("vocab.txt", b"\xff\xfe\x00"),
        ("vocab.txt", b""),
        ("vocab.txt", b"<html>404</html>\n"),
        ("vocab.txt", b"how\nfleas\n"),
        ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\nhow\n"),
    ],
)
def test_damaged_files_are_refused(tmp_path, file, content):
    (tmp_path / file).write_bytes(content)
    message = refused(folder=tmp_path)
    assert str(tmp_path) in message
    assert "download" in message


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c"])
def test_a_path_that_is_no_folder(name, no_hub):
    assert "which is no folder" in refused(choice=name)
    assert no_hub == []


def test_a_model_without_tokenizer_files_and_of_an_unknown_vocabulary(no_hub):
    message = refused()
    assert "tokenizer.json or vocab.txt" in message
    assert "pass tokenizer=" in message
    assert no_hub == []


MONOBERT = "castorini/monobert-large-msmarco"


def test_monobert_wants_bert_large_uncased(no_hub, monkeypatch):
    monkeypatch.setattr(tokenizers, "BASE_PACKAGE", "a_package_that_is_not_installed")
    message = refused(d_vocab=30522, name=MONOBERT)
    assert "'bert-large-uncased'" in message
    assert "cannot be reached" in message
    assert "pass tokenizer=" in message
    assert [name for name, _ in no_hub] == ["bert-large-uncased"]  # asked once: each try takes its time to fail


@pytest.mark.parametrize("name", ["some/biomedical-reranker", "/models/monobert-large-biomed", "bert-large-uncased"])
def test_another_model_of_30522_word_pieces_is_not_given_bert_large_uncaseds(no_hub, name):
    """A domain's own vocabulary has the same size in another order, and would be fed garbage."""
    message = refused(d_vocab=30522, name=name)
    assert name in message
    assert "pass tokenizer=" in message
    assert no_hub == []


def test_without_the_hub_the_same_vocabulary_is_taken_from_the_demos_base_model(no_hub, caplog):
    base = tokenizers.importlib.util.find_spec(tokenizers.BASE_PACKAGE)
    if base is None:
        pytest.skip("the package with the demo's base model is not installed")
    with caplog.at_level(logging.WARNING):
        tokenizer = load(d_vocab=30522, name=MONOBERT)
    assert f"{MONOBERT} has no tokenizer files: taking the vocabulary of bert-large-uncased" in caplog.text
    assert [name for name, _ in no_hub] == ["bert-large-uncased"]
    assert len(tokenizer) == 30522
    assert tokenizer.model_max_length >= 512
    # [CLS] the flea ##s [SEP] lay [SEP], as every uncased English BERT numbers them
    assert tokenizer("The fleas", "lay")["input_ids"] == [101, 1996, 26735, 2015, 102, 3913, 102]


def test_a_hub_tokenizer_is_fetched(tmp_path, monkeypatch):
    bert_tokenizer().save_pretrained(tmp_path)

    def fetch(name, file, revision=None):
        if not (tmp_path / file).exists():
            raise EntryNotFoundError(file)
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert load(choice="some/tokenizer").tokenize("how") == ["how"]
    (tmp_path / "tokenizer.json").unlink()
    assert "expected tokenizer.json or vocab.txt in the hub model 'some/other'" in refused(choice="some/other")


def test_a_tokenizer_of_more_word_pieces_than_embeddings_is_refused(tmp_path):
    write_vocabulary(tmp_path)
    message = refused(folder=tmp_path, d_vocab=len(VOCABULARY) - 1)
    assert f"at most {len(VOCABULARY) - 1} word pieces" in message


def test_a_tokenizer_of_fewer_word_pieces_is_mentioned(tmp_path, caplog):
    write_vocabulary(tmp_path)
    with caplog.at_level(logging.WARNING):
        load(tmp_path, d_vocab=len(VOCABULARY))
        assert caplog.text == ""
        load(tmp_path, d_vocab=len(VOCABULARY) + 7)
    assert f"the tokenizer has {len(VOCABULARY)} word pieces, some/model has {len(VOCABULARY) + 7}" in caplog.text
