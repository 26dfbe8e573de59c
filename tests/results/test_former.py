"""Folders of the former layout: read where things lie, moved whole whenever the move is killed, refused where unsure."""

import itertools
import json
import os
import shutil

import pyarrow as pa
import pytest
from former_folders import former
from helpers import one_sentence
from saved_results import results, save_run
from small_worlds import collection_folder, forbid_model_work, identities, model_folder, snapshot

from tl_crossenc.pools.pool import PoolSpec
from tl_crossenc.report.drawing import draw_figures
from tl_crossenc.report.page import write_report
from tl_crossenc.reproduce import Settings, reproduce
from tl_crossenc.results import former as module
from tl_crossenc.results import kept_pools
from tl_crossenc.results.artefacts import ARTEFACTS, load_scalars, load_table, load_unavailable
from tl_crossenc.results.former import adopt
from tl_crossenc.results.job import Job, claim
from tl_crossenc.results.layout import former_name
from tl_crossenc.results.work import prepare
from tl_crossenc.store.cells import CellKey, Store
from tl_crossenc.store.files import StoreError
from tl_crossenc.store.locks import locked


class Killed(BaseException):
    """A process that ends between two operations."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    base = tmp_path_factory.mktemp("world")
    return model_folder(base / "tiny"), collection_folder(base / "fleas", n_queries=2, per_grade=(1, 1, 1, 1))


def settings(world, out, **changes):
    chosen = {"pool": PoolSpec(10, 2, 0), "device": "cpu", "only_table1": True, **changes}
    return Settings(str(world[0]), (str(world[1]),), out, **chosen)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, world):
    out = tmp_path_factory.mktemp("results") / "out"
    reproduce(settings(world, out))
    return out


@pytest.fixture
def old(finished, tmp_path):
    return former(tmp_path / "old", finished)


JOB = Job("reproduce", "m", {"weights": "a" * 64, "mode": "zero"}, {}, (("one", "d1"),))


def small(folder):
    """A folder of the former layout without a model: two cells, a pool, tables, summaries, and what is the user's own."""
    store = Store(folder)
    for n in (2, 3):
        store.write(CellKey.of("scores", n=n), pa.table({"x": list(range(n))}))
    store.write(CellKey.of("attention", n=5), pa.table({"x": [5]}))
    (folder / "job.json").write_text(json.dumps(JOB.record()))
    for name in ("table1.csv", "sinks.csv", "figure1b.json", "unavailable.json", "run.json", "report.html"):
        (folder / name).write_text(f"{{}} {name}")
    for name in ("pools/one.parquet", "runs/one/none.run", "figures/figure1b.svg", "heads/matching.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for name in ("notes.csv", "mine.json", "patching_mine.csv"):
        (folder / name).write_text("the user's own")
    return folder


def places(before):
    """Where the files of `small` belong, by a list written by hand."""
    moved = {
        "tl_crossenc.json": "machinery/tl_crossenc.json",
        "job.json": "machinery/job.json",
        "table1.csv": "tables/table1.csv",
        "sinks.csv": "tables/sinks.csv",
        "figure1b.json": "machinery/summaries/figure1b.json",
        "unavailable.json": "machinery/summaries/unavailable.json",
        "pools/one.parquet": "machinery/pools/one.parquet",
    }
    inside = {name: f"machinery/{name}" for name in before if name.startswith("cells/")}
    return {(moved | inside).get(name, name): data for name, data in before.items()}


def test_every_file_of_ours_moves_and_no_other(tmp_path):
    folder = small(tmp_path / "old")
    before, cells = snapshot(folder), identities(folder / "cells")
    assert len(cells) == 6
    adopt(folder)
    assert snapshot(folder) == places(before)
    assert identities(folder / "machinery" / "cells") == cells
    adopt(folder)
    assert snapshot(folder) == places(before)
    assert len(Store(folder).keys("scores")) == 2


@pytest.mark.parametrize("half", [False, True])
def test_a_move_that_is_killed_anywhere_is_ended_by_the_next(tmp_path, monkeypatch, half):
    """Killed before each file or folder; with `half`, the cells are moved one by one to some that are there."""
    whole = snapshot(small(tmp_path / "whole"))
    rename = module.rename
    for last in range(1, 99):
        folder = small(tmp_path / f"{half}{last}")
        if half:
            store = Store(folder / "machinery")
            store.write(CellKey.of("scores", n=2), pa.table({"x": [0, 1]}))
            (folder / "machinery" / "tl_crossenc.json").unlink()
        count = itertools.count(1)

        def step(*names, count=count, last=last):
            if next(count) == last:
                raise Killed
            rename(*names)

        with monkeypatch.context() as patched:
            patched.setattr(module, "rename", step)
            try:
                adopt(folder)
            except Killed:
                assert (folder / "tl_crossenc.json").exists()
                assert len(Store(folder).keys("attention")) in (0, 1)  # opened, whatever is moved
            else:
                break
        prepare(folder)
        adopt(folder)
        assert snapshot(folder) == places(whole), last
    assert last - 1 == (
        10 if half else 8
    )  # cells (one kind and one cell's two files), pools, four files, the job, the marker


def test_cells_in_both_places_are_kept_and_a_table_without_manifest_gives_way(tmp_path, caplog):
    folder = small(tmp_path / "old")
    here = Store(folder / "machinery")
    here.write(CellKey.of("scores", n=2), pa.table({"x": [7.5]}))  # another table under one key
    orphan = CellKey.of("scores", n=3)
    here.write(orphan, pa.table({"x": [8.5]}))
    (folder / "machinery" / "cells" / "scores" / f"{orphan.digest}.json").unlink()
    adopt(folder)
    store = Store(folder)
    assert store.root == folder / "machinery"
    assert store.read(CellKey.of("scores", n=2)).column("x").to_pylist() == [7.5]
    assert store.read(orphan).column("x").to_pylist() == [0, 1, 2]
    assert sorted(path.suffix for path in (folder / "cells" / "scores").iterdir()) == [".json", ".parquet"]
    assert "left 2 file(s)" in caplog.text


def test_linked_cells_stay_linked(tmp_path):
    folder = small(tmp_path / "old")
    (tmp_path / "disk").mkdir()
    (folder / "cells").rename(tmp_path / "disk" / "cells")
    (folder / "cells").symlink_to("../disk/cells")
    adopt(folder)
    assert (folder / "machinery" / "cells").is_symlink()
    assert len(Store(folder).keys("scores")) == 2
    assert not os.path.lexists(folder / "cells")


def test_both_layouts_with_two_jobs_are_refused_before_anything_is_moved(tmp_path):
    folder = small(tmp_path / "old")
    other = Job("reproduce", "m", {"weights": "a" * 64, "mode": "mask"}, {}, (("one", "d1"),))
    (folder / "machinery").mkdir()
    (folder / "machinery" / "job.json").write_text(json.dumps(other.record()))
    before = snapshot(folder)
    for refused in (prepare, adopt):
        with pytest.raises(
            ValueError, match=r"of two: how attention is removed .--mode. there is zero, here mask"
        ) as error:
            refused(folder)
        assert one_sentence(error.value)
        assert snapshot(folder) == before
    (folder / "machinery" / "job.json").write_text(json.dumps(JOB.record()))
    adopt(folder)
    assert not (folder / "job.json").exists()


@pytest.mark.parametrize("name", ["tables", "figures", "machinery", "cells", "pools"])
def test_a_file_where_a_folder_should_be_is_one_sentence(tmp_path, name):
    folder = tmp_path / "old"
    Store(folder)
    (folder / name).write_text("")
    with pytest.raises(ValueError, match=rf"expected a folder at .*{name}, got a file: move it away") as error:
        prepare(folder)
    assert one_sentence(error.value)


def test_what_is_not_ours_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files that are not ours"):
        prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match=r"notes.txt is a file: choose another --out"):
        prepare(tmp_path / "notes.txt")


