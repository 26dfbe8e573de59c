"""The main job end to end: every file there, a rerun free, and a kill -9 at any moment without a trace."""

import html
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ir_measures
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers import one_sentence
from small_worlds import (
    asked,
    blank,
    collection_folder,
    count_layers,
    forbid_model_work,
    identities,
    model_folder,
    snapshot,
)

from tl_crossenc.experiments.beyond import every_method, usual_methods
from tl_crossenc.experiments.paper import PaperOptions
from tl_crossenc.experiments.table1 import run_table1
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import Pool, PoolSpec, build_pool
from tl_crossenc.report.tables import SIDES
from tl_crossenc.reproduce import Settings, reproduce
from tl_crossenc.results import kept_pools
from tl_crossenc.results.artefacts import ARTEFACTS, NOT_ASKED, load_unavailable
from tl_crossenc.results.kept_pools import frozen_pool
from tl_crossenc.statistics.published import VAST_2025_TABLE_1, is_monobert
from tl_crossenc.store.cells import Store

CONDITIONS = ["none", *(f"zero({row}->{column})" for row in SIDES for column in SIDES)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("models") / "tiny", seed=2)


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    base = tmp_path_factory.mktemp("collections")
    one = collection_folder(base / "one", n_queries=3, per_grade=(2, 1, 1, 1))
    two = collection_folder(base / "two", n_queries=2, per_grade=(1, 1, 1, 2))  # its query ids are also those of `one`
    return str(one), str(two)


def settings(model, collections, out, **changes):
    """Of a job that makes Table 1 alone, unless `changes` say otherwise."""
    chosen = {"pool": PoolSpec(10, 2, 0), "device": "cpu", "only_table1": True, **changes}
    return Settings(str(model), tuple(collections), out, **chosen)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model, collections):
    out = tmp_path_factory.mktemp("results") / "out"
    return reproduce(settings(model, collections, out)), out


def test_every_file_is_there_and_can_be_read(finished):
    found, out = finished
    names = snapshot(out).keys()
    assert {name for name in names if name.count("/") == 0} == {
        ".lock", "run.json", "scores.parquet",
    }  # fmt: skip
    assert {name for name in names if name.startswith("tables/")} == {
        f"tables/{name}" for name in ("table1.csv", "table1.md", "table1.tex", "per_query.csv", "tie_rate.csv")
    }
    assert {name for name in names if name.startswith("machinery/") and name.count("/") == 1} == {
        "machinery/job.json", "machinery/tl_crossenc.json",
    }  # fmt: skip
    assert {name for name in names if name.startswith("machinery/pools/")} == {
        f"machinery/pools/{name}_grade-10_easy-2-matched_seed-0.parquet" for name in ("one", "two")
    }
    assert len([name for name in names if name.startswith("runs/one/")]) == 37
    assert (
        len([name for name in names if name.startswith("machinery/cells/")]) == 2 * 37 * 2
    )  # a shard a pool; table and manifest
    table = pd.read_csv(out / "tables" / "table1.csv", index_col="direction")
    assert len(table) == 36
    per_query = pd.read_csv(out / "tables" / "per_query.csv", index_col=["collection", "query_id"])
    assert list(per_query.columns) == ["random", "ideal_dcg", *CONDITIONS]
    assert len(per_query) == 5
    for direction, row in table.iterrows():
        assert row["mean"] == pytest.approx(per_query[f"zero({direction})"].mean(), abs=1e-12)
        assert row["difference"] == pytest.approx(
            (per_query[f"zero({direction})"] - per_query["none"]).mean(), abs=1e-12
        )
    scores = pd.read_parquet(out / "scores.parquet")
    assert list(scores.columns) == ["collection", "query_id", "doc_id", "grade", *CONDITIONS]
    pools = [
        Pool.load(out / "machinery" / "pools" / f"{name}_grade-10_easy-2-matched_seed-0.parquet")
        for name in ("one", "two")
    ]
    judged = [(pool.collection, p.query_id, p.doc_id, p.grade) for pool in pools for p in pool.pairs if p.grade >= 0]
    assert list(scores.iloc[:, :4].itertuples(index=False, name=None)) == judged
    assert any(p.grade == -1 for pool in pools for p in pool.pairs)
    markdown = (out / "tables" / "table1.md").read_text(encoding="utf-8")
    assert f"Unablated {per_query['none'].mean():.3f}" in markdown
    assert markdown.count("\n| ") == 6  # the rows after the header
    assert (out / "tables" / "table1.tex").read_text(encoding="utf-8").startswith("\\begin{table}")
    assert found.table1.unablated == per_query["none"].mean()


