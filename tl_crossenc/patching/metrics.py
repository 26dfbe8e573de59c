"""What a patch did, in four measures of the score that it left.

**Formulas**, with s the patched score, a the score of the run that was patched and b that of the run patched from:

    difference      s - a                                      in units of the score
    share restored  (s - a) / (b - a)                          0: nothing, 1: all of the way to the other run's score
    rank            1 + (better passages) + (tied passages) / 2    in the passage's pool, the other passages unpatched
    nDCG            of the pool with this one score changed    tie-aware, as in `dcg.py`

The share is the normalized logit difference of Wang et al., *Interpretability in the Wild* (ICLR 2023), and Zhang & Nanda, *Towards
Best Practices of Activation Patching* (ICLR 2024).

**Undefined values are NaN, never 0**: the share of a pair whose two runs have the same score (b = a: there is nothing to
restore), and every measure of a patch that a pair does not have (a part without positions, a position past its end).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike

from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.dcg import ndcg
from tl_crossenc.statistics.ties import TIE_TOLERANCE, tie_groups

FLOAT32 = TIE_TOLERANCE["float32"]


def difference(patched: ArrayLike, base: ArrayLike) -> Float64[np.ndarray, "pair *patch"]:
    """Patched score - score of the run that was patched.

    Args:
        patched: `[pair, ...]`, any axes of patches after the first; NaN where a pair has no such patch.
        base: `[pair]`.

    Raises:
        ValueError: numbers of pairs that differ.
    """
    scores = np.asarray(patched, dtype=np.float64)
    return scores - _along(base, scores, "base scores")


def undefined_pairs(
    start: ArrayLike, target: ArrayLike, tolerance: float = 0.0, scale: float = 0.0
) -> Bool[np.ndarray, "pair"]:
    """True for each pair whose two runs have the same score, so that no share of the way between them can be said.

    Args:
        start, target: `[pair]`, scores of the run that was patched and of the run patched from.
        tolerance, scale: scores at most tolerance x max(scale, |score|) apart are the same, see `ties.py`.
    """
    a, b = np.asarray(start, dtype=np.float64), np.asarray(target, dtype=np.float64)
    return np.abs(b - a) <= tolerance * np.maximum(scale, np.maximum(np.abs(a), np.abs(b)))


def share_restored(
    patched: ArrayLike, start: ArrayLike, target: ArrayLike, tolerance: float = 0.0, scale: float = 0.0
) -> Float64[np.ndarray, "pair *patch"]:
    """How much of the way from `start` to `target` the patch went: 0 none, 1 all; NaN where there is no way to go.

    Args:
        patched: `[pair, ...]`.
        start, target: `[pair]`, scores of the run that was patched and of the run patched from.
        tolerance, scale: see `undefined_pairs`.

    Raises:
        ValueError: numbers of pairs that differ.
    """
    scores = np.asarray(patched, dtype=np.float64)
    a, _ = _along(start, scores, "start scores"), _along(target, scores, "target scores")
    way = np.where(undefined_pairs(start, target, tolerance, scale), np.nan, np.subtract(target, start))
    return (scores - a) / way.reshape(a.shape)


@dataclass(frozen=True)
class PoolContext:
    """The rest of each patched passage's pool.

    Attributes:
        grades: the grade of the patched passage, one a pair.
        others: the unpatched scores of its pool's other passages, one array `[passage]` a pair.
        other_grades: their grades, one array `[passage]` a pair.

    Raises:
        ValueError: lengths that do not fit.
    """

    grades: tuple[int, ...]
    others: tuple[np.ndarray, ...]
    other_grades: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        if not len(self.grades) == len(self.others) == len(self.other_grades):
            raise ValueError(
                f"expected a grade, other scores and other grades a pair, got {len(self.grades)}, {len(self.others)} "
                f"and {len(self.other_grades)}"
            )
        for i, (scores, grades) in enumerate(zip(self.others, self.other_grades, strict=True)):
            if np.shape(scores) != np.shape(grades) or np.ndim(scores) != 1:
                raise ValueError(
                    f"expected a grade a passage in the pool of pair {i}, got scores of shape {np.shape(scores)} and "
                    f"grades of shape {np.shape(grades)}"
                )

    @classmethod
    def from_pool(cls, pool: Pool, scores: ArrayLike, indices: Sequence[int]) -> PoolContext:
        """The context of patched pairs that stand in a pool.

        Args:
            pool: the passages that are ranked together, usually `pool.ranked`.
            scores: `[pair of the pool]`, unpatched.
            indices: which pair of the pool each patched pair is.

        Raises:
            ValueError: scores that are not one a pair of the pool, or an index outside of it.
        """
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != (len(pool),):
            raise ValueError(f"expected {len(pool)} scores, one a pair of the pool, got shape {values.shape}")
        outside = [int(i) for i in indices if not 0 <= i < len(pool)]
        if outside:
            raise ValueError(f"expected indices 0..{len(pool) - 1} of pairs of the pool, got {outside[0]}")
        members: dict[str, list[int]] = {}
        for i, pair in enumerate(pool.pairs):
            members.setdefault(pair.query_id, []).append(i)
        rest = [[j for j in members[pool.pairs[i].query_id] if j != i] for i in indices]
        grades = np.asarray([pair.grade for pair in pool.pairs], dtype=np.int64)
        return cls(
            tuple(int(grades[i]) for i in indices),
            tuple(values[others] for others in rest),
            tuple(grades[others] for others in rest),
        )


def pool_ranks(
    patched: ArrayLike, context: PoolContext, tolerance: float = FLOAT32, scale: float = 0.0
) -> Float64[np.ndarray, "pair *patch"]:
    """The rank (from 1) of each patched passage in its pool; tied passages share the mean of their ranks.

    Args:
        patched: `[pair, ...]` scores.
        context: the rest of the pools.
        tolerance, scale: of ties, see `ties.tie_groups`.

    Raises:
        ValueError: numbers of pairs that differ.
    """

    def rank(score: float, i: int) -> float:
        before = 0
        for group in tie_groups([score, *context.others[i]], tolerance, scale):
            if 0 in group:
                return before + (len(group) + 1) / 2
            before += len(group)
        return float("nan")

    return _each(patched, context, rank)


def pool_ndcg(
    patched: ArrayLike,
    context: PoolContext,
    *,
    cutoff: int = 10,
    gain: str = "linear",
    tolerance: float = FLOAT32,
    scale: float = 0.0,
) -> Float64[np.ndarray, "pair *patch"]:
    """nDCG@cutoff of the pool of each patched passage, the other passages scored as without the patch.

    Args:
        patched: `[pair, ...]` scores.
        context: the rest of the pools.
        cutoff, gain, tolerance, scale: see `evaluation.ndcg`.

    Raises:
        ValueError: numbers of pairs that differ.
    """

    def value(score: float, i: int) -> float:
        grades = [context.grades[i], *context.other_grades[i]]
        return ndcg([score, *context.others[i]], grades, cutoff, gain, tolerance, scale)

    return _each(patched, context, value)


def _each(patched: ArrayLike, context: PoolContext, measure) -> Float64[np.ndarray, "pair *patch"]:
    scores = np.asarray(patched, dtype=np.float64)
    if scores.ndim == 0 or len(scores) != len(context.grades):
        raise ValueError(f"expected scores of {len(context.grades)} pairs, got shape {scores.shape}")
    values = np.full(scores.shape, np.nan)
    for place in np.argwhere(np.isfinite(scores)):
        index = tuple(place)
        values[index] = measure(float(scores[index]), int(index[0]))
    return values


def _along(values: ArrayLike, scores: np.ndarray, what: str) -> np.ndarray:
    """`[pair]` values shaped to go with `[pair, ...]` scores."""
    array = np.asarray(values, dtype=np.float64)
    if scores.ndim == 0 or array.shape != scores.shape[:1]:
        raise ValueError(
            f"expected {what} of one number a pair for patched scores of shape {scores.shape}, got {array.shape}"
        )
    return array.reshape(-1, *[1] * (scores.ndim - 1))
