"""Directions of attention: what positions of one part read from positions of another.

`DOC->QUERY` is what DOC positions (the attender: rows of an attention pattern) read from QUERY positions (the
attended: columns). `ALL` stands for every part on that side. In the paper's Table 1 the row is the attender and the
column the attended part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tl_crossenc.inputs.parts import N_PARTS, REAL_PART_NAMES, REAL_PARTS, Part

ALL = "ALL"
_ARROW = re.compile(r"^\s*(\w+)\s*(<?)\s*->\s*(\w+)\s*$")


@dataclass(frozen=True, init=False, repr=False)
class Direction:
    """One (attender part, attended part). None stands for ALL.

    Args:
        attender: the part whose rows are meant (or its name), or None or "ALL" for every part.
        attended: the same for columns.

    Raises:
        ValueError: a side that is no part of a pair.

    >>> Direction("DOC", "QUERY"), Direction(Part.CLS, None)
    (DOC->QUERY, CLS->ALL)
    """

    attender: Part | None
    attended: Part | None

    def __init__(self, attender: Part | str | None, attended: Part | str | None) -> None:
        object.__setattr__(self, "attender", _side(attender))
        object.__setattr__(self, "attended", _side(attended))

    @classmethod
    def parse(cls, text: str) -> Direction:
        """The direction written `ATTENDER->ATTENDED`, such as `DOC->QUERY` or `CLS->ALL`.

        Raises:
            ValueError: the text is not of that form, or names no part.

        >>> Direction.parse("DOC->QUERY").attenders
        (<Part.DOC: 3>,)
        >>> str(Direction.parse("cls -> all"))
        'CLS->ALL'
        """
        directions = parse_directions(text)
        if len(directions) != 1:
            raise ValueError(f"expected one direction such as DOC->QUERY, got {text!r}, which names two")
        return directions[0]

    def __str__(self) -> str:
        return f"{_name(self.attender)}->{_name(self.attended)}"

    __repr__ = __str__

    @property
    def attenders(self) -> tuple[Part, ...]:
        """The parts on the attender's side."""
        return REAL_PARTS if self.attender is None else (self.attender,)

    @property
    def attendeds(self) -> tuple[Part, ...]:
        """The parts on the attended side."""
        return REAL_PARTS if self.attended is None else (self.attended,)

    @property
    def grid(self) -> np.ndarray:
        """`[attender part, attended part]`, True where the direction holds."""
        grid = np.zeros((N_PARTS, N_PARTS), dtype=bool)
        grid[np.ix_(self.attenders, self.attendeds)] = True
        return grid


def _side(side: Part | str | None) -> Part | None:
    if side is None or (isinstance(side, str) and side.upper() == ALL):
        return None
    if isinstance(side, str):
        hint = ": Direction.parse reads a whole direction" if "->" in side else ""
        try:
            side = Part.parse(side)
        except ValueError as error:
            raise ValueError(f"{error} (or ALL){hint}") from None
    if not (isinstance(side, Part) and side in REAL_PARTS):
        raise ValueError(f"expected a part among {', '.join(REAL_PART_NAMES)} or ALL, got {side!r}")
    return side


def _name(side: Part | None) -> str:
    return ALL if side is None else side.name


def parse_directions(text: str) -> tuple[Direction, ...]:
    """One direction from `X->Y`, or both of them from `X<->Y`.

    Raises:
        ValueError: the text is of neither form, or names no part.
    """
    match = _ARROW.match(text)
    if match is None:
        raise ValueError(
            f"expected a direction written ATTENDER->ATTENDED (or X<->Y for both), with parts among "
            f"{', '.join(REAL_PART_NAMES)} or ALL, such as DOC->QUERY; got {text!r}"
        )
    try:
        left, right = (_side(side) for side in match.group(1, 3))
    except ValueError as error:
        raise ValueError(f"cannot read the direction {text!r}: {error}") from None
    if match.group(2) and left != right:
        return (Direction(left, right), Direction(right, left))
    return (Direction(left, right),)


def direction_grid() -> tuple[Direction, ...]:
    """The 36 directions of the paper's Table 1 with both margins: 5 x 5, the ALL column, the ALL row, ALL->ALL."""
    sides: tuple[Part | None, ...] = (*REAL_PARTS, None)
    return tuple(Direction(attender, attended) for attender in sides for attended in sides)


PAPER_DIRECTIONS: tuple[Direction, ...] = tuple(
    direction for direction in direction_grid() if direction.attender is not None
)
"""Table 1 of Vast et al. 2025: five attenders, each against the five parts and ALL."""
