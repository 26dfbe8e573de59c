"""What every executor does: see what is missing, have it computed, keep what comes, say what failed; and the plainest one."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from traceback import clear_frames
from types import TracebackType
from typing import TypeVar

from tl_crossenc.executors.task import Advance, CellsFailed, Failure, Task, Waiting
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.freed import give_back_now_and_then
from tl_crossenc.model.identity import model_identity
from tl_crossenc.results.watch import record_of
from tl_crossenc.store.cells import Store
from tl_crossenc.store.files import StoreError
from tl_crossenc.store.keys import CellKey

TOLD = frozenset({"torch", "tokenizers", "dtype", "device", "method"})
IDENTITY = TOLD | {"weights", "arithmetic", "tokenizer", "shard_size", "revision"}
"""Fields of a key that say of what model and by what versions (the last was one once); those of `TOLD` are told by their values."""

LOOKED_AT = 5000
"""Stored cells of a kind whose keys are read for a message: of a million it would take minutes, at every experiment."""

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], object]
"""Called with (layer runs done, layer runs in all), a layer of one pair counting 1."""
OneTask = TypeVar("OneTask", bound=Task)


class Executor(AbstractContextManager["Executor"]):
    """Computes the cells of tasks that a store lacks. As a context it ends, on leaving, what it started to do so."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what was started to compute; nothing, for one that starts nothing."""
        return None

    def identity(self, model: HookedCrossEncoder) -> dict[str, str]:
        """`model_identity` of the model where it will run.

        Raises:
            ValueError: see `model_identity`.
        """
        return model_identity(model)

    def token_budget(self, model: HookedCrossEncoder, asked: int | None = None) -> int:
        """Padded tokens a batch, where the model will run."""
        return model.token_budget(asked)

    def device_of(self, model: HookedCrossEncoder) -> str:
        """Where the model will run, as torch names it."""
        return str(model.device)

    def run(
        self,
        model: HookedCrossEncoder,
        tasks: Sequence[OneTask],
        store: Store,
        progress: Progress | None = None,
        *,
        tell: bool = True,
    ) -> list[OneTask]:
        """Compute and store the cells that are missing.

        Args:
            model: the model.
            tasks: everything that is wanted, stored or not, always in the same order.
            store: of the cells.
            progress: of the layer runs of what is missing.
            tell: log where nothing is found and what is stored is of another model or version.

        Returns:
            The tasks that were run, each for its missing cells alone.

        Raises:
            CellsFailed: some tasks failed; the others' cells are stored.
            Waiting: cells that are left to other processes are not there yet; ours are stored.
            StoreError: the store cannot be written.
        """
        absent = missing_cells(store, (key for task in tasks for key in task.keys), tell=tell)
        own = self._own(once(tasks))
        todo = [left for task in own if (left := task.only(absent)) is not None]
        todo = self._shares(model, todo) if todo else []
        done, total, record = 0, sum(task.cost for task in todo), record_of(store)
        record.plans(
            repr(self), sum(len(task.keys) for task in own), [key for task in todo for key in task.keys], total
        )

        def advance(count: int) -> None:
            nonlocal done
            done = min(done + count, total)  # what was lost with a process is run again
            record.advances(count)
            if progress is not None:
                progress(done, total)

        failures = self._compute(model, todo, store, advance) if todo else []
        record.closes((failure.task.keys, failure.reason) for failure in failures)
        if failures:
            raise CellsFailed(failures) from failures[0].cause
        others = store.missing(absent - {key for task in own for key in task.keys})
        if others:
            waiting = Waiting(len(others), others[0].kind)
            record.leaves(str(waiting))
            raise waiting
        return todo

    def _own(self, tasks: Sequence[OneTask]) -> Sequence[OneTask]:
        """The tasks that are this executor's to compute."""
        return tasks

    def _shares(self, model: HookedCrossEncoder, todo: list[OneTask]) -> list[OneTask]:
        """The tasks, as many as there are hands for."""
        return todo

    @abstractmethod
    def _compute(
        self, model: HookedCrossEncoder, todo: Sequence[Task], store: Store, advance: Advance
    ) -> list[Failure]:
        """Compute the tasks and store their cells; those that failed. A store that fails ends it with StoreError."""


class InProcess(Executor):
    """Computes in this process, one task after another."""

    def __repr__(self) -> str:
        return "InProcess()"

    def _compute(
        self, model: HookedCrossEncoder, todo: Sequence[Task], store: Store, advance: Advance
    ) -> list[Failure]:
        failures = []
        for task in todo:
            give_back_now_and_then()
            record_of(store).starts(task.keys)
            try:
                for cell in task.cells(model, advance):
                    store.write(*cell)
            except StoreError:
                raise
            except (ValueError, RuntimeError, MemoryError) as cause:
                clear_frames(cause.__traceback__)  # which hold the task's tensors
                failures.append(Failure(task, cause))
        return failures


IN_PROCESS = InProcess()


def once(tasks: Sequence[OneTask]) -> list[OneTask]:
    """The tasks, each for those of its cells that no task before it has: where two ask for one cell, it is the first one's."""
    seen: set[CellKey] = set()
    kept = []
    for task in tasks:
        new = set(task.keys) - seen
        left = task if len(new) == len(task.keys) else task.only(new)
        seen |= new
        kept += [left] if left is not None else []
    return kept


def missing_cells(store: Store, keys: Iterable[CellKey], *, tell: bool = True) -> set[CellKey]:
    """The keys whose cells are to be computed.

    Where all are, and those stored are of another model or version, this is logged, but for `tell=False`; in a folder with many
    cells of a kind, where some of them say so.
    """
    wanted = list(keys)
    absent = store.missing(wanted)
    if tell and wanted and len(absent) == len(set(wanted)):
        stored = [(key.fields, other.fields) for key in absent[:1] for other in store.keys(key.kind, LOOKED_AT)]
        changes = [[name for name in {**new, **old} if new.get(name) != old.get(name)] for new, old in stored]
        nearest = min(zip(changes, stored, strict=True), key=lambda found: len(found[0]), default=None)
        if nearest is not None and set(nearest[0]) <= IDENTITY:
            new, old = nearest[1]
            told = [
                f"{name} {old.get(name)}, now {new.get(name)}" if name in TOLD else f"other {name}"
                for name in (nearest[0] if "method" in old else ())
            ]
            _log.info(
                "%s: computing anew; what is stored is of %s", absent[0].kind, "; ".join(told) or "an earlier version"
            )
    return set(absent)
