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

from tl_crossenc.store.files import regular, write_atomic

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


def check_heads_text(text: str) -> None:
    """Whether the text names heads or a kept list of them, before any folder is looked at.

    Raises:
        ValueError: it does neither.
    """
    if not text.strip().startswith("@"):
        parse_heads(text)
    else:
        match = _STORED.fullmatch(text.strip())
        if match is None or not _NAME.fullmatch(match[1]):
            raise ValueError(f"expected a kept list of heads such as @matching or @matching:5, got {text!r}")
        if match[2] is not None and int(match[2]) < 1:
            raise ValueError(f"expected a count of heads from 1 for @{match[1]}, got {match[2]}")


def resolve_heads(
    text: str, folder: str | os.PathLike[str], source: Mapping[str, object] | None = None
) -> tuple[Head, ...]:
    """The heads that a user named: `3.7,4.1`, or `@name` or `@name:count` of a list kept in the folder of results.

    Args:
        text: as the user wrote it.
        folder: of the results.
        source: of what a kept list must be: the value that `save_heads` was given. None takes any list.

    Raises:
        ValueError: the text is neither, there is no such list, it is of another source, or it is empty or shorter than the count.
    """
    if not text.strip().startswith("@"):
        return parse_heads(text)
    match = _STORED.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a kept list of heads such as @matching or @matching:5, got {text!r}")
    heads = load_heads(folder, match[1], source)
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
    source: Mapping[str, object] | None = None,
) -> Path:
    """Keep a list of heads as `@name` in a folder of results, whole or not at all; one of that name is replaced.

    Args:
        folder: of the results.
        name: lower-case letters, digits, `-` and `_`.
        heads: in the order to be kept, strongest first.
        about: what they are: model, collection, the test; JSON values.
        source: on which model and pools they were found (`job.heads_source`), for `resolve_heads` to compare; JSON values.

    Raises:
        ValueError: the name is of other characters.
        StoreError: the file system refused.
    """
    path = _path(folder, name)
    kept = format_heads(heads)
    content: dict[str, object] = {
        "format": FORMAT,
        "heads": kept.split(",") if kept else [],
        "about": dict(about or {}),
    }
    if source is not None:
        content["source"] = dict(source)
    write_atomic(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path


def load_heads(
    folder: str | os.PathLike[str], name: str, source: Mapping[str, object] | None = None
) -> tuple[Head, ...]:
    """The heads kept as `@name`, in their order; none where the experiment found none. `source` as in `resolve_heads`.

    Raises:
        ValueError: there is no such list, its file is not one, or it was found on another model or other pools.
    """
    path = _path(folder, name)
    try:
        content = json.loads((regular(path) if path.exists() else path).read_bytes())
        kept = content["heads"]
        if not isinstance(kept, list):
            raise TypeError("its heads are no list")
        heads = parse_heads(",".join(kept)) if kept else ()
    except FileNotFoundError:
        raise ValueError(
            f"expected the heads @{name} in {path}, but there is no such file: run the experiment that finds them first"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"expected a list of heads in {path}, but it cannot be read ({error}): make it anew") from None
    if source is not None:
        _check_source(name, path, content.get("source"), source)
    return heads


def _check_source(name: str, path: Path, found: object, wanted: Mapping[str, object]) -> None:
    """The parts of a list's source are compared in the order in which they are wanted, so that the first to differ is named."""
    if not isinstance(found, Mapping):
        raise ValueError(
            f"expected in {path} on which model and pools the heads @{name} were found, but it does not say: run the experiment "
            "that finds them again, or name the heads as 3.7,4.1"
        )
    for part, value in wanted.items():
        if found.get(part) != json.loads(json.dumps(value)):
            raise ValueError(
                f"expected heads found on {'these' if part.endswith('s') else 'this'} {part} as @{name}, but those in {path} were "
                "found on another: run the experiment that finds them here first (without @), or name the heads as 3.7,4.1"
            )


def _path(folder: str | os.PathLike[str], name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected a name of lower-case letters, digits, '-' and '_' for heads, got {name!r}")
    return Path(folder) / FOLDER / f"{name}.json"
