"""Every analysis script runs as its first lines say and writes the files that they name, with numbers in them."""

import re
import runpy
import sys
from pathlib import Path

import helpers
import numpy as np
import pandas as pd
import pytest
from checkpoints.test_adapters import save_adapter, save_base
from planted_texts import graded_pool
from small_worlds import collection_folder, forbid_model_work, model_folder
from tiny_collections import write_folder

FOLDER = Path(__file__).parents[1] / "analyses"
SCRIPTS = {
    "attention_by_direction": [],
    "attention_distributions": ["--permutations", "11"],
    "bottleneck": ["--queries", "3", "--passages", "1", "--steps", "2"],
    "faithfulness": [
        *("--attribution", "direct", "leave-one-out", "--removal", "pad", "--queries", "2"),
        *("--draws", "1", "--sets", "4", "--fractions", "0", "0.5", "1"),
    ],
    "head_ablation": ["--counts", "1", "2", "--draws", "2"],
    "integrated_gradients": ["--queries", "2", "--passages", "1", "--nodes", "32"],
    "head_rankers": ["--counts", "1", "2"],
    "layer_sweep": ["--span", "only", "--directions", "DOC->QUERY", "CLS->ALL"],
    "matching_heads": [],
    "neuron_pruning": ["--counts", "3", "--draws", "2", "--kinds", "zero", "--queries", "2", "--passages", "1"],
    "probes": ["--folds", "3", "--sets", "CLS", "DOC", "--shuffles", "1"],
    "qk_alignment": [],
    "semantic_bm25": ["--folds", "2", "--n-heads", "2"],
    "sinks": [],
    "table1": [],
}
ELSEWHERE = {"adapter_updates", "circuits", "common", "patching", "replacement", "train_demo_crossencoder"}


def run(name, monkeypatch, *arguments):
    script = FOLDER / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(script), run_name="__main__")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("world")
    model_folder(place / "m")
    collection_folder(place / "c")
    return place


def test_no_script_is_forgotten():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*SCRIPTS, *ELSEWHERE}


def test_adapter_updates_writes_the_files_that_it_names(world, tmp_path, monkeypatch, capsys):
    base = save_base(tmp_path / "base")
    (base / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *helpers.WORDS]) + "\n")
    adapter = save_adapter(tmp_path / "adapter", base)
    given = ["--model", adapter, "--collection", world / "c"]
    writes_what_it_names("adapter_updates", given, tmp_path / "out", monkeypatch, capsys)


@pytest.mark.usefixtures("unchecked")
def test_circuits_writes_the_files_that_it_names(world, tmp_path, monkeypatch, capsys):
    pairs = graded_pool(4, 1).ranked.pairs
    docs, queries = {pair.doc_id: pair.text for pair in pairs}, {pair.query_id: pair.query for pair in pairs}
    folder = write_folder(tmp_path / "graded", docs, queries, [(p.query_id, p.doc_id, p.grade) for p in pairs])
    given = ["--model", "planted", "--collection", folder, "--share", "0.5"]
    writes_what_it_names("circuits", given, tmp_path / "out", monkeypatch, capsys)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_writes_the_files_that_it_names(name, world, tmp_path, monkeypatch, capsys):
    given = ["--model", world / "m", "--collection", world / "c"]
    writes_what_it_names(name, given, tmp_path, monkeypatch, capsys)


def writes_what_it_names(name, given, tmp_path, monkeypatch, capsys):
    places = [*given, "--out", tmp_path, "--device", "cpu"]
    run(name, monkeypatch, *SCRIPTS.get(name, []), *places)
    assert capsys.readouterr().out.strip()
    says = (FOLDER / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    promised = re.findall(r"`([\w/]+\.(?:csv|md|json|parquet))`", says)
    assert promised
    for file in promised:
        assert (tmp_path / file).stat().st_size > 0
        if file.endswith(".csv"):
            frame = pd.read_csv(tmp_path / file)
            assert len(frame)
            assert frame.select_dtypes("number").notna().to_numpy().any()


def test_patching_writes_each_pair_and_their_mean(tmp_path, monkeypatch, capsys):
    run(
        "patching",
        monkeypatch,
        "--pairs",
        "3",
        "--site",
        "resid_pre",
        "--by",
        "part",
        "--out",
        tmp_path,
        "--device",
        "cpu",
    )
    out = capsys.readouterr().out
    assert "attribution patching" in out
    assert "Pearson r" in out
    each = pd.read_csv(tmp_path / "tables" / "patching_resid_pre.csv")
    summary = pd.read_csv(tmp_path / "tables" / "patching_resid_pre_summary.csv")
    where = [column for column in summary.columns if column in each.columns and column in ("layer", "part")]
    assert where == ["layer", "part"]
    assert len(summary) == 6 * 5
    means = each.groupby(where, sort=False)["difference"].mean()
    for _, row in summary.iterrows():
        np.testing.assert_allclose(row["mean"], means[row["layer"], row["part"]], rtol=0, atol=1e-9)


def test_patching_follows_paths_to_a_head(tmp_path, monkeypatch, capsys):
    run("patching", monkeypatch, "--pairs", "2", "--receiver", "4.3.v", "--out", tmp_path, "--device", "cpu")
    assert "layers" in capsys.readouterr().out
    assert sum(1 for _ in tmp_path.glob("tables/patching_*_summary.csv")) == 1


def test_patching_says_what_no_passage_allows(tmp_path, monkeypatch):
    write_folder(tmp_path / "bare", {"d": "bread"}, {"q": "flea sponge"}, [("q", "d", 1)])
    places = ["--collection", tmp_path / "bare", "--out", tmp_path / "out", "--device", "cpu"]
    with pytest.raises(SystemExit, match="error: expected a passage of bare that makes a pair of TFC2, found none"):
        run("patching", monkeypatch, "--axiom", "TFC2", "--form", "replace", *places)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("layer_sweep", ["--directions", "DOC->TITLE"], "error: .*expected a part among"),
        ("head_ablation", ["--heads", "9.1"], "error: expected .*9.1"),
        ("table1", ["--collection", "nowhere"], "error: .*nowhere"),
        ("sinks", ["--model", "no/where"], "error: .*no/where"),
    ],
)
def test_bad_input_ends_in_one_sentence(name, arguments, message, world, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    places = {"--model": world / "m", "--collection": world / "c", "--out": tmp_path, "--device": "cpu"}
    given = [part for option, value in places.items() if option not in arguments for part in (option, value)]
    with pytest.raises(SystemExit, match=message):
        run(name, monkeypatch, *arguments, *given)


def test_scripts_share_what_is_stored_and_stand_beside_the_main_job(world, tmp_path, monkeypatch, capsys):
    """By default they write into a folder of their own, whatever else lies in results/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "of-something-else").mkdir(parents=True)
    places = ["--model", world / "m", "--collection", world / "c", "--device", "cpu"]
    run("matching_heads", monkeypatch, *places)
    assert "results/analyses-m-c/" in capsys.readouterr().out
    forbid_model_work(monkeypatch)
    run("sinks", monkeypatch, *places)  # of the same attention
    assert (tmp_path / "results" / "analyses-m-c" / "tables" / "sinks_by_head.csv").is_file()