def test_the_runs_are_the_scores(finished):
    _, out = finished
    run_files = json.loads((out / "run.json").read_text())["runs"]
    assert list(run_files) == sorted(CONDITIONS)
    scores = pd.read_parquet(out / "scores.parquet")
    for condition in ("none", "zero(DOC->QUERY)"):
        for collection, rows in scores.groupby("collection"):
            run = ir_measures.read_trec_run(str(out / "runs" / collection / run_files[condition]))
            written = {(row.query_id, row.doc_id): row.score for row in run}
            stored = {(r.query_id, r.doc_id): r.score for r in rows.rename(columns={condition: "score"}).itertuples()}
            assert written.keys() == stored.keys()
            assert all(written[key] == pytest.approx(stored[key], rel=1e-8) for key in stored)


def test_a_rerun_runs_no_model_and_leaves_every_byte(finished, model, collections, monkeypatch):
    first, out = finished
    before, cells = snapshot(out), identities(out / "machinery" / "cells")
    forbid_model_work(monkeypatch)
    monkeypatch.setattr(kept_pools, "build_pool", None)  # nor is a pool drawn again
    again = reproduce(settings(model, collections, out))
    assert (again.table1.layers_run, again.table1.layers_alone) == (0, 0)
    pd.testing.assert_frame_equal(again.table1.comparison, first.table1.comparison)
    assert snapshot(out) == before
    assert identities(out / "machinery" / "cells") == cells


def test_results_do_not_depend_on_the_folder_they_are_in(finished, model, collections, tmp_path):
    _, out = finished
    reproduce(settings(model, collections, tmp_path / "elsewhere" / "deep"))
    assert snapshot(tmp_path / "elsewhere" / "deep") == snapshot(out)


def test_another_collection_adds_to_what_is_there(finished, model, collections, tmp_path, monkeypatch):
    out = tmp_path / "out"
    reproduce(settings(model, collections[:1], out))
    calls = count_layers(monkeypatch)
    both = reproduce(settings(model, collections, out))
    n = len(both.pools[1].ranked)
    assert sum(pairs for _, pairs in calls) == 2 * 37 * n  # the second collection's alone
    assert snapshot(out) == snapshot(finished[1])


def test_another_mode_adds_its_own_cells_to_a_store(finished, model, collections, tmp_path, monkeypatch):
    """The folder of a job is not another job's, but cells do not know of jobs."""
    out = shutil.copytree(finished[1], tmp_path / "out")
    ours = HookedCrossEncoder.from_pretrained(str(model), device="cpu")
    calls = count_layers(monkeypatch)
    run_table1(ours, finished[0].pools, Store(out), mode="mask")
    n = sum(
        len(pool.ranked) for pool in finished[0].pools
    )  # all but the unablated, of which the first layer may be run to build on
    assert sum(pairs for _, pairs in calls) in (2 * 36 * n, 2 * 36 * n + n)


def test_progress_is_shown_while_there_is_work(model, collections, tmp_path):
    from contextlib import contextmanager

    seen = []

    @contextmanager
    def watch(what):
        yield lambda done, total: seen.append((what, done, total))

    found = reproduce(settings(model, collections[:1], tmp_path / "out"), watch)
    assert {what for what, *_ in seen} == {"Table 1"}
    assert seen[-1][1:] == (found.table1.layers_run,) * 2


