"""Folders of results that were computed apart, joined into one: their cells and pools, as one process would have written them.

What belongs together is of one job (`results.job`: model, mode, measure, rules of the pools; what is free may differ) and of one
version: the keys of the cells say with which torch, tokenizers, device, arithmetic and method they were computed. A folder may hold
cells of several versions, as after an update; there has to be one that all of them have. Nothing that a source holds is changed.

The pools and the job come first, a cell's manifest after its table: a merge that was cut short goes on when it is run again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tl_crossenc.pools.pool import Pool
from tl_crossenc.results.folder_cells import FolderCells, refuse_other_tables, refuse_other_versions
from tl_crossenc.results.job import Job, first_difference, job_record
from tl_crossenc.results.layout import CELLS, JOB, POOLS, is_former
from tl_crossenc.results.outputs import write_json
from tl_crossenc.results.process_record import RUNNING, read_records, recorded
from tl_crossenc.results.work import open_store, prepare
from tl_crossenc.store.cells import Store
from tl_crossenc.store.files import explained, make_folder, place_copy, sync_folder
from tl_crossenc.store.locks import WAIT, locked
from tl_crossenc.store.places import MACHINERY

_log = logging.getLogger(__name__)


@dataclass
class Joined:
    """What was joined from one folder, of one kind of cells.

    Attributes:
        cells: whole ones that it has.
        new: of those, taken; the others were there.
        damaged: left out.
    """

    cells: int = 0
    new: int = 0
    damaged: int = 0


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        command: of the job; "" where no source is of one.
        collections: of the pools, in the job's order.
        joined: (folder, kind) → counts, folders in the order given.
        pools: file names of the pools that were taken.
        notes: what differs between the folders and is no reason to refuse, a sentence each.
    """

    command: str
    collections: tuple[str, ...]
    joined: dict[tuple[Path, str], Joined]
    pools: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A folder, its job and what its cells are of."""

    folder: Path
    job: dict[str, Any]
    cells: FolderCells
    pools: dict[str, Pool] = field(default_factory=dict)


def merge(folders: Sequence[Path], out: Path, *, wait: int | float = WAIT) -> Merged:
    """Join the cells and pools of some folders of results into one, which may be one of them, or have results of the same job.

    Args:
        folders: at least one. One in which a process is at work gives what is there now.
        out: made where it is not there; locked meanwhile.
        wait: seconds to wait for another process that is at work in `out`.

    Raises:
        ValueError: a folder is none of results, or two do not belong together, the first difference being named, or have different
            cells of one key; nothing is written then.
        StoreError: the file system refused.
    """
    every = _distinct(folders)
    if not every:
        raise ValueError("expected at least one folder of results to merge, got none")
    sources = [_source(folder) for folder in every]
    _refuse_apart(_with_target(sources, out))
    prepare(out)
    with locked(out, wait=wait), recorded(out, "merge") as record:
        together = _with_target(sources, out)
        _refuse_apart(together)
        job, notes = _job_of_all(together)
        pools = _take_pools(together, out)
        if job_record(out) != job:
            write_json(out / JOB, job)
        joined = _take_cells([source for source in together if not _same(source.folder, out)], out)
        record.leaves("what was joined is not drawn yet")
        names = tuple(pool["collection"] for pool in job["pools"])
        return Merged(str(job["command"]), names, joined, tuple(pools), tuple(notes))


def _distinct(folders: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        if not any(_same(folder, other) for other in found):
            found.append(folder)
    return found


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and os.path.samefile(one, other)


def _source(folder: Path) -> _Source:
    if not folder.is_dir():
        what = "a file" if folder.exists() else "not there"
        raise ValueError(f"expected a folder of results to merge, {folder} is {what}: name a shard's --out")
    store = Store(folder, read_only=True)
    if is_former(folder) or store.root == folder:
        raise ValueError(
            f"expected a folder of results in this version's layout, {folder} is in an earlier one: run its job in it once more"
        )
    job = job_record(folder)
    if job is None:
        raise ValueError(
            f"expected {JOB} in {folder}, which says of which job its results are: run its job in it once more"
        )
    pools = {path.name: Pool.load(path) for path in sorted((folder / POOLS).glob("*.parquet"))}
    return _Source(folder, job, FolderCells.of(folder, store), pools)


def _with_target(sources: list[_Source], out: Path) -> list[_Source]:
    """The sources, and before them the target where it has results of its own."""
    if any(_same(source.folder, out) for source in sources) or not (is_former(out) or (out / MACHINERY).is_dir()):
        return sources
    if not is_former(out) and job_record(out) is None and not any((out / CELLS).glob("*/*.json")):
        return sources
    return [_source(out), *sources]


def _refuse_apart(sources: Sequence[_Source]) -> None:
    for i, here in enumerate(sources):
        for there in sources[:i]:
            difference = _job_difference(there, here) or _pool_difference(there, here)
            if difference:
                raise ValueError(
                    f"expected folders of one job, but {difference}: merge those alone that belong together"
                )
    cells = [source.cells for source in sources]
    models = [value for name, value in sources[0].job["fixed"].items() if name.endswith(".weights")]
    refuse_other_versions(cells, models)
    refuse_other_tables(cells)


def _job_difference(there: _Source, here: _Source) -> str | None:
    """The first fixed thing in which two jobs differ."""
    job = here.job
    alone = Job(job["command"], str(job.get("model")), job["fixed"], job["free"])
    return first_difference(there.job, alone, places=(f"in {there.folder}", f"in {here.folder}"))


def _pool_difference(there: _Source, here: _Source) -> str | None:
    digests = {pool["collection"]: pool["digest"] for pool in there.job["pools"]}
    runs = {pool["collection"]: pool.get("run") for pool in there.job["pools"]}
    for pool in here.job["pools"]:
        name, other = pool["collection"], digests.get(pool["collection"], pool["digest"])
        if runs.get(name, pool.get("run")) != pool.get("run"):
            ends = _run_text(runs[name]), _run_text(pool.get("run"))
            return f"the run of {name} in {there.folder} is {ends[0]}, in {here.folder} {ends[1]}"
        if other != pool["digest"]:
            return f"the pool of {name} in {there.folder} is {other[:12]}…, in {here.folder} {pool['digest'][:12]}…"
    for file, own in here.pools.items():
        if file in there.pools and there.pools[file].digest != own.digest:
            ends = there.pools[file].digest[:12], own.digest[:12]
            return f"the pool {file} in {there.folder} is {ends[0]}…, in {here.folder} {ends[1]}…"
    return None


def _run_text(run: Mapping[str, Any] | None) -> str:
    return "none" if run is None else f"{run['sha256'][:12]}…, depth {run['depth']}"


def _job_of_all(sources: Sequence[_Source]) -> tuple[dict[str, Any], list[str]]:
    """The first one's job with the collections of all; and what of it is free and differs."""
    first, notes = sources[0], []
    pools = {pool["collection"]: pool for source in reversed(sources) for pool in source.job["pools"]}
    names = dict.fromkeys(pool["collection"] for source in sources for pool in source.job["pools"])
    for name in dict.fromkeys(name for source in sources for name in source.job["free"]):
        values = {source.folder: source.job["free"].get(name) for source in sources}
        other = next((folder for folder, value in values.items() if value != values[first.folder]), None)
        if other is not None:
            ends = [json.dumps(values[folder], ensure_ascii=False) for folder in (first.folder, other)]
            kept = "a run finds the cells of its own alone" if name == "token_budget" else "the first is kept"
            notes.append(f"{name.replace('_', ' ')} in {first.folder} is {ends[0]}, in {other} {ends[1]}: {kept}")
    return {**first.job, "pools": [pools[name] for name in names]}, notes


def _take_pools(sources: Sequence[_Source], out: Path) -> list[str]:
    taken = []
    for source in sources:
        for name in source.pools:
            place = out / POOLS / name
            if not place.exists():
                with explained(place):
                    make_folder(place.parent)
                    place_copy(source.folder / POOLS / name, place)
                    sync_folder(place.parent)
                taken.append(name)
    return taken


def _take_cells(sources: Sequence[_Source], out: Path) -> dict[tuple[Path, str], Joined]:
    store, joined = open_store(out), {}
    for source in sources:
        if any(one["state"] == RUNNING for one in read_records(source.folder)):
            _log.warning("%s is being written: what is there now is taken; merge again when it is done", source.folder)
        for kind in source.cells.checksums:
            counts = joined[source.folder, kind] = Joined(damaged=source.cells.unreadable.get(kind, 0))
            for key in source.cells.keys(kind):
                taken = store.take(key, source.cells.store)
                counts.cells += taken is not None
                counts.new += taken is True
                counts.damaged += taken is None
            store.settle(kind)
    return joined
