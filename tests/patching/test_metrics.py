"""Measures of a patched score against arithmetic."""

import math

import numpy as np
import pytest

from tl_crossenc.patching.metrics import (
    PoolContext,
    difference,
    pool_ndcg,
    pool_ranks,
    share_restored,
    undefined_pairs,
)
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec

NAN = float("nan")


def test_difference():
    np.testing.assert_array_equal(difference([[3.0, NAN], [1.0, 2.5]], [2.0, 5.0]), [[1, NAN], [-4, -2.5]])
    with pytest.raises(ValueError, match="one number a pair"):
        difference(np.zeros((3, 2)), [1.0, 2.0])


def test_share_restored():
    patched = [[[1.0, 3.0, 5.0, 0.0]], [[4.0, -2.0, 1.0, NAN]]]
    np.testing.assert_array_equal(
        share_restored(patched, [1.0, 4.0], [5.0, -2.0]), [[[0, 0.5, 1, -0.25]], [[0, 1, 0.5, NAN]]]
    )


def test_a_zero_denominator_is_undefined_and_not_0():
    patched, start, target = [[7.0, 2.0], [7.0, 2.0], [7.0, 2.0]], [2.0, 2.0, 2000.0], [2.0, 3.0, 2000.01]
    np.testing.assert_array_equal(undefined_pairs(start, target), [True, False, False])
    np.testing.assert_array_equal(undefined_pairs(start, target, 1e-5), [True, False, True])
    np.testing.assert_array_equal(share_restored(patched, start, target)[:2], [[NAN, NAN], [5, 0]])
    np.testing.assert_array_equal(share_restored(patched, start, target, 1e-5)[2], [NAN, NAN])
    with pytest.raises(ValueError, match="target scores of one number a pair"):
        share_restored(patched, start, [1.0])


CONTEXT = PoolContext((2, 0), (np.array([5.0, 1.0, 3.0]), np.array([0.5])), (np.array([0, 1, 3]), np.array([1])))


def test_ranks():
    patched = np.array([[6.0, 4.0, 3.0, NAN], [0.0, 0.5, 0.5 + 1e-9, 0.6]])
    np.testing.assert_array_equal(pool_ranks(patched, CONTEXT), [[1, 2, 2.5, NAN], [2, 1.5, 1.5, 1]])
    assert pool_ranks(patched, CONTEXT, tolerance=0.0)[1, 2] == 1


def test_ndcg():
    patched = np.array([[6.0, 2.0, NAN], [1.0, 0.0, 0.5]])
    log = math.log2
    ideal = 3 + 2 / log(3) + 1 / 2
    first = 2 + 0 / log(3) + 3 / 2 + 1 / log(5)  # scores 6, 5, 3, 1
    second = 0 + 3 / log(3) + 2 / 2 + 1 / log(5)  # scores 5, 3, 2, 1
    expected = [[first / ideal, second / ideal, NAN], [1 / log(3), 1, (1 + 1 / log(3)) / 2]]
    np.testing.assert_allclose(pool_ndcg(patched, CONTEXT), expected, rtol=1e-12)
    top = pool_ndcg(patched, CONTEXT, cutoff=1)
    np.testing.assert_allclose(top, [[2 / 3, 0, NAN], [0, 1, 0.5]], rtol=1e-12)


def test_ndcg_of_another_gain():
    """Grades 2, 0, 1, 3 gain 3, 0, 1, 7."""
    log = math.log2
    ideal = 7 + 3 / log(3) + 1 / 2
    first = 3 + 0 / log(3) + 7 / 2 + 1 / log(5)  # scores 6, 5, 3, 1
    second = 0 + 7 / log(3) + 3 / 2 + 1 / log(5)  # scores 5, 3, 2, 1
    found = pool_ndcg(np.array([[6.0, 2.0], [1.0, 0.0]]), CONTEXT, gain="exponential")
    np.testing.assert_allclose(found, [[first / ideal, second / ideal], [1 / log(3), 1]], rtol=1e-12)


def test_context_of_a_pool():
    pairs = [
        PoolPair("q1", "one", "a", "text a", 3),
        PoolPair("q1", "one", "b", "text b", 0),
        PoolPair("q2", "two", "c", "text c", 1),
        PoolPair("q2", "two", "a", "text a", 2),
        PoolPair("q2", "two", "d", "text d", 0),
    ]
    pool = Pool("tiny", PoolSpec(), tuple(pairs))
    context = PoolContext.from_pool(pool, [0.1, 0.2, 0.3, 0.4, 0.5], [3, 0])
    assert context.grades == (2, 3)
    np.testing.assert_array_equal(context.others[0], [0.3, 0.5])
    np.testing.assert_array_equal(context.other_grades[0], [1, 0])
    np.testing.assert_array_equal(context.others[1], [0.2])
    np.testing.assert_array_equal(pool_ranks([0.4, 0.0], context), [2, 2])
    with pytest.raises(ValueError, match=r"0\.\.4 of pairs of the pool, got 5"):
        PoolContext.from_pool(pool, [0.1, 0.2, 0.3, 0.4, 0.5], [5])
    with pytest.raises(ValueError, match="5 scores, one a pair of the pool"):
        PoolContext.from_pool(pool, [0.1, 0.2], [0])


def test_contexts_that_do_not_fit():
    with pytest.raises(ValueError, match="scores of 2 pairs"):
        pool_ranks(np.zeros((3, 2)), CONTEXT)
    with pytest.raises(ValueError, match="got 1, 2 and 1"):
        PoolContext((1,), (np.zeros(2), np.zeros(1)), (np.zeros(2),))
    with pytest.raises(ValueError, match="pool of pair 1"):
        PoolContext((1, 0), (np.zeros(2), np.zeros(1)), (np.zeros(2), np.zeros(3)))
