"""The training script: a few steps on a tiny collection and a tiny base give an adapter that we and PEFT merge alike."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_collections import write_folder
from transformers import BertConfig, BertForSequenceClassification, BertModel

from tl_crossenc.checkpoints.embedded import open_model

pytest.importorskip("peft", reason="needs peft, of the extra dev or train")

SCRIPT = Path(__file__).parents[1] / "analyses" / "train_demo_crossencoder.py"
WORDS = [
    "fleas",
    "hop",
    "moss",
    "grows",
    "rain",
    "falls",
    "bread",
    "rises",
    "tides",
    "turn",
    "why",
    "how",
    "when",
    "where",
]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_demo_crossencoder", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny BertModel without a head, with a vocabulary."""
    folder = tmp_path_factory.mktemp("base")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=22,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=37,
        max_position_embeddings=29,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Seven queries with a passage of each grade, and passages that nobody judged; a word in each passage tells its grade."""
    rng = np.random.default_rng(0)
    docs = {}
    for i in range(41):
        mark = ("tides", "turn", "rises", "bread")[i % 4] if i < 28 else "why"
        docs[f"d{i}"] = " ".join([mark, *rng.choice(["fleas", "hop", "moss"], size=rng.integers(0, 9)), mark])
    queries = {f"q{i}": f"{WORDS[i]} {WORDS[i + 1]}" for i in range(7)}
    qrels = [(f"q{i}", f"d{4 * i + grade}", grade) for i in range(7) for grade in range(4)]
    return write_folder(tmp_path_factory.mktemp("collection"), docs, queries, qrels)


def arguments(base, collection, out, **changes):
    given = {"collection": collection, "base": base, "out": out, "steps": 3, "batch-size": 5, "random-passages": 2}
    given |= {"device": "cpu", "rank": 3, "alpha": 7, "learning-rate": 1e-2} | changes
    return [word for key, value in given.items() for word in (f"--{key}", str(value))]


def test_three_steps_give_an_adapter_that_we_and_peft_merge_alike(script, base, collection, tmp_path, capsys):
    from peft import PeftModel

    out = tmp_path / "adapter"
    assert script.main(arguments(base, collection, out)) == 0

    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "training_log.json",
    ]
    hf = BertForSequenceClassification.from_pretrained(base, num_labels=2)
    theirs = PeftModel.from_pretrained(hf, out).merge_and_unload().state_dict()
    ours = dict(open_model(str(out)).read_tensors())
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=0, atol=1e-6, msg=key)
    factors = {key: t for key, t in load_file(out / "adapter_model.safetensors").items() if "lora_B" in key}
    assert len(factors) == 2 * 6 + 1  # query, key, value and three dense layers a layer, and the pooler's
    assert all(factor.abs().max() > 0 for factor in factors.values())  # each was zero before the first step
    assert "after:" in capsys.readouterr().out


def test_the_log_tells_what_was_done(script, base, collection, tmp_path):
    out = tmp_path / "adapter"
    assert script.main(arguments(base, collection, out)) == 0
    log = json.loads((out / "training_log.json").read_text())
    # A fifth of 7 queries is held out: 1, with its 4 judged passages. 6 are trained on, with 4 judged passages and 2 random ones.
    assert log["held_out"]["queries"] == 1
    assert log["held_out"]["pairs"] == 4
    assert log["training_queries"] == 6
    assert log["training_pairs_by_grade"] == {"3": 6, "2": 6, "1": 6, "0": 6, "-1": 12}
    assert [step["step"] for step in log["steps"]] == [1, 2, 3]
    assert [step["learning_rate"] for step in log["steps"]] == pytest.approx(
        [5e-3, 1e-2, 5e-3]
    )  # up in one step, down in two
    # A query with grades 0..3 in random order: the mean gain 1.5 at each of 4 ranks, over the ideal 3, 2, 1, 0.
    discounts = 1 / np.log2([2, 3, 4, 5])
    assert log["held_out"]["ndcg@10"]["random"] == pytest.approx(1.5 * discounts.sum() / (discounts @ [3, 2, 1, 0]))
    assert log["targets"] == {"3": 1.0, "2": 0.9, "1": 0.45, "0": 0.08, "-1": 0.01}


def test_a_seed_gives_the_same_adapter_again_and_another_seed_another(script, base, collection, tmp_path):
    weights = []
    for i, seed in enumerate((3, 3, 4)):
        assert script.main(arguments(base, collection, tmp_path / str(i), seed=seed)) == 0
        weights.append((tmp_path / str(i) / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_more_steps_fit_the_targets_better(script, base, collection, tmp_path):
    changes = {"steps": 120, "dropout": 0, "batch-size": 12, "random-passages": 1, "learning-rate": 5e-3}
    out = tmp_path / "adapter"
    assert script.main(arguments(base, collection, out, **changes)) == 0
    losses = [step["loss"] for step in json.loads((out / "training_log.json").read_text())["steps"]]
    # Knowing nothing but the mean target costs the entropy of the mean; knowing the grade, the mean of the entropies.
    targets = np.array([1, 0.9, 0.45, 0.08, 0.01])
    ignorant, informed = entropy(targets.mean()), np.mean([entropy(target) for target in targets])
    assert np.mean(losses[-15:]) < (ignorant + informed) / 2
    assert np.mean(losses[-15:]) > informed - 0.05


def entropy(p):
    """Of a coin that falls on one side with probability p, in nats."""
    return -sum(x * np.log(x) for x in (p, 1 - p) if x > 0)


def test_a_held_out_query_is_never_trained_on(script, base, collection, tmp_path):
    other = write_folder(
        tmp_path / "other", {"x": "moss grows", "y": "rain"}, {"a": "FLEAS  hop"}, [("a", "x", 2), ("a", "y", 0)]
    )
    args = script.parse_arguments(arguments(base, collection, tmp_path / "out", **{"held-out": other}))
    train, held_out = script.choose_pairs(args)
    assert {pair.query for pair in held_out} == {"FLEAS  hop"}
    assert {pair.query for pair in train} == {f"{WORDS[i]} {WORDS[i + 1]}" for i in range(1, 7)}


def test_batches_take_every_pair_once_a_pass_and_hold_like_lengths(script):
    lengths = np.random.default_rng(0).integers(3, 90, size=101)
    batches = script.length_bucketed(lengths, 7, np.random.default_rng(1))
    first = [next(batches) for _ in range(15)]  # 14 of 7 and one of 3
    assert sorted(np.concatenate(first).tolist()) == list(range(101))
    second = [next(batches) for _ in range(15)]
    assert sorted(np.concatenate(second).tolist()) == list(range(101))
    spread = np.mean([np.ptp(lengths[batch]) for batch in first])
    assert spread < np.ptp(lengths) / 5


def test_a_folder_with_something_in_it_is_left_alone(script, base, collection, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert script.main(arguments(base, collection, tmp_path)) == 1
    assert "expected a new or empty folder for --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