def test_an_unwritable_folder_is_one_sentence(tmp_path, monkeypatch):
    for folder in (small(tmp_path / "old"), tmp_path / "new"):
        prepare(folder)
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(StoreError, match=r"could not write .* .Permission denied.: choose a place") as error:
            prepare(folder)
        assert "\n" not in str(error.value)
        monkeypatch.undo()


def test_a_users_own_file_at_the_top_is_no_result_of_this_layout(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "tables" / "table1.csv").rename(out / "table1.csv")
    assert "table1" in load_unavailable(out)
    (out / "job.json").write_text("[]")
    prepare(out)


# The main job.


def test_a_finished_folder_is_opened_again_without_model_work(world, finished, old, monkeypatch):
    cells = identities(old / "cells")
    forbid_model_work(monkeypatch)
    monkeypatch.setattr(kept_pools, "build_pool", None)  # nor is a pool drawn again
    found = reproduce(settings(world, old))
    assert found.table1.layers_run == 0
    assert snapshot(old) == snapshot(finished)
    assert identities(old / "machinery" / "cells") == cells


def test_a_job_that_was_killed_goes_on(world, finished, old):
    """After the pools and some cells, before any table."""
    manifests = sorted((old / "cells" / "scores").glob("*.json"))
    for path in manifests[::3]:
        path.unlink()
        path.with_suffix(".parquet").unlink()
    for path in (old / "run.json", old / "scores.parquet", *old.glob("*.csv"), *old.glob("table1.*")):
        path.unlink(missing_ok=True)
    shutil.rmtree(old / "runs")
    kept = identities(old / "cells")
    reproduce(settings(world, old))
    assert snapshot(old) == snapshot(finished)
    now = identities(old / "machinery" / "cells")
    assert {name: now[name] for name in kept} == kept


