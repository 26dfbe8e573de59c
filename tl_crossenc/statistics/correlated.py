"""Pearson's correlation over pairs of many queries, with its interval over queries.

    r           of all pairs together, what tells queries apart included
    r within    of the values less their mean over the pair's own query: what tells a query's passages apart

The interval is the percentile bootstrap over queries, all pairs of a query together (Efron 1979), since pairs of one query are not
independent. Where a side does not vary there is no correlation: NaN.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from tl_crossenc.statistics.folds import numbered
from tl_crossenc.statistics.significance import ROUNDING, Interval

DRAWS = 2000


@dataclass(frozen=True)
class Correlated:
    """Correlations of several predictions with one target.

    Attributes:
        r: of all pairs.
        within: of what is left within queries.
        draws: r of every resample of the queries, the same resamples for every prediction, so that their differences are paired.
    """

    r: Float64[np.ndarray, "prediction"]
    within: Float64[np.ndarray, "prediction"]
    draws: Float64[np.ndarray, "draw prediction"]

    def interval(self, prediction: int) -> Interval:
        """The 95 % interval of r; NaN of fewer than two queries."""
        return _interval(self.draws[:, prediction])

    def difference(self, first: int, second: int) -> tuple[float, Interval]:
        """r of one prediction less that of another, with the paired interval."""
        return float(self.r[first] - self.r[second]), _interval(self.draws[:, first] - self.draws[:, second])


def correlated(
    target: ArrayLike, predictions: ArrayLike, queries: Sequence[Hashable], *, seed: int = 0, draws: int = DRAWS
) -> Correlated:
    """Correlations of `[pair]` with each of `[prediction, pair]`, see the module.

    Raises:
        ValueError: lengths that differ, no pairs, or values that are not finite.
    """
    y, p = np.asarray(target, dtype=np.float64), np.atleast_2d(np.asarray(predictions, dtype=np.float64))
    codes = numbered(queries)
    if not (y.shape == codes.shape == p.shape[1:] and y.size) or not (np.isfinite(y).all() and np.isfinite(p).all()):
        raise ValueError(
            f"expected a finite target, predictions and a query of every pair, got {y.size}, {p.shape[1:]}, {codes.size}"
        )
    n = np.bincount(codes)
    rows = _centred(np.concatenate([y[None], p]), np.zeros_like(codes))
    own = _centred(rows, codes)
    whole = _sums(rows, codes)
    sampled = np.full((draws, len(p)), np.nan)
    if len(n) > 1:
        times = np.random.default_rng([seed, len(n)]).multinomial(len(n), np.full(len(n), 1 / len(n)), size=draws)
        sampled = _pearson(whole @ times.T).T
    return Correlated(_pearson(whole.sum(-1)), _pearson(_sums(own, codes).sum(-1)), sampled)


def _centred(rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Each row less its mean over each group; what is left of a constant by rounding is 0."""
    n = np.bincount(codes)
    means = np.stack([np.bincount(codes, row) / n for row in rows])
    left = rows - means[:, codes]
    floor = ROUNDING * np.abs(rows).max(1, keepdims=True)
    return np.where(np.abs(left).max(1, keepdims=True) <= floor, 0.0, left)


def _sums(rows: np.ndarray, codes: np.ndarray) -> Float64[np.ndarray, "prediction moment query"]:
    """Per query the count and the sums of y, p, y², p² and yp, for each prediction; the first row is y."""
    y, count = rows[0], np.bincount(codes).astype(np.float64)
    sums = [[count, *(np.bincount(codes, of) for of in (y, p, y**2, p**2, y * p))] for p in rows[1:]]
    return np.array(sums)


def _pearson(sums: Float64[np.ndarray, "prediction moment *draw"]) -> np.ndarray:
    n, y, p, yy, pp, yp = np.moveaxis(sums, 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = (yy - y**2 / n) * (pp - p**2 / n)
        return np.asarray(np.where(sides > 0, (yp - y * p / n) / np.sqrt(np.maximum(sides, 0)), np.nan))


def _interval(values: np.ndarray) -> Interval:
    known = values[np.isfinite(values)]
    if not known.size:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(float(low), float(high))
