"""Heads by name: the text form that commands take, and lists of heads kept beside results.

A head is written `layer.head`, both counted from 0, and heads are separated by commas: `3.7,4.1`. Order is kept: experiments
write their strongest head first. `@matching` stands for the list that an experiment left as `heads/matching.json` in the folder
of results, `@matching:5` for its first five.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tl_crossenc.files import write_atomic

FOLDER = "heads"
FORMAT = 1
_HEAD = re.compile(r"\s*(\d+)\.(\d+)\s*")
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_STORED = re.compile(r"@([^:@,\s]+)(?::(\d+))?")


class Head(NamedTuple):
    """One attention head, both numbers from 0."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}"


def format_heads(heads: Iterable[tuple[int, int]]) -> str:
    """`3.7,4.1` for (3, 7) and (4, 1)."""
    return ",".join(f"{layer}.{head}" for layer, head in heads)


def parse_heads(text: str) -> tuple[Head, ...]:
    """The heads written as `3.7,4.1`, in that order.

    Raises:
        ValueError: the text is not such a list, is empty, or names a head twice.
    """
    heads = []
    for item in text.split(","):
        match = _HEAD.fullmatch(item)
        if match is None:
            raise ValueError(f"expected heads written layer.head, such as 3.7,4.1; got {item.strip()!r} in {text!r}")
        heads.append(Head(int(match[1]), int(match[2])))
    twice = [str(head) for i, head in enumerate(heads) if head in heads[:i]]
    if twice:
        raise ValueError(f"expected each head once, got {', '.join(twice)} more than once in {text!r}")
    return tuple(heads)


def resolve_heads(text: str, folder: str | os.PathLike[str]) -> tuple[Head, ...]:
    """The heads that a user named: `3.7,4.1`, or `@name` or `@name:count` of a list kept in the folder of results.

    Raises:
        ValueError: the text is neither, there is no such list, or it is empty or shorter than the count.
    """
    if not text.strip().startswith("@"):
        return parse_heads(text)
    match = _STORED.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a kept list of heads such as @matching or @matching:5, got {text!r}")
    heads = load_heads(folder, match[1])
    if not heads:
        raise ValueError(
            f"expected heads to act on, but @{match[1]} has no heads: no head passed; name some as 3.7,4.1"
        )
    count = len(heads) if match[2] is None else int(match[2])
    if not 1 <= count <= len(heads):
        raise ValueError(
            f"expected a count of 1 to {len(heads)} for @{match[1]}, got {count}: the list has {len(heads)} heads"
        )
    return heads[:count]


def check_heads(heads: Iterable[tuple[int, int]], n_layers: int, n_heads: int) -> None:
    """Whether the model has all of these heads.

    Raises:
        ValueError: it does not.
    """
    outside = [head for head in heads if not (0 <= head[0] < n_layers and 0 <= head[1] < n_heads)]
    if outside:
        raise ValueError(
            f"expected heads within 0.0 to {n_layers - 1}.{n_heads - 1} (layer.head), got {format_heads(outside)}: "
            "the model has no such head"
        )


def save_heads(
    folder: str | os.PathLike[str],
    name: str,
    heads: Iterable[tuple[int, int]],
    about: Mapping[str, object] | None = None,
) -> Path:
    """Keep a list of heads as `@name` in a folder of results, whole or not at all; one of that name is replaced.

    Args:
        folder: of the results.
        name: lower-case letters, digits, `-` and `_`.
        heads: in the order to be kept, strongest first.
        about: what they are: model, collection, the test; JSON values.

    Raises:
        ValueError: the name is of other characters.
        StoreError: the file system refused.
    """
    path = _path(folder, name)
    kept = format_heads(heads)
    content = {"format": FORMAT, "heads": kept.split(",") if kept else [], "about": dict(about or {})}
    write_atomic(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path


def load_heads(folder: str | os.PathLike[str], name: str) -> tuple[Head, ...]:
    """The heads kept as `@name`, in their order; none where the experiment found none.

    Raises:
        ValueError: there is no such list, or its file is not one.
    """
    path = _path(folder, name)
    try:
        kept = json.loads(path.read_bytes())["heads"]
        if not isinstance(kept, list):
            raise TypeError("its heads are no list")
        return parse_heads(",".join(kept)) if kept else ()
    except FileNotFoundError:
        raise ValueError(
            f"expected the heads @{name} in {path}, but there is no such file: run the experiment that finds them first"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"expected a list of heads in {path}, but it cannot be read ({error}): make it anew") from None


def _path(folder: str | os.PathLike[str], name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected a name of lower-case letters, digits, '-' and '_' for heads, got {name!r}")
    return Path(folder) / FOLDER / f"{name}.json"
