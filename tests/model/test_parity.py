"""Parity passes for a right port in every dtype and fails for every kind of wrong one."""

import json

import pytest
import torch
from helpers import bert_tokenizer, write_vocabulary
from small_worlds import model_folder
from tiny_models import port, tiny_hf
from transformers import BertTokenizer

from tl_crossenc.inputs.encoder import PairEncoder
from tl_crossenc.model import tokenizers as tokenizers_module
from tl_crossenc.model.parity import TOLERANCE, Difference, ParityCertificate, _difference, certify, check_parity

WHAT = ("logits", "logits, all cached", "hidden states", "attention patterns")


def failed(certificate):
    return {d.what for d in certificate.differences if not d.max_abs <= certificate.tolerance * max(1.0, d.scale)}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("n_labels", [1, 2])
def test_a_port_from_files_is_within_tolerance(tmp_path, dtype, n_labels):
    found = check_parity(str(model_folder(tmp_path / "m", n_labels=n_labels)), device="cpu", dtype=dtype)
    assert found.passed
    assert found.dtype == dtype
    assert tuple(d.what for d in found.differences) == ("token ids and types", *WHAT)
    assert found.tolerance == {"float64": 1e-10, "float32": 1e-5, "bfloat16": 5e-2}[dtype]
    tokens, logits, _, hidden, patterns = found.differences
    assert tokens.max_abs == 0
    assert tokens.compared > 200
    assert logits.compared == 4 * n_labels
    lengths = [int(n) for n in found.shape.partition("pairs of [")[2].removesuffix("] tokens").split(", ")]
    assert len(set(lengths)) > 2  # so some are padded
    assert hidden.compared == 3 * sum(lengths) * 15
    assert patterns.compared == 2 * 3 * sum(lengths) * max(lengths)
    assert patterns.scale <= 1
    if dtype == "float64":
        assert max(d.max_abs for d in found.differences) < 1e-12
    assert found.types_fed
    assert found.score == ("the one logit" if n_labels == 1 else "logit[1] - logit[0]")


def test_the_certificate_names_model_and_versions(tmp_path):
    folder = str(model_folder(tmp_path / "m"))
    found = check_parity(folder, device="cpu")
    assert found.model == folder
    assert found.revision.startswith("sha256:")
    assert found.versions["torch"] == torch.__version__ or torch.__version__.startswith(found.versions["torch"])


@pytest.mark.parametrize(
    ("weight", "wrong"),
    [
        ("classifier.bias", {"logits", "logits, all cached"}),
        ("bert.pooler.dense.weight", {"logits", "logits, all cached"}),
        # Of the last layer's output: the hidden state after it and the logits, but no pattern.
        ("bert.encoder.layer.2.output.dense.weight", {"logits", "logits, all cached", "hidden states"}),
        ("bert.encoder.layer.2.attention.self.query.weight", set(WHAT)),
        ("bert.embeddings.position_embeddings.weight", set(WHAT)),
    ],
)
def test_one_wrong_weight_fails_and_shows_where(batch, weight, wrong):
    hf = tiny_hf()
    model = port(hf)
    assert certify(model, hf.double(), batch).passed
    with torch.no_grad():
        tensor = dict(hf.named_parameters())[weight]
        tensor[(0,) * tensor.ndim] += 0.01
    found = certify(model, hf, batch)
    assert not found.passed
    assert failed(found) == wrong


def test_each_kind_of_difference_is_found_alone(batch):
    """Where our computation goes wrong in one place only, that line of the certificate says so, and no other."""
    hf = tiny_hf().double()

    def run(name, edit):
        model = port(hf.float())
        hf.double()
        model.add_hook(name, edit)
        return certify(model, hf, batch)

    def scaled(value, hook):
        return value * 1.001

    # The last normalized residual is read by the pooler at CLS alone.
    def rest(value, hook):
        value[:, 1:] = value[:, 1:] * 1.001
        return value

    last = len(hf.bert.encoder.layer) - 1
    assert failed(run(f"blocks.{last}.hook_normalized_resid_post", rest)) == {"hidden states"}

    def other_rows(value, hook):
        value[:, :, 1:] = value[:, :, 1:] * 1.001
        return value

    assert "attention patterns" in failed(run(f"blocks.{last}.attn.hook_pattern", other_rows))
    assert failed(run("classifier.hook_logits", scaled)) == {"logits", "logits, all cached"}


