"""Fieller's interval of a ratio of means: the paired t-test inverted by search, coverage, what has no interval."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import ttest_1samp

from tl_crossenc.statistics.ratios import ratio_interval


def drawn(seed, n=11, shared=0.8):
    rng = np.random.default_rng(seed)
    below = rng.normal(2.3, 0.7, n)
    return shared * below + rng.normal(0.4, 0.5, n), below


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize(("seed", "n", "sign"), [(0, 11, 1), (1, 3, 1), (2, 29, -1), (3, 5, 1)])
def test_it_holds_every_ratio_that_a_paired_t_test_does_not_reject(seed, n, sign, level):
    above, below = drawn(seed, n)
    below = sign * below
    ratio = above.mean() / below.mean()
    bounds = ratio_interval(above, below, level)

    def beyond(guess):
        return ttest_1samp(above - guess * below, 0.0).pvalue - (1 - level)

    assert ttest_1samp(below, 0.0).pvalue < 1 - level
    assert bounds.low == pytest.approx(brentq(beyond, ratio - 1e4, ratio, xtol=1e-13), abs=1e-9)
    assert bounds.high == pytest.approx(brentq(beyond, ratio, ratio + 1e4, xtol=1e-13), abs=1e-9)


def test_a_part_that_is_always_the_same_share_has_no_error():
    _, below = drawn(4)
    assert ratio_interval(below, below) == (1.0, 1.0)
    assert ratio_interval(0.3 * below, below) == pytest.approx((0.3, 0.3), abs=1e-12)
    assert ratio_interval(np.zeros(11), below) == (0.0, 0.0)


def test_units_do_not_matter():
    above, below = drawn(5)
    low, high = ratio_interval(above, below)
    assert ratio_interval(7 * above, 7 * below) == pytest.approx((low, high), rel=1e-12)
    assert ratio_interval(-3 * above, below) == pytest.approx((-3 * high, -3 * low), rel=1e-12)


def test_it_holds_the_true_ratio_as_often_as_it_says():
    rng = np.random.default_rng(6)
    n, truth, held = 7, 1.5 / 2.5, 0
    for _ in range(2000):
        common = rng.normal(0, 0.8, n)
        low, high = ratio_interval(1.5 + common + rng.normal(0, 0.6, n), 2.5 + common)
        held += low <= truth <= high
    assert 0.935 < held / 2000 < 0.965  # three standard errors


def test_a_denominator_that_is_not_told_from_zero_has_no_interval():
    above, below = drawn(7)
    assert np.isnan(ratio_interval(above, below - below.mean())).all()
    assert np.isnan(ratio_interval(above, np.zeros(11))).all()
    centred = (below - below.mean()) / below.std(ddof=1)
    t = 2.2281388519649385  # of 10 degrees of freedom, two-tailed .05
    assert np.isnan(ratio_interval(above, centred + 0.999 * t / np.sqrt(11))).all()
    assert np.isfinite(ratio_interval(above, centred + 1.001 * t / np.sqrt(11))).all()


def test_one_query_has_none_and_bad_input_is_said():
    assert np.isnan(ratio_interval([1.0], [2.0])).all()
    with pytest.raises(ValueError, match="3 and 2; pair them"):
        ratio_interval([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        ratio_interval([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match="a level between 0 and 1"):
        ratio_interval([1.0, 2.0], [1.0, 2.0], 95.0)
