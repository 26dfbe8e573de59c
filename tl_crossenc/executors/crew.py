"""Ray's actors as the driver has them: one an accelerator or some cores, taken anew where they are lost."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tl_crossenc.executors.actor import About, Actor, code_digest
from tl_crossenc.executors.task import Task
from tl_crossenc.store.keys import CellKey

OPENINGS = 5
"""Times in a row that a place for an actor may fail to have one that holds the model."""
AHEAD = 2
"""Tasks given to an actor at a time: one that runs, one that it finds there when it has ended."""
UNREAD = 16
"""Cells of a task that wait for the driver, at most: the actor pauses then."""

_log = logging.getLogger(__name__)


class ClusterError(OSError):
    """Ray's cluster does not do what it is asked for; the text is one sentence for the user."""


@dataclass(eq=False)
class Given:
    """A task, what of it is not stored yet, and what came of it so far.

    Attributes:
        deaths: actors that died of it, as far as can be told.
        refusals: of the file system, where it ran.
        avoided: where that was.
        stream: what comes of it; None where nobody has it.
    """

    task: Task
    left: set[CellKey]
    deaths: int = 0
    refusals: int = 0
    avoided: "Place | None" = None
    stream: Any = None


@dataclass(eq=False)
class Place:
    """Where an actor is.

    Attributes:
        actor: Ray's handle; None where none could be had `OPENINGS` times.
        opening: of the model, as long as that is not done.
        about: what the actor says; None before.
        work: what it was given, the first running.
        refusals: of its file system, in a row.
    """

    actor: Any
    opening: Any = None
    about: About | None = None
    work: deque[Given] = field(default_factory=deque)
    failed: int = 0
    refusals: int = 0

    @property
    def node(self) -> str:
        """The machine's name; empty before it is known."""
        return self.about.node if self.about else ""


class Crew:
    """The actors.

    Args:
        device: "cuda" or "cpu".
        cpus: cores an actor, and threads of torch.
        most: actors at most; as many as the cluster has room for by default.
        patience: seconds that anything may take.
    """

    def __init__(self, device: str, cpus: int, most: int | None, patience: int | float) -> None:
        import ray

        self.patience = patience
        self._ray, self._device, self._cpus, self._most = ray, device, cpus, most
        self._class = ray.remote(Actor)
        self._code = code_digest()
        self._model: tuple[str, Any] = ("", None)
        self._hardware: set[str] = set()
        self.places: list[Place] = []

    def fill(self) -> None:
        """Have as many actors as the cluster has room for now.

        Raises:
            ValueError: it has room for none.
        """
        wanted = {"GPU": 1.0, "CPU": float(self._cpus)} if self._device == "cuda" else {"CPU": float(self._cpus)}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        room = sum(int(min(node.get(name, 0) // count for name, count in wanted.items())) for node in nodes)
        if not room:
            most = max((node.get("CPU", 0) for node in nodes), default=0)
            raise ValueError(
                f"expected a node with {self._cpus} CPUs{' and a GPU' if 'GPU' in wanted else ''} for an actor, but none of the "
                f"{len(nodes)} nodes has that ({most:g} CPUs at most): give fewer --cpus-per-actor, or start Ray with more"
            )
        self.places = [place for place in self.places if place.actor is not None]
        for _ in range(min(room, self._most or room) - len(self.places)):
            self.places.append(Place(self._hire()))

    def open(self, name: str, packed: Any) -> None:
        """Have every actor hold a model; whoever reads `opening` says when it does."""
        self._model = name, packed
        for place in self.places:
            place.failed = place.refusals = 0
            place.work.clear()
            self._open(place)

    def opened(self, place: Place, about: About, expected: dict[str, str] | None) -> None:
        """Note that a place's actor holds the model.

        Raises:
            ValueError: it would compute something else than `expected`, the fields of the keys.
        """
        if about.code != self._code:
            raise ValueError(
                f"expected the same tl-crossenc on every node, but {about.node} has other code: install the same version there"
            )
        refuse_difference(expected or about.identity, about.identity, about.node)
        place.opening, place.about, place.failed = None, about, 0
        if self._hardware and about.hardware not in self._hardware:
            _log.warning(
                "actors compute on different hardware (%s): the last digits of a cell depend on which of them computed it",
                "; ".join(sorted({*self._hardware, about.hardware})),
            )
        self._hardware.add(about.hardware)

    def give(self, place: Place, given: Given) -> None:
        """Have a place's actor compute what is left of a task."""
        compute = place.actor.compute.options(num_returns="streaming", _generator_backpressure_num_objects=UNREAD)
        given.task = given.task.only(given.left) or given.task
        given.stream = compute.remote(self._model[0], given.task)
        place.work.append(given)

    def lose(self, place: Place, why: BaseException) -> list[Given]:
        """Take another actor in the place of one that is lost; what it had been given, the first having run.

        Raises:
            ClusterError: no place is left.
        """
        work, place.work = list(place.work), deque()
        opening = place.opening is not None
        self._ray.kill(place.actor)
        place.failed += opening
        if place.failed < OPENINGS:
            _log.warning("an actor%s was lost; another takes its place", f" on {place.node}" if place.node else "")
            place.actor = self._hire()
            self._open(place)
        else:
            place.actor = place.opening = place.about = None
            _log.warning("no actor could be had in one place %d times; going on without: %s", OPENINGS, first_line(why))
            if not any(place.actor is not None for place in self.places):
                raise ClusterError(
                    f"expected an actor that holds the model, but each of {len(self.places)} failed {OPENINGS} times, at last "
                    f"with: {first_line(why)}"
                ) from why
        return work

    def dismiss(self) -> None:
        """End all actors."""
        for place in self.places:
            if place.actor is not None:
                self._ray.kill(place.actor)
        self.places = []

    def _hire(self) -> Any:
        gpus = 1 if self._device == "cuda" else 0
        options = {"num_cpus": self._cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        return self._class.options(**options).remote(self._device, self._cpus)

    def _open(self, place: Place) -> None:
        name, packed = self._model
        place.about = None
        place.opening = place.actor.open.remote(name, [packed], self.patience)


def refuse_difference(expected: dict[str, str], found: dict[str, str], where: str, but: Sequence[str] = ()) -> None:
    """Refuse a model that is not the one of the keys.

    Raises:
        ValueError: the first difference.
    """
    for name in {**expected, **found}:
        if name not in but and expected.get(name) != found.get(name):
            raise ValueError(
                f"expected the same model and versions wherever cells are computed, but {name} is {found.get(name)} on {where} "
                f"and {expected.get(name)} elsewhere: install the same versions on every node"
            )


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
