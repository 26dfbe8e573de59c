"""Is an ablation's loss real? Paired and unpaired t-tests, Holm's correction and intervals over queries.

**Formulas**, for the values a_1..a_n and b_1..b_n of the same n queries, d_i = a_i − b_i:

    paired     t = mean(d) / (sd(d) / sqrt(n)),                                     n − 1 degrees of freedom
    unpaired   t = (mean(a) − mean(b)) / (s · sqrt(1/n_a + 1/n_b)),           n_a + n_b − 2 degrees of freedom
               s² = ((n_a − 1) sd(a)² + (n_b − 1) sd(b)²) / (n_a + n_b − 2)
    interval   mean(a) ± t_(1+level)/2 · sd(a) / sqrt(n),                           n − 1 degrees of freedom
    Holm       p_(1) <= … <= p_(m):  adjusted p_(i) = max_{j <= i} min(1, (m − j + 1) · p_(j))

Student, *The Probable Error of a Mean*, Biometrika 1908; Holm, *A Simple Sequentially Rejective Multiple Test
Procedure*, Scandinavian Journal of Statistics 1979. All tests are two-tailed; sd has the denominator n − 1.

**Which to read.** The paper marks "p <= 0.05 under the two-tailed Student's t-test", paired or not unsaid;
that it leaves .78 against .81 unstarred points to an unpaired, uncorrected test: `decrease_paper`. The same
queries are ranked under every condition, so the paired test is the one with power, and a table holds many
conditions, so it is corrected: `decrease_holm`.

**Degenerate data.** Values that differ by less than rounding (`ROUNDING` of the largest magnitude) are equal:
two ways to add the same DCG must not look like an effect. Equal vectors have p = 1; a difference that is the
same nonzero number for every query has p = 0 (t is infinite). Fewer than 2 values cannot be tested: p and
bounds are NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy import special

ALPHA = 0.05  # the level of both marks, the paper's
# Relative to the largest magnitude at hand: a sum of ten float64 terms is good to about 1e-15 of it.
ROUNDING = 1e-12
COLUMNS = [
    *("n_queries", "mean", "mean_low", "mean_high", "difference", "diff_low", "diff_high"),
    *("p_paired", "p_holm", "p_unpaired", "decrease_holm", "decrease_paper"),
]


class Interval(NamedTuple):
    """The bounds of an interval, in the unit of the values."""

    low: float
    high: float


def holm(p_values: ArrayLike) -> Float64[np.ndarray, "test"]:
    """Adjust `[test]` p-values so that rejecting those <= α keeps the family-wise error at α (Holm 1979).

    Returns:
        `[test]`, in the order given; nothing for nothing.

    Raises:
        ValueError: p-values not one-dimensional, NaN, or outside 0..1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"expected a list of p-values in 0..1 but got {p.tolist()}; leave out NaN first")
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, np.arange(p.size, 0, -1) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def paired_t(a: ArrayLike, b: ArrayLike) -> float:
    """Two-tailed p of the paired t-test of `[query]` against `[query]`, in the same order of queries.

    Returns:
        p; 1 for equal vectors, 0 for a constant nonzero difference, NaN (cannot test) for fewer than 2
        queries.

    Raises:
        ValueError: lengths that differ, values that are not finite.
    """
    d, floor = _differences(a, b)
    if d.size < 2:
        return float("nan")
    return _two_tailed(float(d.mean()), float(d.std(ddof=1)), 1 / d.size, d.size - 1, floor)


def unpaired_t(a: ArrayLike, b: ArrayLike) -> float:
    """Two-tailed p of Student's t-test of independent `[query]` and `[query]` with equal variances.

    Returns:
        p; 1 for equal means and 0 for unequal ones where neither side varies, NaN (cannot test) for fewer
        than 2 values on a side.

    Raises:
        ValueError: values that are not finite.
    """
    a, b = finite_values(a), finite_values(b)
    if min(a.size, b.size) < 2:
        return float("nan")
    df = a.size + b.size - 2
    sd = float(np.sqrt((a.var(ddof=1) * (a.size - 1) + b.var(ddof=1) * (b.size - 1)) / df))
    return _two_tailed(float(a.mean() - b.mean()), sd, 1 / a.size + 1 / b.size, df, _floor(a, b))


