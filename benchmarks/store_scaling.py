"""A job of up to a million cells through pool, tasks, executor and store, without a model: seconds, memory, files, bytes.

A cell holds the scores of 256 pairs under one condition, as Table 1's and Figure 1a's do, with random scores; all else is what a
job runs: `score_pool` makes the tasks, the executor asks the store what is missing, every cell is written, then all are read. Each
size is a process of its own. The first run finds an empty folder, the second one everything stored.

Seconds are the processor's (a disk that others use says nothing of us), but for `wall` and for writes, which wait for the disk.

    python benchmarks/store_scaling.py
    python benchmarks/store_scaling.py --cells 1e6 --part driver full
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import parse, parser, ported, print_machine, print_table, random_checkpoint
from scaling import peak_memory

from tl_crossenc.executors.executor import InProcess
from tl_crossenc.executors.task import Advance, Failure
from tl_crossenc.experiments.layers import sweep_conditions
from tl_crossenc.experiments.ranking import evaluate_pool
from tl_crossenc.experiments.scoring import SHARD, SHARES, score_pool
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.interventions.directions import direction_grid
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

LAYERS = 24
PASSAGES = 1000
IDENTITY = {
    "weights": "0123456789abcdef" * 2,
    "arithmetic": "fused-0123456789abcdef",
    "tokenizer": "fedcba9876543210" * 2,
    "torch": "2.13.0",
    "tokenizers": "0.23.0",
    "dtype": "bfloat16",
    "device": "cuda",
}
"""As long as a real one."""


SAMPLE = 2000
FEW_ROWS = 13
"""Of the tables of a folder that is full beforehand, whose names and not whose contents are the matter."""
SIZES = ("mebibytes", "of scores")
META = {"model": "random", "collection": "simulated"}
ON_DISK = ("files", "files in one folder", "bytes", "bytes on disk", "bytes of names")
ONE_TABLE = pa.table(
    {
        "query_id": [str(i // 8) for i in range(SHARD)],
        "doc_id": [f"msmarco_passage_{i:09d}" for i in range(SHARD)],
        "grade": pa.array([i % 4 for i in range(SHARD)], pa.int32()),
        "score": np.random.default_rng(0).standard_normal(SHARD, np.float32),
    }
)


class Watched(Store):
    """A store that takes the time of what is asked of it.

    Attributes:
        seconds: method -> how long in all, of the processor's time.
        writes: of each cell written, by the clock on the wall.
    """

    def __init__(self, root: Path) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.writes: list[float] = []
        with self._timed("open"):
            super().__init__(root)

    def missing(self, keys: Iterable[CellKey], *, verify: bool = True) -> list[CellKey]:
        """See `Store`."""
        with self._timed("missing"):
            return super().missing(keys, verify=verify)

    def read(self, key: CellKey) -> pa.Table:
        """See `Store`."""
        with self._timed("read"):
            return super().read(key)

    def write(self, key: CellKey, table: pa.Table, meta: Mapping[str, object] | None = None) -> None:
        """See `Store`."""
        start = time.perf_counter()
        with self._timed("write"):
            super().write(key, table, meta)
        self.writes.append(time.perf_counter() - start)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] += time.process_time() - start


class NoStore(Watched):
    """A store that keeps nothing, for the time of everything else: every cell is missing, then every cell has one table."""

    def missing(self, keys: Iterable[CellKey], *, verify: bool = True) -> list[CellKey]:
        """See `Store`."""
        return list(dict.fromkeys(keys))

    def read(self, key: CellKey) -> pa.Table:
        """See `Store`."""
        return ONE_TABLE

    def write(self, key: CellKey, table: pa.Table, meta: Mapping[str, object] | None = None) -> None:
        """See `Store`."""


class Simulated(InProcess):
    """Draws the scores that a model would give."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.drawing = 0.0

    def identity(self, model: object) -> dict[str, str]:
        """See `Executor`."""
        return IDENTITY

    def _compute(self, model: Any, todo: Sequence[Any], store: Store, advance: Advance) -> list[Failure]:
        for task in todo:
            start = time.process_time()
            ids = {name: [getattr(pair, name) for pair in task.pairs] for name in ("query_id", "doc_id")}
            ids["grade"] = pa.array([pair.grade for pair in task.pairs], pa.int32())
            self.drawing += time.process_time() - start
            for key in task.keys:
                start = time.process_time()
                scores = self.rng.standard_normal(len(task.pairs), np.float32)
                table = pa.table({**ids, "score": scores})
                self.drawing += time.process_time() - start
                store.write(key, table, task.meta)
        return []


