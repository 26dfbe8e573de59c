"""`tl-crossenc status` as a user sees it, 80 columns wide, and its exit statuses."""

import json

import pyarrow as pa
import pytest
from told_processes import experiment, place

from tl_crossenc.cli import main
from tl_crossenc.cli.status import duration
from tl_crossenc.results.job import Job, claim
from tl_crossenc.results.work import open_store
from tl_crossenc.store.keys import CellKey


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    store = open_store(tmp_path / "out")
    for number in range(3):
        store.write(CellKey.of("scores", number=number), pa.table({"x": [1]}))
    claim(tmp_path / "out", Job("reproduce", "/models/m", {}, {}, ()))
    return tmp_path / "out"


def lines(out):
    return [line.rstrip() for line in out.splitlines()]


def test_at_work(folder, capsys):
    place(folder, 7, how="Shard(1/2)", experiments={
        "Table 1": experiment(2047, 1020, 36, 7, cost=1000, ran=250, left=750, seconds=60.0, causes=[[7, "[b]NaN[/b]"]]),
        "Figure 1a": experiment(50, 50),
    })  # fmt: skip
    assert main(["status", "out"]) == 1
    assert lines(capsys.readouterr().out) == [
        "out: reproduce of m: running",
        "",
        "experiment   cells    done   running   failed   left",
        "────────────────────────────────────────────────────",
        "Table 1      2,047   1,020        36        7    984",
        "Figure 1a       50      50         0        0      0",
        "",
        "process                      state     at        done   time left",
        "─────────────────────────────────────────────────────────────────",
        "7 on elsewhere, Shard(1/2)   running   Table 1   25 %       3 min",
        "",
        "Failed: 7 cells of Table 1: [b]NaN[/b]",
        "Cells stored: 3 of scores.",
        "Time left: about 3 min, for what is planned so far: an experiment is planned when it begins.",
    ]


def test_stopped(folder, capsys):
    place(folder, state="stopped", cause="interrupted", experiments={"Table 1": experiment(1, 0, failed=1)})
    assert main(["status", "out"]) == 1
    assert lines(capsys.readouterr().out)[-3:] == [
        "Process 7 stopped: interrupted",
        "Cells stored: 3 of scores.",
        "Left: run tl-crossenc reproduce with the same options and --out out again: it computes what is missing, and nothing "
        "that is stored.",
    ]


def test_not_drawn_and_done(folder, capsys):
    assert main(["status", "out"]) == 1
    assert lines(capsys.readouterr().out) == [
        "out: reproduce of m: left",
        "Cells stored: 3 of scores.",
        "Left: nothing is drawn yet: run tl-crossenc reproduce with the same options and --out out again: it computes what is "
        "missing, and nothing that is stored.",
    ]
    (folder / "run.json").write_text(json.dumps({"files": ["run.json"]}))
    assert main(["status", "out"]) == 0
    assert lines(capsys.readouterr().out) == [
        "out: reproduce of m: done",
        "Cells stored: 3 of scores.",
        "Everything is done: all 1 files of run.json are there.",
    ]


def test_for_programs(folder, capsys):
    place(folder, 7, experiments={"Table 1": experiment(5, 1, 2, cost=10, ran=4, left=6, seconds=2.0)})
    assert main(["status", "out", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "format": 1, "folder": "out", "command": "reproduce", "model": "/models/m", "state": "running", "why": "",
        "all_done": False, "cells": {"scores": 3}, "failures": [], "seconds_left": 3.0,
        "experiments": [{"experiment": "Table 1", "cells": 5, "done": 1, "running": 2, "failed": 0, "left": 2}],
        "processes": [{"host": "elsewhere", "process": 7, "executor": "InProcess()", "state": "running", "now": "Table 1",
                       "share": 0.4, "seconds_left": 3.0, "why": ""}],
    }  # fmt: skip


def test_no_folder_of_results(folder, capsys):
    assert main(["status", "nowhere"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "tl-crossenc: expected a folder of results, nowhere is not there: name a job's --out\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "1 s"), (59.4, "59 s"), (59.6, "1 min"), (61, "1 min"), (3599, "1 h 0 min"), (172_800, "2 d 0 h")],
)
def test_times_as_one_plans_with_them(seconds, text):
    assert duration(seconds) == text
