"""What TransformerLens makes of a reranker without this package: the README's reason for it, as the installed version behaves.

The checkpoints are tiny and random, and nothing is fetched. A version that can do more is not held to what 4.3 does.
"""

import importlib
import logging
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
import transformers
from helpers import VOCABULARY, bert_tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification, BertForSequenceClassification

from tl_crossenc import HookedCrossEncoder

INSTALLED = version("transformer-lens")
pytestmark = pytest.mark.skipif(
    INSTALLED.split(".")[:2] != ["4", "3"], reason=f"read in TransformerLens 4.3, and {INSTALLED} is installed"
)

D_MODEL, N_LABELS = 22, 2
SIZES = {
    "vocab_size": len(VOCABULARY),
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 41,
    "num_labels": N_LABELS,
}
TEXTS = ("how do fleas lay eggs", "the bread")


@pytest.fixture(autouse=True)
def transformers_still_warns():
    """The bridge's import turns transformers' warnings off for the whole process: turn them on again for other tests."""
    logger = logging.getLogger("transformers")
    level = logger.level
    yield
    logger.setLevel(level)


def checkpoint(folder, family, **changes):
    """A random classifier of the family on disk, with a tokenizer; the model."""
    torch.manual_seed(11)
    config = AutoConfig.for_model(family, hidden_size=D_MODEL, **SIZES, **changes)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return model


def boot(folder, seed=0, **choices):
    """The bridge that `boot_transformers` makes, and its weights by Hugging Face's names."""
    bridge = importlib.import_module("transformer_lens.model_bridge").TransformerBridge
    torch.manual_seed(seed)
    made = bridge.boot_transformers(str(folder), device="cpu", **choices)
    weights = made.original_model.state_dict()
    return made, {name.replace("._original_component", ""): weight.clone() for name, weight in weights.items()}


def test_a_bert_reranker_becomes_a_masked_language_model_with_a_head_drawn_at_random(tmp_path):
    hf = checkpoint(tmp_path, "bert")
    assert type(hf) is BertForSequenceClassification
    tokens = bert_tokenizer()(*TEXTS, return_tensors="pt")
    with torch.no_grad():
        expected = hf(**tokens).logits
    assert expected.shape == (1, N_LABELS)

    (first, weights), (_, others) = boot(tmp_path, seed=1), boot(tmp_path, seed=2)
    assert type(first.original_model) is transformers.BertForMaskedLM
    written = hf.state_dict()
    kept = {name for name in written if name.startswith(("bert.embeddings.", "bert.encoder."))}
    assert kept <= set(weights)
    assert all(torch.equal(weights[name], written[name]) for name in kept)
    assert set(written) - kept == {
        *("bert.pooler.dense.weight", "bert.pooler.dense.bias"),
        *("classifier.weight", "classifier.bias"),
    }
    assert not set(weights) & (set(written) - kept)

    head = "cls.predictions.transform.dense.weight"
    assert head not in written
    assert not torch.equal(weights[head], others[head])
    with torch.no_grad():
        found = first(tokens["input_ids"])
    assert found.shape == (1, tokens["input_ids"].shape[1], len(VOCABULARY))  # a word a position, and no score

    ours = HookedCrossEncoder.from_pretrained(str(tmp_path), device="cpu")
    with torch.no_grad():
        logits = ours(tokens["input_ids"], **{k: tokens[k] for k in ("token_type_ids", "attention_mask")})
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.slow  # a process of its own, about the installed version alone
def test_nothing_is_said_of_it(tmp_path, monkeypatch):
    """transformers reports the classifier left out and the head made up; the bridge's import turns its warnings off."""
    checkpoint(tmp_path, "bert")
    invented = ("classifier.weight", "cls.predictions.transform.dense.weight")
    reports = []
    logger = logging.getLogger("transformers")
    logger.setLevel(logging.WARNING)
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: reports.append(record.getMessage()))
    logger.addHandler(handler)
    try:
        transformers.AutoModelForMaskedLM.from_pretrained(str(tmp_path))
    finally:
        logger.removeHandler(handler)
    assert any(all(name in report for name in invented) for report in reports)

    code = (
        "import sys; from transformer_lens.model_bridge import TransformerBridge; "
        "TransformerBridge.boot_transformers(sys.argv[1], device='cpu')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert not any(name in done.stdout + done.stderr for name in invented)


def test_the_class_of_a_reranker_cannot_be_asked_for(tmp_path):
    hf = checkpoint(tmp_path, "bert")
    for choice in ({"model_class": BertForSequenceClassification}, {"hf_model": hf}):
        with pytest.raises(AttributeError, match="'BertForSequenceClassification' object has no attribute 'cls'"):
            boot(tmp_path, **choice)


MODERN = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("electra", {"embedding_size": 14}),
        ("roberta", {}),
        ("xlm-roberta", {}),
        ("distilbert", {}),
        ("modernbert", MODERN),
    ],
)
def test_rerankers_of_other_families_are_refused(tmp_path, family, changes):
    checkpoint(tmp_path, family, **changes)
    with pytest.raises(ValueError, match="Could not determine supported architecture from config"):
        boot(tmp_path)


def test_the_hooked_encoder_of_version_3_is_gone():
    with pytest.raises(ImportError, match=r"'HookedEncoder' was removed in TransformerLens 4\.0"):
        _ = importlib.import_module("transformer_lens").HookedEncoder