# The whole job, with every figure and the page. Drawings are looked at where pools are smallest, and family by family.


@pytest.fixture(scope="module")
def everything(tmp_path_factory, model, collections):
    out = tmp_path_factory.mktemp("results") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        blank(patch)
        return reproduce(settings(model, collections, out, only_table1=False)), out


def test_the_whole_job_leaves_every_artefact_or_says_why_not(everything):
    found, out = everything
    assert found.report == out / "report.html"
    assert found.report.stat().st_size > 10_000
    reasons = json.loads((out / "machinery" / "summaries" / "unavailable.json").read_text())
    assert reasons == found.unavailable
    assert len(asked(reasons)) < len(ARTEFACTS) / 3
    for key, artefact in ARTEFACTS.items():
        if key in reasons:
            assert len(reasons[key].split()) > 3
            continue
        assert all((out / table).is_file() for table in artefact.tables.values()), key
        if artefact.drawn:
            assert {(out / "figures" / f"{key}.{kind}").is_file() for kind in ("svg", "pdf")} == {True}
    curve = pd.read_csv(out / "tables" / "figure1a.csv")
    unablated = pd.read_csv(out / "tables" / "per_query.csv")["none"].mean()
    assert json.loads((out / "machinery" / "summaries" / "figure1a.json").read_text())["unablated"][
        "mean"
    ] == pytest.approx(unablated, abs=1e-12)
    table = pd.read_csv(out / "tables" / "table1.csv", index_col="direction")
    last = curve[curve["layer"] == curve["layer"].max()].set_index("direction")["mean"]
    for direction, value in last.items():  # removed up to the last layer is removed everywhere
        assert value == pytest.approx(table.loc[direction, "mean"], abs=1e-12)


def test_every_experiments_frame_says_how_it_was_made(everything, model):
    found, _ = everything
    results = {"table1": found.table1} | {
        key: one for key, one in found.results.items() if not isinstance(one, Exception)
    }
    assert len(results) > 10
    digests = [pool.digest for pool in found.pools]
    for key, result in results.items():
        frame = result if isinstance(result, pd.DataFrame) else result.to_frame()
        attrs = frame.attrs
        assert len(frame), key
        assert json.loads(json.dumps(attrs)) == attrs, key
        if key == "figure1b_counts":  # read off a table
            continue
        name = Path(model).name + ", untrained" * (key == "figure1b_control")
        told = (attrs["model"], attrs["condition"], attrs["dtype"], attrs["device"])
        assert told == (name, "none", "float32", "cpu"), key
        assert [pool["digest"] for pool in attrs["pools"]] == digests, key
        if not isinstance(result, pd.DataFrame):
            assert result.to_frame().equals(frame), key
    assert results["table1"].to_frame("comparison").attrs["mode"] == "zero"
    assert results["figure1a"].to_frame().attrs["function"] == "experiments.layers.run_layer_sweep"


@pytest.mark.usefixtures("unchecked", "blank_drawings")
def test_a_rerun_of_the_whole_job_runs_no_model_and_leaves_every_byte(everything, model, collections, monkeypatch):
    _, out = everything
    before, cells = snapshot(out), identities(out / "machinery" / "cells")
    forbid_model_work(monkeypatch)
    reproduce(settings(model, collections, out, only_table1=False))
    assert snapshot(out) == before
    assert identities(out / "machinery" / "cells") == cells


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked", "blank_drawings")
def test_a_rerun_with_every_method_runs_no_model_and_leaves_every_byte(model, tmp_path, monkeypatch):
    folder = collection_folder(tmp_path / "c", n_queries=7, per_grade=(3, 1, 1, 2))
    options = PaperOptions(methods=every_method(), n_draws=2)
    job = settings(model, [str(folder)], tmp_path / "out", only_table1=False, options=options)
    found = reproduce(job)
    assert set(usual_methods()).isdisjoint(found.unavailable)
    assert "LoRA adapter" in found.unavailable["adapter_updates"]
    assert NOT_ASKED not in found.unavailable.values()
    before = snapshot(tmp_path / "out")
    forbid_model_work(monkeypatch)
    reproduce(job)
    assert snapshot(tmp_path / "out") == before


