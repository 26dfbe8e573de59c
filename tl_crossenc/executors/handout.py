"""Tasks given to actors as they come free, and what comes back: cells for the store, signs of work, errors, losses."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from tl_crossenc.executors.actor import About
from tl_crossenc.executors.crew import AHEAD, ClusterError, Crew, Given, Place, first_line
from tl_crossenc.executors.task import Advance, Cell, Failure, Task
from tl_crossenc.results.watch import UNWATCHED, record_of
from tl_crossenc.store.cells import Store

DEATHS = 4
"""Actors that may die of a task before it has failed."""
REFUSALS = 2
"""Places whose file system may refuse a task before it has failed."""


class Handout:
    """What a crew is given to do, and what it answers.

    Args:
        crew: whose actors have been told to hold the model.
        expected: `model_identity`, as the keys have it; None before anybody knows.
    """

    def __init__(self, crew: Crew, expected: dict[str, str] | None) -> None:
        import ray

        self._ray, self._crew, self._expected = ray, crew, expected
        self._turns = deque(crew.places)
        self._waiting: deque[Given] = deque()
        self._failures: list[Failure] = []
        self._record = UNWATCHED
        self._heard = time.monotonic()

    def about(self) -> About:
        """What the first actor that holds the model says of it.

        Raises:
            ClusterError, ValueError: see `run`.
        """
        while True:
            for place in self._turns:
                if place.about is not None:
                    return place.about
            self._hear()

    def run(self, tasks: Sequence[Task], store: Store, advance: Advance) -> list[Failure]:
        """Give tasks out and take in what comes until all is done.

        Args:
            tasks: what is to be computed.
            store: of the cells; this process alone writes it.
            advance: told of the layer runs done.

        Returns:
            The tasks that failed.

        Raises:
            ClusterError: nothing came for as long as the crew's patience lasts, or no actor is left.
            StoreError: a cell cannot be stored.
            ValueError: an actor would compute something else.
        """
        self._record = record_of(store)
        self._waiting.extend(Given(task, set(task.keys)) for task in tasks)
        while self._give() or any(place.work for place in self._turns):
            item = self._hear()
            if isinstance(item, Cell):
                store.write(*item)
            elif item is not None:
                advance(item)
        return self._failures

    def _hear(self) -> Cell | int | None:
        """Wait for the next thing from whoever; a cell or a number of layer runs, where it is one."""
        awaited = {found: place for place in self._turns if (found := self._next(place)) is not None}
        left = self._heard + self._crew.patience - time.monotonic()
        ready, _ = self._ray.wait(list(awaited), num_returns=1, timeout=max(0.0, left))
        if not ready:
            raise ClusterError(self._silence())
        self._heard, place = time.monotonic(), awaited[ready[0]]
        self._turns.remove(place)
        self._turns.append(place)  # the next that is looked at is another's
        try:
            return self._take(place, ready[0])
        except self._ray.exceptions.RayTaskError as error:
            self._failed(place, error)
        except self._ray.exceptions.RayError as error:
            self._lost(place, error)
        return None

    @staticmethod
    def _next(place: Place) -> Any:
        """What is to be heard of a place next; None where that is nothing."""
        if place.opening is not None:
            return place.opening
        return place.work[0].stream if place.work else None

    def _give(self) -> bool:
        """Give tasks to whoever has few; whether any is still without a place."""
        for _ in range(AHEAD):
            for place in self._turns:
                if self._waiting and place.about is not None and place.opening is None and len(place.work) < AHEAD:
                    given = next((one for one in self._waiting if self._suits(one, place)), None)
                    if given is not None:
                        self._waiting.remove(given)
                        self._crew.give(place, given)
                        self._record.starts(given.task.keys)
        return bool(self._waiting)

    def _suits(self, given: Given, place: Place) -> bool:
        """Whether a place may have a task: one whose file system refused it, or others, only where there is no better one."""
        others = [other for other in self._turns if other.actor is not None]
        if given.avoided is not None:
            elsewhere = [other for other in others if other.node != given.avoided.node]
            elsewhere = elsewhere or [other for other in others if other is not given.avoided]
            return place in elsewhere or not elsewhere
        return place.refusals < REFUSALS or all(other.refusals >= REFUSALS for other in others)

    def _take(self, place: Place, ready: Any) -> Cell | int | None:
        """Take what is there: the model is held, a task ended, a sign of work, or a cell."""
        if place.opening is not None:
            self._crew.opened(place, self._ray.get(ready, timeout=self._crew.patience), self._expected)
            return None
        given = place.work[0]
        try:
            item = self._ray.get(next(ready), timeout=self._crew.patience)
        except StopIteration:
            place.work.popleft()
            if given.left:
                self._fail(
                    given, RuntimeError(f"expected {len(given.task.keys)} cells, {len(given.left)} did not come")
                )
            return None
        if isinstance(item, Cell):
            given.left.discard(item.key)
            given.deaths = place.refusals = 0
        return item

    def _failed(self, place: Place, error: Any) -> None:
        """An error of the task's own: it has failed, but for what a file system refused, which is tried elsewhere once."""
        cause = error.cause if isinstance(error.cause, Exception) else RuntimeError(first_line(error))
        if place.opening is not None and isinstance(cause, ValueError):
            raise cause from error  # hooks, a version: no other actor would be better
        if place.opening is not None or isinstance(cause, self._ray.exceptions.RayError):  # no task was begun
            self._lost(place, cause)
            return
        given = place.work.popleft()
        if isinstance(cause, OSError):
            place.refusals += 1
            given.refusals += 1
            given.avoided = place
            if given.refusals < REFUSALS:
                self._waiting.appendleft(given)
                return
        elif not isinstance(cause, ValueError | RuntimeError | MemoryError):
            raise cause from error
        self._fail(given, cause)

    def _lost(self, place: Place, error: BaseException) -> None:
        """An actor is gone: what it had goes to others, and the task that ran is told from those that waited."""
        work = [given for given in self._crew.lose(place, error) if given.left]  # what came whole did not kill it
        for given in work[:1]:
            given.deaths += 1
        for given in reversed(work):
            if given.deaths >= DEATHS:
                self._fail(given, RuntimeError(f"{given.deaths} actors died of it, the last so: {first_line(error)}"))
            else:
                self._waiting.appendleft(given)

    def _fail(self, given: Given, cause: BaseException) -> None:
        self._failures.append(Failure(given.task.only(given.left) or given.task, cause))

    def _silence(self) -> str:
        held = sum(place.about is not None for place in self._turns)
        free = self._ray.available_resources()
        what = ", ".join(f"{free.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
        return (
            f"expected a sign of work from Ray's actors within {self._crew.patience:g} seconds, but none came ({held} of "
            f"{len(self._turns)} hold the model; free: {what}): see `ray status`, then run again, or with a longer --patience"
        )
