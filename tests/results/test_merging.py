"""Folders joined into one: the bytes of one run, every refusal with its sentence, damage, kills, and what is left as it was."""

import json
import os
import re
import shutil

import pyarrow as pa
import pytest
from small_worlds import collection_folder, forbid_model_work, identities, model_folder, snapshot
from told_processes import place

from tl_crossenc.cli import main
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec
from tl_crossenc.results.job import Job, claim
from tl_crossenc.results.merging import merge
from tl_crossenc.results.process_record import read_records
from tl_crossenc.results.work import open_store
from tl_crossenc.store import files
from tl_crossenc.store.cells import Store
from tl_crossenc.store.files import StoreError
from tl_crossenc.store.keys import CellKey
from tl_crossenc.store.locks import locked

# One run's cells dealt out to three folders, as three machines would have them.


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    base = tmp_path_factory.mktemp("world")
    model, fleas = model_folder(base / "m"), collection_folder(base / "fleas", n_queries=3, per_grade=(1, 1, 1, 1))
    arguments = [
        "reproduce",
        "--only-table1",
        "--model",
        str(model),
        "--collection",
        str(fleas),
        "--easy-negatives",
        "2",
    ]
    assert main([*arguments, "--out", str(base / "whole")]) == 0
    return arguments, base / "whole"


def deal(whole, base, hands=3):
    """Folders with the job, the pools and a share of the cells; the first cell of each kind is in all of them."""
    for hand in range(hands):
        machinery = base / f"shard{hand}" / "machinery"
        machinery.mkdir(parents=True)
        for name in ("tl_crossenc.json", "job.json"):
            shutil.copy(whole / "machinery" / name, machinery / name)
        shutil.copytree(whole / "machinery/pools", machinery / "pools")
        for kind in (whole / "machinery/cells").iterdir():
            (machinery / "cells" / kind.name).mkdir(parents=True)
            for i, path in enumerate(sorted(kind.glob("*.json"))):
                if i == 0 or i % hands == hand:
                    for file in (path, path.with_suffix(".parquet")):
                        shutil.copy(file, machinery / "cells" / kind.name / file.name)
    return [base / f"shard{hand}" for hand in range(hands)]


def visible(folder):
    """All files but those in which processes say how far they are."""
    return {name: data for name, data in snapshot(folder).items() if not name.startswith(".status-")}


def test_what_is_merged_and_drawn_has_the_bytes_of_one_run_and_nothing_is_computed(world, tmp_path, monkeypatch):
    arguments, whole = world
    shards = deal(whole, tmp_path)
    before = [(snapshot(shard), identities(shard)) for shard in shards]
    merged = merge(shards, tmp_path / "all")
    assert [(snapshot(shard), identities(shard)) for shard in shards] == before
    # 37 conditions over one shard of pairs: 13, 12 and 12 dealt, the first to all
    assert {(path.name, kind): (own.cells, own.new, own.damaged) for (path, kind), own in merged.joined.items()} == {
        ("shard0", "scores"): (13, 13, 0),
        ("shard1", "scores"): (13, 12, 0),
        ("shard2", "scores"): (13, 12, 0),
    }
    assert (merged.command, merged.collections, len(merged.pools), merged.notes) == ("reproduce", ("fleas",), 1, ())
    machinery = {name: data for name, data in snapshot(whole).items() if name.startswith("machinery/")}
    assert visible(tmp_path / "all") == {**machinery, ".lock": b""}
    forbid_model_work(monkeypatch)
    assert main([*arguments, "--out", str(tmp_path / "all")]) == 0
    assert snapshot(tmp_path / "all") == snapshot(whole)


def test_a_second_merge_changes_no_file(world, tmp_path):
    shards, out = deal(world[1], tmp_path), tmp_path / "all"
    merge(shards, out)
    before = {name: mark for name, mark in identities(out).items() if name.startswith("machinery/")}
    again = merge(shards, out)
    assert {name: mark for name, mark in identities(out).items() if name.startswith("machinery/")} == before
    assert [own.new for own in again.joined.values()] == [0, 0, 0]
    assert again.pools == ()
    assert len(read_records(out)) == 1  # the second's takes the place of the first's


