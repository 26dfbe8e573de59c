"""Cells computed by actors of Ray's, on this machine or a cluster; this process hands them out and alone writes the store.

A model goes into Ray's object store once, named by its content, and an actor reads it from there: no node reads a path that another
has. A task carries its texts, and its cells come back as tables. An actor that dies loses the cells in flight; a driver that dies
loses no more, and its actors end with it.

On CPUs the number of threads is part of what is computed: how a matrix product is cut decides the last digits of scores (up to 7e-7
of the largest between 1 and 2 threads, measured on the demo's model in float32; its cells of attention, matches and query-key terms
had the same bytes). So an actor has as many threads as torch has here, unless told otherwise, and cells are byte-equal to those of
`InProcess` with as many threads on such a machine.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch

from tl_crossenc.executors.actor import About, pack
from tl_crossenc.executors.crew import ClusterError, Crew, first_line, refuse_difference
from tl_crossenc.executors.executor import Executor, OneTask
from tl_crossenc.executors.handout import Handout
from tl_crossenc.executors.task import Advance, Failure, Task
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.identity import model_identity
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import canonical_json

PATIENCE = 3600.0
"""Seconds without any sign of work, where nothing else is said."""
SHARES = 4
"""Tasks an actor, at least, where tasks can be split."""
KEPT = 2
"""Models that stay in the object store."""


class OnRay(Executor):
    """Computes on a cluster of Ray's.

    Args:
        address: "local" starts a cluster of this machine's that ends with this process; "auto" takes the one that `ray start`
            started here; host:port another's.
        device: "cuda", an actor a GPU; "cpu"; "auto" for GPUs where the cluster has some.
        cpus_per_actor: cores, and threads of torch, of an actor. By default as many threads as torch has here, on GPUs 1.
        actors: at most so many; by default what the cluster has room for.
        patience: seconds without a sign of work from anybody that are an error.

    Raises:
        ImportError: Ray is not installed.
        ValueError: numbers below 1.
    """

    def __init__(
        self,
        address: str = "local",
        *,
        device: Literal["auto", "cuda", "cpu"] = "auto",
        cpus_per_actor: int | None = None,
        actors: int | None = None,
        patience: int | float = PATIENCE,
    ) -> None:
        for name, value in (("cpus_per_actor", cpus_per_actor), ("actors", actors), ("patience", patience)):
            if value is not None and value <= 0:
                raise ValueError(f"expected {name} above 0, got {value}")
        if device not in ("auto", "cuda", "cpu"):
            raise ValueError(f"expected a device among auto, cuda and cpu for Ray's actors, got {device!r}")
        self._ray = import_ray()
        self.address, self.device, self.cpus_per_actor, self.actors = address, device, cpus_per_actor, actors
        self.patience = patience
        self._crew: Crew | None = None
        self._started = False
        self._packed: dict[str, Any] = {}
        self._abouts: dict[str, About] = {}

    def __repr__(self) -> str:
        return f"OnRay({self.address!r}, device={self.device!r})"

    def close(self) -> None:
        """End the actors, and the cluster where it was started here."""
        self._dismiss()
        self._packed.clear()
        if self._started:
            self._ray.shutdown()
            self._started = False

    def identity(self, model: HookedCrossEncoder) -> dict[str, str]:
        """See `Executor`; as an actor says.

        Raises:
            ValueError: see `model_identity`; or attention is being ablated in the model; or an actor has other versions.
            ClusterError: no actor answers.
        """
        return dict(self._named(model)[1].identity)

    def token_budget(self, model: HookedCrossEncoder, asked: int | None = None) -> int:
        """See `Executor`; as an actor says, where nothing is asked for."""
        return model.token_budget(asked) if asked is not None else self._named(model)[1].token_budget

    def device_of(self, model: HookedCrossEncoder) -> str:
        """See `Executor`; the kind alone, where it is not this process's."""
        kind = self._named(model)[1].identity["device"]
        return str(model.device) if kind == model.device.type else kind

    def _named(self, model: HookedCrossEncoder) -> tuple[str, About]:
        """The model's name by its content, and what an actor says of it, once for as long as it has the same content."""
        name, own = _name(model)
        if name not in self._abouts:
            with self._crew_for(model, name) as crew:
                about = Handout(crew, None).about()
            refuse_difference(own, about.identity, about.node, but=("device",))
            self._abouts[name] = about
        return name, self._abouts[name]

    def _shares(self, model: HookedCrossEncoder, todo: list[OneTask]) -> list[OneTask]:
        parts = -(-SHARES * len(self._present().places) // len(todo))
        return [part for task in todo for part in task.split(parts)] if parts > 1 else todo

    def _compute(
        self, model: HookedCrossEncoder, todo: Sequence[Task], store: Store, advance: Advance
    ) -> list[Failure]:
        name, about = self._named(model)
        with self._crew_for(model, name) as crew:
            return Handout(crew, dict(about.identity)).run(todo, store, advance)

    @contextmanager
    def _crew_for(self, model: HookedCrossEncoder, name: str) -> Iterator[Crew]:
        """The actors, told to hold a model; what ends in an error ends them, as they may still be at work."""
        crew = self._present()
        if name not in self._packed:
            while len(self._packed) >= KEPT:
                del self._packed[next(iter(self._packed))]
            self._packed[name] = self._ray.put(pack(model))
        try:
            crew.open(name, self._packed[name])
            yield crew
        except BaseException:
            self._dismiss()
            raise

    def _present(self) -> Crew:
        """As many actors as the cluster has room for now."""
        self._connect()
        if self._crew is None:
            self._crew = Crew(*self._room(), self.actors, self.patience)
        self._crew.fill()
        return self._crew

    def _connect(self) -> None:
        """Start or join the cluster, where that is not done.

        Raises:
            ClusterError: there is none at the address.
        """
        if self._ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        own = {"include_dashboard": False} if self.address == "local" else {}
        try:
            self._ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise ClusterError(
                f"expected a cluster of Ray's at {self.address} that lets this process in ({first_line(error)}): start one with "
                "`ray start --head`, set RAY_AUTH_MODE=token here and on its nodes where it asks for tokens, or leave --address "
                "away for one of this machine's"
            ) from error
        self._started = True

    def _room(self) -> tuple[str, int]:
        """(device, cores) of an actor."""
        device = self.device
        if device == "auto":
            device = "cuda" if self._ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"
        return device, self.cpus_per_actor or (1 if device == "cuda" else torch.get_num_threads())

    def _dismiss(self) -> None:
        if self._crew is not None:
            self._crew.dismiss()
            self._crew = None


def _name(model: HookedCrossEncoder) -> tuple[str, dict[str, str]]:
    """A model's name by its content, and what the name is of."""
    if model.active_condition.edits:
        raise ValueError(
            f"expected a model in which nothing is ablated, since Ray's actors have none of that; got {model.active_condition}: "
            "leave the block of model.ablating, and give it as a condition"
        )
    own = model_identity(model)
    return hashlib.sha256(canonical_json(own).encode()).hexdigest(), own


def import_ray() -> Any:
    """The module.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("expected Ray, which is not installed: pip install 'tl-crossenc[ray]'") from error
    return ray
