"""Agreement of rankings by counting pairs, the randomization test by all signs, and CKA by all fours of samples."""

from itertools import combinations, permutations, product

import numpy as np
import pytest

from tl_crossenc.statistics.agreement import randomization_p, ranking_agreement
from tl_crossenc.statistics.similarity import linear_cka

RNG = np.random.default_rng(5)


def test_tau_counts_pairs_in_one_order_and_in_opposite_orders():
    a, b = RNG.integers(0, 6, 13).astype(float), RNG.normal(size=13).round(1)
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in combinations(range(13), 2)]
    together = sum(x * y for x, y in signs)
    untied = [sum(side[k] != 0 for side in signs) for k in (0, 1)]
    assert untied[0] < len(signs)
    assert ranking_agreement(a, b).tau == pytest.approx(together / np.sqrt(untied[0] * untied[1]), abs=1e-12)


def test_the_top_weighs_more():
    best = np.arange(10, 0, -1.0)
    top, bottom = best.copy(), best.copy()
    top[[0, 1]], bottom[[8, 9]] = top[[1, 0]], bottom[[9, 8]]
    found = [ranking_agreement(best, other) for other in (top, bottom)]
    assert found[0].tau == pytest.approx(found[1].tau)
    assert found[0].weighted_tau < found[1].weighted_tau
    assert ranking_agreement(best, best) == pytest.approx((1, 1))
    assert ranking_agreement(best, -best).tau == pytest.approx(-1)
    # one exchange of the first two of three: weights 1 + 1/2, 1 + 1/3, 1/2 + 1/3 of the pairs
    weights = np.array([1 + 1 / 2, 1 + 1 / 3, 1 / 2 + 1 / 3])
    expected = (-weights[0] + weights[1] + weights[2]) / weights.sum()
    assert ranking_agreement([3, 2, 1], [2, 3, 1]).weighted_tau == pytest.approx(expected)


def test_what_ranks_nothing_agrees_with_nothing():
    for a, b in (([1.0], [2.0]), ([], []), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])):
        assert np.isnan(ranking_agreement(a, b)).all()
    with pytest.raises(ValueError, match="two lists of as many finite scores"):
        ranking_agreement([1.0, 2.0], [1.0, np.nan])


def test_the_randomization_test_is_the_share_of_signs_that_reach_the_mean():
    d = RNG.normal(0.4, 1, 7)
    means = np.array([np.mean(d * signs) for signs in product((1, -1), repeat=7)])
    expected = np.mean(np.abs(means) >= abs(d.mean()) - 1e-12)
    assert randomization_p(d) == pytest.approx(expected, abs=1e-12)
    many = RNG.normal(0.5, 1, 40)
    assert randomization_p(many, seed=3) == randomization_p(many, seed=3) < 0.05
    assert randomization_p([0.0] * 9) == randomization_p([1e-14, -1e-13, 0.0]) == 1.0
    assert np.isnan(randomization_p([0.3]))


def hsic(k, m):
    """The average over all ordered fours of distinct samples."""
    fours = list(permutations(range(len(k)), 4))
    return sum(k[i, j] * m[i, j] + k[i, j] * m[q, r] - 2 * k[i, j] * m[i, q] for i, j, q, r in fours) / len(fours)


def test_cka_is_that_of_all_fours():
    x, y = RNG.normal(size=(7, 5)), RNG.normal(size=(7, 11))
    y[:, :3] += 2 * x[:, :3]
    k, m = x @ x.T, y @ y.T
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-10)
    turn = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    assert linear_cka(x, 3 * x @ turn + 7) == pytest.approx(1, abs=1e-10)
    assert linear_cka(x, x) == 1.0
    unlike = [linear_cka(RNG.normal(size=(40, 60)), RNG.normal(size=(40, 60))) for _ in range(20)]
    assert abs(np.mean(unlike)) < 0.05  # the biased form gives some .6 here
    assert np.isnan(linear_cka(x[:3], y[:3]))
    assert np.isnan(linear_cka(np.ones((7, 5)) * 0.1, y))
    nearly = (1 + 1e-3 * RNG.normal(size=(7, 5))).astype(np.float32)
    assert linear_cka(nearly, nearly) == 1.0
    with pytest.raises(ValueError, match="as many samples on both sides, got 7 and 6"):
        linear_cka(x, y[:6])
