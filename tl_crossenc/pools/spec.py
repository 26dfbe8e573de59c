"""What a pool is made of and how it is asked for: its pairs, and what its draw or its run takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tl_crossenc.console.shown import quoted

EASY_NEGATIVE = -1
MOST_PASSAGES = 1_000_000
"""A query, of a grade or of easy negatives, that may be asked for."""
DEPTH = 100
"""Passages a query of a run, where nobody says."""
SCOREDDOCS = "scoreddocs"
"""In place of a run's file: the ranking that comes with a collection of ir_datasets. A file of that name is `./scoreddocs`."""


class PoolPair(NamedTuple):
    """One query with one of its passages; `grade` is 0 or more as judged, -1 for an easy negative."""

    query_id: str
    query: str
    doc_id: str
    text: str
    grade: int


def digest_line(pair: PoolPair) -> bytes:
    """What of a pair enters a pool's digest."""
    return json.dumps(list(pair)).encode() + b"\n"


@dataclass(frozen=True)
class PoolSpec:
    """How a pool is drawn.

    Attributes:
        per_grade: most passages of each grade a query; None takes all.
        easy_negatives: passages not judged for the query to add.
        seed: of the draw, 0 or more.
        match_length: draw easy negatives as long as the query's relevant passages; False draws at random, as the paper does.
        match_grades: the grades of those relevant passages; None for the upper half of the collection's scale (`grades.py`).

    Raises:
        ValueError: a number below its least value (1, 0, 0) or above a million passages, `match_length` that is no truth value, or
            `match_grades` that are not grades from 0 on.
    """

    per_grade: int | None = 10
    easy_negatives: int = 10
    seed: int = 0
    match_length: bool = True
    match_grades: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.match_length, bool):
            raise ValueError(f"match_length is True or False, not {self.match_length!r}.")
        if self.match_grades is not None and (not self.match_grades or min(self.match_grades) < 0):
            raise ValueError(
                f"match_grades are grades from 0 on, or None for those of the scale, not {self.match_grades!r}."
            )
        bounds = {"per_grade": (1, MOST_PASSAGES), "easy_negatives": (0, MOST_PASSAGES), "seed": (0, None)}
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if value is None and name == "per_grade":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                or_none = " or None for all" if name == "per_grade" else ""
                raise ValueError(f"{name} is a whole number from {least} on{or_none}, not {quoted(value)}.")
            if most is not None and value > most:
                raise ValueError(f"{name} is at most {most:,}, not {quoted(value)}: no query has so many passages.")


@dataclass(frozen=True)
class RunSpec:
    """The run whose first passages a pool takes, see `Pool.from_run`.

    Attributes:
        run: a TREC file, or "scoreddocs" for the collection's own, of ir_datasets.
        depth: most passages a query.

    Raises:
        ValueError: no name, or a depth that is no whole number from 1 to a million.
    """

    run: str
    depth: int = DEPTH

    def __post_init__(self) -> None:
        if not isinstance(self.run, str | Path) or not str(self.run).strip():
            raise ValueError(f"run is the file of a TREC run, or {SCOREDDOCS!r}, not {quoted(self.run)}.")
        object.__setattr__(self, "run", str(self.run))
        check_depth(self.depth)
        if self.depth > MOST_PASSAGES:
            raise ValueError(
                f"depth is at most {MOST_PASSAGES:,}, not {quoted(self.depth)}: no query has so many passages."
            )

    @property
    def name(self) -> str:
        """Of the file, without its folder."""
        return Path(self.run).name


Draw = PoolSpec | tuple[RunSpec, ...]
"""How the pools of some collections are made: all are drawn by one rule, or each is the top of a run of its own."""


def check_depth(depth: object, most: int | None = None) -> None:
    """Raise a ValueError unless it is a whole number from 1 on, or to `most`."""
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1 or (most is not None and depth > most):
        numbers = "on" if most is None else f"to {most:,}"
        raise ValueError(f"depth is a whole number from 1 {numbers}, not {depth!r}.")


def specs_of(collections: Sequence[str], draw: Draw) -> tuple[PoolSpec | RunSpec, ...]:
    """How the pool of each collection is made.

    Raises:
        ValueError: not one run a collection.
    """
    if isinstance(draw, PoolSpec):
        return (draw,) * len(collections)
    if len(draw) != len(collections):
        raise ValueError(
            f"expected one run a collection, in the same order, got {len(draw)} for {len(collections)} "
            f"({', '.join(collections)}): give --run once for each --collection"
        )
    return draw
