"""Cells that always fail: told of at the end with their cause, all others computed and stored, the exit status not 0."""

import json

import pytest
import tiny_collections
import torch
from helpers import VOCABULARY, random_weights, small_config
from small_worlds import CONTEXT, blank, model_folder, snapshot

from tl_crossenc.cli import main
from tl_crossenc.experiments import scoring
from tl_crossenc.results.artefacts import UNAVAILABLE_FILE
from tl_crossenc.store.cells import Store

BAD = "egg"
"""A word whose vector is too large for its norm's sums: what holds it cannot be computed."""


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        blank(patch)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = small_config(2, max_position_embeddings=CONTEXT)
    state = random_weights(config, 2, seed=2)
    vector = state["bert.embeddings.word_embeddings.weight"][VOCABULARY.index(BAD)]
    vector[::2], vector[1::2] = 3e38, -3e38
    return model_folder(tmp_path_factory.mktemp("model") / "tiny", config=config, state=state)


def collection(folder, *, judged="bread", unjudged="the flea"):
    """Two queries with three passages each of grades 0 to 2, and passages that nobody judged."""
    docs, queries, qrels = {}, {}, []
    for q in range(2):
        queries[f"q{q}"] = ("how do fleas rise", "the bread rise")[q]
        for grade in range(3):
            docs[f"d{q}{grade}"] = f"{judged if q == grade == 1 else 'bread'} the flea {q + grade}"
            qrels.append((f"q{q}", f"d{q}{grade}", grade))
    docs |= {f"x{i}": f"{unjudged} {i}" for i in range(5)}
    return tiny_collections.write_folder(folder, docs, queries, qrels)


def reproduce(model, out, *collections, more=()):
    options = ["--device", "cpu", "--heads", "0.1,1.2", "--draws", "1", "--easy-negatives", "2", "--method", "none"]
    given = [part for one in collections for part in ("--collection", str(one))]
    return main(["reproduce", "--model", str(model), *given, "--out", str(out), *options, *more])


def one_sentence(err):
    lines = [line for line in err.splitlines() if line.startswith("tl-crossenc: ")]
    assert len(lines) == 1, err
    assert err.rstrip().splitlines()[-1] == lines[0]
    return lines[0]


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_computed_is_unavailable_and_the_rest_is_drawn(model, tmp_path, capsys):
    """The word is in passages that are not ranked: Table 1, Figure 1a and the heads can be computed, attention cannot."""
    out = tmp_path / "out"
    folder = collection(tmp_path / "c", unjudged=f"the {BAD}")
    assert reproduce(model, out, folder) == 2
    said = capsys.readouterr()
    sentence = one_sentence(said.err)
    for part in (
        "NaN",
        "'attention'",
        "'match-sums'",
        "'qk-means'",
        "could not be computed, what else was asked for is stored",
    ):
        assert part in sentence
    assert "Table 1: " in said.out
    reasons = json.loads((out / UNAVAILABLE_FILE).read_text())
    for key in ("attention", "figure1b", "figure1c", "figure2", "sinks"):
        assert "could not be computed" in reasons[key]
    assert not {"table1", "figure1a", "head_ablation"} & reasons.keys()
    for name in (
        "tables/table1.csv",
        "tables/figure1a.csv",
        "tables/head_ablation.csv",
        "figures/figure1a.svg",
        "report.html",
    ):
        assert (out / name).is_file()
    assert "could not be computed" in (out / "report.html").read_text()
    kinds = {path.name for path in (out / "machinery" / "cells").iterdir()}
    assert {"scores"} <= kinds
    assert not {"qk-means", "match-sums"} & kinds
    before = {name: data for name, data in snapshot(out).items() if not name.startswith(".")}
    assert reproduce(model, out, folder) == 2  # tried again, failing again
    assert {name: data for name, data in snapshot(out).items() if not name.startswith(".")} == before


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_where_table_1_fails_the_others_cells_are_computed_and_stored_first(model, tmp_path, capsys):
    """One of two collections can be computed: all of its cells are there, as they are where it is alone."""
    good, bad = collection(tmp_path / "good"), collection(tmp_path / "bad", judged=BAD)
    assert reproduce(model, tmp_path / "alone", good) == 0
    capsys.readouterr()
    assert reproduce(model, tmp_path / "out", bad, good) == 2
    said = capsys.readouterr()
    sentence = one_sentence(said.err)
    for part in ("expected finite scores", "'scores'", "'attention'", "'qk-means'"):
        assert part in sentence
    assert not (tmp_path / "out" / "report.html").exists()
    alone, found = (
        {name: data for name, data in snapshot(tmp_path / folder).items() if "/cells/" in name}
        for folder in ("alone", "out")
    )
    expected = {name: data for name, data in alone.items() if "/qk-terms/" not in name}  # of all pools together
    drawn = {key.digest for key in Store(tmp_path / "alone").keys("scores")} - {
        key.digest for key in Store(tmp_path / "out").keys("scores")
    }
    assert not drawn
    assert {name: found.get(name) for name in expected} == expected
    assert {name.split("/")[2] for name in expected} == {
        "scores", "attention", "match-sums", "match-histograms", "match-pairs", "qk-means",
    }  # fmt: skip


@pytest.mark.parametrize("command", ["reproduce", "compare-masks"])
@pytest.mark.usefixtures("unchecked")
def test_memory_that_runs_out_comes_with_what_to_do(model, tmp_path, capsys, monkeypatch, command):
    tried = []

    def full(*args, **given):
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(scoring, "run_conditions", full)
    two = [str(collection(tmp_path / name, judged=name)) for name in ("do", "lay")]
    given = [
        command,
        "--model",
        str(model),
        "--collection",
        two[0],
        "--collection",
        two[1],
        "--out",
        str(tmp_path / "out"),
    ]
    only = ["--only-table1"] if command == "reproduce" else []
    assert main([*given, *only, "--device", "cpu"]) == 2
    sentence = one_sentence(capsys.readouterr().err)
    assert "out of memory" in sentence
    assert "use a smaller --token-budget" in sentence
    assert len(tried) == 2  # the second pool is tried, too


@pytest.mark.usefixtures("unchecked")
def test_a_mistake_in_the_program_ends_it_at_once(model, tmp_path, capsys, monkeypatch):
    tried = []

    def wrong(*args, **given):
        tried.append(1)
        raise TypeError("a mistake")

    monkeypatch.setattr(scoring, "run_conditions", wrong)
    two = [collection(tmp_path / name, judged=name) for name in ("do", "lay")]
    assert reproduce(model, tmp_path / "out", *two) == 2
    assert one_sentence(capsys.readouterr().err) == "tl-crossenc: a mistake"
    assert len(tried) == 1


@pytest.mark.usefixtures("unchecked")
def test_a_shard_whose_cells_fail_says_so(model, tmp_path, capsys):
    folder = collection(tmp_path / "c", judged=BAD)
    assert reproduce(model, tmp_path / "out", folder, more=["--only-table1", "--shard", "1/1"]) == 2
    said = capsys.readouterr()
    assert "Shard 1/1: 0 cells computed now" in said.out
    assert "Every cell is there" not in said.out
    assert "37 cells of 'scores' could not be computed" in one_sentence(said.err)