def test_one_of_the_folders_may_be_the_target(world, tmp_path):
    shards = deal(world[1], tmp_path)
    merged = merge(shards, shards[1])
    assert {path.name: own.new for (path, _), own in merged.joined.items()} == {"shard0": 12, "shard2": 12}
    cells = {name: data for name, data in snapshot(world[1]).items() if "/cells/" in name}
    assert {name: data for name, data in snapshot(shards[1]).items() if "/cells/" in name} == cells


def test_where_no_links_are_files_are_copied(world, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(18, "Invalid cross-device link")

    shards = deal(world[1], tmp_path)
    merge(shards, tmp_path / "linked")
    monkeypatch.setattr(files.os, "link", refused)
    merge(shards, tmp_path / "copied")
    assert visible(tmp_path / "copied") == visible(tmp_path / "linked")
    (one, *_) = (tmp_path / "copied").glob("machinery/cells/scores/*.parquet")
    assert one.stat().st_nlink == 1


class Killed(BaseException):
    """No program ends so by itself."""


@pytest.mark.usefixtures("unchecked")
def test_a_merge_killed_anywhere_is_ended_by_the_next(tmp_path, monkeypatch):
    shards, replace = [shard(tmp_path / name, n) for name, n in (("a", (1, 2)), ("b", (2, 3)))], os.replace
    pool().save(shards[1] / "machinery/pools/one.parquet")
    merge(shards, tmp_path / "whole")
    whole = visible(tmp_path / "whole")
    for last in range(1, 99):
        out, count = tmp_path / f"out{last}", [0]

        def step(*names, count=count, last=last):
            if ".status-" not in str(names[1]):
                count[0] += 1
                if count[0] == last:
                    raise Killed
            replace(*names)

        with monkeypatch.context() as patched:
            patched.setattr(files.os, "replace", step)
            try:
                merge(shards, out)
            except Killed:
                if (out / "machinery/tl_crossenc.json").exists():
                    store = Store(out, read_only=True)
                    assert store.missing(store.keys("scores")) == []  # what is there is whole
            else:
                break
        merge(shards, out)
        assert visible(out) == whole, last
    assert last - 1 == 1 + 1 + 1 + 3 * 2  # the marker, a pool, the job, three cells of two files


# What does not belong together. Folders of a few numbers.

VERSION = {
    "weights": "w", "arithmetic": "a", "tokenizer": "t", "dtype": "float32", "device": "cpu", "torch": "2.13.0",
    "tokenizers": "0.22.1",
}  # fmt: skip
FIXED = {
    "dtype": "float32", "model.n_layers": 2, "model.score": "single", "weights": "a" * 32, "tokenizer": "b" * 64, "mode": "zero",
    "gain": "linear",
}  # fmt: skip


def pool(name="one", text="bread"):
    return Pool(name, PoolSpec(None, 0, 0), (PoolPair("q", "how", "d", text, 1),))


def shard(
    folder, numbers, *, method=2, kind="scores", command="reproduce", free=None, pools=(("one", "d1"),), **changes
):
    """A folder of results whose cells hold their numbers; changes are of the cells' keys or of what the job fixes."""
    store = open_store(folder)
    version = {name: changes.get(name, value) for name, value in VERSION.items()}
    for number in numbers:
        key = CellKey.of(kind, **version, method=method, number=number)
        store.write(key, pa.table({"x": [number]}), {"model": "m"})
    fixed = {name: changes.get(f"fixed.{name}", value) for name, value in FIXED.items()}
    (folder / "machinery/pools").mkdir(exist_ok=True)
    if not (folder / "machinery/job.json").exists():
        claim(folder, Job(command, "m", fixed, {"n_draws": 19, **(free or {})}, pools))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fixed.weights": "c" * 32}, r"folders of one job, but the model's weights in A is a+ \(m\), in B c+ \(m\)"),
        ({"fixed.tokenizer": "c" * 64}, r"the tokenizer or the length that it cuts to in A is b+… \(m\), in B c+… \(m\)"),
        ({"fixed.dtype": "float64", "fixed.mode": "mask"}, r"the number type \(--dtype\) in A is float32, in B float64"),
        ({"fixed.model.score": "difference"}, r"what of the logits is the score \(--score\) in A is single \(m\), in B difference"),
        ({"fixed.mode": "mask"}, r"how attention is removed \(--mode\) in A is zero, in B mask"),
        ({"fixed.gain": "exponential"}, r"the gain \(--gain\) in A is linear, in B exponential"),
        ({"command": "compare-masks"}, "in A it is 'reproduce', in B 'compare-masks'"),
        ({"pools": (("one", "d2"),)}, "the pool of one in A is d1…, in B d2…"),
        ({"torch": "2.12.1"}, r"cells of one version, but the version of torch is 2.13.0 in A and 2.12.1 in B"),
        ({"tokenizers": "0.21"}, "the version of tokenizers is 0.22.1 in A and 0.21 in B"),
        ({"device": "cuda"}, "the kind of device is cpu in A and cuda in B"),
        ({"dtype": "bfloat16"}, "the number type is float32 in A and bfloat16 in B"),
        ({"arithmetic": "e" * 64}, r"the arithmetic \(.*\) is a in A and e{12}… in B"),
        ({"method": 3}, "the version of the method of 'scores' is 2 in A and 3 in B"),
    ],
)  # fmt: skip
def test_the_first_difference_is_named_with_the_two_folders_and_nothing_is_written(tmp_path, changes, said):
    a, b, out = shard(tmp_path / "a", (1, 2)), shard(tmp_path / "b", (3,), **changes), tmp_path / "out"
    more = shard(tmp_path / "more", (4,))
    before = snapshot(tmp_path)
    said = re.sub(r"\bB\b", re.escape(str(b)), re.sub(r"\bA\b", re.escape(str(a)), said))
    with pytest.raises(ValueError, match=said) as error:
        merge([a, more, b], out)
    assert "\n" not in str(error.value)
    assert snapshot(tmp_path) == before
    assert not out.exists()
    with pytest.raises(ValueError, match=said):
        merge([b, more], a)  # what the target has counts first
    assert snapshot(tmp_path) == {**before, **({"a/.lock": b""} if (a / ".lock").exists() else {})}


