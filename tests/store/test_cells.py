import errno
import hashlib
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tl_crossenc.store import files
from tl_crossenc.store.cell_files import CorruptCell, MissingCell
from tl_crossenc.store.cells import Store
from tl_crossenc.store.files import StoreError
from tl_crossenc.store.keys import CellKey

KEY = CellKey.of("scores", model="abc", pool="0f", condition="DOC->QUERY@0-3", shard=7, dtype="float32")

# What the processes below run: seven cells of prime and unequal sizes, each found missing and written.
JOB = textwrap.dedent(
    """
    import os, signal, sys, time
    import pyarrow as pa
    from tl_crossenc.store.cells import Store
    from tl_crossenc.store.keys import CellKey

    def keys(n):
        return [CellKey.of("scores" if i % 3 else "runs", model="m", shard=i) for i in range(n)]

    def table(i):
        rows = [0, 13, 101, 1009, 5, 2, 37][i % 7]
        return pa.table({"doc_id": [f"d{i}-{j}" for j in range(rows)],
                         "score": pa.array([(j * 7919 % 1000) / 8 - i for j in range(rows)], pa.float32())})

    def job(root, n, after=lambda i: None):
        store = Store(root, versions={"torch": "9.9"})
        for key in store.missing(keys(n)):
            i = key.fields["shard"]
            store.write(key, table(i), {"device": "cpu", "seed": i})
            after(i)
    """
)


def numbers(rows: int = 5) -> pa.Table:
    return pa.table({"doc_id": [f"d{i}" for i in range(rows)], "score": np.arange(rows, dtype=np.float32) / 3})


