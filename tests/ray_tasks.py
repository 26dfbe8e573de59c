"""Tasks for tests of executors: squares of whole numbers, slowly, with a fault where one is asked for. Any process can import them.

Every cell that is begun is a line in a log: number, process, and whether the store had it by then.
"""

import errno
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from tl_crossenc.executors.task import Cell, Task
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey


@dataclass(frozen=True)
class Squares(Task):
    """The cells of some numbers.

    Attributes:
        numbers: a cell each.
        folder: of the log, and of the marks of faults.
        store: looked at alone, to see what is there when a cell is begun.
        seconds: that a cell takes.
        fault: a number -> what happens there: the name of a method.
    """

    numbers: tuple[int, ...]
    folder: str
    store: str
    seconds: float = 0.0
    fault: tuple[tuple[int, str], ...] = ()

    @property
    def keys(self):
        return tuple(key_of(number) for number in self.numbers)

    @property
    def cost(self):
        return len(self.numbers)

    def only(self, keys):
        kept = tuple(number for number in self.numbers if key_of(number) in keys)
        return replace(self, numbers=kept) if kept else None

    def split(self, parts):
        size = -(-len(self.numbers) // min(parts, len(self.numbers)))
        return [
            replace(self, numbers=self.numbers[start : start + size]) for start in range(0, len(self.numbers), size)
        ]

    def cells(self, model, advance):
        stored = Store(self.store, read_only=True)
        for number in self.numbers:
            state = (
                "stored" if (stored.root / "cells" / "squares" / f"{key_of(number).digest}.json").exists() else "new"
            )
            self.log(f"{number} {os.getpid()} {state}")
            time.sleep(self.seconds)
            for at, fault in self.fault:
                if at == number:
                    getattr(self, fault)()
            advance(1)
            yield Cell(key_of(number), pa.table({"square": [number * number], "by": [model.cfg.n_layers]}), {})

    def log(self, line):
        handle = os.open(Path(self.folder, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{line}\n".encode())
        os.close(handle)

    def error(self):
        raise ValueError("no square to be had")

    def bug(self):
        raise KeyError("a mistake")

    def death(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self):
        time.sleep(3600)

    def hold(self):
        """Until there is a file `go`."""
        deadline = time.monotonic() + 100
        while not Path(self.folder, "go").exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def full_disk(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_disk_of_the_first(self):
        """In the process that comes here first, whenever it comes; in no other."""
        with open(Path(self.folder, "first"), "a+") as first:
            first.seek(0)
            owner = first.read()
            if not owner:
                first.write(str(os.getpid()))
            elif owner != str(os.getpid()):
                return
        self.full_disk()


def key_of(number):
    return CellKey.of("squares", number=number)


def begun(folder):
    """[(number, process, what the store had)] in the order of the log."""
    path = Path(folder, "log")
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(number), int(process), state) for number, process, state in map(str.split, lines)]
