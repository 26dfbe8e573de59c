"""How a result was made, in words that JSON has: what a result holds as `made`, and its frames as `attrs`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from tl_crossenc.console.framed import Made
from tl_crossenc.console.shown import short_name
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.hooked_encoder import HookedEncoder

PACKAGES = ("tl-crossenc", "torch", "transformers")
NO_SETTINGS = (
    "model",
    "pairs",
    "clean",
    "corrupted",
    "labels",
    "groups",
    "store",
    "executor",
    "progress",
    "use",
    "score",
)
"""Arguments that are no settings, but what a function works on or with."""

P = ParamSpec("P")
R = TypeVar("R")


def recorded(function: Callable[P, R]) -> Callable[P, R]:
    """For a function of a model, pairs or pools whose result is `Made` (or a dictionary of such): the result says what made it.

    That is `made_by` with the function's name, its settings, defaults in, and of pools collection and digest. Arguments that are
    no plain values, as tensors and other results, are left out.
    """
    signature = inspect.signature(function)
    name = f"{function.__module__.partition('.')[2]}.{function.__name__}"

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        found = function(*args, **kwargs)
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        settings = {"function": name}
        for argument, value in given.arguments.items():
            if argument in NO_SETTINGS and not isinstance(value, str):
                continue
            try:
                settings[argument] = _plain(value, argument)
            except TypeError:
                continue
        made = made_by(given.arguments.get("model"), **settings)
        if isinstance(found, dict):
            return type(found)({key: replace(one, made=made) for key, one in found.items()})
        return replace(found, made=made)  # type: ignore[type-var]

    return call


def made_by(model: HookedEncoder | None, **settings: Any) -> dict[str, Any]:
    """What made a result: the model as it is now, the versions of what ran, and the settings given.

    Args:
        model: the model, with what it ablates at the moment and with its hooks; None where none is left to ask.
        settings: by name. Numbers of numpy, conditions, directions, enumerations, dtypes, devices, paths and small dataclasses
            become what JSON has words for; a sequence or set, a list.

    Returns:
        `model` (a folder by its last part), `revision`, `condition`, `hooks` (whether any was there), `dtype`, `device` (its kind),
        `tl-crossenc`, `torch` and `transformers` (versions), and the settings.

    Raises:
        TypeError: a setting that is no plain value, such as an array.
        ValueError: a setting named as what is told anyway.

    >>> from tl_crossenc.model.cross_encoder import HookedCrossEncoder
    >>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    >>> with model.ablating("DOC->QUERY", layers="0-1"):
    ...     made = made_by(model, seed=7)
    >>> made["model"], made["condition"], made["dtype"], made["device"], made["seed"]
    ('planted', 'zero(DOC->QUERY; layers=0-1)', 'float32', 'cpu', 7)
    """
    about: dict[str, Any] = {package: _version(package) for package in PACKAGES}
    if model is not None:
        about = {
            "model": short_name(str(model.cfg.model_name)),
            "revision": str(model.cfg.revision),
            "condition": str(model.active_condition),
            "hooks": model.hooked,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
        } | about
    taken = sorted(about.keys() & settings.keys())
    if taken:
        raise ValueError(f"expected settings of other names than what is told of every result, got {', '.join(taken)}")
    return about | {name: _plain(value, name) for name, value in settings.items()}


@functools.cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Condition | Direction | Enum | PurePath | torch.device):
        return value.name if isinstance(value, Enum) else str(value)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if value is None or isinstance(value, str | int | float):
        return value
    if hasattr(value, "collection") and hasattr(value, "digest"):  # a pool
        return {"collection": str(value.collection), "digest": str(value.digest)}
    if is_dataclass(value) and not isinstance(value, type | Made):
        return {own.name: _plain(getattr(value, own.name), name) for own in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, name) for key, item in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes):
        return [_plain(item, name) for item in (sorted(value) if isinstance(value, Set) else value)]
    raise TypeError(
        f"expected the setting {name} in plain values (numbers, texts, lists of them), got {type(value).__name__}: give its "
        "name or its size"
    )