def test_pools_of_one_name_with_other_passages_are_refused_and_equal_ones_pass(tmp_path):
    a, b = shard(tmp_path / "a", (1,)), shard(tmp_path / "b", (2,))
    for folder in (a, b):
        pool().save(folder / "machinery/pools/one.parquet")
    merge([a, b], tmp_path / "out")
    (b / "machinery/pools/one.parquet").unlink()
    pool(text="quilt").save(b / "machinery/pools/one.parquet")
    with pytest.raises(ValueError, match=rf"the pool one.parquet in {a} is \w+…, in {b} \w+…"):
        merge([a, b], tmp_path / "other")


def test_a_folder_of_two_versions_goes_with_either_but_not_with_both(tmp_path):
    two = shard(shard(tmp_path / "two", (1,), torch="2.12.1"), (2,))
    old, new, out = shard(tmp_path / "old", (3,), torch="2.12.1"), shard(tmp_path / "new", (4,)), tmp_path / "out"
    for other in (old, new):
        assert sum(own.new for own in merge([two, other], out / other.name).joined.values()) == 3
    with pytest.raises(ValueError, match=rf"torch is 2.12.1 in {two} and 2.13.0 in {new}"):
        merge([two, old, new], out / "both")


def test_untrained_twins_and_kinds_that_one_folder_has_are_no_difference(tmp_path):
    a = shard(shard(tmp_path / "a", (1,)), (2,), weights="twin")
    b = shard(tmp_path / "b", (3,), kind="attention", method=1)
    merged = merge([a, b], tmp_path / "out")
    assert {kind: own.new for (_, kind), own in merged.joined.items()} == {"scores": 2, "attention": 1}


