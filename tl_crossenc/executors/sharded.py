"""One process of several that do a job between them, each told which part is its own: for Slurm arrays and the like.

The parts are made of all tasks that are wanted, whatever is stored, so that every process makes the same ones without knowing of
the others: the longest task goes to the part with the least to do. Where that leaves a part much longer than the others, as when
tasks are fewer than parts, tasks are split. Which part the longest one goes to depends on what it is, so that small runs, of one
task each, do not all go to the first part.

A cell that two experiments ask for is whose it was in the first of them.

What needs other parts' cells is not computed: it is `Waiting`, and a second round, with all cells at hand, computes it.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tl_crossenc.executors.executor import InProcess, OneTask
from tl_crossenc.executors.share import check_share, parse_share
from tl_crossenc.executors.task import Advance, CellsFailed, Failure, Task, Waiting, failed_ones
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

UNEVEN = 1.1
"""How much longer than an even part the longest may be without tasks being split."""


@dataclass(frozen=True)
class ShardRun:
    """What a shard did.

    Attributes:
        computed: cells, now.
        others: cells of other shards that are not in this folder.
        waiting: experiments that wait for those: of some it is not known yet which cells they need.
        failed: experiment -> what of its cells could not be computed.
    """

    computed: int
    others: int
    waiting: tuple[str, ...]
    failed: dict[str, CellsFailed]


class Shard(InProcess):
    """Computes one part of what is missing, in this process.

    Args:
        number: of the part, from 1.
        of: how many parts there are.

    Attributes:
        computed: cells computed so far, over all runs.

    Raises:
        ValueError: there is no such part.
    """

    def __init__(self, number: int, of: int) -> None:
        check_share(number, of)
        self.number, self.of = number, of
        self.computed = 0
        self._others: dict[CellKey, None] = {}

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard of a text such as `2/3`.

        Raises:
            ValueError: see `parse_share`.
        """
        return cls(*parse_share(text))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def __repr__(self) -> str:
        return f"Shard({self.number}, {self.of})"

    def done(self, store: Store, results: Mapping[str, object]) -> ShardRun:
        """What was done in all runs so far, `results` being what came of them by experiment."""
        return ShardRun(
            computed=self.computed,
            others=len(store.missing(self._others, verify=False)),
            waiting=tuple(key for key, result in results.items() if isinstance(result, Waiting)),
            failed=failed_ones(results),
        )

    def _own(self, tasks: Sequence[OneTask]) -> list[OneTask]:
        parts = parts_of(tasks, self.of)
        own = parts.pop(self.number - 1)
        mine = {key for task in own for key in task.keys} - self._others.keys()
        self._others |= dict.fromkeys(key for part in parts for task in part for key in task.keys)
        return [left for task in own if (left := task.only(mine)) is not None]

    def _compute(
        self, model: HookedCrossEncoder, todo: Sequence[Task], store: Store, advance: Advance
    ) -> list[Failure]:
        failures = super()._compute(model, todo, store, advance)
        failed = sum(len(failure.task.keys) for failure in failures)
        self.computed += sum(len(task.keys) for task in todo) - failed
        return failures


def parts_of(tasks: Sequence[OneTask], count: int) -> list[list[OneTask]]:
    """The tasks, or what they are split into, in `count` parts of about one cost; the same for the same tasks.

    Args:
        tasks: no two of which have a cell in common.
        count: of parts, at least 1.
    """
    total = sum(task.cost for task in tasks)
    pieces, split = list(tasks), 1
    best, longest = _dealt(pieces, count)
    while longest * count > UNEVEN * total and split < count:
        split *= 2
        smaller = [piece for task in tasks for piece in task.split(split)]
        if len(smaller) == len(pieces):
            break
        pieces = smaller
        dealt, length = _dealt(pieces, count)
        if length < longest:
            best, longest = dealt, length
    return best


def _dealt(tasks: Sequence[OneTask], count: int) -> tuple[list[list[OneTask]], int]:
    """`count` parts, each with its tasks in the order given, and the cost of the longest."""
    costs = [task.cost for task in tasks]
    first = int(tasks[0].keys[0].digest, 16) % count if tasks else 0
    loads = [(0, turn, (first + turn) % count) for turn in range(count)]
    chosen: list[list[int]] = [[] for _ in range(count)]
    for i in sorted(range(len(tasks)), key=lambda i: -costs[i]):
        load, turn, part = loads[0]
        chosen[part].append(i)
        heapq.heapreplace(loads, (load + costs[i], turn, part))
    return [[tasks[i] for i in sorted(part)] for part in chosen], max(load for load, _, _ in loads)