@pytest.mark.slow
def test_a_plain_run_takes_the_quick_methods(model, tmp_path):
    """In a process of its own, where nothing is patched."""
    folder = collection_folder(tmp_path / "c", n_queries=7, per_grade=(3, 1, 1, 2))
    command = ["-m", "tl_crossenc.cli", "reproduce", "--model", str(model), "--collection", str(folder), "--draws", "1"]
    subprocess.run(
        [sys.executable, *command, "--out", str(tmp_path / "out"), "--device", "cpu"], check=True, timeout=300
    )
    there = {key for key in ARTEFACTS if key not in load_unavailable(tmp_path / "out")}
    beyond = {ARTEFACTS[key].result for key in there if ARTEFACTS[key].beyond}
    assert beyond - {"head_ablation_folds"} == set(usual_methods())


@pytest.mark.usefixtures("unchecked", "blank_drawings")
def test_what_cannot_be_made_does_not_keep_the_rest(model, collections, tmp_path):
    """Without easy negatives Figure 1b has nothing to compare with."""
    found = reproduce(settings(model, collections[:1], tmp_path, only_table1=False, pool=PoolSpec(10, 0, 0)))
    assert {"figure1b", "head_ablation"} <= found.unavailable.keys()
    assert "figure1a" not in found.unavailable
    assert "figure2" not in found.unavailable
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.escape(found.unavailable["figure1b"], quote=False)[:40] in page


# The paper's numbers.


def test_published_values_stand_beside_monoberts_alone(collections, tmp_path):
    folder = model_folder(tmp_path / "monobert-large-msmarco", seed=2)
    reproduce(settings(folder, collections[:1], tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "tables" / "table1.csv", index_col="direction")
    assert table["published"].dropna().to_dict() == VAST_2025_TABLE_1
    assert table.loc["DOC->DOC", "published"] == 0.67
    assert table.loc["CLS->ALL", "published"] == 0.48


def test_no_published_values_beside_other_models(finished):
    assert "published" not in pd.read_csv(finished[1] / "tables" / "table1.csv")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("castorini/monobert-large-msmarco", True),
        ("/models/monobert-large-msmarco", True),
        ("xpmir/monobert", False),
        ("cross-encoder/ms-marco-MiniLM-L6-v2", False),
        ("demo", False),
    ],
)
def test_which_models_are_monobert(name, expected):
    assert is_monobert(name) is expected


# Pools.


def test_a_pool_is_drawn_once_a_spec(collections, tmp_path):
    one = frozen_pool(collections[0], PoolSpec(10, 2, 0), tmp_path)
    assert frozen_pool(collections[0] + "/.", PoolSpec(10, 2, 0), tmp_path) == one
    frozen_pool(collections[0], PoolSpec(None, 0, 3), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "one_grade-10_easy-2-matched_seed-0.parquet", "one_grade-all_easy-0_seed-3.parquet",
    ]  # fmt: skip


def test_a_pool_put_in_anothers_place_is_noticed(collections, tmp_path):
    frozen_pool(collections[1], PoolSpec(10, 2, 0), tmp_path)
    (tmp_path / "two_grade-10_easy-2-matched_seed-0.parquet").rename(
        tmp_path / "one_grade-10_easy-2-matched_seed-0.parquet"
    )
    with pytest.raises(ValueError, match=r"pool of 'one' .* got that of 'two'"):
        frozen_pool(collections[0], PoolSpec(10, 2, 0), tmp_path)


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        (PoolSpec(10, 2, 1), "seed"),
        (PoolSpec(10, 1, 0), "easy_negatives"),
        (PoolSpec(9, 2, 0), "per_grade"),
        (PoolSpec(10, 2, 0, match_length=False), "match_length"),
    ],
)
def test_a_pool_drawn_by_other_rules_under_the_name_expected_is_not_used(collections, tmp_path, spec, rule):
    build_pool(load_collection(collections[0]), spec).save(tmp_path / "one_grade-10_easy-2-matched_seed-0.parquet")
    with pytest.raises(ValueError, match=rule) as error:
        frozen_pool(collections[0], PoolSpec(10, 2, 0), tmp_path)
    assert one_sentence(error.value)