def test_another_job_is_refused_and_nothing_is_moved(world, old):
    before = snapshot(old)
    with pytest.raises(ValueError, match=r"holds another job's: .*--mode"):
        reproduce(settings(world, old, mode="mask"))
    with pytest.raises(ValueError, match="expected the heads @matching"):
        reproduce(settings(world, old, heads="@matching"))
    assert snapshot(old) == before


def test_nothing_is_moved_while_another_process_is_at_work(world, old):
    before = snapshot(old)
    with locked(old):
        with pytest.raises(StoreError, match="still working in it"):
            reproduce(settings(world, old), wait=0)
        assert {**snapshot(old), ".lock": b""} == {**before, ".lock": b""}


def test_a_folder_that_nobody_claimed_is_taken(tmp_path):
    Store(tmp_path)
    adopt(tmp_path)
    claim(tmp_path, JOB)
    assert sorted(snapshot(tmp_path)) == ["machinery/job.json", "machinery/tl_crossenc.json"]


# Saved files.


@pytest.mark.parametrize("marked", [True, False])
def test_saved_files_are_read_and_drawn_where_they_lie(tmp_path, marked):
    """A run's files at the top, as an earlier version left them, with and without the store beside them."""
    given = {key: value for key, value in results().items() if key in ("figure1a", "figure1b", "figure1b_counts")}
    new, old = save_run(tmp_path / "new", given), tmp_path / "old"
    shutil.copytree(new, old)
    for place in ("tables", "machinery/summaries"):
        for path in sorted((old / place).iterdir()):
            path.rename(old / path.name)
    shutil.rmtree(old / "tables")
    shutil.rmtree(old / "machinery")
    if marked:
        (old / "tl_crossenc.json").write_text('{"package": "tl_crossenc", "format": 1}')
    assert load_unavailable(old) == load_unavailable(new)
    for key, artefact in ARTEFACTS.items():
        assert load_scalars(old, key) == load_scalars(new, key)
        for name in artefact.tables if key not in load_unavailable(new) else ():
            assert load_table(old, key, name).equals(load_table(new, key, name))
    draw_figures(old)
    draw_figures(new)
    assert snapshot(old / "figures") == snapshot(new / "figures")
    assert write_report(old).read_bytes() == write_report(new).read_bytes()


def test_where_the_former_layout_had_things():
    names = {"tables/a.csv": "a.csv", "machinery/summaries/a.json": "a.json", "machinery/job.json": "job.json"}
    names |= {"machinery/cells": "cells", "figures/a.svg": "figures/a.svg", "runs/a/b.run": "runs/a/b.run"}
    assert {name: former_name(name) for name in names} == names


def test_a_pipe_is_not_waited_for(tmp_path):
    save_run(tmp_path)
    for name in ("run.json", "tables/figure1a.csv", "machinery/summaries/figure1a.json"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match=r"expected a file at .*, got a pipe"):
            load_unavailable(tmp_path), load_table(tmp_path, "figure1a", "curve"), load_scalars(tmp_path, "figure1a")
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(data)
    (tmp_path / "machinery" / "job.json").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "machinery" / "job.json")
    with pytest.raises(ValueError, match=r"cannot be read .*got a pipe"):
        claim(tmp_path, JOB)
