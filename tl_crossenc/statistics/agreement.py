"""Do two rankings of the same things agree, and is a mean difference between two systems more than chance?

Kendall's tau-b counts the pairs of things that two rankings have in one order against those in opposite orders; ties lower it only
where one ranking alone has them. The weighted tau (Vigna, WWW 2015) weighs an exchange of ranks r and s by 1 / (r + 1) + 1 / (s
+ 1), so that the top counts most. Both are scipy's.

The randomization test (Fisher 1935; for retrieval Smucker, Allan & Carterette, CIKM 2007) changes the signs of the queries'
differences: exact where all 2^n signs are no more than `RESAMPLES`, else over as many random ones, the observed counted among them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from tl_crossenc.statistics.significance import ROUNDING

RESAMPLES = 9999
_BATCH = 512
"""Resamples at a time: so many values a query in memory."""


class Agreement(NamedTuple):
    """Of two rankings, 1 for the same and -1 for the reverse; NaN where one of them ranks nothing (one thing, all scores equal)."""

    tau: float
    weighted_tau: float


def ranking_agreement(a: ArrayLike, b: ArrayLike) -> Agreement:
    """How far two lists of scores, of the same things in one order, rank them alike.

    Raises:
        ValueError: lengths that differ, scores that are no finite numbers.
    """
    one, other = (np.asarray(side, dtype=np.float64) for side in (a, b))
    if one.shape != other.shape or one.ndim != 1 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ValueError(f"expected two lists of as many finite scores, got shapes {one.shape} and {other.shape}")
    if one.size < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return Agreement(float("nan"), float("nan"))
    return Agreement(float(stats.kendalltau(one, other).statistic), float(stats.weightedtau(one, other).statistic))


def randomization_p(differences: ArrayLike, *, seed: int = 0) -> float:
    """Two-tailed p of the mean of paired differences, one a query; 1 where all are 0, NaN for fewer than 2.

    Raises:
        ValueError: differences that are no finite numbers.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or not np.isfinite(d).all():
        raise ValueError(f"expected a list of finite differences, one a query, got shape {d.shape}")
    if d.size < 2:
        return float("nan")
    d = np.where(np.abs(d) <= ROUNDING, 0.0, d)  # of values between 0 and 1, as measures are
    if not d.any():
        return 1.0
    found = stats.permutation_test(
        (d,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
