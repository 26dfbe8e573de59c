"""A job at work in a folder of results: the folder is taken, locked and in the present layout, its pools are drawn."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tl_crossenc.pools.pool import Pool
from tl_crossenc.pools.spec import Draw, RunSpec, specs_of
from tl_crossenc.results.former import adopt
from tl_crossenc.results.job import Job, claim, refuse_another, refuse_two_jobs
from tl_crossenc.results.kept_pools import frozen_pools, keep_pool, pool_title, run_of, run_of_pool
from tl_crossenc.results.layout import CELLS, FOLDERS, POOLS, former_name, is_former, located
from tl_crossenc.results.outputs import versions
from tl_crossenc.results.process_record import ProcessRecord, recorded
from tl_crossenc.results.watch import RecordedStore
from tl_crossenc.store.cells import Store
from tl_crossenc.store.files import explained, irregular, is_temporary, sweep
from tl_crossenc.store.locks import WAIT, LockedFolder, locked
from tl_crossenc.store.places import MACHINERY, MARKER


class Work(NamedTuple):
    """What a job has in hand: the folder, which is locked where it is not shared; the pools, one a collection; the store."""

    folder: LockedFolder
    pools: tuple[Pool, ...]
    store: Store


def prepare(folder: Path) -> None:
    """Take a folder for results that is empty or not there; one that has results, of either layout, is left as it is.

    Raises:
        ValueError: the folder is a file or holds something else, a file is where one of its folders should be, it was written by a
            newer version, or both layouts are there with different jobs.
        StoreError: the folder may not be written.
    """
    former = is_former(folder)
    with explained(folder):
        if not former and folder.is_dir():
            others = [name for name in os.listdir(folder) if name != MACHINERY and not is_temporary(name)]
            if (
                others and not (folder / MACHINERY / MARKER).exists()
            ):  # asked last: another process may be making it ours
                raise ValueError(f"{folder} holds files that are not ours: choose another --out or an empty folder")
        for name in (*FOLDERS, *(map(former_name, (CELLS, POOLS)) if former else ())):
            path = folder / name
            if os.path.exists(path) and not path.is_dir():
                what = irregular(path) or "a file"
                raise ValueError(f"expected a folder at {path}, got {what}: move it away, or choose another --out")
    open_store(folder)
    with explained(folder):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    sweep(folder)
    refuse_two_jobs(folder)


def drawn(job: Job, pools: Sequence[Pool]) -> Job:
    """The job with its pools, and their runs where they are of runs."""
    runs = {pool.collection: run for pool in pools if (run := run_of_pool(pool)) is not None}
    return replace(job, pools=tuple((pool.collection, pool.ranked.digest) for pool in pools), runs=runs)


def open_store(folder: Path, record: ProcessRecord | None = None) -> Store:
    """The store of a folder of results, whose writes are told where there is a record; where cells of the former layout lie,
    until they are moved.

    Raises:
        ValueError, StoreError: see `Store`.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected a folder for the results, {folder} is a file: choose another --out")
    root, own = folder if is_former(folder) else folder / MACHINERY, {"torch": versions()["torch"]}
    return Store(root, versions=own) if record is None else RecordedStore(root, record, versions=own)


@contextmanager
def at_work(
    folder: Path,
    job: Job,
    collections: Sequence[str],
    draw: Draw,
    *,
    check: Callable[[tuple[Pool, ...]], object] = lambda pools: None,
    wait: int | float = WAIT,
    shared: bool = False,
) -> Iterator[Work]:
    """Hold a folder for a job inside of the block: locked, no other job's, with its pools drawn and kept.

    Args:
        folder: of the results; made where it is not there.
        job: without its pools.
        collections: to draw pools of, as a user names them.
        draw: how pools are drawn, or the run of each collection.
        check: called with the pools before the folder is changed; what it raises leaves the folder as it was.
        wait: seconds to wait for another process with the same job.
        shared: others may work in the folder at the same time, on the same job: it is locked until it is claimed, and in the
            block no more. Then only cells may be written.

    Raises:
        ValueError: the folder is another job's, or a collection or its kept pool cannot be used; nothing is changed then.
        StoreError: the file system refused, or another process is at work in the folder for longer than that.
    """
    prepare(folder)
    titles = [pool_title(name) for name in collections]
    asked = zip(titles, specs_of(collections, draw), strict=True)
    runs = {title: run_of(spec) for title, spec in asked if isinstance(spec, RunSpec)}
    named = replace(job, pools=tuple((title, "") for title in titles), runs=runs)
    with ExitStack() as stack:
        told = locked(folder, wait=wait, waiting=lambda: refuse_another(folder, named, at_once=True))
        held = stack.enter_context(told)
        refuse_another(folder, named if runs else job, shared=shared)  # before a collection is opened
        pools = frozen_pools(collections, draw, located(folder, POOLS))
        job = drawn(job, pools)
        refuse_another(folder, job, shared=shared)
        check(pools)
        adopt(folder)
        for name, pool in zip(collections, pools, strict=True):
            keep_pool(name, pool, folder / POOLS)
        with _in_hand(folder, job, stack, shared) as store:
            yield Work(held, pools, store)


@contextmanager
def with_store(
    folder: Path, job: Job, *, wait: int | float = WAIT, shared: bool = False
) -> Iterator[tuple[LockedFolder, Store]]:
    """As `at_work`, for a job that knows its pools and keeps none of them in the folder: (the folder, its store)."""
    prepare(folder)
    with ExitStack() as stack:
        told = locked(folder, wait=wait, waiting=lambda: refuse_another(folder, job, at_once=True))
        held = stack.enter_context(told)
        refuse_another(folder, job, shared=shared)
        adopt(folder)
        with _in_hand(folder, job, stack, shared) as store:
            yield held, store


@contextmanager
def _in_hand(folder: Path, job: Job, lock: ExitStack, shared: bool) -> Iterator[Store]:
    """The store of a locked folder that is claimed for the job; others may come in from here on where it is shared."""
    claim(folder, job, shared=shared)
    with recorded(folder) as record:
        store = open_store(folder, record)
        if shared:
            lock.close()
        yield store
