"""A run as the pool of a job: what is ranked, worth what ir_measures says, named everywhere; and no other run in its folder."""

import hashlib
import json
import runpy
import shutil
import sys
from pathlib import Path

import ir_measures
import numpy as np
import pandas as pd
import pytest
from small_worlds import collection_folder, forbid_model_work, model_folder, snapshot

from tl_crossenc.cli import main
from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.matching import matching_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import Pool
from tl_crossenc.report.run_record import Run
from tl_crossenc.results.layout import JOB
from tl_crossenc.results.merging import merge
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

DEPTH = 7
ANALYSES = Path(__file__).parents[2] / "analyses"


def write_run(path, collection, seed, tag="t"):
    """Every query's judged passages and some that nobody judged for it, with random scores."""
    rng = np.random.default_rng(seed)
    lines = []
    for query_id, grades in collection.qrels.items():
        others = [f"x{i}" for i in rng.permutation(17)[:5]]
        scores = rng.normal(size=len(grades) + 5)
        for doc_id, score in zip([*grades, *others], scores, strict=True):
            lines.append(f"{query_id} Q0 {doc_id} 0 {score} {tag}\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("world")
    model_folder(place / "m")
    collection = load_collection(collection_folder(place / "fleas", n_queries=5, per_grade=(1, 2, 2, 1)))
    load_collection(collection_folder(place / "more", n_queries=3, per_grade=(1, 1, 1, 1)))
    write_run(place / "a.run", collection, 3)
    write_run(place / "b.run", collection, 4)
    write_run(place / "more.run", load_collection(place / "more"), 5)
    return place


def errors_of(capsys):
    """What was said on standard error, in one line."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tl-crossenc: ")]
    return line


def arguments(world, command, out, *more, run="a.run", depth=DEPTH):
    named = ["--run", str(world / run), "--depth", str(depth)] if run else []
    return [
        command,
        "--model",
        str(world / "m"),
        "--collection",
        str(world / "fleas"),
        "--out",
        str(out),
        *named,
        *more,
    ]


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "out"
    assert main(arguments(world, "reproduce", out, "--only-table1")) == 0
    return out


def top_of(world, run, depth=DEPTH):
    """query_id -> the doc_ids of the first lines of a run, by hand."""
    found = {}
    for line in (world / run).read_text().splitlines():
        query_id, _, doc_id, _, score, _ = line.split()
        found.setdefault(query_id, []).append((-float(score), doc_id))
    return {query_id: [doc_id for _, doc_id in sorted(own)[:depth]] for query_id, own in found.items()}


def test_the_first_passages_are_ranked_judged_or_not_and_measured_with_all_judgments(world, done):
    collection, (written,) = load_collection(world / "fleas"), (done / "runs").glob("*/none.run")
    ranked = list(ir_measures.read_trec_run(str(written)))
    expected = top_of(world, "a.run")
    assert {(s.query_id, s.doc_id) for s in ranked} == {(q, d) for q, own in expected.items() for d in own}
    unjudged = sum(d not in collection.qrels[q] for q, own in expected.items() for d in own)
    assert unjudged > 5
    qrels = [ir_measures.Qrel(q, d, g) for q, own in collection.qrels.items() for d, g in own.items()]
    by_query = {m.query_id: m.value for m in ir_measures.iter_calc([ir_measures.nDCG @ 10], qrels, ranked)}
    table = pd.read_csv(done / "tables" / "per_query.csv").set_index("query_id")["none"]
    tied = pd.read_csv(done / "tables" / "tie_rate.csv").set_index("query_id")["none"] > 0
    assert set(table.index) == set(by_query) == set(collection.qrels)
    assert (~tied).sum() >= 3  # among equal scores the run's file has one order and the table the mean over all
    assert table[~tied].to_dict() == pytest.approx({q: by_query[q] for q in table[~tied].index}, abs=1e-6)
    record = json.loads((done / "run.json").read_text())
    assert record["pools"][0]["provenance"]["unjudged"] == unjudged
    assert record["settings"]["pool"] == {"runs": ["a.run"], "depth": [DEPTH]}
    text = (done / "tables" / "table1.md").read_text()
    assert f"fleas (the first {DEPTH} of a.run)" in text


@pytest.mark.usefixtures("unchecked")
def test_the_folder_is_of_that_run_and_depth(world, done, monkeypatch, capsys):
    job = json.loads((done / JOB).read_text())
    checksum = hashlib.sha256((world / "a.run").read_bytes()).hexdigest()
    assert job["pools"][0]["run"] == {"depth": DEPTH, "sha256": checksum}
    assert not any(name.startswith("pool.") and name != "pool.source" for name in job["fixed"])
    before = snapshot(done)
    forbid_model_work(monkeypatch)
    for changes, said in (
        ({"run": "b.run"}, "the SHA-256 of the run of fleas there is"),
        ({"depth": DEPTH + 1}, f"the depth (--depth) of the run of fleas there is {DEPTH}, here {DEPTH + 1}"),
        ({"run": None}, "the passages there are the first of a run (--run), here drawn from all that are judged"),
    ):
        assert main(arguments(world, "reproduce", done, "--only-table1", **changes)) == 2
        assert said in errors_of(capsys)
    shutil.copy(world / "a.run", world / "renamed.run")  # the run is its contents
    for name in ("a.run", "renamed.run"):
        assert main(arguments(world, "reproduce", done, "--only-table1", run=name)) == 0
    changed = {name for name, data in snapshot(done).items() if before.get(name) != data}
    assert not {name for name in changed if "/jobs/" not in name and name != "run.json"}


@pytest.mark.slow
def test_a_collection_with_its_run_is_added_behind_and_folders_of_two_runs_are_not_merged(
    world, done, tmp_path, capsys
):
    out = shutil.copytree(done, tmp_path / "out")
    more = ["--collection", str(world / "more"), "--run", str(world / "more.run"), "--only-table1"]
    assert main(arguments(world, "reproduce", out, *more)) == 0
    job = json.loads((out / JOB).read_text())
    assert [pool["collection"] for pool in job["pools"]] == ["fleas", "more"]
    assert all(set(pool["run"]) == {"depth", "sha256"} for pool in job["pools"])
    other = tmp_path / "other"
    assert main(arguments(world, "reproduce", other, "--only-table1", run="b.run")) == 0
    with pytest.raises(ValueError, match=r"the run of fleas in .* is \w{12}…, depth 7, in .* \w{12}…, depth 7"):
        merge([done, other], tmp_path / "merged")


@pytest.mark.slow
def test_scripts_take_runs_too(world, tmp_path, monkeypatch, capsys):
    def script(*more):
        monkeypatch.setattr(sys, "argv", ["table1.py", *arguments(world, "", tmp_path / "out", **more[0])[1:]])
        monkeypatch.syspath_prepend(str(ANALYSES))
        runpy.run_path(str(ANALYSES / "table1.py"), run_name="__main__")

    script({})
    assert f"fleas (the first {DEPTH} of a.run)" in capsys.readouterr().out
    for changes, said in (
        ({"run": "b.run"}, "SHA-256 of the run of fleas there is"),
        ({"run": None}, "drawn from all that"),
    ):
        with pytest.raises(SystemExit, match=said):
            script(changes)


def test_masks_take_runs_too(world, tmp_path, capsys):
    assert main(arguments(world, "compare-masks", tmp_path / "masks", "--preset", "zhan-q2d")) == 0
    assert f"fleas (the first {DEPTH} of a.run)" in (tmp_path / "masks" / "tables" / "compare_masks.md").read_text()
    assert main(arguments(world, "compare-masks", tmp_path / "masks", "--preset", "zhan-q2d", run="b.run")) == 2
    assert "the SHA-256 of the run of fleas there is" in errors_of(capsys)


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("reproduce", ["--collection", "demo"], "expected one run a collection, in the same order, got 1 for 2"),
        ("reproduce", ["--per-grade", "10"], "expected --run or --per-grade, got both"),
        ("reproduce", ["--easy-negatives", "3"], "expected --run or --easy-negatives, got both"),
        ("compare-masks", ["--seed", "0"], "expected --run or --seed, got both"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(world, tmp_path, capsys, command, more, said):
    assert main(arguments(world, command, tmp_path / "out", *more)) == 2
    assert said in errors_of(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--depth", "4"], "expected --run beside --depth"),
        (["--run", "nowhere.run"], "there is no run at nowhere.run"),
        (["--run", "scoreddocs"], "expected a collection of ir_datasets for its scoreddocs, got the folder of 'fleas'"),
        (["--run", " "], "run is the file of a TREC run, or 'scoreddocs', not ' '"),
    ],
)
def test_runs_that_are_none_are_one_sentence(world, tmp_path, capsys, given, said):
    assert main(arguments(world, "reproduce", tmp_path / "out", *given, run=None)) == 2
    assert said in errors_of(capsys)


@pytest.mark.slow
def test_passages_that_nobody_judged_are_not_called_irrelevant(world, tmp_path):
    """Figure 1b is drawn, against grade 0, and every caption that speaks of grade 0 says how much of it nobody judged."""
    out = tmp_path / "out"
    quick = ["--no-control", "--draws", "1", "--draw-queries", "2", "--method", "none", "--direction", "DOC->QUERY"]
    assert main(arguments(world, "reproduce", out, *quick)) == 0
    page, collection = (out / "report.html").read_text(), load_collection(world / "fleas")
    pairs = [(q, d) for q, own in top_of(world, "a.run").items() for d in own]
    zero = sum(collection.qrels[q].get(d, 0) == 0 for q, d in pairs)
    unjudged = sum(d not in collection.qrels[q] for q, d in pairs)
    said = f"Grade 0 in a run&#39;s passages: judged not relevant, or judged by nobody, as {unjudged} of {zero} are."
    for text in (
        said,
        f"{len(pairs)} passages of a run, {unjudged} of which nobody judged",
        f"(the first {DEPTH} of a.run)",
    ):
        assert text in page.replace("’", "&#39;").replace("'", "&#39;"), text
    assert "graded passages" not in page


def test_captions_say_what_grade_0_is_in_a_run():
    about = {"source": "run", "depth": 7, "run": "a.run", "unjudged": 11, "passages_by_grade": {"2": 3, "0": 13}}
    run = Run("m", ("fleas",), {2: 3, 0: 13}, record={"pools": [{"collection": "fleas", "provenance": about}]})
    assert run.where == "m on fleas (the first 7 of a.run)"
    assert run.ranked == ", 16 passages of a run, 11 of which nobody judged"
    assert run.hard == " Grade 0 in a run's passages: judged not relevant, or judged by nobody, as 11 of 13 are."
    drawn = Run("m", ("fleas",), {2: 3, 0: 13}, record={"pools": [{"collection": "fleas", "provenance": {}}]})
    assert (drawn.where, drawn.ranked, drawn.hard) == ("m on fleas", ", 16 graded passages", "")


def test_easy_negatives_that_a_run_lacks_are_said(world, tmp_path):
    pool = Pool.from_run(load_collection(world / "fleas"), world / "a.run", depth=DEPTH)
    model = HookedCrossEncoder.from_pretrained(str(world / "m"), device="cpu")
    attention = run_attention(model, [pool], Store(tmp_path / "s"))
    with pytest.raises(
        Unavailable, match="a run's passages have no easy negatives: compare with grade 0 by --against 0"
    ):
        matching_heads(attention)
    frame = matching_heads(attention, against=0)
    assert frame.attrs["unjudged"] == pool.unjudged == sum(p.doc_id.startswith("x") for p in pool.pairs)
