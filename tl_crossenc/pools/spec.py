"""What a pool is made of and how it is asked for: its pairs, and the numbers that its draw takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

from tl_crossenc.console.shown import quoted

EASY_NEGATIVE = -1
MOST_PASSAGES = 1_000_000
"""A query, of a grade or of easy negatives, that may be asked for."""


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