def make_pool(shards: int) -> Pool:
    """A pool of so many full shards: 1,000 passages a query, texts of 250 to 500 characters."""
    rng = np.random.default_rng(0)
    pairs = [
        PoolPair(
            query_id=str(i // PASSAGES),
            query=f"query number {i // PASSAGES}",
            doc_id=f"msmarco_passage_{i:09d}",
            text=f"{i:09d} ".ljust(int(rng.integers(250, 500)), "x"),
            grade=i % 4,
        )
        for i in range(shards * SHARD)
    ]
    return Pool("simulated", PoolSpec(), tuple(pairs))


def shape_of(cells: int) -> tuple[int, int]:
    """(shards, conditions) of a job of about so many cells: Table 1's conditions, for many cells Figure 1a's of all directions."""
    conditions = 37 if cells < 50_000 else 1 + LAYERS * len(direction_grid())
    return max(round(cells / conditions), SHARES), conditions


def job(cells: int, store_of: Callable[[], Watched], runs: Sequence[str]) -> Iterator[dict[str, float]]:
    """Seconds and MiB of runs of `score_pool`, each with a store that is opened for it."""
    shards, n_conditions = shape_of(cells)
    sizes = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 16, "intermediate_size": 32}
    model = ported(random_checkpoint("random", sizes))
    conditions = [UNABLATED, *sweep_conditions(direction_grid(), LAYERS).values()][:n_conditions]
    pool = make_pool(shards)
    _ = pool.digest
    for _ in runs:
        before = peak_memory(reset=True)
        start, began = time.process_time(), time.perf_counter()
        store, executor = store_of(), Simulated()
        scores = score_pool(model, pool, conditions, store, token_budget=8192, executor=executor)
        whole, wall = time.process_time() - start, time.perf_counter() - began
        spent = store.seconds
        start = time.process_time()
        evaluate_pool(model, pool, {"none": scores.values[0]}, cutoff=10, gain="linear")
        ranking = time.process_time() - start
        yield {
            "cells": shards * n_conditions,
            **spent,
            "driver": whole - executor.drawing - sum(spent.values()),
            "whole": whole,
            "ranking": ranking / shards,
            "wall": wall,
            "mebibytes": peak_memory() - before,
            "of scores": scores.values.nbytes / 2**20,
            **(_of_writes(store) if store.writes else {}),
        }
        del scores


def whole(cells: int, folder: str | None) -> dict[str, Any]:
    """A job through everything: into an empty folder, then over the same one, where all is stored."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        first, second = job(cells, lambda: Watched(Path(root)), ("first", "second"))
        return {"first": first, "second": second, **files(Path(root))}


def driver(cells: int, folder: str | None) -> dict[str, Any]:
    """The job but for its store."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        (found,) = job(cells, lambda: NoStore(Path(root)), ("first",))
        return found


def full(cells: int, folder: str | None) -> dict[str, Any]:
    """What is asked of a folder that has so many cells already, which are put there as `Store.write` leaves them, but unsynced."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        store = Store(root)
        small = ONE_TABLE.slice(0, FEW_ROWS)
        store.write(a_key(0), small, META)
        at = Path(root, "cells", "scores", a_key(0).digest)
        table, text = at.with_suffix(".parquet").read_bytes(), at.with_suffix(".json").read_text()
        for i in range(1, cells):
            name = f"{at.parent}/{a_key(i).digest}"
            for path, data in (
                (f"{name}.parquet", table),
                (f"{name}.json", text.replace('"shard": 0,', f'"shard": {i},').encode()),
            ):
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                os.write(handle, data)
                os.close(handle)
        before, found = peak_memory(reset=True), {"cells": cells}
        start = time.process_time()
        watched = Watched(Path(root))
        found["open"] = time.process_time() - start
        found["open MiB"] = peak_memory() - before
        some = range(0, cells, max(cells // SAMPLE, 1))
        found["asked"] = len(some)
        assert watched.missing([a_key(i) for i in some]) == []
        for i in some:
            watched.read(a_key(i))
            watched.write(a_key(cells + i), small, META)
        found |= {name: watched.seconds[name] / len(some) for name in ("missing", "read")}
        found |= _of_writes(watched)
        return {**found, **files(Path(root))}


def _of_writes(store: Watched) -> dict[str, float]:
    """Seconds of a write: the median by the clock, and the mean of the processor's."""
    return {"a write": statistics.median(store.writes), "of a write": store.seconds["write"] / len(store.writes)}


