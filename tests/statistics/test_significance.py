"""Significance against closed forms of the t distribution, SciPy's own tests, and hand-worked examples."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_crossenc.statistics import significance

LAW = settings(max_examples=100, deadline=None, derandomize=True)
p_lists = st.lists(st.floats(0, 1), max_size=11)


def p_two_degrees(t):
    """Two-tailed p of Student's t with two degrees of freedom, in closed form."""
    return 1 - abs(t) / math.sqrt(t * t + 2)


def t_two_degrees(level):
    """The t with two degrees of freedom inside which `level` of the mass lies: the inverse of the above."""
    return level * math.sqrt(2 / (1 - level * level))


def slow_holm_rejects(p_values, alpha):
    """Holm's procedure as he states it: reject from the smallest on, stop at the first that fails."""
    rejected = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] * (len(p_values) - step) > alpha:
            break
        rejected.add(index)
    return rejected


# Holm


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04; never below the one before: .02 .03 .06 .06.
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)


def test_holm_edges():
    assert significance.holm([]).shape == (0,)
    assert significance.holm([0.02]).tolist() == [0.02]
    assert significance.holm([0.5, 0.6, 1.0]).tolist() == [1.0, 1.0, 1.0]
    assert significance.holm([0.0, 0.0]).tolist() == [0.0, 0.0]
    assert significance.holm([0.25, 0.25]).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("bad", [[0.1, math.nan], [-0.1], [1.1], [[0.1, 0.2]]])
def test_holm_rejects(bad):
    with pytest.raises(ValueError, match=r"p-values in 0\.\.1"):
        significance.holm(bad)


@LAW
@given(p_lists, st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_rejects_what_the_procedure_rejects(p_values, alpha):
    adjusted = significance.holm(p_values)
    assert set(np.flatnonzero(adjusted <= alpha)) == slow_holm_rejects(p_values, alpha)


@LAW
@given(p_lists, st.randoms(use_true_random=False))
def test_holm_properties(p_values, random):
    adjusted = significance.holm(p_values)
    p = np.array(p_values)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, p * len(p_values))).all()  # never beyond Bonferroni
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    order = list(range(len(p_values)))
    random.shuffle(order)
    assert significance.holm([p_values[i] for i in order]).tolist() == adjusted[order].tolist()


# t-tests


def test_paired_by_hand():
    # Differences 1, 2, 3: mean 2, sd 1, t = 2 / (1/√3) = √12 with two degrees of freedom.
    p = significance.paired_t([1.5, 4.0, 3.25], [0.5, 2.0, 0.25])
    assert p == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-15)
    assert p == pytest.approx(p_two_degrees(math.sqrt(12)), abs=1e-15)


def test_paired_with_one_degree_of_freedom():
    # Differences 1, 3: mean 2, sd √2, t = 2; one degree of freedom is the Cauchy distribution.
    assert significance.paired_t([1, 3], [0, 0]) == pytest.approx(1 - 2 / math.pi * math.atan(2), abs=1e-15)


def test_unpaired_by_hand():
    # Variances 2 and 2, t = −3 / (√2 · √(1/2 + 1/2)) = −3/√2 with two degrees of freedom.
    assert significance.unpaired_t([0, 2], [3, 5]) == pytest.approx(p_two_degrees(3 / math.sqrt(2)), abs=1e-15)


def test_unpaired_with_unequal_sizes_and_variances():
    # Sums of squares 2 (1, 2, 3) and 50 (0, 10), df 3, s² = 52/3, t = −3 / √(52/3 · 5/6) = −3 / √(130/9).
    t = 3 / math.sqrt(130 / 9)
    x = t / math.sqrt(3)
    expected = 1 - 2 / math.pi * (math.atan(x) + x / (1 + x * x))  # closed form for three degrees of freedom
    assert significance.unpaired_t([1, 2, 3], [0, 10]) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("n", [2, 7, 43, 227])
def test_tests_are_scipys(n):
    rng = np.random.default_rng(n)
    a = rng.random(n)
    b = a + rng.normal(0.02, 0.1, n)
    assert significance.paired_t(a, b) == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-10)
    c = rng.random(n + 6)
    assert significance.unpaired_t(a, c) == pytest.approx(scipy.stats.ttest_ind(a, c).pvalue, rel=1e-10)


