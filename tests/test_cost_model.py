"""The arithmetic of the benchmarks that extrapolate: constants that are put in come out, and sums are those made by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "common", raising=False)  # the analyses' module of that name
    yield
    for name in [
        name for name, module in sys.modules.items() if str(BENCHMARKS) in str(getattr(module, "__file__", ""))
    ]:
        del sys.modules[name]


@pytest.mark.usefixtures("benchmarks")
def test_the_fit_gives_back_the_constants_that_made_the_seconds():
    from cost_model import FITTED, HELD_OUT, fit, predicted

    planted = np.array([1.7e-11, 4.1e-11, 3.3e-9, 2.3e-4])

    def literal(d, n, pairs):
        """Seconds of a layer with an MLP of 4 d, the products spelled out."""
        tokens = pairs * n
        weights = tokens * (3 * d * d + d * d + d * 4 * d + 4 * d * d)
        attention = sum(n * n * d + n * n * d for _ in range(pairs))
        return weights * 1.7e-11 + attention * 4.1e-11 + tokens * d * 3.3e-9 + 2.3e-4

    found = fit(FITTED, [literal(p.d, p.length, p.pairs) for p in FITTED])
    np.testing.assert_allclose(found, planted, rtol=1e-6)
    for point in HELD_OUT:
        assert point not in FITTED
        assert predicted(found, *point.terms) == pytest.approx(literal(point.d, point.length, point.pairs), rel=1e-6)


@pytest.mark.usefixtures("benchmarks")
def test_what_several_streams_run_at_once_counts_once():
    from gpu import covered

    assert covered([]) == 0
    assert covered([(5, 6), (0, 2), (1, 3)]) == 4
    assert covered([(0, 10), (2, 3), (4, 11)]) == 11


@pytest.mark.usefixtures("benchmarks")
def test_pairs_without_text_have_the_lengths_of_trec():
    from common import TREC_LENGTHS, TREC_QUERY, trec_pairs

    lengths = trec_pairs(2000).lengths
    assert (len(lengths), TREC_LENGTHS[0] <= lengths.min(), lengths.max() <= TREC_LENGTHS[-1]) == (2000, True, True)
    np.testing.assert_allclose(np.quantile(lengths, np.linspace(0.05, 0.95, 19)), TREC_LENGTHS[1:-1], atol=1)
    few = trec_pairs(7)
    for i, n in enumerate(few.lengths):
        codes = few.parts[few.offsets[i] : few.offsets[i + 1]].tolist()
        assert codes == [0, *[1] * TREC_QUERY, 2, *[3] * (n - TREC_QUERY - 3), 4]


@pytest.mark.usefixtures("benchmarks")
def test_layers_and_flops_of_the_experiments_are_those_counted_by_hand():
    from hours import experiments, flops, hours

    counted = experiments(2.0)
    # 36 directions differ from the first layer on: 37 conditions of 23 whole layers each
    assert counted["Table 1"].layers == 37 * 23
    assert counted["Table 1"].cells == 37
    # one direction up to each l: 24 edited layers and, after each l < 23, those that are left, unedited: 23 + 22 + … + 1;
    # less the last layer of each of its 24 conditions; that of the unedited model is shared by all six
    one = sum(range(1, 24)) + 24 - 24
    assert counted["Figure 1a"].layers == 6 * one + 23
    assert counted["Figure 1a"].cells == 6 * 24 + 1
    # of a token 4 products of 1024 x 1024 and 2 of 1024 x 4096; of two tokens 2 products of 1024; 2 FLOPs each
    token, both = 4 * 1024**2 + 2 * 1024 * 4096, 2 * 1024
    assert flops(3, 7) == pytest.approx(2 * 3 * 7 * (95.9 * token + 10_457 * both))
    # 8 devices: 3600 s of computing over 8 are 450 s, 100 cells of 9 s written meanwhile 900 s, and 100 of 0.1 s after it
    assert hours(3600e12, 100, 8, 1e12, 9, 0.1) == pytest.approx((910 / 3600, (450 + 10) / 3600))
    assert hours(3600e12, 100, 8, 1e12, 1, 0.1) == pytest.approx((460 / 3600, 10 / 3600))
