"""Hidden states that another system dumped, read from a file.

A `.npz` or `.safetensors` file with `hidden_states` `[layer + 1, pair, pos, d_model]`, or `hidden_states.0`, `hidden_states.1`, ...
of `[pair, pos, d_model]` each, in the order of Hugging Face's `output_hidden_states=True`; and `attention_mask` and `input_ids`
`[pair, pos]` if it can be: without a mask a pair's tokens are taken for the first ones.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.console.shown import listed, shown
from tl_crossenc.store.files import regular

STATES, MASK, IDS = "hidden_states", "attention_mask", "input_ids"


@dataclass(frozen=True)
class HiddenDump:
    """Another system's hidden states of the first pairs of a file.

    Attributes:
        source: the file's name.
        states: `[layer + 1, pair, pos, d_model]`.
        mask: `[pair, pos]`, True at real tokens; None where it was not given.
        ids: `[pair, pos]`, token ids; None where they were not given.
    """

    source: str
    states: Float[Tensor, "state pair pos d_model"]
    mask: Bool[Tensor, "pair pos"] | None
    ids: Int[Tensor, "pair pos"] | None

    __repr__ = short_repr


def read_hidden(path: str | Path) -> HiddenDump:
    """The hidden states in a file.

    Raises:
        ValueError: no such file, one of another form, arrays that are missing, or whose shapes do not fit together.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(
            f"expected hidden states in a file that ends in .npz or .safetensors, got {shown(path.name, 80)}"
        )
    regular(path)
    with _explained(path):
        arrays = dict(_arrays(path))
    states = _stacked(path, arrays)
    beside = {}
    for name in (MASK, IDS):
        tensor = arrays.get(name)
        if tensor is not None and (tensor.shape != states.shape[1:3] or tensor.is_complex()):
            raise ValueError(
                f"expected {name} {list(states.shape[1:3])} [pair, pos], as the hidden states have them, in "
                f"{shown(path.name, 80)}, got {list(tensor.shape)}"
            )
        beside[name] = tensor
    mask, ids = beside[MASK], beside[IDS]
    if ids is not None and ids.is_floating_point():
        raise ValueError(f"expected whole numbers as {IDS} in {shown(path.name, 80)}, got {ids.dtype}")
    return HiddenDump(path.name, states, None if mask is None else mask.bool(), None if ids is None else ids.long())


def _arrays(path: Path) -> Iterator[tuple[str, Tensor]]:
    wanted = (STATES, MASK, IDS)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as found:
            for name in found.files:
                if name in wanted or name.startswith(f"{STATES}."):
                    yield name, torch.from_numpy(np.ascontiguousarray(found[name]))
    else:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as found:
            for name in found.keys():  # noqa: SIM118
                if name in wanted or name.startswith(f"{STATES}."):
                    yield name, found.get_tensor(name)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise ValueError(
            f"expected arrays as numpy.savez or safetensors write them in {shown(path.name, 80)}, which cannot be read "
            f"({shown(error, 120)}): write it again"
        ) from error


def _stacked(path: Path, arrays: dict[str, Tensor]) -> Tensor:
    alone = {name: tensor for name, tensor in arrays.items() if name.startswith(f"{STATES}.")}
    if STATES in arrays and not alone:
        states = arrays[STATES]
    elif alone and STATES not in arrays:
        names = [f"{STATES}.{i}" for i in range(len(alone))]
        if set(names) != set(alone) or len({(tensor.shape, tensor.dtype) for tensor in alone.values()}) > 1:
            raise ValueError(
                f"expected {STATES}.0 to {STATES}.{len(alone) - 1} of one shape and type in {shown(path.name, 80)}, got "
                + listed(f"{name} {list(tensor.shape)}" for name, tensor in sorted(alone.items()))
            )
        states = torch.stack([alone[name] for name in names])
    else:
        raise ValueError(
            f"expected {STATES} [layer + 1, pair, pos, d_model], or {STATES}.0 to {STATES}.N, in {shown(path.name, 80)}, got "
            + (listed(arrays) or "neither")
        )
    if states.ndim != 4 or not states.is_floating_point() or not states.numel():
        raise ValueError(
            f"expected floats [layer + 1, pair, pos, d_model] as {STATES} in {shown(path.name, 80)}, got {states.dtype} of shape "
            f"{list(states.shape)}"
        )
    return states
