"""R² of predictions for queries that were not fitted on, with its interval over queries.

    R²          1 − sum (y − p)² / sum (y − mean y)²
    R² within   1 − sum ((y − mean_q y) − (p − mean_q p))² / sum (y − mean_q y)²        mean_q: of the pairs of y's own query

R² is 1 for perfect predictions and 0 for the mean of all pairs. Predictions for other queries may be worse than that: then it is
negative, and stands as it is. The second leaves out what tells queries apart and asks what tells a query's passages apart, which is
all that a ranking is made of. Where the target does not vary (a query's own length, within its query) there is none: NaN.

The interval is the percentile bootstrap over queries, all pairs of a query together (Efron 1979).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tl_crossenc.statistics.folds import numbered
from tl_crossenc.statistics.significance import ROUNDING

DRAWS = 1000


class Explained(NamedTuple):
    """R², its 95 % interval over queries, and R² within queries."""

    r2: float
    low: float
    high: float
    within: float


def explained(
    target: ArrayLike, predictions: ArrayLike, queries: Sequence[Hashable], *, seed: int = 0, draws: int = DRAWS
) -> Explained:
    """R² of `[pair]` against `[pair]`, see the module; NaN of a target that is a constant, bounds of fewer than 2 queries.

    Raises:
        ValueError: lengths that differ, no pairs, or values that are not finite.
    """
    y, p = (np.asarray(values, dtype=np.float64) for values in (target, predictions))
    codes = numbered(queries)
    if not (y.shape == p.shape == codes.shape and y.size) or not np.isfinite([y, p]).all():
        raise ValueError(
            f"expected a finite target, prediction and query of every pair, got {y.size}, {p.size}, {codes.size}"
        )
    floor = ROUNDING * np.abs(y).max()
    if np.ptp(y) <= floor:
        return Explained(*[float("nan")] * 4)
    n = np.bincount(codes)
    y, p = y - y.mean(), p - y.mean()
    sums = np.stack([n, *(np.bincount(codes, of) for of in (y, y**2, (y - p) ** 2))])
    rng = np.random.default_rng([seed, len(n)])
    times = rng.multinomial(len(n), np.full(len(n), 1 / len(n)), size=draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = _r2(sums @ times.T)
    drawn = drawn[np.isfinite(drawn)]
    bounds = np.quantile(drawn, [0.025, 0.975]) if len(n) > 1 and drawn.size else np.full(2, np.nan)
    own = [of - (np.bincount(codes, of) / n)[codes] for of in (y, p)]
    within = float("nan")
    if np.abs(own[0]).max() > floor:
        within = float(1 - ((own[0] - own[1]) ** 2).sum() / (own[0] ** 2).sum())
    return Explained(float(_r2(sums.sum(1))), float(bounds[0]), float(bounds[1]), within)


def _r2(sums: np.ndarray) -> np.ndarray:
    """From sums over pairs of 1, y, y² and the squared errors, `[4, ...]`."""
    n, total, squares, errors = sums
    return np.asarray(1 - errors / (squares - total**2 / n))
