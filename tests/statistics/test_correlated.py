"""Correlation over pairs of queries: by scipy, its resamples by loops, and what is left within queries."""

import math

import numpy as np
import pytest
from scipy import stats

from tl_crossenc.statistics.correlated import correlated


def world(seed=0, sizes=(3, 5, 7, 2)):
    rng = np.random.default_rng(seed)
    queries = [f"q{i}" for i, size in enumerate(sizes) for _ in range(size)]
    y = rng.normal(size=len(queries)) + np.repeat(rng.normal(size=len(sizes)) * 3, sizes) + 40
    return y, np.stack([y + rng.normal(size=len(y)), rng.normal(size=len(y)) - 7]), queries


def test_r_is_scipys_and_within_that_of_what_each_query_leaves():
    y, predictions, queries = world()
    found = correlated(y, predictions, queries)
    for i, p in enumerate(predictions):
        assert found.r[i] == pytest.approx(stats.pearsonr(y, p).statistic, abs=1e-12)
        left = []
        for side in (y, p):
            own = side.copy()
            for query in set(queries):
                at = [j for j, name in enumerate(queries) if name == query]
                own[at] -= side[at].mean()
            left.append(own)
        assert found.within[i] == pytest.approx(stats.pearsonr(*left).statistic, abs=1e-12)


def test_resamples_take_whole_queries_and_the_same_for_all_predictions():
    y, predictions, queries = world()
    names = list(dict.fromkeys(queries))
    found = correlated(y, predictions, queries, seed=5, draws=40)
    times = np.random.default_rng([5, 4]).multinomial(4, [0.25] * 4, size=40)
    for draw, counts in enumerate(times):
        rows = [
            j
            for name, n in zip(names, counts, strict=True)
            for _ in range(n)
            for j in range(len(y))
            if queries[j] == name
        ]
        for i, p in enumerate(predictions):
            assert found.draws[draw, i] == pytest.approx(stats.pearsonr(y[rows], p[rows]).statistic, abs=1e-9)
    low, high = np.quantile(found.draws[:, 0] - found.draws[:, 1], [0.025, 0.975])
    assert found.difference(0, 1) == (found.r[0] - found.r[1], (low, high))
    assert found.interval(0) == pytest.approx(tuple(np.quantile(found.draws[:, 0], [0.025, 0.975])))


def test_what_does_not_vary_has_no_correlation():
    y, predictions, queries = world()
    level = np.repeat([1.0, 2.0, 3.0, 5.0], (3, 5, 7, 2)) / 3
    found = correlated(y, [np.full(len(y), 0.1), level], queries)
    assert math.isnan(found.r[0])
    assert np.isfinite(found.r[1])
    assert np.isnan(found.within).all()
    assert np.isnan(correlated(np.ones(len(y)), predictions, queries).r).all()


def test_of_one_query_there_is_no_interval():
    found = correlated([1.0, 2.0, 4.0], [[1.0, 3.0, 2.0]], ["q"] * 3)
    assert found.r[0] == pytest.approx(stats.pearsonr([1, 2, 4], [1, 3, 2]).statistic)
    assert np.isnan(found.interval(0)).all()


@pytest.mark.parametrize(
    ("y", "p", "queries"),
    [
        ([], [[]], []),
        ([1.0, 2.0], [[1.0]], ["a", "b"]),
        ([1.0, math.nan], [[1.0, 2.0]], ["a", "b"]),
        ([1.0], [[1.0]], []),
    ],
)
def test_impossible_input_is_refused(y, p, queries):
    with pytest.raises(ValueError, match=r"^expected a finite target"):
        correlated(y, p, queries)