def of_two(folder, own, *, weights=("a" * 32, "b" * 32)):
    """A folder of a job of two models with these weights: of each cell what its key has in place of `VERSION`'s values."""
    store = open_store(folder)
    for number, changes in enumerate(own):
        store.write(
            CellKey.of("scores", **VERSION | changes, method=2, number=f"{folder.name} {number}"),
            pa.table({"x": [number]}),
        )
    fixed = dict(zip(("A.weights", "B.weights"), weights, strict=True)) | {"condition": ["none", "zero(DOC->QUERY)"]}
    claim(folder, Job("compare", "a and b", fixed, {}, (("one", "d1"),)))
    return folder


def test_what_is_a_models_own_may_differ_between_two_models_and_not_between_the_cells_of_one(tmp_path):
    a, b = {"weights": "a" * 32}, {"weights": "b" * 32, "arithmetic": "e" * 64, "tokenizer": "f" * 64}
    first, second = of_two(tmp_path / "first", [a]), of_two(tmp_path / "second", [b, b])
    assert sum(own.new for own in merge([first, second], tmp_path / "out").joined.values()) == 3
    for name, own, said in (
        ("torch", [b | {"torch": "2.12.1"}], "the version of torch is 2.13.0 in"),
        ("arithmetic", [a | {"arithmetic": "c" * 64}, b], r"the arithmetic \(.*\) is a in"),
    ):
        with pytest.raises(ValueError, match=f"expected cells of one version, but {said}"):
            merge([first, of_two(tmp_path / name, own)], tmp_path / "none")
    same = {"weights": ("a" * 32, "a" * 32)}  # one checkpoint with two tokenizers
    of_one = of_two(tmp_path / "one", [a], **same), of_two(tmp_path / "other", [a | {"tokenizer": "f" * 64}], **same)
    assert sum(own.new for own in merge(of_one, tmp_path / "both").joined.values()) == 2


def test_what_is_free_is_told_and_the_first_ones_stays(tmp_path):
    a = shard(tmp_path / "a", (1,), free={"token_budget": 4096})
    b = shard(tmp_path / "b", (2,), free={"n_draws": 99, "token_budget": 2048})
    merged = merge([b, a], tmp_path / "out")
    assert merged.notes == (
        f"n draws in {b} is 99, in {a} 19: the first is kept",
        f"token budget in {b} is 2048, in {a} 4096: a run finds the cells of its own alone",
    )
    assert json.loads((tmp_path / "out/machinery/job.json").read_bytes())["free"]["n_draws"] == 99


def test_collections_of_all_are_the_jobs_in_the_order_of_the_folders(tmp_path):
    a = shard(tmp_path / "a", (1,), pools=(("one", "d1"), ("two", "d2")))
    b = shard(tmp_path / "b", (2,), pools=(("three", "d3"), ("one", "d1")))
    assert merge([a, b], tmp_path / "out").collections == ("one", "two", "three")
    kept = json.loads((tmp_path / "out/machinery/job.json").read_bytes())["pools"]
    assert kept == [{"collection": f, "digest": d} for f, d in (("one", "d1"), ("two", "d2"), ("three", "d3"))]


# Cells of both.


def rewrite(folder, number, value, meta="m"):
    key = CellKey.of("scores", **VERSION, method=2, number=number)
    Store(folder).write(key, pa.table({"x": [value]}), {"model": meta})
    return key


