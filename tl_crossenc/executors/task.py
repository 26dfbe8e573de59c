"""A task: cells that are computed together, wherever that is, and what it says when they cannot be.

A task has all that it needs but for the model (texts, conditions, means found before), so that it can be sent to a process that has
no file of ours. What it computes depends on that alone: neither on the other tasks nor on which of its cells are asked for, so that
any process may compute any part of the work in any order, and the cells have the same bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple, TypeVar

import pyarrow as pa

from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.keys import CellKey

Advance = Callable[[int], object]
"""Called with the layer runs done since it was last called, a layer of one pair counting 1."""
OwnTask = TypeVar("OwnTask", bound="Task")
"""A task's own class; `Self`, which checks at run time refuse outside of a checked class."""


class Cell(NamedTuple):
    """What is stored: `Store.write`'s arguments."""

    key: CellKey
    table: pa.Table
    meta: Mapping[str, object]


class Task(ABC):
    """Cells that are computed together. Subclasses are frozen dataclasses that pickle.

    Attributes:
        keys: of the cells that `cells` gives.
    """

    keys: tuple[CellKey, ...]

    @property
    @abstractmethod
    def cost(self) -> int:
        """Layer runs that `cells` tells of, a layer of one pair counting 1."""

    @abstractmethod
    def only(self: OwnTask, keys: Set[CellKey]) -> OwnTask | None:
        """The task for those of its cells alone; None where it has none of them."""

    def split(self: OwnTask, parts: int) -> Sequence[OwnTask]:
        """At most so many tasks that have this one's cells between them, where more hands are free than there are tasks."""
        return [self]

    @abstractmethod
    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """Compute the cells, each handed over when it is done.

        Raises:
            ValueError: what is found is no number, or the model cannot do it.
        """


class Failure(NamedTuple):
    """A task that ended with an error."""

    task: Task
    cause: BaseException

    @property
    def reason(self) -> str:
        """The cause in words."""
        return str(self.cause) or type(self.cause).__name__


class CellsFailed(Unavailable):
    """Some cells could not be computed; all others of the run are stored.

    Attributes:
        failures: the tasks that failed, with their causes.
    """

    def __init__(self, failures: Sequence[Failure]) -> None:
        self.failures = tuple(failures)
        cells = Counter(key.kind for failure in failures for key in failure.task.keys)
        causes = list(dict.fromkeys(failure.reason for failure in failures))
        more = "" if len(causes) == 1 else f" (and {len(causes) - 1} other cause{'s' if len(causes) > 2 else ''})"
        many = ", ".join(f"{n:,} cell{'s' if n > 1 else ''} of {kind!r}" for kind, n in cells.items())
        super().__init__(f"{causes[0]}{more}; {many} could not be computed, what else was asked for is stored")

    @classmethod
    def of(cls, errors: Iterable[CellsFailed]) -> CellsFailed:
        """One error of several, each taken once."""
        failures = [failure for error in dict.fromkeys(errors) for failure in error.failures]
        joined = cls(failures)
        joined.__cause__ = failures[0].cause
        return joined


def failed_ones(results: Mapping[str, object]) -> dict[str, CellsFailed]:
    """Those of the results that cells could not be computed of."""
    return {key: result for key, result in results.items() if isinstance(result, CellsFailed)}


class Waiting(Unavailable):
    """Cells that other processes compute are not here yet.

    Attributes:
        cells: how many.
    """

    def __init__(self, cells: int, kind: str) -> None:
        self.cells = cells
        super().__init__(f"{cells:,} cells of {kind!r} are other shards' and not here yet")
