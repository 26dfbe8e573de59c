"""The ratio of two means over the same queries, and its interval.

A share such as "QUERY has 80 % of s − s′" is mean(a) / mean(b), both over queries. Its error is that of both: bounds of mean(a)
divided by mean(b) as if that were known are wrong, and too wide where a and b go together (where a = b, the share is 1 whatever
the queries).

**Formula** (Fieller, *Some Problems in Interval Estimation*, JRSS B 1954): the interval has every ρ of which the paired t-test of
a and ρ b does not say that it is not the ratio, |mean(a − ρ b)| <= t_(1+level)/2 · sd(a − ρ b) / sqrt(n), n − 1 degrees of freedom.
With A, B the means, s_aa, s_ab, s_bb the variances and covariance of the means, r = A / B and g = t² s_bb / B²:

    (r − g s_ab / s_bb ± t / |B| · sqrt(s_aa − 2 r s_ab + r² s_bb − g (s_aa − s_ab² / s_bb))) / (1 − g)

Where g >= 1 the denominator itself is not told from 0, and no bounded interval holds the ratio: NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from tl_crossenc.statistics.significance import Interval, paired_values, upper_tail


def ratio_interval(above: ArrayLike, below: ArrayLike, level: float = 0.95) -> Interval:
    """Fieller's interval of mean(above) / mean(below), both `[query]`; NaN bounds for fewer than 2 values, or where there is none.

    Raises:
        ValueError: values that are not finite, sides of different lengths, a level outside 0..1.
    """
    tail = upper_tail(level)
    a, b = paired_values(above, below)
    unknown = Interval(float("nan"), float("nan"))
    if a.size < 2 or not b.mean():
        return unknown
    t, mean = float(special.stdtrit(a.size - 1, tail)), float(b.mean())
    ratio = float(a.mean()) / mean
    s_bb = b.var(ddof=1) / b.size
    g = t**2 * s_bb / mean**2
    if g >= 1:
        return unknown
    left = a - ratio * b  # its variance is s_aa - 2 r s_ab + r^2 s_bb, without the cancellation of that sum
    s_ll, s_lb = left.var(ddof=1) / a.size, np.cov(left, b)[0, 1] / a.size
    explained = s_lb**2 / s_bb if s_bb else 0.0
    middle = ratio - t**2 * s_lb / mean**2 / (1 - g)
    half = t / abs(mean) * np.sqrt(max(s_ll - g * (s_ll - explained), 0.0)) / (1 - g)
    return Interval(float(middle - half), float(middle + half))
