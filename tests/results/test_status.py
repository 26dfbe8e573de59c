"""How far a folder is: each state, each count and each estimate by hand; and that looking changes nothing."""

import json
import os
import shutil
import time

import pyarrow as pa
import pytest
from small_worlds import identities
from told_processes import experiment, place

from tl_crossenc.results.job import Job, claim
from tl_crossenc.results.status import Failed, Row, read_status
from tl_crossenc.results.work import open_store
from tl_crossenc.store.files import StoreError
from tl_crossenc.store.keys import CellKey
from tl_crossenc.store.locks import locked


@pytest.fixture
def folder(tmp_path):
    """A folder of a job with three cells of two kinds, nothing drawn."""
    out = tmp_path / "out"
    store = open_store(out)
    for kind, number in (("scores", 1), ("scores", 2), ("match-sums", 1)):
        store.write(CellKey.of(kind, number=number), pa.table({"x": [1]}))
    claim(out, Job("reproduce", "/models/m", {"mode": "zero"}, {}, (("fleas", "d1"),)))
    return out


def draw(folder, *files):
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / "run.json").write_text(json.dumps({"files": list(files)}))


def test_cells_that_nobody_draws_are_left(folder):
    found = read_status(folder)
    assert (found.state, found.why, found.all_done) == ("left", "nothing is drawn yet", False)
    assert (found.command, found.model, found.cells) == ("reproduce", "/models/m", {"match-sums": 1, "scores": 2})
    assert (found.experiments, found.processes, found.failures, found.seconds_left) == ((), (), (), None)


def test_all_is_done_when_every_file_of_the_run_is_there(folder):
    draw(folder, "tables/table1.csv", "tables/tie_rate.csv")
    found = read_status(folder)
    assert (found.state, found.why, found.all_done) == ("done", "all 2 files of run.json are there", True)
    (folder / "tables/tie_rate.csv").unlink()
    found = read_status(folder)
    assert (found.state, found.all_done) == ("left", False)
    assert found.why == "1 of the 2 files of run.json are gone, such as tables/tie_rate.csv"


def test_two_shards_at_work_add_up_and_the_slower_one_says_when(folder):
    draw(folder, "tables/table1.csv")  # of an earlier run
    place(folder, 7, how="Shard(1/2)", experiments={
        # 400 of 1,000 layer runs in 8 s: 600 more take 12 s
        "Table 1": experiment(50, 20, 6, cost=1000, ran=400, left=600, seconds=8.0),
    })  # fmt: skip
    place(folder, 11, how="Shard(2/2)", now="Figure 1a", experiments={
        # done; then no pace of its own yet, so that of all: 1,000 in 30 s, 500 more take 15 s
        "Table 1": experiment(47, 40, 0, 7, cost=1200, ran=1000, seconds=30.0, causes=[[5, "NaN"], [2, "full"]]),
        "Figure 1a": experiment(13, 0, 3, cost=500, left=500),
    })  # fmt: skip
    found = read_status(folder)
    assert found.experiments == (Row("Table 1", 97, 60, 6, 7, 24), Row("Figure 1a", 13, 0, 3, 0, 10))
    assert found.failures == (Failed("Table 1", 5, "NaN"), Failed("Table 1", 2, "full"))
    assert [(one.process, one.executor, one.state, one.now) for one in found.processes] == [
        (7, "Shard(1/2)", "running", "Table 1"),
        (11, "Shard(2/2)", "running", "Figure 1a"),
    ]
    assert [one.share for one in found.processes] == [0.4, pytest.approx(1000 / 1700)]
    assert [one.seconds_left for one in found.processes] == [pytest.approx(12.0), pytest.approx(15.0)]
    assert (found.state, found.all_done, found.seconds_left) == ("running", False, pytest.approx(15.0))