@pytest.mark.parametrize("tests", [1, 3, 36])
@pytest.mark.parametrize("n", [2, 3, 43])
def test_the_least_significant_difference_is_where_scipys_p_is_the_first_of_holms(n, tests):
    rng = np.random.default_rng(n)
    d = rng.normal(0, 0.1, n)
    least = significance.least_significant(scipy.stats.sem(d), n, tests)
    p = scipy.stats.ttest_rel(d - d.mean() + least, np.zeros(n)).pvalue
    assert p == pytest.approx(0.05 / tests, rel=1e-9)


def test_the_least_significant_difference_of_several_and_of_one_pair():
    found = significance.least_significant([[0.1, 0.3]], 3)
    np.testing.assert_allclose(found, [[0.1 * t_two_degrees(0.95), 0.3 * t_two_degrees(0.95)]], rtol=1e-12)
    assert np.isnan(significance.least_significant([0.1], 1)).all()


def test_equal_vectors_have_p_one():
    values = [0.1, 0.7, 0.3]
    assert significance.paired_t(values, values) == 1.0
    assert significance.unpaired_t(values, values) == 1.0
    assert significance.unpaired_t([0.3, 0.3], [0.3, 0.3, 0.3]) == 1.0
    assert significance.paired_t([0.0, 0.0], [0.0, 0.0]) == 1.0


def test_rounding_is_no_effect():
    # One-sided last-bit differences would be a perfect effect to a t-test (here p < 1e-3 on the raw numbers).
    values = np.random.default_rng(0).random(43)
    nudged = np.nextafter(values, 2)
    raw = nudged - values
    t = raw.mean() / (raw.std(ddof=1) / math.sqrt(43))
    assert 2 * scipy.stats.t.sf(t, 42) < 1e-3
    assert significance.paired_t(nudged, values) == 1.0
    row = significance.compare(values, {"nudged": nudged}).loc["nudged"]
    assert row["difference"] == 0.0
    assert row["p_holm"] == 1.0
    assert not row["decrease_holm"]


def test_constant_difference_has_p_zero():
    # a − b is .1 up to rounding that differs from query to query.
    b = np.random.default_rng(1).random(11)
    assert len(set((b + 0.1) - b)) > 1
    assert significance.paired_t(b + 0.1, b) == 0.0
    assert significance.paired_t(b, b + 0.1) == 0.0
    assert significance.unpaired_t([0.5, 0.5], [0.2, 0.2]) == 0.0


def test_small_but_real_differences_are_tested():
    d = np.array([1e-9, 2e-9, 3e-9])
    b = np.array([0.25, 0.5, 0.75])
    assert significance.paired_t(b + d, b) == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-5)


@pytest.mark.parametrize(("size", "counts"), [(1e-11, True), (1e-13, False)])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_rounding_is_a_millionth_of_a_millionth_of_the_largest_value(size, counts, scale):
    """In powers of two, so that the differences themselves are exact: 1, 2, 3 units, of which t is that of the numbers."""
    unit = 2.0 ** math.floor(math.log2(size)) * scale
    b = np.full(3, scale)
    a = b + unit * np.array([1.0, 2.0, 3.0])
    exact = scipy.stats.ttest_1samp((a - b) / unit, 0).pvalue
    assert significance.paired_t(a, b) == (pytest.approx(exact, rel=1e-3) if counts else 1.0)
    row = significance.compare(b, {"other": a}).loc["other"]
    assert (row["difference"] != 0) == counts
    assert (significance.unpaired_t(a, b) < 1) == counts


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_cannot_be_tested(n):
    assert math.isnan(significance.paired_t([0.5] * n, [0.25] * n))
    assert math.isnan(significance.unpaired_t([0.5] * n, [0.25, 0.75]))
    assert math.isnan(significance.unpaired_t([0.25, 0.75], [0.5] * n))
    assert all(math.isnan(bound) for bound in significance.mean_interval([0.5] * n))


def test_bad_values():
    with pytest.raises(ValueError, match="a value a query on both sides but got 2 and 3"):
        significance.paired_t([1, 2], [1, 2, 3])
    for call in (significance.paired_t, significance.unpaired_t):
        with pytest.raises(ValueError, match="1 NaN or infinite"):
            call([1.0, math.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        significance.mean_interval([math.inf, 1.0])
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        significance.mean_interval([[1.0, 2.0]])


@LAW
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=13))
def test_p_is_a_symmetric_probability(pairs):
    a, b = (list(side) for side in zip(*pairs, strict=True))
    for call in (significance.paired_t, significance.unpaired_t):
        assert 0 <= call(a, b) <= 1
        assert call(a, b) == call(b, a)


# Intervals


