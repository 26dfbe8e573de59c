"""What runs in a process of Ray's: it holds models, and hands over cells as they come.

Nothing here reads a file that the driver has, and none of it needs Ray but for fetching a model from the object store.
"""

from __future__ import annotations

import hashlib
import io
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch

import tl_crossenc
from tl_crossenc.executors.task import Cell, Task
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.freed import give_back_now_and_then
from tl_crossenc.model.identity import model_identity

HELD = 2
"""Models that an actor holds at most: a model and its untrained twin."""
BEAT = 1.0
"""Seconds between two signs of work, at least."""


class About(NamedTuple):
    """What an actor says of itself and of a model that it holds.

    Attributes:
        identity: `model_identity` there.
        token_budget: of the model, where nothing is asked for.
        code: digest of this package's modules there.
        node: the machine's name.
        hardware: what computes.
    """

    identity: dict[str, str]
    token_budget: int
    code: str
    node: str
    hardware: str


class Actor:
    """One accelerator or some cores, and the models last asked for.

    Args:
        device: "cuda" or "cpu".
        threads: of torch.
    """

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = torch.device(device), threads
        self._models: dict[str, tuple[HookedCrossEncoder, About]] = {}
        torch.set_num_threads(threads)

    def open(self, name: str, packed: Sequence[Any], limit: int | float) -> About:
        """Hold a model.

        Args:
            name: the model's, by its content.
            packed: a reference to what `pack` made of it, looked at only where it is not held.
            limit: seconds to wait for it.
        """
        held = self._models.pop(name, None)
        if held is None:
            import ray

            while len(self._models) >= HELD:
                del self._models[next(iter(self._models))]
            model = unpack(ray.get(packed[0], timeout=limit), self._device)
            about = About(
                model_identity(model), model.token_budget(), code_digest(), platform.node(), _hardware(self._device)
            )
            held = model, about
        self._models[name] = held  # last, as last asked for
        return held[1]

    def compute(self, name: str, task: Task) -> Iterator[Cell | int]:
        """The cells of a task under a model that was opened, and between them the layer runs done since the last number.

        A number comes about every `BEAT` seconds while there is work, so that whoever waits sees a long cell from a stuck one.
        """
        give_back_now_and_then()
        model = self._models[name][0]
        made: SimpleQueue[Cell | int | BaseException | None] = SimpleQueue()

        def work() -> None:
            torch.set_num_threads(self._threads)  # OpenMP keeps it for each thread
            try:
                for cell in task.cells(model, made.put):
                    made.put(cell)
                made.put(None)
            except BaseException as error:  # raised anew by whoever reads
                made.put(error)

        threading.Thread(target=work, daemon=True).start()
        done, told = 0, time.monotonic()
        while True:
            item = made.get()
            if isinstance(item, int):
                done += item
                if time.monotonic() - told < BEAT:
                    continue
            if done:
                yield done
                done, told = 0, time.monotonic()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return
            if isinstance(item, Cell):
                yield item


def pack(model: HookedCrossEncoder) -> np.ndarray:
    """A model as bytes, `[byte]`, its tokenizer with it; what shares memory does so still."""
    stream = io.BytesIO()
    torch.save(model, stream)
    return np.frombuffer(stream.getbuffer(), np.uint8)


def unpack(packed: np.ndarray, device: torch.device) -> HookedCrossEncoder:
    """The model of `pack` on a device."""
    model = torch.load(io.BytesIO(packed.data), map_location=device, weights_only=False)  # our own driver's
    return model.to(device)


def code_digest() -> str:
    """SHA-256 over the names and texts of this package's modules, which compute what a key says only where they are the same."""
    root, digest = Path(tl_crossenc.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_text("utf-8").encode())
    return digest.hexdigest()


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU with {torch.backends.cpu.get_cpu_capability()}"