def test_nan_and_infinity_never_pass():
    nan, inf = torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.inf])
    fine = torch.ones(2)
    for ours, theirs in ((nan, fine), (fine, nan), (nan, nan), (inf, fine), (fine, inf), (inf, inf)):
        for order in ([(ours, theirs), (fine, fine)], [(fine, fine), (ours, theirs)]):
            found = _difference("logits", [a for a, _ in order], [b for _, b in order])
            assert not certificate(found).passed, (ours, theirs, found)


def test_nan_weights_fail(batch):
    hf = tiny_hf()
    model = port(hf)
    with torch.no_grad():
        model.W_Q[1, 0, 0, 0] = torch.nan
    assert not certify(model, hf.double(), batch).passed


def certificate(*differences, tolerance=1e-5):
    return ParityCertificate("m", "r", "float32", "cpu", "", {}, tolerance, differences)


def test_the_tolerance_is_relative_to_values_above_one():
    assert certificate(Difference("logits", 1, 9e-6, 0.9, 1e-5)).passed
    assert not certificate(Difference("logits", 1, 1.1e-5, 1.0, 0.5)).passed
    assert certificate(Difference("logits", 1, 9e-5, 9e-6, 10.0)).passed
    assert not certificate(Difference("logits", 1, 1.1e-4, 1.1e-5, 10.0)).passed
    assert not certificate(Difference("logits", 1, 0.0, 0.0, 1.0), Difference("hidden states", 1, 1.0, 1.0, 1.0)).passed
    assert set(TOLERANCE) == {torch.float64, torch.float32, torch.bfloat16}


def test_differences_are_the_largest_of_all_tensors():
    ours = [torch.tensor([1.0, 2.0]), torch.tensor([[-8.0]])]
    theirs = [torch.tensor([1.5, 2.0]), torch.tensor([[-7.75]])]
    found = _difference("hidden states", ours, theirs)
    assert found == Difference("hidden states", 3, 0.5, 0.5 / 7.75, 7.75)
    with pytest.raises(ValueError, match="zip"):
        _difference("hidden states", ours, theirs[:1])


# Tokens: Hugging Face is fed what its own tokenizer makes of the texts, so that a port that reads them otherwise fails.


@pytest.mark.parametrize(
    ("how", "settings"),
    [
        ("lower-cased", {"do_lower_case": False}),
        ("accents stripped", {"strip_accents": False}),
        ("Chinese in one", {"tokenize_chinese_chars": False}),
        ("added tokens lost", {}),
        ("types not fed", {}),
        ("cut on the other side", {"truncation_side": "left"}),
    ],
)
def test_a_port_that_reads_texts_otherwise_fails(tmp_path, monkeypatch, how, settings):
    folder = model_folder(tmp_path / "m", n_labels=1)
    words = [*(folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1], "É", "é", "Fleas", "日本の首都"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if how == "added tokens lost":
        (folder / "added_tokens.json").write_text(json.dumps({"<new>": len(words)}))
    assert check_parity(str(folder), device="cpu").passed
    if how == "types not fed":
        monkeypatch.setattr(PairEncoder, "types_fed", False)
    else:  # what the port took before it asked the checkpoint's own files
        plain = BertTokenizer.from_pretrained(str(folder / "vocab.txt"))
        monkeypatch.setattr(tokenizers_module, "load_tokenizer", lambda *_: plain)
    found = check_parity(str(folder), device="cpu")
    assert not found.passed
    assert "token ids and types" in failed(found)


def test_a_checkpoint_without_a_tokenizer_of_its_own_is_compared_with_the_one_given(tmp_path):
    folder = model_folder(tmp_path / "m", vocabulary=False)
    assert check_parity(str(folder), device="cpu", tokenizer=bert_tokenizer()).passed
    write_vocabulary(tmp_path / "words")
    assert check_parity(str(folder), device="cpu", tokenizer=tmp_path / "words").passed