def test_mean_interval_by_hand():
    # 1, 2, 3: mean 2, sd 1; t(.975, 2 df) = .95 √(2 / (1 − .95²)) = 4.3027.
    half = t_two_degrees(0.95) / math.sqrt(3)
    assert significance.mean_interval([1, 2, 3]) == pytest.approx((2 - half, 2 + half), abs=1e-12)
    half = t_two_degrees(0.5) / math.sqrt(3)
    interval = significance.mean_interval([1, 2, 3], level=0.5)
    assert (interval.low, interval.high) == pytest.approx((2 - half, 2 + half), abs=1e-12)
    assert significance.mean_interval([0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, math.nan])
def test_bad_level(level):
    with pytest.raises(ValueError, match="level between 0 and 1"):
        significance.mean_interval([1, 2], level)
    with pytest.raises(ValueError, match="level between 0 and 1"):
        significance.bootstrap_interval([1, 2], level=level)


def test_paired_interval_excludes_zero_exactly_when_p_is_small():
    rng = np.random.default_rng(5)
    seen = set()
    for shift in np.linspace(0, 0.1, 13):
        a = rng.random(17)
        b = a + rng.normal(shift, 0.1, 17)
        row = significance.compare(a, {"b": b}).loc["b"]
        outside = row["diff_low"] > 0 or row["diff_high"] < 0
        assert outside == (row["p_paired"] < 0.05)
        seen.add(bool(outside))
    assert seen == {True, False}


def test_bootstrap_by_enumeration():
    # The means of two draws from {0, 1} are 0, ½, 1 with ¼, ½, ¼: the middle 40 % is ½, the middle 90 % all.
    assert significance.bootstrap_interval([0, 1], level=0.4) == (0.5, 0.5)
    assert significance.bootstrap_interval([0, 1], level=0.9) == (0.0, 1.0)
    assert significance.bootstrap_interval([0.25] * 5) == (0.25, 0.25)


def test_bootstrap_is_near_the_t_interval_of_many_values():
    values = np.random.default_rng(2).normal(3, 1, 401)
    ours, theirs = significance.bootstrap_interval(values), significance.mean_interval(values)
    assert ours == pytest.approx(theirs, abs=0.02)  # their half-widths are about .1