@pytest.mark.parametrize(
    "experiments", [{}, {"Table 1": experiment(5, 0, 1, cost=100, left=100, seconds=3.0)}], ids=["nothing", "no pace"]
)
def test_where_nothing_is_measured_the_time_left_is_unknown(folder, experiments):
    place(folder, 7, experiments=experiments)
    place(folder, 11, experiments={"Table 1": experiment(5, 1, cost=100, ran=50, left=50, seconds=5.0)})
    found = read_status(folder)
    assert found.seconds_left is None
    assert [one.seconds_left for one in found.processes] == [None, pytest.approx(5.0)]


@pytest.mark.parametrize(
    ("changes", "state", "why"),
    [
        ({"state": "failed", "cause": "no such head"}, "failed", "no such head"),
        ({"state": "stopped", "cause": "interrupted"}, "stopped", "interrupted"),
        ({"beat": 1000.0}, "stopped", ""),
        ({"state": "ended", "left": "3 cells of 'scores' are other shards'"}, "left", "3 cells of 'scores' are other shards'"),
    ],
)  # fmt: skip
def test_what_ended_otherwise_than_well_is_not_done_whatever_was_drawn_before(folder, changes, state, why):
    draw(folder, "tables/table1.csv")
    place(folder, experiments={"Table 1": experiment(9, 4, cost=10, ran=5, left=5, seconds=2.0)}, **changes)
    found = read_status(folder)
    assert (found.state, found.why, found.all_done) == (state, why, False)
    assert found.experiments == (Row("Table 1", 9, 4, 0, 0, 5),)
    assert found.seconds_left is None


def test_one_that_runs_is_said_before_one_that_failed(folder):
    place(folder, 7, state="failed", cause="x")
    place(folder, 11)
    assert read_status(folder).state == "running"


def test_masks_are_done_when_their_tables_are_there(folder):
    job = Job("compare-masks", "m", {}, {}, ())
    shutil.rmtree(folder)
    open_store(folder)
    claim(folder, job)
    assert (read_status(folder).state, read_status(folder).why) == ("left", "there are no tables yet")
    (folder / "tables").mkdir()
    (folder / "tables/compare_masks.csv").write_text("x")
    assert read_status(folder).state == "done"


def test_looking_takes_no_lock_and_changes_nothing_in_a_folder_that_may_not_be_written(folder):
    place(folder)
    with locked(folder, wait=0):
        before = identities(folder)
        for path in (folder, folder / "machinery", folder / "machinery/cells"):
            path.chmod(0o555)
        try:
            started = time.monotonic()
            assert read_status(folder).state == "running"
            assert time.monotonic() - started < 5
        finally:
            for path in (folder, folder / "machinery", folder / "machinery/cells"):
                path.chmod(0o755)
        assert identities(folder) == before


def test_a_folder_of_the_former_layout_is_read_where_things_lie(tmp_path):
    from tl_crossenc.store.cells import Store

    Store(tmp_path).write(CellKey.of("scores", number=1), pa.table({"x": [1]}))
    found = read_status(tmp_path)
    assert (found.cells, found.command, found.state) == ({"scores": 1}, "", "left")


@pytest.mark.parametrize("what", ["nothing", "a file", "another folder", "a damaged job"])
def test_what_is_no_folder_of_results_is_refused(tmp_path, folder, what):
    place, said = tmp_path / "x", "is not there"
    if what == "a file":
        place.write_text("x")
        said = "is a file"
    elif what == "another folder":
        place.mkdir()
        (place / "thesis.tex").write_text("x")
        said = "holds files that are not ours"
    elif what == "a damaged job":
        place, said = folder, "cannot be read"
        (folder / "machinery/job.json").write_text("{")
    with pytest.raises(ValueError, match=said):
        read_status(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_one_sentence(folder):
    (folder / "machinery/cells").chmod(0)
    try:
        with pytest.raises(StoreError, match="could not read"):
            read_status(folder)
    finally:
        (folder / "machinery/cells").chmod(0o755)
