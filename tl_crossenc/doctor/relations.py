"""What foreign scores are of ours where no known cause gives them: an affine function, or one that only rises or falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tl_crossenc.doctor.causes import FLOOR, Cause
from tl_crossenc.doctor.foreign_scores import ForeignScores
from tl_crossenc.doctor.outputs import OURS as OUR_SCORE

FEWEST = 8
"""Pairs on which a relation is asked for: an order of 8 is ours by chance once in 40,320 times."""
SHARPEST = 64.0
"""Foreign scores are to span so many tolerances, so that a line through them says something."""


@dataclass(frozen=True)
class Relation:
    """A relation between foreign scores and a cause's.

    Attributes:
        kind: "affine", "rising" or "falling".
        cause: of which.
        slope, intercept: of an affine one, foreign = slope x cause + intercept; NaN of others.
        max_abs: the largest difference that it leaves; NaN of others.
    """

    kind: str
    cause: Cause
    slope: float = float("nan")
    intercept: float = float("nan")
    max_abs: float = float("nan")

    def __str__(self) -> str:
        if self.kind == "affine":
            sign = "-" if self.intercept < 0 else "+"
            return f"{self.slope:.6g} s {sign} {abs(self.intercept):.6g} with s = {self.cause}"
        return f"a function that only {'rises' if self.kind == 'rising' else 'falls'} with {self.cause}"


def relation_to(foreign: ForeignScores, causes: Sequence[Cause]) -> Relation | None:
    """The affine relation with the fewest changes and the least difference; else a rising or falling one; None where there is
    none, or too few pairs to tell."""
    usable = [
        cause for cause in causes if not cause.half and np.isfinite(cause.values).all() and np.ptp(cause.values) > 0
    ]
    if len(foreign) < FEWEST or np.ptp(foreign.values) == 0:
        return None
    affine = [found for cause in usable if (found := _affine(foreign, cause)) is not None]
    if affine:
        return min(affine, key=lambda found: (found.cause.changes, found.max_abs))
    one_way = (_one_way(foreign, cause) for cause in sorted(usable, key=lambda cause: cause.changes))
    return next((found for found in one_way if found is not None), None)


def may_relate(foreign: ForeignScores, cause: Cause) -> bool:
    """Whether a sample of scores leaves it open that all of them are an affine function of a cause, or one that rises or falls."""
    if len(foreign) < FEWEST or not np.isfinite(cause.values).all():
        return False
    if np.ptp(foreign.values) == 0 or np.ptp(cause.values) == 0:
        return True
    return _affine(foreign, cause, sharpest=0.0) is not None or _one_way(foreign, cause) is not None


def _one_way(foreign: ForeignScores, cause: Cause) -> Relation | None:
    """The rising or falling relation to a reading's score."""
    if cause.changes <= 1 and cause.output == OUR_SCORE:
        for kind, sign in (("rising", 1.0), ("falling", -1.0)):
            if _largest_fall(foreign, sign * cause.values, cause) <= 0:
                return Relation(kind, cause)
    return None


def _affine(foreign: ForeignScores, cause: Cause, sharpest: float = SHARPEST) -> Relation | None:
    x, y = cause.values, foreign.values
    slope = float(np.cov(x, y, bias=True)[0, 1] / np.var(x))
    intercept = float(y.mean() - slope * x.mean())
    left = np.abs(y - slope * x - intercept)
    own = cause.tolerance - foreign.exact_to
    allowed = 2 * (foreign.exact_to + abs(slope) * own + FLOOR * np.maximum(1, np.abs(y)))
    if not (left <= allowed).all() or np.ptp(y) < sharpest * allowed.max():
        return None
    return Relation("affine", cause, slope, intercept, float(left.max()))


def _largest_fall(foreign: ForeignScores, ours: np.ndarray, cause: Cause) -> float:
    """The farthest that foreign scores fall while ours rise by more than their tolerance, beyond what digits leave open."""
    order = np.argsort(ours, kind="stable")
    x, y, exact = ours[order], foreign.values[order], foreign.exact_to[order]
    room = 2 * (cause.tolerance[order] - exact)
    before = np.searchsorted(x, x - room, side="left")  # those that are below by more than the tolerance
    highest = np.concatenate([[-np.inf], np.maximum.accumulate(y - exact)])
    return float(np.max(highest[before] - (y + exact)))