def test_names_beyond_ascii_stay_apart(tmp_path):
    for name in ("日本", "中国"):
        folder = collection_folder(tmp_path / name, n_queries=1)
        assert frozen_pool(str(folder), PoolSpec(1, 0, 0), tmp_path / "pools").collection == name
    assert len(list((tmp_path / "pools").iterdir())) == 2


def test_bad_settings_are_errors(tmp_path):
    with pytest.raises(ValueError, match="at least one collection"):
        Settings("demo", (), tmp_path)


# Kill -9. A driver imports everything once, then forks: one child kills itself at some operation on a file, another goes on.

DRIVER = '''
import json, os, signal, sys, threading
from pathlib import Path
import torch, pyarrow.parquet, transformers, ir_measures
import tl_crossenc.store.files as files
from tl_crossenc.experiments import scoring
from tl_crossenc.pools.pool import PoolSpec
from tl_crossenc.reproduce import Settings, reproduce

model, one, two, base, moments = *sys.argv[1:5], [float(x) for x in sys.argv[5:]]
only = "WHOLE_JOB" not in os.environ
torch.set_num_threads(1)
scoring.SHARD = 7
write, replace, fsync = os.write, os.replace, os.fsync
count = 0

def child(out, last=None):
    """Run the job in a child that kills itself at operation `last`; (its status, operations, layers run)."""
    reader, writer = os.pipe()
    process = os.fork()
    if process:
        os.close(writer)
        text = b""
        while chunk := os.read(reader, 1 << 16):
            text += chunk
        os.close(reader)
        return os.waitpid(process, 0)[1], json.loads(text) if text else None
    global count
    def step():
        global count
        if threading.current_thread() is not threading.main_thread():  # which says how far the job is, as time goes
            return
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
    def slow_write(handle, data):
        if handle != writer:
            if count + 1 == last:
                write(handle, bytes(data)[: len(data) // 2])
            step()
        return write(handle, data)
    def slow_replace(*names):
        step()
        replace(*names)
        step()
    def slow_fsync(handle):
        step()
        fsync(handle)
    files.os.write, files.os.replace, files.os.fsync = slow_write, slow_replace, slow_fsync
    try:
        found = reproduce(Settings(model, (one, two), Path(out), device="cpu", pool=PoolSpec(10, 2, 0), only_table1=only))
        write(writer, json.dumps([count, found.table1.layers_run]).encode())
    except BaseException as error:
        write(2, repr(error).encode())
        os._exit(9)
    os._exit(0)

status, (operations, _) = child(f"{base}/whole")
report = [{"out": "whole", "status": status}]
for i, share in enumerate(moments):
    last = max(1, round(share * operations))
    killed, _ = child(f"{base}/{i}", last)
    left = {
        str(path.relative_to(f"{base}/{i}")): [path.stat().st_ino, path.stat().st_mtime_ns]
        for path in Path(f"{base}/{i}").rglob("*") if path.is_file()
    }
    status, done = child(f"{base}/{i}")
    report.append({"out": str(i), "killed": killed, "status": status, "left": left, "run": done and done[1]})
print(json.dumps(report))
'''


