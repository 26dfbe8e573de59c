"""The file of a process at work: when it is there, what it says after each end, and that it costs no run anything."""

import os
import subprocess
import sys
import time

import pyarrow as pa
import pytest
from told_processes import place

from tl_crossenc.results import process_record as module
from tl_crossenc.results.process_record import read_records, recorded
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.results.watch import UNWATCHED, record_of, titled
from tl_crossenc.results.work import open_store
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

KEYS = [CellKey.of("scores", number=i) for i in range(3)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.02)


def until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def files(folder):
    return sorted(path.name for path in folder.glob(".status*"))


def test_a_file_while_it_works_and_none_when_all_went_well(tmp_path):
    with recorded(tmp_path) as record:
        record.begins("Table 1")
        record.plans("InProcess()", 3, KEYS, 30)
        record.starts(KEYS[:2])
        until(lambda: any(found["experiments"].get("Table 1") for found in read_records(tmp_path)))
        until(lambda: read_records(tmp_path)[0]["experiments"]["Table 1"].running == 2)
        (found,) = read_records(tmp_path)
        assert (found["state"], found["process"], found["now"]) == ("running", os.getpid(), "Table 1")
        assert found["experiments"]["Table 1"].cells == 3
        record.closes()
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "state", "cause"),
    [
        (ValueError("no such head"), "failed", "no such head"),
        (OSError(28, "No space left on device"), "failed", "[Errno 28] No space left on device"),
        (KeyboardInterrupt(), "stopped", "interrupted"),
        (Unavailable("cells of others"), "ended", "cells of others"),
    ],
)
def test_each_bad_end_is_kept_with_its_cause(tmp_path, error, state, cause):
    with pytest.raises(type(error)), recorded(tmp_path):
        raise error
    (found,) = read_records(tmp_path)
    assert (found["state"], found["cause"], found["experiments"]) == (state, cause, {})


def test_what_a_dead_process_left_is_stopped_until_a_run_ends_well(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path; from tl_crossenc.results import process_record as p;"
        "r = p.ProcessRecord(Path(sys.argv[1])); r.begins('Table 1');\n"
        "while not list(Path(sys.argv[1]).glob('.status*')): time.sleep(.01)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    (found,) = read_records(tmp_path)
    assert found["state"] == "stopped"
    with pytest.raises(ValueError, match="x"), recorded(tmp_path):
        raise ValueError("x")
    assert sorted(record["state"] for record in read_records(tmp_path)) == ["failed", "stopped"]
    with recorded(tmp_path):
        pass
    assert files(tmp_path) == []


def test_a_process_with_the_same_executor_takes_the_place_of_a_dead_one(tmp_path):
    for how in ("Shard(1/2)", "Shard(2/2)", "Shard(2/2)"):
        record = module.ProcessRecord(tmp_path)
        record.plans(how, 0, [], 0)
        record.end(ValueError("x"))
    assert sorted(record["how"] for record in read_records(tmp_path)) == ["Shard(1/2)", "Shard(2/2)"]


@pytest.mark.parametrize(("seconds", "state"), [(0, "running"), (170, "running"), (190, "stopped")])
def test_silence_on_another_host_is_death(tmp_path, seconds, state):
    place(tmp_path, host="elsewhere", beat=time.time() - seconds)
    assert read_records(tmp_path)[0]["state"] == state


def test_a_live_process_elsewhere_is_left_alone_by_one_that_ends_well(tmp_path):
    place(tmp_path)
    with recorded(tmp_path):
        pass
    assert files(tmp_path) == [".status-elsewhere-7-00c0ffee.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 9, "experiments": {}}', '{"experiments": {"a": 3}}'])
def test_a_damaged_file_tells_nothing(tmp_path, content):
    (tmp_path / ".status-elsewhere-7-00c0ffee.json").write_text(content)
    assert read_records(tmp_path) == []


def test_a_folder_that_cannot_be_written_or_is_gone_fails_nobody(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "staged", full)
    with recorded(tmp_path) as record:
        record.plans("InProcess()", 3, KEYS, 30)
        record.advances(30)
        record.closes()
    monkeypatch.undo()
    monkeypatch.setattr(module, "EVERY", 0.02)
    record = module.ProcessRecord(tmp_path)
    until(lambda: read_records(tmp_path))
    monkeypatch.setattr(module, "staged", full)
    record.end(OSError(28, "No space left on device"))
    assert files(tmp_path) == []  # rather than one that says that this process is still at work
    gone = tmp_path / "gone"
    with recorded(gone) as record:
        record.leaves("something")
    assert not gone.exists()


def test_writes_through_the_store_are_told_and_bars_name_what_begins(tmp_path):
    from contextlib import nullcontext

    with recorded(tmp_path) as record:
        store = open_store(tmp_path, record)
        with titled(lambda what: nullcontext(what), store)("Figure 2") as made:
            assert made == "Figure 2"
            record.plans("InProcess()", 3, KEYS, 30)
            store.write(KEYS[1], pa.table({"x": [1]}))
            store.write(KEYS[1], pa.table({"x": [1]}))
            store.write(CellKey.of("scores", number=9), pa.table({"x": [1]}))
        assert record.experiments["Figure 2"].done == 1
    assert record_of(Store(tmp_path / "plain")) is UNWATCHED


def test_nothing_is_written_more_often_than_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.2)
    written = []
    plain = module.ProcessRecord._write
    monkeypatch.setattr(module.ProcessRecord, "_write", lambda self: written.append(time.monotonic()) or plain(self))
    with recorded(tmp_path) as record:
        record.plans("InProcess()", 3, KEYS, 10**6)
        started = time.monotonic()
        for _ in range(100_000):
            record.advances(1)
        took = time.monotonic() - started
    assert len(written) <= took / 0.2 + 2
