"""What a process that is at work in a folder of results says of itself there: what it plans, has done and in hand, and what failed.

    .status-<host>-<process>-<random>.json

The file is of its process alone, written by a thread of its own every few seconds where something changed, and as a sign of life
else. It is gone when all of the work ended well, with those that dead processes left; what failed, was stopped or leaves work to
others stays, until a later process with the same executor begins or one ends well. Nothing is computed from it, and that it
cannot be written fails no run. `results.status` reads it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, RLock, Thread
from typing import Any

from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.results.watch import Watch
from tl_crossenc.store.files import is_gone, regular, rename, staged
from tl_crossenc.store.keys import CellKey

FORMAT = 1
EVERY, BEAT, SILENT = 2.0, 15.0, 180.0
"""Seconds between two looks at whether something changed, between two signs of life at most, and without one until a process counts
as dead on whatever machine."""
RUNNING, ENDED, FAILED, STOPPED = "running", "ended", "failed", "stopped"
_NAME = re.compile(r"\.status-.+-[0-9]+-[0-9a-f]{8}\.json")
MOST_CAUSES = 20
"""Of failures that are told of one experiment."""


@dataclass
class Experiment:
    """How far one experiment is in one process.

    Attributes:
        cells: this process's share of them.
        done: of those, stored.
        running: being computed.
        failed: could not be computed.
        cost: layer runs of what was missing, `ran` of them done, in `seconds`; `left` of what is still worked on.
        causes: (cells, why) of failures.
    """

    cells: int = 0
    done: int = 0
    running: int = 0
    failed: int = 0
    cost: int = 0
    ran: int = 0
    left: int = 0
    seconds: float = 0.0
    causes: list[tuple[int, str]] = field(default_factory=list)


class ProcessRecord(Watch):
    """A process's own file in a folder of results, kept up to date from a thread while it works there.

    Args:
        folder: of the results, which exists.
        how: what computes, where it is known; see `plans`.
    """

    def __init__(self, folder: Path, how: str = "") -> None:
        if how:
            remove_dead(folder, how)
        host = re.sub(r"[^\w.]+", "-", platform.node())[:60] or "host"
        self.path = folder / f".status-{host}-{os.getpid()}-{secrets.token_hex(4)}.json"
        self.state, self.cause = RUNNING, ""
        self.how, self.now, self.left = how, "", ""
        self.experiments: dict[str, Experiment] = {}
        self._started = time.time()
        self._missing: set[CellKey] = set()
        self._running: set[CellKey] = set()
        self._since: float | None = None
        self._lock, self._changed, self._over = RLock(), True, Event()
        self._thread = Thread(target=self._keep, name="status", daemon=True)
        self._thread.start()

    def begins(self, experiment: str) -> None:
        """See `Watch`."""
        with self._lock:
            self.now, self._changed = experiment, True

    def plans(self, how: str, cells: int, missing: Collection[CellKey], cost: int) -> None:
        """See `Watch`. What a dead process with the same executor left is out of date then."""
        if how != self.how:
            remove_dead(self.path.parent, how)
        with self._lock:
            self.how, self._missing, self._since, self._changed = how, set(missing), time.monotonic(), True
            own = self._own
            own.cells += cells
            own.done += cells - len(self._missing)
            own.cost += cost
            own.left = cost

    def starts(self, keys: Iterable[CellKey]) -> None:
        """See `Watch`."""
        with self._lock:
            self._running |= self._missing.intersection(keys)
            self._own.running, self._changed = len(self._running), True

    def wrote(self, key: CellKey) -> None:
        """See `Watch`."""
        with self._lock:
            if key in self._missing:
                self._missing.discard(key)
                self._running.discard(key)
                self._own.done += 1
                self._own.running, self._changed = len(self._running), True

    def advances(self, count: int) -> None:
        """See `Watch`."""
        with self._lock:
            own = self._own
            own.ran += count
            own.left, self._changed = max(own.left - count, 0), True

    def closes(self, failures: Iterable[tuple[Collection[CellKey], str]] = ()) -> None:
        """See `Watch`."""
        with self._lock:
            if self._since is None:
                return
            own = self._own
            for keys, cause in failures:
                lost = len(self._missing.intersection(keys))
                own.failed += lost
                own.causes = [*own.causes, (lost, cause[:300])][:MOST_CAUSES]
            self._clock()
            self._running, self._missing, self._since = set(), set(), None
            own.running, own.left, self._changed = 0, 0, True

    def leaves(self, what: str) -> None:
        """See `Watch`."""
        with self._lock:
            self.left, self._changed = what, True

    def end(self, error: BaseException | None = None) -> None:
        """The work is over: the file goes where all went well, with those of the dead; else it says what is left."""
        self._over.set()
        self._thread.join()
        with self._lock:
            failed = any(own.failed for own in self.experiments.values())
            if isinstance(error, Exception) and not isinstance(error, Unavailable):
                self.state, self.cause = FAILED, str(error)[:500] or type(error).__name__
            elif error is not None and not isinstance(error, Unavailable):
                self.state, self.cause = STOPPED, "interrupted"
            else:
                self.state, self.cause = FAILED if failed else ENDED, str(error or "")[:500]
            self.closes()
        well = self.state == ENDED and error is None and not self.left
        if well or not self._write():  # the disk is full: no word is better than that it still runs
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        if well:
            remove_dead(self.path.parent)

    def content(self) -> dict[str, Any]:
        """What the file says."""
        with self._lock:
            self._clock()
            return {
                "format": FORMAT,
                "host": platform.node(),
                "process": os.getpid(),
                "how": self.how,
                "state": self.state,
                "cause": self.cause,
                "now": self.now,
                "left": self.left,
                "started": self._started,
                "beat": time.time(),
                "experiments": {name: asdict(own) for name, own in self.experiments.items()},
            }

    @property
    def _own(self) -> Experiment:
        return self.experiments.setdefault(self.now, Experiment())

    def _clock(self) -> None:
        """Add the time since the last look to what is worked on."""
        if self._since is not None:
            now = time.monotonic()
            self._own.seconds += now - self._since
            self._since = now

    def _keep(self) -> None:
        written = -BEAT
        while True:
            now = time.monotonic()
            if self._changed or now - written >= BEAT:
                self._write()
                written = now
            if self._over.wait(EVERY):
                return

    def _write(self) -> bool:
        """Whole or not at all, and which; a folder that was moved away is not made anew, and a full disk fails nobody."""
        self._changed = False
        data = json.dumps(self.content(), indent=1).encode()
        with suppress(OSError), staged(self.path, data) as temporary:
            rename(temporary, self.path)
            return True
        return False


@contextmanager
def recorded(folder: Path, how: str = "") -> Iterator[ProcessRecord]:
    """A record of this process in a folder for the time of the block, ended as the block ends."""
    record = ProcessRecord(folder, how)
    try:
        yield record
    except BaseException as error:
        record.end(error)
        raise
    record.end()


def read_records(folder: Path) -> list[dict[str, Any]]:
    """What the processes in a folder say or said, by their names; `RUNNING` of one that is dead is `STOPPED`. No lock, no write."""
    found = []
    with suppress(OSError):
        for name in sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name)):
            with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # going at this moment, or damaged
                record = json.loads(regular(folder / name).read_bytes())
                experiments = {
                    str(name): Experiment(**{**own, "causes": [(int(cells), str(why)) for cells, why in own["causes"]]})
                    for name, own in record["experiments"].items()
                }
                if record["format"] == FORMAT:
                    state = STOPPED if record["state"] == RUNNING and _is_dead(record) else record["state"]
                    found.append({**record, "state": state, "experiments": experiments, "file": name})
    return found


def remove_dead(folder: Path, how: str | None = None) -> None:
    """Remove what processes left that are no longer at work, all or those of one executor."""
    for record in read_records(folder):
        if record["state"] != RUNNING and how in (None, record["how"]):
            with suppress(OSError):
                (folder / record["file"]).unlink()


def _is_dead(record: Mapping[str, Any]) -> bool:
    silent = time.time() - float(record["beat"]) > SILENT
    return silent or (record["host"] == platform.node() and is_gone(int(record["process"])))
