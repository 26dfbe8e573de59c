"""How far the jobs of a folder of results are: what is done, running, failed and left, and in what time; read, and nothing changed.

What is planned and running the processes say themselves (`process_record`); that all is done the files of the last run, which it
lists in its `run.json`. Neither a lock is taken nor a file written, so that a job is never in the way of who looks at it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tl_crossenc.results.job import SHOWN, job_record
from tl_crossenc.results.layout import CELLS, RUN, TABLES, located
from tl_crossenc.results.outputs import read_json
from tl_crossenc.results.process_record import ENDED, FAILED, RUNNING, STOPPED, Experiment, read_records
from tl_crossenc.store.cells import Store
from tl_crossenc.store.files import explained

DONE, LEFT = "done", "left"


@dataclass(frozen=True)
class Row:
    """An experiment's cells, of all processes together: those planned, and what became of them.

    Attributes:
        experiment: as the progress bar calls it.
        cells: planned; one that two experiments use is counted in both.
        done, running, failed, left: which they add up to.
    """

    experiment: str
    cells: int
    done: int
    running: int
    failed: int
    left: int


@dataclass(frozen=True)
class Process:
    """A process that is at work in the folder, or ended with something left.

    Attributes:
        host, process: where, and its number there.
        executor: which one computes.
        state: running, ended (its share is done, others' is left), failed or stopped.
        now: the experiment that it is, or was, at.
        share: of the layer runs that it lacked when they were planned, done; None where it lacked none.
        seconds_left: for what it has planned, at the pace measured; None where it is not running or nothing was measured.
        why: what failed, or is left to others.
    """

    host: str
    process: int
    executor: str
    state: str
    now: str
    share: float | None
    seconds_left: float | None
    why: str


@dataclass(frozen=True)
class Failed:
    """Cells of an experiment that could not be computed, and why."""

    experiment: str
    cells: int
    why: str


@dataclass(frozen=True)
class Status:
    """How far a folder is.

    Attributes:
        folder: the folder.
        command, model: of its job; empty where it is nobody's yet.
        state: done, running, failed, stopped, or left, where cells are there and nobody draws them.
        why: in words.
        cells: stored ones by kind.
        experiments: of the processes.
        failures: likewise.
        processes: by host and number.
        seconds_left: until the last of the running processes has done what it has planned; None where one does not know.
    """

    folder: str
    command: str
    model: str
    state: str
    why: str
    cells: dict[str, int]
    experiments: tuple[Row, ...]
    failures: tuple[Failed, ...]
    processes: tuple[Process, ...]
    seconds_left: float | None

    @property
    def all_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.state == DONE

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"format": 1, "all_done": self.all_done}


def read_status(folder: Path) -> Status:
    """The status of a folder of results, at work or not.

    Raises:
        ValueError: it is no folder of results, or its description cannot be read.
        StoreError: it may not be read.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "not there"
        raise ValueError(f"expected a folder of results, {folder} is {what}: name a job's --out")
    Store(folder, read_only=True)
    job, records = job_record(folder) or {}, read_records(folder)
    processes = tuple(sorted(map(_process, records), key=lambda one: (one.host, one.process)))
    state, why = _state(folder, str(job.get("command", "")), processes)
    running = [one.seconds_left for one in processes if one.state == RUNNING]
    known = [seconds for seconds in running if seconds is not None]
    experiments = [each for record in records for each in record["experiments"].items()]
    return Status(
        str(folder),
        str(job.get("command", "")),
        str(job.get("model", "")),
        state,
        why,
        stored_cells(folder),
        tuple(_rows(experiments)),
        tuple(Failed(name, count, why) for name, own in experiments for count, why in own.causes),
        processes,
        max(known) if known and len(known) == len(running) else None,
    )


def stored_cells(folder: Path) -> dict[str, int]:
    """How many cells of each kind a folder has, by their manifests' names."""
    place = located(folder, CELLS)
    with explained(place, doing="read"):
        kinds = sorted(entry.name for entry in os.scandir(place) if entry.is_dir()) if place.is_dir() else []
        counts = {kind: sum(name.endswith(".json") for name in os.listdir(place / kind)) for kind in kinds}
    return {kind: count for kind, count in counts.items() if count}


def _state(folder: Path, command: str, processes: Sequence[Process]) -> tuple[str, str]:
    for state in (RUNNING, FAILED, STOPPED, ENDED):
        own = [one for one in processes if one.state == state]
        if own:
            why = next((one.why for one in own if one.why), "")
            return (LEFT if state == ENDED else state), why
    if command == "reproduce":
        if not located(folder, RUN).is_file():
            return LEFT, "nothing is drawn yet"
        listed = read_json(located(folder, RUN)).get("files", [])
        gone = [name for name in listed if not located(folder, str(name)).is_file()]
        if gone:
            return LEFT, f"{len(gone)} of the {len(listed)} files of {RUN} are gone, such as {gone[0]}"
        return DONE, f"all {len(listed)} files of {RUN} are there"
    tables = any(located(folder, TABLES).glob("*")) or any(located(folder, name).is_file() for name in SHOWN)
    return (DONE, "its tables are there") if tables else (LEFT, "there are no tables yet")


def _rows(experiments: Sequence[tuple[str, Experiment]]) -> list[Row]:
    totals: dict[str, list[int]] = {}
    for name, own in experiments:
        left = own.cells - own.done - own.running - own.failed
        counts = [own.cells, own.done, own.running, own.failed, left]
        totals[name] = [a + b for a, b in zip(totals.get(name, [0] * 5), counts, strict=True)]
    return [Row(name, *counts) for name, counts in totals.items()]


def _process(record: dict[str, Any]) -> Process:
    experiments: list[Experiment] = list(record["experiments"].values())
    cost, ran = (sum(getattr(own, name) for own in experiments) for name in ("cost", "ran"))
    return Process(
        str(record["host"]),
        int(record["process"]),
        str(record["how"]),
        record["state"],
        str(record["now"]),
        min(ran / cost, 1.0) if cost else None,
        _seconds_left(experiments) if record["state"] == RUNNING else None,
        str(record["cause"] or record["left"]),
    )


def _seconds_left(experiments: Sequence[Experiment]) -> float | None:
    """What is planned and not done, each experiment at its own pace or, before it has one, at that of all; None without any."""
    ran, seconds = (sum(getattr(own, name) for own in experiments) for name in ("ran", "seconds"))
    left = 0.0
    for own in experiments:
        done, took = (own.ran, own.seconds) if own.ran else (ran, seconds)
        if own.left and not done:
            return None
        left += own.left * took / done if own.left else 0.0
    return left if any(own.cells for own in experiments) else None