def test_the_bootstrap_interval_holds_95_percent_unless_asked_otherwise():
    """SciPy's percentile bootstrap of the mean, by its own default of 95 %; their half-widths are about .1, and .084 at 90 %."""
    values = np.random.default_rng(4).normal(3, 1, 401)
    theirs = scipy.stats.bootstrap([values], np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert significance.bootstrap_interval(values, n=4000) == pytest.approx(tuple(theirs), abs=0.007)
    narrow = significance.bootstrap_interval(values, n=4000, level=0.5)
    half = 0.6745 * values.std(ddof=1) / math.sqrt(401)  # of the normal distribution's middle half
    assert narrow == pytest.approx((values.mean() - half, values.mean() + half), abs=0.005)


def test_bootstrap_is_seeded_and_takes_a_statistic():
    values = np.random.default_rng(3).random(13)
    first = significance.bootstrap_interval(values, seed=1)
    assert significance.bootstrap_interval(values, seed=1) == first
    assert significance.bootstrap_interval(values, seed=2) != first
    assert significance.bootstrap_interval(values, np.max, n=53).high == values.max()
    with pytest.raises(ValueError, match="0 and 2000"):
        significance.bootstrap_interval([])
    with pytest.raises(ValueError, match="1 and 0"):
        significance.bootstrap_interval([1.0], n=0)


# The table


def test_compare_by_hand():
    baseline = np.array([0.5, 0.6, 0.7])
    table = significance.compare(
        baseline,
        {
            "falls": baseline - [0.1, 0.2, 0.3],  # paired t = √12, p = .0742
            "same": baseline,
            "constant": baseline - 0.05,  # paired p = 0; unpaired t = .05 / (.1 √(2/3)), not significant
            "rises": baseline + 0.3,  # p = 0 but no decrease
        },
    )
    assert table.columns.tolist() == significance.COLUMNS
    assert table.index.tolist() == ["falls", "same", "constant", "rises"]
    assert table.index.name == "condition"
    assert (table["n_queries"] == 3).all()
    assert table["mean"].tolist() == pytest.approx([0.4, 0.6, 0.55, 0.9], abs=1e-15)
    assert table["difference"].tolist() == pytest.approx([-0.2, 0, -0.05, 0.3], abs=1e-15)
    p = 1 - math.sqrt(12 / 14)
    assert table["p_paired"].tolist() == pytest.approx([p, 1, 0, 0], abs=1e-12)
    # Holm over 0, 0, p, 1: times 4, 3, 2, 1.
    assert table["p_holm"].tolist() == pytest.approx([2 * p, 1, 0, 0], abs=1e-12)
    half = t_two_degrees(0.95) / math.sqrt(3)
    assert table.loc["falls", ["diff_low", "diff_high"]].tolist() == pytest.approx(
        [-0.2 - 0.1 * half, -0.2 + 0.1 * half]
    )
    assert table.loc["same", ["diff_low", "diff_high"]].tolist() == [0, 0]
    # "rises" has the baseline's sd of .1.
    assert table.loc["rises", ["mean_low", "mean_high"]].tolist() == pytest.approx([0.9 - 0.1 * half, 0.9 + 0.1 * half])
    # "falls" is .4, .4, .4 up to rounding, so its own interval is a point.
    assert table.loc["falls", ["mean_low", "mean_high"]].tolist() == pytest.approx([0.4, 0.4], abs=1e-12)
    # Four degrees of freedom: p = 1 − (3/2) sin θ + (1/2) sin³ θ with sin θ = t / √(t² + 4).
    t = 0.3 / (0.1 * math.sqrt(2 / 3))
    sine = t / math.sqrt(t * t + 4)
    assert table.loc["rises", "p_unpaired"] == pytest.approx(1 - 1.5 * sine + 0.5 * sine**3, abs=1e-12)
    assert table["decrease_holm"].tolist() == [False, False, True, False]
    # Unpaired "falls": variances 0 and .01, t = .2 / √(.005 · 2/3) = 3.46, four degrees of freedom, p = .026.
    assert table["decrease_paper"].tolist() == [True, False, False, False]
    assert table["decrease_holm"].dtype == table["decrease_paper"].dtype == bool


def test_holm_takes_marks_away():
    # Alone p = .03 or so is marked; beside 24 conditions that do nothing it is not.
    baseline = np.zeros(3)
    falls = -np.array([0.18, 0.2, 0.3])
    alone = significance.compare(baseline, {"falls": falls})
    assert alone.loc["falls", "decrease_holm"]
    many = significance.compare(baseline, {"falls": falls, **{f"other {i}": baseline for i in range(24)}})
    assert not many.loc["falls", "decrease_holm"]
    assert many.loc["falls", "p_paired"] == alone.loc["falls", "p_paired"]
    assert many.loc["falls", "p_holm"] == pytest.approx(25 * alone.loc["falls", "p_paired"])


def test_a_p_value_at_the_level_is_marked(monkeypatch):
    """The paper marks p <= .05: at most the level, which is put here where a p-value lies, and then right below it."""
    baseline, falls = [0.5, 0.6, 0.7], [0.4, 0.45, 0.3]
    row = significance.compare(baseline, {"falls": falls}).loc["falls"]
    for mark, p in (("decrease_holm", row["p_holm"]), ("decrease_paper", row["p_unpaired"])):
        for level, marked in ((p, True), (math.nextafter(p, 0), False)):
            monkeypatch.setattr(significance, "ALPHA", level)
            assert significance.compare(baseline, {"falls": falls}).loc["falls", mark] == marked


def test_compare_one_query_cannot_be_tested():
    table = significance.compare([0.5], {"a": [0.25], "b": [0.5]})
    assert table["difference"].tolist() == [-0.25, 0.0]
    assert table[["p_paired", "p_holm", "p_unpaired", "diff_low", "mean_high"]].isna().all(axis=None)
    assert not table[["decrease_holm", "decrease_paper"]].any(axis=None)


def test_compare_without_conditions():
    table = significance.compare([0.5, 0.25], {})
    assert table.columns.tolist() == significance.COLUMNS
    assert len(table) == 0


def test_compare_rejects():
    with pytest.raises(ValueError, match="at least one query"):
        significance.compare([], {"a": []})
    with pytest.raises(ValueError, match="condition CLS->ALL: expected a value a query on both sides but got 1 and 2"):
        significance.compare([0.5, 0.25], {"CLS->ALL": [0.5]})
    with pytest.raises(ValueError, match=r"condition a: .* 1 NaN"):
        significance.compare([0.5, 0.25], {"a": [0.5, math.nan]})
    baseline = pd.Series([0.5, 0.25], index=["q1", "q2"])
    with pytest.raises(ValueError, match="condition a has others; reindex"):
        significance.compare(baseline, {"a": baseline[::-1]})
    assert significance.compare(baseline, {"a": baseline}).loc["a", "p_paired"] == 1.0
