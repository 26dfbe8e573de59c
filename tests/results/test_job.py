"""One folder, one job: what is refused and in which words, what may change, and two processes on one folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from small_worlds import collection_folder, model_folder, snapshot

from tl_crossenc import reproduce as module
from tl_crossenc.cli import main
from tl_crossenc.experiments import main_job
from tl_crossenc.experiments.paper import PaperOptions
from tl_crossenc.pools.pool import PoolSpec
from tl_crossenc.reproduce import Settings, reproduce
from tl_crossenc.results.job import JOB, Job, claim, first_difference, refuse_another, unused
from tl_crossenc.store.cells import Store
from tl_crossenc.store.files import StoreError
from tl_crossenc.store.keys import CellKey
from tl_crossenc.store.locks import locked

FIXED = {
    "dtype": "float32",
    "model.n_layers": 2,
    "weights": "a" * 64,
    "tokenizer": "b" * 64,
    "mode": "zero",
    "gain": "linear",
    "pool.seed": 0,
}
PLAIN = Job("reproduce", "/here/m", FIXED, {"heads": None, "device": "cpu"}, (("one", "d1"), ("two", "d2")))


@pytest.fixture
def taken(tmp_path):
    """A folder of `PLAIN` in which something is computed."""
    import pyarrow as pa

    out = tmp_path / "m-demo"
    Store(out).write(CellKey.of("scores", n=1), pa.table({"x": [1]}))
    claim(out, PLAIN)
    return out


def test_the_same_job_may_follow_and_changes_no_byte(taken):
    before = snapshot(taken)
    claim(taken, PLAIN)
    refuse_another(taken, PLAIN, at_once=True)
    assert snapshot(taken) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fixed": {**FIXED, "weights": "c" * 64, "mode": "mask"}, "model": "/there/m"},
         r"the model's weights there is a+… \(/here/m\), here c+… \(/there/m\)"),
        ({"fixed": {**FIXED, "weights": "c" * 64, "dtype": "float64"}},
         r"the number type \(--dtype\) there is float32, here float64"),
        ({"fixed": {**FIXED, "weights": "c" * 64, "model.n_layers": 3}},
         r"the model's n layers there is 2 \(/here/m\), here 3 \(/here/m\)"),
        ({"fixed": {**FIXED, "tokenizer": "c" * 64}},
         r"the tokenizer or the length that it cuts to there is b+… \(/here/m\), here c+"),
        ({"fixed": {**FIXED, "mode": "mask"}}, r"how attention is removed \(--mode\) there is zero, here mask"),
        ({"fixed": {**FIXED, "pool.seed": 7, "gain": "exponential"}}, r"the gain \(--gain\) there is linear, here exponential"),
        ({"fixed": {**FIXED, "pool.seed": 7}}, r"the seed \(--seed\) there is 0, here 7"),
        ({"fixed": {**FIXED, "new_rule": "x"}}, "new rule there is null, here x"),
        ({"command": "compare-masks"}, "there it is 'reproduce', here 'compare-masks'"),
        ({"pools": (("two", "d2"), ("one", "d1"))}, "the collections there are one, two, here two, one"),
        ({"pools": (("one", "d1"),)}, "the collections there are one, two, here one"),
        ({"pools": (("one", "d1"), ("two", "d9"))}, "the pool of two there is d2, here d9"),
    ],
)  # fmt: skip
def test_the_first_difference_is_named_and_the_folder_left_alone(taken, changes, said):
    before, job = snapshot(taken), replace(PLAIN, **changes)
    with pytest.raises(
        ValueError, match=f"holds another job's: {said}.*: choose another --out, such as --out {taken}-2"
    ):
        claim(taken, job)
    with pytest.raises(ValueError, match=f"another process is at work in .*: {said}.*: run again when it is done"):
        refuse_another(taken, job, at_once=True)
    assert snapshot(taken) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"free": {"heads": "0.1", "device": "cpu"}},
        {"pools": (*PLAIN.pools, ("three", "d3"))},
    ],
)
def test_what_chooses_or_adds_may_change_but_not_at_once(taken, changes):
    job = replace(PLAIN, **changes)
    with pytest.raises(ValueError, match="at work"):
        refuse_another(taken, job, at_once=True)
    claim(taken, job)
    assert json.loads((taken / JOB).read_bytes()) == job.record()


def test_where_it_runs_and_what_the_model_is_called_may_change_at_any_time(taken):
    job = replace(PLAIN, model="/there/m", free={"heads": None, "device": "cuda"})
    refuse_another(taken, job, at_once=True)
    claim(taken, job)


def test_collections_whose_pools_are_not_drawn_are_not_compared(taken):
    refuse_another(taken, replace(PLAIN, pools=None))
    assert first_difference(PLAIN.record(), replace(PLAIN, pools=(("one", ""), ("two", ""))), at_once=True) is None


def test_a_folder_in_which_nothing_is_computed_is_anybodys(tmp_path):
    Store(tmp_path)
    claim(tmp_path, PLAIN)
    claim(tmp_path, replace(PLAIN, fixed={**FIXED, "mode": "mask"}))
    assert json.loads((tmp_path / JOB).read_bytes())["fixed"]["mode"] == "mask"


def test_results_that_do_not_say_of_what_they_are_are_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"expected {JOB} in .* beside run.json: .* earlier version"):
        claim(tmp_path, PLAIN)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "fixed": [], "free": {}, "pools": []}']
)
def test_a_damaged_description_is_refused(taken, content):
    (taken / JOB).write_text(content)
    with pytest.raises(
        ValueError, match=r"expected in .*job.json what the folder's results are of, but it cannot be read"
    ):
        claim(taken, PLAIN)


def test_the_folder_to_take_instead_is_one_that_is_not_there(tmp_path, monkeypatch):
    for name in ("out", "out-2"):
        (tmp_path / name).mkdir()
    assert unused(tmp_path / "out") == tmp_path / "out-3"
    monkeypatch.chdir(tmp_path / "out")
    assert unused(module.Path(".")) == tmp_path / "out-3"


# The main job.


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two models whose folders share a name, and a collection."""
    base = tmp_path_factory.mktemp("world")
    models = [model_folder(base / name / "tiny", seed=seed) for seed, name in enumerate("ab")]
    return *models, collection_folder(base / "fleas", n_queries=2, per_grade=(1, 1, 1, 1))