def a_key(i: int) -> CellKey:
    """A key with the fields of one of scores."""
    fields = {**IDENTITY, "method": 2, "pool": "0123456789abcdef" * 4, "condition": "DOC->QUERY@0-11"}
    return CellKey.of("scores", **fields, shard=i, shard_size=SHARD, token_budget=8192)


def files(root: Path) -> dict[str, int]:
    """How many there are below, in one folder at most, their bytes, and those that the disk gives them."""
    folders = [[os.stat(Path(at, name)) for name in names] for at, _, names in os.walk(root)]
    every = [found for folder in folders for found in folder]
    return {
        "files": len(every),
        "files in one folder": max(map(len, folders)),
        "bytes": sum(found.st_size for found in every),
        "bytes on disk": 512 * sum(found.st_blocks for found in every),
        "bytes of names": max(os.stat(at).st_size for at, _, _ in os.walk(root)),
    }


PARTS = {"whole": whole, "driver": driver, "full": full}
HEADERS = {
    "whole": (
        "cells", "run", "s", "wall s", "ms a write", "of the processor", "missing s", "read s", "the rest s", "open s", "MiB",
        "of scores",
    ),
    "driver": ("cells", "s", "ms a cell to rank", "MiB", "of scores"),
    "full": ("cells", "open s", "open MiB", "asked", "ms missing", "ms read", "ms a write", "of the processor"),
}  # fmt: skip
TITLES = {
    "whole": "A job through everything, the first time and again",
    "driver": "Without a store: pool, tasks, executor, scores together",
    "full": "A folder that has the cells already",
}


def rows_of(part: str, found: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """The rows of a size in the table of a part."""
    if part == "whole":
        return [_row_of(name, found[name]) for name in ("first", "second")]
    if part == "driver":
        ranking = f"{1e3 * found['ranking']:.2f}"
        return [(f"{found['cells']:,}", f"{found['whole']:.1f}", ranking, *(f"{found[what]:.0f}" for what in SIZES))]
    opened = f"{found['open']:.2f}", f"{found['open MiB']:.0f}"
    milliseconds = (f"{1e3 * found[what]:.2f}" for what in ("missing", "read", "a write", "of a write"))
    return [(f"{found['cells']:,}", *opened, f"{found['asked']:,}", *milliseconds)]


def _row_of(name: str, run: Mapping[str, float]) -> tuple[object, ...]:
    writes = (f"{1e3 * run[what]:.2f}" if what in run else "" for what in ("a write", "of a write"))
    seconds = (f"{run[what]:.1f}" for what in ("missing", "read", "driver"))
    sizes = (f"{run[what]:.0f}" for what in SIZES)
    return (
        f"{run['cells']:,}", name, f"{run['whole']:.1f}", f"{run['wall']:.1f}", *writes, *seconds, f"{run['open']:.3f}", *sizes
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, pairs=0)
    options.add_argument("--cells", nargs="+", type=float, default=[1e3, 1e4, 1e5], help="sizes (default: 1e3 1e4 1e5)")
    options.add_argument("--part", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="what is measured")
    options.add_argument("--folder", help="where the temporary folders are made (default: the system's place)")
    options.add_argument("--point", action="store_true", help=argparse.SUPPRESS)
    given = parse(options, argv)
    if given.point:
        print(json.dumps(PARTS[given.part[0]](int(given.cells[0]), given.folder)))
        return
    print_machine()
    for part in given.part:
        rows, on_disk = [], []
        for cells in map(int, [222] if given.smoke else given.cells):
            found = PARTS[part](cells, given.folder) if given.smoke else _in_a_process(part, cells, given.folder)
            rows += rows_of(part, found)
            if "files" in found:
                on_disk.append((f"{cells:,}", *(f"{found[what]:,}" for what in ON_DISK)))
        print_table(TITLES[part], HEADERS[part], rows)
        if on_disk:
            print_table("On the disk", ("cells", *ON_DISK), on_disk)


def _in_a_process(part: str, cells: int, folder: str | None) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, "--point", "--part", part, "--cells", str(cells)]
    command += ["--folder", folder] if folder else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
