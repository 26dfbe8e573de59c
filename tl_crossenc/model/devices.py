"""Where a model runs and in which type: names as users give them → what torch has on this machine."""

from __future__ import annotations

from typing import Any

import torch

from tl_crossenc.console.shown import quoted

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
KINDS = ("cpu", "cuda", "mps", "xpu")
_WITHOUT_FLOAT64 = ("mps",)


def resolve_device(device: str | torch.device) -> torch.device:
    """The device named, or for "auto" a CUDA device if there is one, else the CPU.

    Raises:
        ValueError: there is no such device.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place: Any = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:
        place = None
    if place is None or place.type not in KINDS:
        raise ValueError(f"expected a device among auto, {', '.join(KINDS)}, got {quoted(str(device))}: use cpu")
    count = _count(place.type)
    if not count:
        raise ValueError(
            f"expected a device that is here, got {quoted(str(device))}, but this machine or this build of torch has no "
            f"{place.type} device: use cpu"
        )
    if (place.index or 0) >= count:
        names = ", ".join(f"{place.type}:{i}" for i in range(count))
        raise ValueError(f"expected one of the devices that are here, {names}, got {quoted(str(device))}")
    return place


def _count(kind: str) -> int:
    """How many devices of a kind there are."""
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module: Any = getattr(torch, kind, None)
    return int(module.device_count()) if module is not None and module.is_available() else 0


def resolve_dtype(dtype: str | torch.dtype, device: torch.device | None = None) -> torch.dtype:
    """The type named.

    Args:
        dtype: its name, or the type.
        device: where it is to be computed with; anywhere by default.

    Raises:
        ValueError: not one of those that are supported, or not on this device.
    """
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        found = dtype
    elif isinstance(dtype, str) and dtype in DTYPES:
        found = DTYPES[dtype]
    else:
        raise ValueError(f"expected a dtype among {', '.join(DTYPES)}, got {quoted(str(dtype))}")
    if found == torch.float64 and device is not None and device.type in _WITHOUT_FLOAT64:
        raise ValueError(f"expected float32 or bfloat16 on {device}, which has no float64: use float32, or the CPU")
    return found
