"""Which known cause gives a foreign score: every reading of the pairs with every output of the logits, held against it.

A cause is a reading (`readings`, or half precision) and an output (`outputs`); it is at most one change of each. It reproduces the
scores if on every pair

    |foreign - cause|  <=  what its digits leave open  +  what rounding of the logits moves the cause  +  2^-22 max(1, |cause|)

where the logits may be off by parity's tolerance for the dtype, 1e-5 of the largest in float32. In half precision the second term
is `half_precision.NOISE` times how far the run in half precision lies from ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from tl_crossenc.doctor.foreign_scores import ForeignScores
from tl_crossenc.doctor.half_precision import HALVES, NOISE, err_alike, on_grid
from tl_crossenc.doctor.outputs import OURS as OUR_SCORE
from tl_crossenc.doctor.outputs import Output
from tl_crossenc.doctor.readings import OURS as AS_HERE

YES, PERHAPS, NO = "yes", "perhaps", "no"
FLOOR = 2.0**-22
DRAWS = 4
"""Of signs, by which logits are moved."""
LARGEST_NOISE = 0.25
"""Noise of half precision that is more of the foreign scores' range shows nothing."""


@dataclass(frozen=True)
class ReadPairs:
    """The logits of all pairs, read in one way.

    Attributes:
        name: what it does otherwise than ours.
        also: names of readings that read every pair in the same way.
        logits: `[pair, label]`, NaN where a pair cannot be read.
        half: the type of half precision that it was run in; None for the model's own.
    """

    name: str
    also: tuple[str, ...]
    logits: Float[np.ndarray, "pair label"]
    half: str | None = None


@dataclass(frozen=True)
class Cause:
    """One cause held against the foreign scores.

    Attributes:
        reading, output: by name.
        half: whether it is one of half precision, whose tolerance is its noise.
        changes: how many of the two differ from ours, 0 to 2.
        values: `[pair]`, the scores that it gives.
        tolerance: `[pair]`, how far a score may lie from them.
        reproduces: "yes", "perhaps" (within half precision's noise, and nothing else speaks for it) or "no".
        within: on how many pairs it does.
        max_abs, mean_abs: of the differences.
        spearman: rank correlation; NaN where either side has one value alone.
    """

    reading: str
    output: str
    half: bool
    changes: int
    values: Float[np.ndarray, "pair"]
    tolerance: Float[np.ndarray, "pair"]
    reproduces: str
    within: int
    max_abs: float
    mean_abs: float
    spearman: float

    @property
    def rank(self) -> tuple[int, int, int, float]:
        """What causes are sorted by: whether they reproduce; then the fewest changes, or else the most pairs (none counts that are
        within half precision's noise); the least difference."""
        order = (YES, PERHAPS, NO).index(self.reproduces)
        if self.reproduces == NO:
            return order, 0 if self.half else -self.within, int(self.half), self.max_abs
        return order, int(self.half), self.changes, self.max_abs

    def __str__(self) -> str:
        if not self.changes:
            return OUR_SCORE
        return self.output if self.reading == AS_HERE else f"{self.output} with {self.reading}"


def held_against(
    foreign: ForeignScores,
    ours: ReadPairs,
    read: Sequence[ReadPairs],
    outputs: Sequence[Output],
    numbers: np.ndarray,
    slack: float,
) -> list[Cause]:
    """All causes, best first.

    Args:
        foreign: the scores.
        ours: the logits of our own reading.
        read: those of the readings to be held against them.
        outputs: ours first.
        numbers: `[pair]`, the number of each pair's query.
        slack: the tolerance of logits, relative to the largest where that is above 1.
    """
    with np.errstate(invalid="ignore"):  # pairs that a reading cannot read are NaN
        found = [_cause(foreign, ours, reading, output, numbers, slack) for reading in read for output in outputs]
    return sorted(found, key=lambda cause: cause.rank)


def _cause(
    foreign: ForeignScores, ours: ReadPairs, reading: ReadPairs, output: Output, numbers: np.ndarray, slack: float
) -> Cause:
    values = output.of(reading.logits, numbers)
    difference = np.abs(foreign.values - values)
    tolerance = foreign.exact_to + FLOOR * np.maximum(1, np.abs(values))
    exact = output.of(ours.logits, numbers)
    if reading.half is None:
        noise = moved(output, reading.logits, numbers, slack)
    else:
        noise = np.full_like(values, NOISE * np.nanmax(np.abs(values - exact), initial=0.0))
    tolerance = tolerance + noise
    may_hide = reading.half is not None or output.over_query  # a range that is next to nothing is all noise
    too_coarse = may_hide and np.nanmax(noise, initial=0.0) > LARGEST_NOISE * np.ptp(foreign.values)
    inside = difference <= tolerance  # NaN is not
    reproduces = YES if inside.all() and not too_coarse else NO
    if reproduces == YES and reading.half is not None:
        grid = on_grid(foreign.values, foreign.exact_to, HALVES[reading.half])
        alike = err_alike(foreign.values - exact, values - exact)
        if (grid is False and output.plain) or (not grid and alike is False):
            reproduces = NO
        elif not (grid or alike):
            reproduces = PERHAPS
    known = np.isfinite(difference)
    return Cause(
        reading=reading.name,
        output=output.name,
        half=reading.half is not None,
        changes=int(reading.name != AS_HERE) + int(output.name != OUR_SCORE),
        values=values,
        tolerance=tolerance,
        reproduces=reproduces,
        within=int(inside.sum()),
        max_abs=float(difference[known].max(initial=0.0)) if known.any() else float("inf"),
        mean_abs=float(difference[known].mean()) if known.any() else float("inf"),
        spearman=spearman(foreign.values[known], values[known]),
    )


def moved(
    output: Output, logits: Float[np.ndarray, "pair label"], numbers: np.ndarray, slack: float
) -> Float[np.ndarray, "pair"]:
    """`[pair]`, how far an output moves when logits are off by the slack: every logit up and down, and by signs drawn a pair.

    Of an output over a query's passages, how far any of its pairs moves.
    """
    size = slack * max(1.0, float(np.nanmax(np.abs(logits), initial=0.0)))
    at = output.of(logits, numbers)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (DRAWS, *logits.shape))
    steps = [np.abs(output.of(logits + size * sign, numbers) - at) for sign in signs]
    steps += [np.abs(output.of(logits + size * sign, numbers) - at) for sign in np.eye(logits.shape[1])]
    found = 2 * np.max(steps, axis=0)
    return np.full_like(found, np.nanmax(found, initial=0.0)) if output.over_query else found


def spearman(a: Float[np.ndarray, "pair"], b: Float[np.ndarray, "pair"]) -> float:
    """Rank correlation, ties at their mean rank; NaN of a constant."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