def least_significant(standard_error: ArrayLike, n: int, tests: int = 1) -> Float64[np.ndarray, "..."]:
    """The smallest mean difference of n pairs that a paired t-test would find significant as the first of `tests` (Holm's step).

    Args:
        standard_error: of the mean difference, of any shape.
        n: pairs behind each.
        tests: that are corrected for.

    Returns:
        In the same shape; NaN for fewer than 2 pairs.
    """
    error = np.asarray(standard_error, dtype=np.float64)
    return np.asarray(error * (special.stdtrit(n - 1, 1 - ALPHA / (2 * tests)) if n > 1 else np.nan))


def rank_p_values(
    observed: Float64[np.ndarray, "claim"], draws: Float64[np.ndarray, "draw claim"]
) -> tuple[Float64[np.ndarray, "claim"], Float64[np.ndarray, "claim"]]:
    """Is each observed value lower than random draws of it? One-sided p by rank, alone and for all claims together.

    Args:
        observed: a value a claim.
        draws: the same of each draw; a draw's values belong together, as the observed ones do.

    Returns:
        `p`: (1 + draws as low or lower) / (1 + draws), values equal but for rounding being ties. `p_family`: with T the standard
        deviations by which a value is below the mean of draws and observed together, the share of the 1 + draws sets whose
        largest T of all claims reaches the observed T of the claim (Westfall & Young, Resampling-Based Multiple Testing, 1993).
    """
    values = np.vstack([observed, draws])
    floor = ROUNDING * np.abs(values).max(initial=0.0)
    p = (draws <= observed + floor).sum(0) + 1.0
    spread = values.std(0)
    below = np.divide(values.mean(0) - values, spread, out=np.zeros_like(values), where=spread > floor)
    family = (below.max(1, initial=-np.inf)[:, None] >= below[0] - 1e-9).sum(0)
    return p / len(values), family / len(values)


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """The t-interval of the mean of `[query]`; NaN bounds for fewer than 2 values.

    Raises:
        ValueError: values that are not finite, a level outside 0..1.
    """
    x = finite_values(values)
    tail = upper_tail(level)
    if x.size < 2:
        return Interval(float("nan"), float("nan"))
    mean, half = float(x.mean()), float(special.stdtrit(x.size - 1, tail) * x.std(ddof=1) / np.sqrt(x.size))
    return Interval(mean - half, mean + half)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    seed: int = 0,
    n: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The percentile bootstrap interval of a statistic of `[query]` (Efron, Annals of Statistics 1979).

    Args:
        values: `[query]`.
        statistic: from a resample `[query]` to a number.
        seed: of the resampling; the same seed gives the same interval.
        n: number of resamples.
        level: share of the resampled statistics between the bounds.

    Raises:
        ValueError: no values or values that are not finite, n below 1, a level outside 0..1.
    """
    x = finite_values(values)
    tail = upper_tail(level)
    if not x.size or n < 1:
        raise ValueError(f"expected values and resamples but got {x.size} and {n}; give at least one of each")
    rng = np.random.default_rng(seed)
    statistics = [float(statistic(x[rng.integers(0, x.size, x.size)])) for _ in range(n)]
    low, high = np.quantile(statistics, [1 - tail, tail])
    return Interval(float(low), float(high))


def compare(baseline: ArrayLike, conditions: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """Compare each condition with the baseline over the same queries; Holm corrects over the conditions.

    Args:
        baseline: `[query]`, say the nDCG@10 of the unablated model. Where it and a condition are both pandas
            Series, their indices must be equal.
        conditions: name → `[query]`, in the baseline's order of queries.

    Returns:
        A row a condition, in the order given, indexed by `condition`: `n_queries`; `mean`, `mean_low`,
        `mean_high` of the condition; `difference` (condition − baseline), `diff_low`, `diff_high`, 95 %
        t-intervals; `p_paired` and its `p_holm`; `p_unpaired` (Student's, uncorrected); `decrease_holm` and
        `decrease_paper`: the difference is negative and `p_holm`, or `p_unpaired`, is at most `ALPHA`. With
        one query p and bounds are NaN.

    Raises:
        ValueError: no queries, lengths or indices that differ, values that are not finite.
    """
    if not finite_values(baseline).size:
        raise ValueError("expected the values of at least one query but got none; check that the pool has some")
    rows = {name: _compare_one(name, baseline, values) for name, values in conditions.items()}
    frame = pd.DataFrame(
        list(rows.values()), index=pd.Index(list(rows), name="condition", dtype=object), columns=COLUMNS
    )
    paired = frame["p_paired"].to_numpy(dtype=np.float64)
    # All conditions have as many queries, so the paired test was possible for all or for none.
    frame["p_holm"] = paired if np.isnan(paired).any() else holm(paired)
    falls = frame["difference"].to_numpy(dtype=np.float64) < 0
    frame["decrease_holm"] = falls & (frame["p_holm"].to_numpy() <= ALPHA)
    frame["decrease_paper"] = falls & (frame["p_unpaired"].to_numpy(dtype=np.float64) <= ALPHA)
    return frame


def _compare_one(name: str, baseline: ArrayLike, values: ArrayLike) -> dict[str, float | int]:
    indices = [side.index for side in (baseline, values) if isinstance(side, pd.Series)]
    if len(indices) == 2 and not indices[0].equals(indices[1]):
        raise ValueError(
            f"expected the baseline's queries in its order but condition {name} has others; reindex it by the baseline"
        )
    try:
        d, _ = _differences(values, baseline)
    except ValueError as error:
        raise ValueError(f"condition {name}: {error}") from error
    mean, difference = mean_interval(values), mean_interval(d)
    return {
        "n_queries": d.size,
        "mean": float(finite_values(values).mean()),
        "mean_low": mean.low,
        "mean_high": mean.high,
        "difference": float(d.mean()),
        "diff_low": difference.low,
        "diff_high": difference.high,
        "p_paired": paired_t(values, baseline),
        "p_unpaired": unpaired_t(values, baseline),
    }


def _differences(a: ArrayLike, b: ArrayLike) -> tuple[Float64[np.ndarray, "query"], float]:
    """a − b with what is rounding set to 0, and the size of rounding."""
    a, b = paired_values(a, b)
    d, floor = a - b, _floor(a, b)
    return np.where(np.abs(d) <= floor, 0.0, d), floor


def _two_tailed(mean: float, sd: float, inverse_n: float, df: int, floor: float) -> float:
    if sd <= floor:
        return 1.0 if abs(mean) <= floor else 0.0
    return float(2 * special.stdtr(df, -abs(mean) / (sd * np.sqrt(inverse_n))))


def _floor(*sides: Float64[np.ndarray, "_"]) -> float:
    return ROUNDING * max(float(np.abs(side).max(initial=0.0)) for side in sides)


def upper_tail(level: float) -> float:
    """The share of a symmetric distribution below the upper bound of its central `level`.

    Raises:
        ValueError: a level outside 0..1.
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1 but got {level}; 0.95 is the usual one")
    return (1 + level) / 2


def paired_values(a: ArrayLike, b: ArrayLike) -> tuple[Float64[np.ndarray, "query"], Float64[np.ndarray, "query"]]:
    """Both sides as float64.

    Raises:
        ValueError: values that are not finite, sides of different lengths.
    """
    a, b = finite_values(a), finite_values(b)
    if a.size != b.size:
        raise ValueError(f"expected a value a query on both sides but got {a.size} and {b.size}; pair them")
    return a, b


def finite_values(values: ArrayLike) -> Float64[np.ndarray, "query"]:
    """`[query]` as float64.

    Raises:
        ValueError: values that are not finite or not in one row.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).sum())
        raise ValueError(
            f"expected a list of finite values, one a query, but got shape {x.shape} with {bad} NaN or "
            "infinite; evaluate every query under every condition first"
        )
    return x