def drive(model, collections, base, moments, timeout=300, **environment):
    base.mkdir()
    (base / "driver.py").write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, str(base / "driver.py"), str(model), *collections, str(base), *map(str, moments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **environment},
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_a_kill(base, report):
    """Every file equals an undisturbed run's, and what was finished at the kill was left alone. The cells that were there."""
    whole, out = snapshot(base / "whole"), base / report["out"]
    assert report["killed"] == signal.SIGKILL
    assert report["status"] == 0
    assert snapshot(out) == whole
    manifests = {name for name in report["left"] if name.startswith("machinery/cells/") and name.endswith(".json")}
    kept = manifests | {name.replace(".json", ".parquet") for name in manifests}
    now = identities(out)
    assert {name: list(now[name]) for name in kept} == {name: report["left"][name] for name in kept}
    missing = [
        name
        for name in whole
        if name.startswith("machinery/cells/") and name.endswith(".json") and name not in manifests
    ]
    # Two layers, and no two conditions share one: what the rerun ran is what its missing cells take, and at most the first layer
    # of the unablated model for each of the shards (5 + 4 + 5 and 5 + 4 pairs) to build on.
    need = 2 * sum(json.loads(whole[name])["rows"] for name in missing)
    assert need <= report["run"] <= need + (23 if missing else 0)
    return manifests


@pytest.mark.slow
def test_kill_9_at_any_moment_then_a_rerun_is_an_undisturbed_run(model, collections, tmp_path):
    moments = [0, random.Random(7).uniform(0.03, 0.97), 1]  # many below
    first, *killed = drive(model, collections, tmp_path / "kills", moments)
    assert first["status"] == 0
    kept = [len(check_a_kill(tmp_path / "kills", report)) for report in killed]
    n_cells = sum(name.endswith(".json") for name in snapshot(tmp_path / "kills" / "whole" / "machinery" / "cells"))
    assert n_cells == 37 * (2 + 2)  # shards of 7 pairs, of pools of 5 + 4 + 5 and of 5 + 4
    assert kept == sorted(kept)
    assert kept[0] == 0
    assert any(0 < n < n_cells for n in kept)  # some kills hit between cells


@pytest.mark.slow
def test_kill_9_at_many_moments(model, collections, tmp_path):
    moments = sorted(random.Random(11).random() for _ in range(40))
    _, *killed = drive(model, collections, tmp_path / "kills", moments, timeout=900)
    for report in killed:
        check_a_kill(tmp_path / "kills", report)


@pytest.mark.slow
def test_kill_9_during_the_whole_job(model, collections, tmp_path):
    moments = sorted(random.Random(13).random() for _ in range(6))
    _, *killed = drive(model, collections, tmp_path / "kills", moments, timeout=900, WHOLE_JOB="1")
    whole = snapshot(tmp_path / "kills" / "whole")
    assert "report.html" in whole
    for report in killed:
        assert (report["killed"], report["status"]) == (signal.SIGKILL, 0)
        assert snapshot(tmp_path / "kills" / report["out"]) == whole
        now = identities(tmp_path / "kills" / report["out"])
        manifests = {name for name in report["left"] if name.startswith("machinery/cells/") and name.endswith(".json")}
        assert {name: list(now[name]) for name in manifests} == {name: report["left"][name] for name in manifests}


@pytest.mark.slow
def test_kill_9_from_outside(model, collections, tmp_path):
    """The command itself, killed by another process once the first cells are there."""

    def start(out):
        command = [
            sys.executable,
            "-m",
            "tl_crossenc.cli",
            "reproduce",
            "--model",
            str(model),
            "--out",
            str(out),
            "--device",
            "cpu",
        ]
        command += [part for collection in collections for part in ("--collection", collection)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    whole, out = tmp_path / "whole", tmp_path / "out"
    assert start(whole).wait(timeout=300) == 0
    process = start(out)
    deadline = time.monotonic() + 200
    while len(list(out.glob("machinery/cells/scores/*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("machinery/cells/scores/*.json")}
    assert len(finished) >= 3
    assert start(out).wait(timeout=300) == 0
    assert snapshot(out) == snapshot(whole)
    assert all((out / "machinery/cells/scores" / name).stat().st_mtime_ns == mark for name, mark in finished.items())


def test_parquet_files_are_whole(finished):
    for path in Path(finished[1]).rglob("*.parquet"):
        assert pq.read_table(io.BytesIO(path.read_bytes())).num_rows > 0