def test_different_tables_of_one_key_are_an_error_that_names_it(tmp_path):
    a, b = shard(tmp_path / "a", (1, 2)), shard(tmp_path / "b", (2, 3))
    key = rewrite(b, 2, 2.5)
    with pytest.raises(
        ValueError, match=f"{a} and {b} have different ones of {re.escape(key.canonical)}: which is right"
    ):
        merge([a, b], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_table_under_another_name_of_the_model_is_the_same_cell(tmp_path):
    a, b = shard(tmp_path / "a", (1,)), shard(tmp_path / "b", (1,))
    rewrite(b, 1, 1, meta="/elsewhere/m")
    merged = merge([a, b], tmp_path / "out")
    assert [(own.cells, own.new) for own in merged.joined.values()] == [(1, 1), (1, 0)]


def table_of(folder, number):
    digest = CellKey.of("scores", **VERSION, method=2, number=number).digest
    return folder / f"machinery/cells/scores/{digest}.parquet"


def harm(path):
    """Another file in its place, as a link would harm both."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_damaged_cell_is_left_out_with_a_warning_and_a_whole_one_is_taken_for_it(tmp_path, caplog):
    a, b, out = shard(tmp_path / "a", (1, 2)), shard(tmp_path / "b", (2, 3)), tmp_path / "out"
    harm(table_of(a, 1))
    harm(table_of(a, 2))
    (b / "machinery/cells/scores" / table_of(b, 3).with_suffix(".json").name).write_text("{")
    merged = merge([a, b], out)
    assert [(own.cells, own.new, own.damaged) for own in merged.joined.values()] == [(0, 0, 2), (1, 1, 1)]
    assert [key.fields["number"] for key in Store(out).keys("scores")] == [2]
    assert "is damaged (its checksum does not match)" in caplog.text
    assert "it is no cell's manifest" in caplog.text


def test_a_damaged_cell_of_the_target_is_mended(tmp_path):
    a, out = shard(tmp_path / "a", (1, 2)), tmp_path / "out"
    merge([a], out)
    whole = visible(out)
    harm(table_of(out, 1))
    assert [own.new for own in merge([a], out).joined.values()] == [1]
    assert visible(out) == whole
    assert Store(a).missing(Store(a).keys("scores")) == []


def test_a_damaged_cell_is_not_held_against_a_whole_one(tmp_path):
    a, b = shard(tmp_path / "a", (1,)), shard(tmp_path / "b", (1,))
    rewrite(b, 1, 1.5)
    harm(table_of(b, 1))
    merge([a, b], tmp_path / "out")
    assert Store(tmp_path / "out").read(CellKey.of("scores", **VERSION, method=2, number=1))["x"].to_pylist() == [1]


# What cannot be merged, or into.


def test_what_is_no_folder_of_results_is_refused(tmp_path):
    a, out = shard(tmp_path / "a", (1,)), tmp_path / "out"
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.tex").write_text("x")
    Store(tmp_path / "former").write(CellKey.of("scores", n=1), pa.table({"x": [1]}))
    open_store(tmp_path / "nobodys")
    for name, said in (
        ("nowhere", "is not there"), ("file", "is a file"), ("foreign", "holds files that are not ours"),
        ("former", "is in an earlier one: run its job in it once more"), ("nobodys", "expected machinery/job.json in"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            merge([a, tmp_path / name], out)
    for name, said in (("file", "is a file"), ("foreign", "not ours"), ("former", "is in an earlier one")):
        before = snapshot(tmp_path)
        with pytest.raises(ValueError, match=said):
            merge([a], tmp_path / name)
        assert snapshot(tmp_path) == before
    with pytest.raises(ValueError, match="at least one folder"):
        merge([], out)
    assert not out.exists()


def test_the_target_is_locked_and_a_folder_given_twice_counts_once(tmp_path):
    a, out = shard(tmp_path / "a", (1,)), tmp_path / "out"
    assert len(merge([a, tmp_path / "." / "a"], out).joined) == 1
    with locked(out, wait=0), pytest.raises(StoreError, match=r"to be free within 0.1 seconds"):
        merge([a], out, wait=0.1)


def test_a_folder_at_work_gives_what_it_has_and_that_is_said(tmp_path, caplog):
    a = shard(tmp_path / "a", (1,))
    place(a)
    with locked(a, wait=0):
        merge([a], tmp_path / "out")
    assert f"{a} is being written: what is there now is taken; merge again when it is done" in caplog.text
    (left,) = read_records(tmp_path / "out")
    assert (left["state"], left["left"]) == ("ended", "what was joined is not drawn yet")