def contents(root: Path) -> dict[str, bytes]:
    """Every file below, hidden ones too, with its bytes."""
    found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def identities(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of the two files of every cell that has a manifest."""
    return {
        str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for manifest in root.glob("cells/*/*.json")
        for path in (manifest, manifest.with_suffix(".parquet"))
    }


def paths(root: Path, key: CellKey = KEY) -> tuple[Path, Path]:
    stem = root / "cells" / key.kind / key.digest
    return stem.with_suffix(".parquet"), stem.with_suffix(".json")


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", JOB + textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


# ---------- opening


def test_opening_makes_the_folder_and_marks_it(tmp_path):
    root = tmp_path / "new" / "results"
    Store(root)
    assert set(contents(root)) == {"tl_crossenc.json"}
    assert json.loads((root / "tl_crossenc.json").read_text()) == {"package": "tl_crossenc", "format": 1}
    before = contents(root)
    Store(str(root))
    assert contents(root) == before
    (tmp_path / "empty").mkdir()
    Store(tmp_path / "empty")
    assert set(contents(tmp_path / "empty")) == {"tl_crossenc.json"}


@pytest.mark.parametrize(
    "there",
    [
        {"thesis.tex": "x"},
        {".hidden": "x"},
        {"cells": None},
        {"tl_crossenc.json": "{"},
        {"tl_crossenc.json": "[1]"},
        {"tl_crossenc.json": '{"package": "other", "format": 1}', "data.csv": "1"},
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_foreign_folder_is_refused_and_left_alone(tmp_path, there, read_only):
    root = tmp_path / "home"
    root.mkdir()
    for name, text in there.items():
        (root / name).mkdir() if text is None else (root / name).write_text(text)
    before, listed = contents(root), sorted(os.listdir(root))
    with pytest.raises(ValueError, match=r"not ours: choose another --out or an empty folder$"):
        Store(root, read_only=read_only)
    assert contents(root) == before
    assert sorted(os.listdir(root)) == listed


def test_a_file_a_newer_format_and_an_unusable_place_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file: choose another --out"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match=r"could not write .*below.*choose a place that you may write"):
        Store(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "x"
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "tl_crossenc.json").write_text('{"package": "tl_crossenc", "format": 2}')
    with pytest.raises(ValueError, match=r"format 1 in .*, got 2: choose another --out"):
        Store(tmp_path / "newer")


def test_an_unwritable_store_is_told_at_opening_and_can_be_read(tmp_path, monkeypatch):
    Store(tmp_path / "out").write(KEY, numbers())
    real = os.access
    monkeypatch.setattr(
        "tl_crossenc.store.cells.os.access", lambda path, mode: mode != os.W_OK | os.X_OK and real(path, mode)
    )
    with pytest.raises(StoreError, match=r"Permission denied.*choose a place that you may write"):
        Store(tmp_path / "out")
    assert Store(tmp_path / "out", read_only=True).read(KEY).num_rows == 5


def test_read_only_makes_and_changes_nothing(tmp_path):
    for root in (tmp_path / "absent", tmp_path):
        with pytest.raises(ValueError, match="has none: name a finished job's --out"):
            Store(root, read_only=True)
    assert os.listdir(tmp_path) == []
    Store(tmp_path).write(KEY, numbers())
    before = contents(tmp_path)
    store = Store(tmp_path, read_only=True)
    with pytest.raises(StoreError, match="opened for reading only"):
        store.write(KEY, numbers(7))
    assert contents(tmp_path) == before


# ---------- writing, reading


def test_a_cell_is_a_table_and_a_manifest_that_says_what_it_is(tmp_path):
    store = Store(tmp_path, versions={"torch": "9.9"})
    store.write(KEY, numbers(5), {"device": "cpu", "seed": 3, "layers": [0, 1]})
    table_path, manifest_path = paths(tmp_path)
    assert set(contents(tmp_path)) == {
        "tl_crossenc.json",
        f"cells/scores/{KEY.digest}.parquet",
        f"cells/scores/{KEY.digest}.json",
    }
    manifest = json.loads(manifest_path.read_text())
    data = table_path.read_bytes()
    assert manifest.pop("versions").keys() == {"torch", "pyarrow", "tl_crossenc"}
    assert manifest == {
        "format": 1,
        "key": {
            "kind": "scores",
            "fields": {
                "model": "abc",
                "pool": "0f",
                "condition": "DOC->QUERY@0-3",
                "shard": 7,
                "dtype": "float32",
            },
        },
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "rows": 5,
        "schema": [{"name": "doc_id", "type": "string"}, {"name": "score", "type": "float"}],
        "meta": {"device": "cpu", "seed": 3, "layers": [0, 1]},
    }
    assert store.manifest(KEY)["versions"] == {
        "torch": "9.9",
        "pyarrow": pa.__version__,
        "tl_crossenc": store.versions["tl_crossenc"],
    }


def test_tables_come_back_as_they_went_in(tmp_path):
    table = pa.table(
        {
            "grade": pa.array([3, None, -1], pa.int8()),
            "score": pa.array([np.float32(0.1), np.float32(-0.0), np.float32("inf")], pa.float32()),
            "exact": pa.array([0.1, 1e-310, None], pa.float64()),
            "text": ["", "naïve\n", None],
            "flow": pa.array([[1.5, 2.5], [], None], pa.list_(pa.float32())),
            "which": pa.array(["a", "b", "a"]).dictionary_encode(),
            "flag": [True, False, None],
        }
    ).replace_schema_metadata({"note": "kept"})
    store = Store(tmp_path)
    store.write(KEY, table)
    back = Store(tmp_path).read(KEY)
    assert back.schema.equals(table.schema, check_metadata=True)
    assert back.equals(table)
    assert np.signbit(back["score"][1].as_py())
    empty = CellKey.of("scores", shard=0)
    store.write(empty, table.slice(0, 0))
    assert store.read(empty).equals(table.slice(0, 0))


def test_equal_tables_are_equal_bytes_whatever_their_chunks_metadata_and_store(tmp_path):
    whole = numbers(101)
    pieces = pa.concat_tables([whole.slice(0, 13), whole.slice(13, 0), whole.slice(13)])
    pandas = pa.Table.from_pandas(whole.to_pandas(), whole.schema, preserve_index=False)
    assert pieces["score"].num_chunks > 1
    assert b"pandas" in pandas.schema.metadata
    wide = pa.concat_tables([numbers(7), whole]).slice(7)
    found = []
    for i, table in enumerate((whole, pieces, pandas, wide)):
        Store(tmp_path / str(i)).write(KEY, table, {"a": 1, "b": 2} if i % 2 else {"b": 2, "a": 1})
        found.append(contents(tmp_path / str(i)))
    assert found[0] == found[1] == found[2] == found[3]
    for i, order in enumerate(("xy", "yx")):
        metadata = {name: name.upper() for name in order}
        Store(tmp_path / order).write(KEY, whole.replace_schema_metadata(metadata))
        found[i] = contents(tmp_path / order)
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_dictionaries_of_chunks_are_stored_as_one(tmp_path):
    whole = pa.table({"which": pa.array(["a", "b", "a", "c"]).dictionary_encode()})
    halves = [pa.table({"which": pa.array(half).dictionary_encode()}) for half in (["a", "b"], ["a", "c"])]
    Store(tmp_path / "whole").write(KEY, whole)
    Store(tmp_path / "halves").write(KEY, pa.concat_tables(halves))
    assert contents(tmp_path / "whole") == contents(tmp_path / "halves")


def test_nothing_stored_tells_the_time_or_the_machine(tmp_path):
    Store(tmp_path).write(KEY, numbers(), {"device": "cpu"})
    everything = b"".join(contents(tmp_path).values())
    assert os.uname().nodename.encode() not in everything
    assert str(tmp_path).encode() not in everything
    assert not re.search(rb"20\d\d-\d\d-\d\d", everything)


def test_the_same_again_changes_no_file_and_another_table_takes_its_place(tmp_path):
    store = Store(tmp_path)
    store.write(KEY, numbers(5), {"seed": 1})
    before = identities(tmp_path)
    store.write(KEY, numbers(5), {"seed": 1})
    assert identities(tmp_path) == before
    store.write(KEY, numbers(5), {"seed": 2})
    assert store.manifest(KEY)["meta"] == {"seed": 2}
    store.write(KEY, numbers(7), {"seed": 2})
    assert store.read(KEY).equals(numbers(7))
    assert len(contents(tmp_path)) == 3


@pytest.mark.parametrize("meta", [{"x": float("nan")}, {"x": {1, 2}}, {"x": np.float32(1)}])
def test_meta_that_is_not_json_is_refused_before_anything_is_written(tmp_path, meta):
    store = Store(tmp_path)
    with pytest.raises((TypeError, ValueError), match="expected JSON values in a cell's meta"):
        store.write(KEY, numbers(), meta)
    assert set(contents(tmp_path)) == {"tl_crossenc.json"}


def test_missing_keeps_the_order_and_names_each_once(tmp_path):
    store = Store(tmp_path)
    keys = [CellKey.of("scores", shard=i) for i in (5, 3, 11, 2, 7)]
    for key in (keys[1], keys[3]):
        store.write(key, numbers())
    asked = [keys[0], keys[1], keys[2], keys[0], keys[3], keys[4], keys[2]]
    for verify in (False, True):
        assert store.missing(asked, verify=verify) == [keys[0], keys[2], keys[4]]
    assert [store.has(key) for key in keys] == [False, True, False, True, False]
    assert store.missing([]) == []


def test_read_many_keeps_the_order_and_an_absent_cell_is_an_error(tmp_path):
    store = Store(tmp_path)
    keys = [CellKey.of("scores", shard=i) for i in (3, 2, 5)]
    for key in keys:
        store.write(key, numbers(key.fields["shard"]))
    assert [table.num_rows for table in store.read_many([keys[2], keys[0], keys[1]])] == [5, 3, 2]
    for read in (store.read, store.manifest, lambda key: store.read_many([keys[0], key])):
        with pytest.raises(MissingCell, match=r'no cell is stored for \{"fields".*: run the job'):
            read(KEY)


def test_keys_lists_the_cells_of_a_kind(tmp_path):
    store = Store(tmp_path)
    keys = [CellKey.of("scores", shard=i, model=None, share=0.25) for i in (2, 1, 3)]
    for key in [*keys, CellKey.of("runs", shard=1)]:
        store.write(key, numbers())
    paths(tmp_path, keys[2])[0].unlink()
    (tmp_path / "cells" / "scores" / "notes.json").write_text("[]")
    assert store.keys("scores") == [keys[1], keys[0]]
    assert store.keys("runs") == [CellKey.of("runs", shard=1)]
    assert store.keys("flows") == []


def test_keys_stops_at_as_many_as_are_asked_for(tmp_path, monkeypatch):
    store = Store(tmp_path)
    keys = [CellKey.of("scores", shard=i) for i in range(7)]
    for key in keys:
        store.write(key, numbers())
    opened = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or real(path))
    some = store.keys("scores", 3)
    assert len(some) == 3
    assert set(some) < set(keys)
    assert some == sorted(some, key=lambda key: key.canonical)
    assert len(set(opened)) == 3
    assert store.keys("scores", 11) == store.keys("scores")


# ---------- damage


def flip(path: Path, at: int = 40) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_table(table: Path, manifest: Path, data: bytes) -> None:
    table.write_bytes(data)
    edit(manifest, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def without_pages(table: Path) -> bytes:
    """A Parquet file's bytes with the footer as it was and all before it set to 0."""
    data = table.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    return data[:4] + bytes(len(data) - footer - 4) + data[-footer:]


def copy_of_another(table: Path, manifest: Path) -> None:
    other = CellKey.of("scores", shard=8)
    for target, source in zip((table, manifest), paths(table.parents[2], other), strict=True):
        target.write_bytes(source.read_bytes())


DAMAGE = {
    "table truncated": lambda table, manifest: os.truncate(table, table.stat().st_size - 1),
    "table empty": lambda table, manifest: os.truncate(table, 0),
    "table gone": lambda table, manifest: table.unlink(),
    "manifest truncated": lambda table, manifest: os.truncate(manifest, manifest.stat().st_size // 2),
    "manifest empty": lambda table, manifest: os.truncate(manifest, 0),
    "manifest not a mapping": lambda table, manifest: manifest.write_text("[]"),
    "manifest not text": lambda table, manifest: manifest.write_bytes(b"\xff\xfe\x00\x01{"),
    "manifest of another format": lambda table, manifest: edit(manifest, format=2),
    "manifest of another key": copy_of_another,
    "table flipped": lambda table, manifest: flip(table),
    "checksum changed": lambda table, manifest: edit(manifest, sha256="0" * 64),
    "no checksum": lambda table, manifest: edit(manifest, sha256=None),
    "row count changed": lambda table, manifest: edit(manifest, rows=12),
    "row count as text": lambda table, manifest: edit(manifest, rows="11"),
    "no row count": lambda table, manifest: edit(manifest, rows=None),
    "no table, with its checksum": lambda table, manifest: replace_table(table, manifest, b"not a table"),
    "no pages, with its checksum": lambda table, manifest: replace_table(table, manifest, without_pages(table)),
}
DEEP = {*("table flipped", "checksum changed", "no checksum", "row count changed", "row count as text", "no row count")}
DEEP |= {"no table, with its checksum", "no pages, with its checksum"}  # what size alone does not show


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cell_is_told_counts_as_missing_and_is_replaced(tmp_path, caplog, damage):
    store = Store(tmp_path)
    other = CellKey.of("scores", shard=8)
    store.write(KEY, numbers(11), {"seed": 1})
    store.write(other, numbers(13))
    good = contents(tmp_path)
    DAMAGE[damage](*paths(tmp_path))
    damaged = contents(tmp_path)
    assert damaged != good
    with pytest.raises(
        CorruptCell, match=r"^the stored cell \S+ is damaged \(.+\): run its job again to compute it anew$"
    ):
        store.read(KEY)
    assert store.has(KEY) == (damage in DEEP)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert store.missing([KEY, other]) == [KEY]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert contents(tmp_path) == damaged  # looking removes nothing
    store.write(KEY, numbers(11), {"seed": 1})
    assert contents(tmp_path) == good


def test_a_wrong_row_count_is_damage(tmp_path):
    store = Store(tmp_path)
    store.write(KEY, numbers(11))
    edit(paths(tmp_path)[1], rows=12)
    with pytest.raises(CorruptCell, match="it has 11 rows, its manifest says 12"):
        store.read(KEY)


def test_bytes_that_match_their_checksum_and_are_no_table_are_damage(tmp_path):
    store = Store(tmp_path)
    store.write(KEY, numbers(11))
    table, manifest = paths(tmp_path)
    table.write_bytes(b"not a table")
    edit(manifest, sha256=hashlib.sha256(b"not a table").hexdigest(), bytes=11)
    with pytest.raises(CorruptCell, match="its table is not Parquet"):
        store.read(KEY)


def test_a_table_without_manifest_is_an_unfinished_cell(tmp_path, caplog):
    store = Store(tmp_path)
    store.write(KEY, numbers(11))
    paths(tmp_path)[1].unlink()
    with caplog.at_level(logging.WARNING):
        assert store.missing([KEY]) == [KEY]
    assert not caplog.records
    with pytest.raises(MissingCell):
        store.read(KEY)


# ---------- failures


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("stored", ["nothing", "longer", "as long", "damaged"])
def test_a_failure_at_any_step_leaves_a_consistent_store(tmp_path, monkeypatch, stored, code):
    """Let the n-th call to the system fail, for every n until a write goes through; look; write again."""
    other, new = CellKey.of("scores", shard=8), numbers(13)
    as_long = new.set_column(1, "score", [pa.array(np.arange(13, dtype=np.float32)[::-1] / 3)])
    before = {"nothing": None, "longer": numbers(1009), "as long": as_long, "damaged": new}[stored]
    sizes = set()
    failures = set()
    for nth in range(100):
        root = tmp_path / str(nth)
        store = Store(root)
        store.write(other, numbers(7))
        if before is not None:
            store.write(KEY, before)
            sizes.add(paths(root)[0].stat().st_size)
        if stored == "damaged":
            os.truncate(paths(root)[0], 9)
        untouched = {name: data for name, data in contents(root).items() if KEY.digest not in name}
        calls = 0

        def counted(name, real, nth=nth):
            def call(*arguments, **named):
                nonlocal calls
                calls += 1
                if calls == nth + 1:
                    failures.add(name)
                    if name == "write":
                        real(arguments[0], arguments[1][:5])
                    raise OSError(code, os.strerror(code))
                return real(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            for name in ("open", "write", "fsync", "replace"):
                patch.setattr(files.os, name, counted(name, getattr(os, name)))
            said = None
            try:
                store.write(KEY, new)
            except StoreError as error:
                said = str(error)
        if said is not None:
            assert os.strerror(code) in said
            assert ("free some space" in said) == (code == errno.ENOSPC)
        after = contents(root)
        assert {name: data for name, data in after.items() if KEY.digest not in name} == untouched
        assert not [name for name in after if ".tmp-" in name]
        again = Store(root)
        assert again.read(other).equals(numbers(7))
        assert again.has(KEY) or said is not None
        if again.has(KEY):  # what the cheap look finds is whole
            assert any(again.read(KEY).equals(table) for table in (new, before) if table is not None)
        again.write(KEY, new)
        assert again.read(KEY).equals(new)
        if said is None:
            break
    assert failures == {"open", "write", "fsync", "replace"}
    assert said is None
    assert (sizes == {paths(root)[0].stat().st_size}) == (stored in ("as long", "damaged"))
    assert nth >= 12  # two files: each opened, written, synced, renamed, and its folder opened and synced


# ---------- kill, resume


@pytest.mark.slow
def test_killed_at_every_step_then_run_again_is_the_undisturbed_run(tmp_path):
    """A process kills itself (-9) before its n-th change to the disk or half-way through it, for every n."""
    (tmp_path / "killed").mkdir()
    run("job(sys.argv[1], 4)", tmp_path / "whole")
    script = """
        from pathlib import Path
        import json

        def look(root):
            return {str(p.relative_to(root)): (p.stat().st_ino, p.stat().st_mtime_ns)
                    for m in Path(root).glob("cells/*/*.json") for p in (m, m.with_suffix(".parquet"))}

        def fork(root, nth):
            child = os.fork()
            if not child:
                calls = 0
                def wrap(name):
                    real = getattr(os, name)
                    def call(*arguments, **named):
                        nonlocal calls
                        calls += 1
                        if calls == nth:
                            if name == "write":
                                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                            os.kill(os.getpid(), signal.SIGKILL)
                        return real(*arguments, **named)
                    setattr(os, name, call)
                for name in ("write", "fsync", "replace", "mkdir"):
                    wrap(name)
                job(root, 4)
                os._exit(0)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        table(1)  # what pyarrow imports late is imported before the forks
        for nth in range(1, 1000):
            root = f"{sys.argv[1]}/{nth}"
            status = fork(root, nth)
            kept = look(root)
            left = [p.name for p in Path(root).rglob(".*")]
            if status:
                assert fork(root, 0) == 0
            print(json.dumps([status, kept, left, look(root)]))
            if not status:
                break
        """
    rounds = [json.loads(line) for line in run(script, tmp_path / "killed").splitlines()]
    whole = contents(tmp_path / "whole")
    assert len(whole) == 1 + 2 * 4
    # a file: write, fsync, replace, fsync folder; a folder (root, cells, two kinds): mkdir, fsync parent
    assert len(rounds) - 1 == (1 + 2 * 4) * 4 + 4 * 2
    assert [status for status, *_ in rounds] == [-signal.SIGKILL] * (len(rounds) - 1) + [0]
    for nth, (_, kept, _, after) in enumerate(rounds, 1):
        assert contents(tmp_path / "killed" / str(nth)) == whole
        assert kept.items() <= after.items()  # finished cells: the same files, not rewritten
    assert {len(kept) for _, kept, _, _ in rounds} == {0, 2, 4, 6, 8}
    assert any(left for _, _, left, _ in rounds)  # there was something to sweep


@pytest.mark.slow
def test_killed_from_outside_at_any_moment_then_run_again_is_the_undisturbed_run(tmp_path):
    cells, rng = 43, random.Random(0)
    run("job(sys.argv[1], int(sys.argv[2]))", tmp_path / "whole", cells)
    script = JOB + textwrap.dedent(
        """
        def tell(i):
            print(i, flush=True)
            time.sleep(0.01)
        job(sys.argv[1], int(sys.argv[2]), tell)
        """
    )
    killed, root = 0, tmp_path / "killed"
    for _ in range(4):
        before = identities(root)
        command = [sys.executable, "-c", script, str(root), str(cells)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            told = [process.stdout.readline() for _ in range(rng.randint(1, 5))]
            try:
                process.wait(timeout=rng.uniform(0, 0.03))
            except subprocess.TimeoutExpired:
                process.kill()
            told += process.stdout.readlines()
        killed += process.returncode == -signal.SIGKILL
        after = identities(root)
        assert before.items() <= after.items()
        assert len(after) >= len(before) + 2 * len([line for line in told if line.strip()])
    assert killed >= 2
    finished = identities(root)
    assert 0 < len(finished) < 2 * cells
    run("job(sys.argv[1], int(sys.argv[2]))", root, cells)
    assert contents(root) == contents(tmp_path / "whole")
    assert finished.items() <= identities(root).items()
    finished = identities(root)
    run("job(sys.argv[1], int(sys.argv[2]), after=lambda i: sys.exit('worked'))", root, cells)  # nothing to do
    assert identities(root) == finished


def test_a_first_opening_killed_before_its_marker_can_be_opened_again(tmp_path):
    with files.staged(tmp_path / "tl_crossenc.json", b"{") as temporary:
        name = temporary.name
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / name.replace(f"-{os.getpid()}-", f"-{process.pid}-")).write_bytes(b"{")
    Store(tmp_path)
    assert set(contents(tmp_path)) == {"tl_crossenc.json"}


def test_processes_that_write_the_same_cells_at_once_all_succeed(tmp_path):
    cells = 23
    run("job(sys.argv[1], int(sys.argv[2]))", tmp_path / "alone", cells)
    script = JOB + textwrap.dedent(
        """
        print("ready", flush=True)
        sys.stdin.readline()
        store = Store(sys.argv[1], versions={"torch": "9.9"})
        for key in keys(int(sys.argv[2])):
            i = key.fields["shard"]
            store.write(key, table(i), {"device": "cpu", "seed": i})
            assert store.read(key).equals(table(i))
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path / "together"), str(cells)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert (worker.returncode, errors) == (0, "")
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")


@pytest.mark.parametrize("which", [0, 1])
def test_a_pipe_in_the_place_of_a_cells_file_is_a_damaged_cell_and_not_waited_for(tmp_path, caplog, which):
    store = Store(tmp_path)
    store.write(KEY, numbers())
    before = contents(tmp_path)
    path = paths(tmp_path)[which]
    path.unlink()
    os.mkfifo(path)
    assert store.missing([KEY]) == [KEY]
    assert "is damaged" in caplog.text
    assert store.keys(KEY.kind) == []
    with pytest.raises(CorruptCell, match=r"damaged .its (manifest is a pipe|table has 0 bytes)"):
        store.read(KEY)
    store.write(KEY, numbers())
    assert contents(tmp_path) == before


def test_a_pipe_in_the_place_of_the_marker_is_not_ours(tmp_path):
    os.mkfifo(tmp_path / "tl_crossenc.json")
    with pytest.raises(ValueError, match="holds files that are not ours"):
        Store(tmp_path)
