"""Reciprocal ranks against the mean over every order of the tied passages, and against ir_measures where nothing ties."""

from itertools import permutations

import ir_measures
import numpy as np
import pytest

from tl_crossenc.statistics.reciprocal_rank import per_query_reciprocal_rank, reciprocal_rank


def every_order(scores, relevant, cutoff):
    """The mean of RR over all orders of the passages that respect the scores."""
    found = []
    for order in permutations(range(len(scores))):
        ranked = [scores[i] for i in order]
        if ranked == sorted(scores, reverse=True):
            ranks = [rank for rank, i in enumerate(order, 1) if relevant[i] and rank <= cutoff]
            found.append(1 / ranks[0] if ranks else 0.0)
    return np.mean(found)


@pytest.mark.parametrize("cutoff", [1, 2, 3, 5, 10])
def test_ties_are_the_mean_over_every_order(cutoff):
    rng = np.random.default_rng(cutoff)
    seen = set()
    for _ in range(40):
        n = int(rng.integers(1, 7))
        scores, relevant = rng.integers(0, 3, n).astype(float).tolist(), rng.integers(0, 2, n).tolist()
        expected = every_order(scores, relevant, cutoff)
        assert reciprocal_rank(scores, relevant, cutoff) == pytest.approx(expected, abs=1e-12)
        seen.add(round(expected, 9))
    assert len(seen) > 2


def test_without_ties_it_is_what_others_report():
    rng = np.random.default_rng(2)
    queries = np.repeat(["b", "a", "c"], [13, 11, 17])
    scores, relevant = rng.normal(size=41), rng.random(41) < 0.15
    found = per_query_reciprocal_rank(queries, relevant, scores, cutoff=5)
    qrels = [ir_measures.Qrel(q, str(i), int(r)) for i, (q, r) in enumerate(zip(queries, relevant, strict=True))]
    run = [ir_measures.ScoredDoc(q, str(i), s) for i, (q, s) in enumerate(zip(queries, scores, strict=True))]
    theirs = {m.query_id: m.value for m in (ir_measures.RR @ 5).iter_calc(qrels, run)}
    assert list(found.index) == ["b", "a", "c"]
    assert found["rr"].to_dict() == pytest.approx(theirs)
    assert len(set(theirs.values())) > 1


def test_a_constant_scorer_is_the_random_ranking_exactly():
    relevant = [0, 1, 0, 0, 1, 0]
    found = per_query_reciprocal_rank(["q"] * 6, relevant, [3.0] * 6, cutoff=4)
    expected = every_order([0.0] * 6, relevant, 4)
    assert found.loc["q"].tolist() == [pytest.approx(expected), pytest.approx(expected)]


def test_scores_within_the_tolerance_tie():
    assert reciprocal_rank([1.0, 1.0 + 1e-7], [1, 0]) == 0.75
    assert reciprocal_rank([1.0, 1.0 + 1e-4], [1, 0]) == 0.5
    assert reciprocal_rank([1.0, 1.0 + 1e-4], [1, 0], scale=100.0) == 0.75
    of_queries = ["a", "a", "b", "b"], [1, 0, 1, 0], [1.0, 1.0 + 1e-4, 100.0, 0.0]
    assert per_query_reciprocal_rank(*of_queries)["rr"].tolist() == [0.75, 1.0]  # the scale is that of all
    assert per_query_reciprocal_rank(*of_queries, scale=1.0)["rr"].tolist() == [0.5, 1.0]
    assert per_query_reciprocal_rank(*of_queries, dtype="float64")["rr"].tolist() == [0.5, 1.0]


def test_what_has_no_rank_is_said():
    with pytest.raises(ValueError, match="expected a cutoff of at least 1 but got 0"):
        reciprocal_rank([1.0], [1], 0)
    with pytest.raises(ValueError, match="expected 1 scores, one a passage, but got 2"):
        reciprocal_rank([1.0, 2.0], [1])
    with pytest.raises(ValueError, match="expected as many query ids, truth values and scores but got 2, 1, 1"):
        per_query_reciprocal_rank(["a", "b"], [1], [1.0])
    with pytest.raises(ValueError, match=r"expected a dtype of float64, float32, .* but got 'int8'"):
        per_query_reciprocal_rank(["a"], [1], [1.0], dtype="int8")