def settings(world, out, **changes):
    chosen = {
        "collections": (str(world[2]),),
        "pool": PoolSpec(10, 0, 0),
        "device": "cpu",
        "only_table1": True,
        **changes,
    }
    return Settings(str(world[0]), out=out, **chosen)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, world):
    out = tmp_path_factory.mktemp("results") / "out"
    reproduce(settings(world, out))
    return out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mode": "mask"}, "--mode"),
        ({"gain": "exponential"}, "--gain"),
        ({"cutoff": 5}, "cutoff"),
        ({"dtype": "float64"}, "--dtype"),
        ({"pool": PoolSpec(1, 0, 0)}, "--per-grade"),
        ({"pool": PoolSpec(10, 0, 1)}, "--seed"),
        ({"options": PaperOptions(seed=1)}, "--seed"),
    ],
)
def test_another_job_is_refused_before_any_work(world, finished, changes, said, monkeypatch):
    before = snapshot(finished)
    monkeypatch.setattr(main_job, "run_table1", None)
    with pytest.raises(ValueError, match=f"holds another job's: .*{said}"):
        reproduce(settings(world, finished, **changes))
    assert snapshot(finished) == before


def test_what_an_earlier_run_showed_goes_when_the_job_grows(world, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    old = [
        out / name
        for name in ("report.html", "tables/figure1b.csv", "machinery/summaries/figure1b.json", "figures/figure1b.svg")
    ]
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of an earlier run")
    more = collection_folder(tmp_path / "more", n_queries=2, per_grade=(1, 1, 1, 1))
    reproduce(settings(world, out, collections=(str(world[2]), str(more))))
    assert not any(path.exists() for path in old)
    assert [pool["collection"] for pool in json.loads((out / "run.json").read_text())["pools"]] == ["fleas", "more"]


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked", "blank_drawings")
def test_easy_negatives_may_change_and_all_that_is_shown_is_of_the_last_ones(world, tmp_path):
    """They are not ranked: Table 1 is that of any of them; of the heads that others gave nothing is used."""
    out, options = tmp_path / "out", {"options": PaperOptions(n_draws=1, counts=(1,)), "only_table1": False}
    reproduce(settings(world, out, **options))
    table = (out / "tables" / "table1.csv").read_bytes()
    assert not (out / "tables" / "figure1b.csv").exists()
    found = reproduce(settings(world, out, pool=PoolSpec(10, 2, 0), **options))
    assert found.table1.layers_run == 0
    assert (out / "tables" / "figure1b.csv").exists()
    assert json.loads((out / "run.json").read_text())["settings"]["pool"]["easy_negatives"] == 2
    reproduce(settings(world, out, **options))
    assert not (out / "tables" / "figure1b.csv").exists()
    assert not list((out / "figures").glob("figure1b*"))
    assert (out / "tables" / "table1.csv").read_bytes() == table
    with pytest.raises(ValueError, match="expected heads found on these pools as @matching"):
        reproduce(settings(world, out, heads="@matching", **options))


def test_two_checkpoints_of_one_folder_name_do_not_share_the_default_folder(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["reproduce", "--only-table1", "--collection", str(world[2]), "--easy-negatives", "0", "--model"]
    assert main([*arguments, str(world[0])]) == 0
    before = snapshot(tmp_path)
    assert main([*arguments, str(world[1])]) == 2
    said = capsys.readouterr().err
    assert "the model's weights there is" in said
    assert "--out results/tiny-fleas-2" in said
    assert snapshot(tmp_path) == before
    assert main(["compare-masks", "--out", "results/tiny-fleas", *arguments[2:4], "--model", str(world[0])]) == 2
    assert "there it is 'reproduce', here 'compare-masks'" in capsys.readouterr().err


def test_a_job_that_differs_from_the_one_at_work_is_refused_at_once(world, finished):
    with locked(finished), pytest.raises(ValueError, match=r"another process is at work in .*--mode"):
        reproduce(settings(world, finished, mode="mask"), wait=5)
    with (
        locked(finished),
        pytest.raises(ValueError, match=r"at work in .* \(--only-table1\) there is true, here false"),
    ):
        reproduce(settings(world, finished, only_table1=False), wait=5)
    with locked(finished), pytest.raises(StoreError, match=r"free within 0 seconds"):
        reproduce(settings(world, finished), wait=0)


def test_a_folder_that_is_moved_in_mid_run_is_an_error(world, tmp_path):
    out = tmp_path / "out"

    @contextmanager
    def move(what):
        yield lambda done, total: out.rename(tmp_path / "elsewhere") if not (tmp_path / "elsewhere").exists() else None

    with pytest.raises(StoreError, match="to stay where it is"):
        reproduce(settings(world, out), move)


def test_a_file_that_is_removed_in_mid_run_is_an_error(world, finished, monkeypatch):
    write = module.write_json

    def and_lose(path, value):
        write(path, value)
        (path.parent / "tables" / "table1.md").unlink()

    monkeypatch.setattr(module, "write_json", and_lose)
    with pytest.raises(StoreError, match=r"1 are gone, such as tables/table1.md"):
        reproduce(settings(world, finished))
    monkeypatch.undo()
    reproduce(settings(world, finished))
    assert (finished / "tables" / "table1.md").is_file()


# Processes.


def start(world, out, *more):
    command = [sys.executable, "-m", "tl_crossenc.cli", "reproduce", "--only-table1", "--easy-negatives", "0"]
    command += ["--model", str(world[0]), "--collection", str(world[2]), "--out", str(out), "--device", "cpu", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_two_processes_with_one_job_compute_every_cell_once(world, finished, tmp_path):
    """Both are made to wait for the lock, so that they want it at the same time."""
    out = tmp_path / "out"
    Store(out)
    with locked(out):
        both = [start(world, out), start(world, out)]
        for process in both:
            for line in process.stderr:
                if f"waiting for process {os.getpid()} on" in line:
                    break
    ends = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    run = [int(re.search(r"Table 1: ([\d,]+) pair-layers run now", text)[1].replace(",", "")) for text, _ in ends]
    assert min(run) == 0 < max(run)
    assert snapshot(out) == snapshot(finished)


@pytest.mark.slow
def test_two_processes_with_two_jobs_do_not_mix(world, tmp_path):
    """One of them has the folder, the other is refused, whichever comes first."""
    out = tmp_path / "out"
    both = [start(world, out, "--mode", mode) for mode in ("zero", "mask")]
    ends = [process.communicate(timeout=200) for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], ends
    loser = [process.returncode for process in both].index(2)
    assert "--mode" in ends[loser][1].splitlines()[-1]
    assert json.loads((out / "run.json").read_text())["settings"]["mode"] == ("zero", "mask")[1 - loser]
    conditions = {
        json.loads(path.read_text())["key"]["fields"]["condition"] for path in out.glob("machinery/cells/scores/*.json")
    }
    assert {text.partition("(")[0] for text in conditions} == {"none", ("zero", "mask")[1 - loser]}


@pytest.mark.slow
def test_a_rerun_goes_on_after_kill_9_under_the_lock(world, finished, tmp_path):
    out = tmp_path / "out"
    process = start(world, out)
    deadline = time.monotonic() + 120
    while not list(out.glob("machinery/cells/scores/*.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.communicate(timeout=60)
    reproduce(settings(world, out), wait=0)
    assert snapshot(out) == snapshot(finished)
