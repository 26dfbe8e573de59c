"""Files of weights → (key, tensor), one at a time, bounded: safetensors, and the pickles of torch that hold tensors alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from tl_crossenc.checkpoints.pickled import Refused, check_pickled
from tl_crossenc.console.shown import shown
from tl_crossenc.store.files import regular

MOST_HEADER = 1 << 23
"""Bytes of a safetensors header; one of 24 layers takes 45 kB."""
FLOATS = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
)
"""Types of stored weights that are numbers by themselves; all are exact in the model's type or rounded to it once."""


def read_weight_files(paths: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of every weight in the files, holding one tensor at a time where the format allows it.

    No file takes more memory than it has bytes: what it declares is read before anything is allocated for it.

    Raises:
        ValueError: a file is truncated, corrupt or of another kind.
        MemoryError: there is no memory for a whole file.
    """
    for path in paths:
        try:
            yield from (
                _read_safetensors(regular(path)) if path.suffix == ".safetensors" else _read_pickled(regular(path))
            )
        except Refused as error:
            raise ValueError(
                f"expected model weights in {shown(path)}, but the file {error}: save it as safetensors, or download it again"
            ) from None
        except MemoryError:
            raise
        except Exception as error:  # a damaged pickle can fail in any way at all
            text = shown(error, 160) or type(error).__name__
            raise ValueError(
                f"expected model weights in {shown(path)}, but the file is truncated, corrupt or of another kind ({text}): "
                "download it again"
            ) from error


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The file is mapped anew for each tensor: pages of it that were read count as memory until the mapping goes."""
    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    if MOST_HEADER < header < path.stat().st_size:
        raise Refused(f"has a header of {header:,} bytes; a model's has at most {MOST_HEADER:,}")
    with safe_open(path, framework="pt") as weights:
        keys = list(weights.keys())
    for key in keys:
        with safe_open(path, framework="pt") as weights:
            yield key, weights.get_tensor(key)


def _read_pickled(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Loaded whole and let go one by one. Mapped, the whole file would stay resident until its last tensor is read."""
    check_pickled(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:
        if isinstance(error, MemoryError) or "allocat" in str(error):
            raise MemoryError(f"there is no memory for the {path.stat().st_size:,} bytes of {shown(path)}") from None
        # torch's own text says how to have code of the file run
        raise ValueError(f"torch cannot read it, {type(error).__name__}") from None
    for key in list(state):
        yield key, state.pop(key)
