"""Evaluation against enumeration of every order, ir_measures, and arithmetic written out."""

import itertools
import math
import struct
import subprocess
import sys

import ir_measures
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_crossenc.statistics import dcg, evaluation, ties, trec_run

LAW = settings(max_examples=100, deadline=None, derandomize=True)
KINDS = ["linear", "exponential"]
MEASURES = {
    "linear": lambda k: ir_measures.nDCG @ k,
    "exponential": lambda k: ir_measures.nDCG(gains={1: 1, 2: 3, 3: 7}) @ k,
}


# Slow references: nothing here calls the package.


def slow_gain(grade, kind):
    grade = max(grade, 0)
    return grade if kind == "linear" else 2**grade - 1


def slow_dcg(ranked_grades, cutoff, kind):
    return math.fsum(slow_gain(g, kind) / math.log(i + 2, 2) for i, g in enumerate(ranked_grades[:cutoff]))


def slow_ndcg(ranked_grades, cutoff, kind):
    best = slow_dcg(sorted(ranked_grades, reverse=True), cutoff, kind)
    return slow_dcg(ranked_grades, cutoff, kind) / best if best else 0.0


def slow_expectation(levels, grades, cutoff, kind):
    """The mean nDCG over every order of the passages inside each level; equal levels are ties."""
    groups = [
        [grade for level, grade in zip(levels, grades, strict=True) if level == wanted]
        for wanted in sorted(set(levels), reverse=True)
    ]
    orders = itertools.product(*(itertools.permutations(group) for group in groups))
    values = [slow_ndcg([grade for group in order for grade in group], cutoff, kind) for order in orders]
    return math.fsum(values) / len(values)


def by_ir_measures(grades, scores, cutoff, kind):
    names = [f"d{i:03d}" for i in range(len(grades))]
    qrels = {"q": {name: max(int(g), 0) for name, g in zip(names, grades, strict=True)}}
    run = {"q": {name: float(s) for name, s in zip(names, scores, strict=True)}}
    (metric,) = ir_measures.iter_calc([MEASURES[kind](cutoff)], qrels, run)
    return metric.value


grade_lists = st.lists(st.integers(-1, 3), min_size=1, max_size=6)


@st.composite
def tied_queries(draw):
    grades = draw(grade_lists)
    levels = draw(st.lists(st.integers(0, 3), min_size=len(grades), max_size=len(grades)))
    return grades, levels


# Ties


def test_groups_are_best_first_and_partition():
    groups = ties.tie_groups([0.5, 2.0, 0.5, -1.0, 2.0, 7.0, 0.5])
    assert [group.tolist() for group in groups] == [[5], [1, 4], [0, 2, 6], [3]]


def test_neighbours_chain():
    # Gaps .05, .05, .11 under a tolerance of .1 · max(1, .21): the first three are one group though .1 apart.
    scores = [0.0, 0.16, 0.21, 0.11]
    assert [group.tolist() for group in ties.tie_groups(scores, 0.1, 1.0)] == [[2, 1, 3], [0]]
    assert [group.size for group in ties.tie_groups(scores, 0.049, 1.0)] == [1, 1, 1, 1]


def test_tolerance_is_relative_above_the_scale_and_absolute_below():
    assert len(ties.tie_groups([1000.0, 1000.9], 1e-3)) == 1  # .9 <= 1e-3 · 1000.9
    assert len(ties.tie_groups([-1000.9, 0.0, 0.9], 1e-3)) == 2  # the size is that of the largest |score|
    assert len(ties.tie_groups([1000.0, 1001.1], 1e-3)) == 2
    assert len(ties.tie_groups([1e-4, 2e-4], 1e-3, 1.0)) == 1  # relative to themselves they differ by half
    assert len(ties.tie_groups([1e-4, 2e-4], 1e-3)) == 2  # and no scale says that they are noise
    assert len(ties.tie_groups([1e-4, 2e-4], 1e-3, 0.09)) == 2
    assert len(ties.tie_groups([1000.0, 1000.9], 1e-3, 1.0)) == 1
    assert len(ties.tie_groups([1.0, 1.0, math.nextafter(1.0, 2)], 0.0)) == 2


def test_gap_at_the_tolerance_is_a_tie():
    assert len(ties.tie_groups([0.0, 0.25, 0.5], 0.25, 1.0)) == 1
    assert len(ties.tie_groups([0.0, 0.25, 0.5], math.nextafter(0.25, 0), 1.0)) == 3


def test_tolerances_by_dtype():
    assert dict(ties.TIE_TOLERANCE) == {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2}
    # Each is above what one rounding of a score does, for scores in [1, 2): half an epsilon.
    for dtype, bits in {"float64": 52, "float32": 23, "bfloat16": 7}.items():
        assert ties.TIE_TOLERANCE[dtype] > 2.0**-bits
    with pytest.raises(TypeError):
        ties.TIE_TOLERANCE["float32"] = 1.0


def test_bfloat16_rounding_is_a_tie_but_distinct_scores_are_not():
    # 3.0 and its next bfloat16, 3.0 + 2^-6, are one group; 3.0 and 3.5 are not.
    assert [g.tolist() for g in ties.tie_groups([3.0, 3.0 + 2**-6, 3.5], 2e-2)] == [[2], [1, 0]]


def test_no_scores_no_groups():
    assert ties.tie_groups([]) == []


def test_huge_scores_do_not_overflow():
    assert [group.tolist() for group in ties.tie_groups([-1.7e308, 1.7e308])] == [[1], [0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_counted(bad):
    scores = [1.0, bad, 2.0, bad, 3.0]
    for call in (
        lambda: ties.tie_groups(scores),
        lambda: dcg.ndcg(scores, [0] * 5),
        lambda: evaluation.per_query_ndcg(["q"] * 5, "abcde", [0] * 5, scores),
        lambda: trec_run.trec_run_lines("q", "abcde", scores, "t"),
    ):
        with pytest.raises(ValueError, match=r"2 of 5 are NaN or infinite; score these pairs again"):
            call()


@pytest.mark.parametrize("tolerance", [-1e-9, math.nan, math.inf])
def test_bad_tolerance(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        ties.tie_groups([1.0], tolerance)
    with pytest.raises(ValueError, match="scale"):
        ties.tie_groups([1.0], 0.1, tolerance)


def slow_groups(scores, width):
    """Sets of positions: two scores are one group if steps of at most `width` lead from one to the other."""
    group = list(range(len(scores)))
    for i, j in itertools.product(group, group):
        if abs(scores[i] - scores[j]) <= width:
            group = [group[j] if own == group[i] else own for own in group]
    return {frozenset(i for i, own in enumerate(group) if own == name) for name in group}


@LAW
@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=9),
    st.sampled_from([0.0, 2.0**-9, 2.0**-6, 8.0]),
    st.integers(-60, 60),
)
def test_ties_are_the_same_at_every_size(numbers, scale, exponent):
    """Scores and scale multiplied by a power of two, which rounds nothing: the same groups, those of the literal rule."""
    scores, tolerance = [n / 64 for n in numbers], 2.0**-5
    expected = slow_groups(scores, tolerance * max(scale, *map(abs, scores)))
    factor = 2.0**exponent
    groups = ties.tie_groups([s * factor for s in scores], tolerance, scale * factor)
    assert {frozenset(group.tolist()) for group in groups} == expected


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1.0, 1e6, 1e12])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_ranking_is_worth_the_same_at_every_size(factor, dtype):
    rng = np.random.default_rng(8)
    queries = [f"q{i}" for i in range(6) for _ in range(9)]
    documents = [f"d{i}" for _ in range(6) for i in range(9)]
    grades, scores = rng.integers(0, 4, 54), rng.normal(size=54).round(1) + 2.0
    found, expected = (
        evaluation.per_query_ndcg(queries, documents, grades, (scores * f).astype(dtype), dtype=dtype)
        for f in (factor, 1.0)
    )
    assert 0 < expected["tie_rate"].mean() < 0.2
    pd.testing.assert_frame_equal(found, expected, rtol=1e-13)
    assert (found["ndcg"] != found["random"]).all()


def test_a_constant_added_in_float32_keeps_ranking_and_ties():
    """At 1000 float32 has steps of 6e-5: scores .05 apart stay a ranking, and what was equal up to a step a tie."""
    scores = np.float32([0.3, 0.25, 0.25, -0.1, 1.7, 0.0])
    moved = scores + np.float32(1000) + np.float32([0, 0, 6.2e-5, 0, -6.2e-5, 6.2e-5])
    assert moved.dtype == np.float32
    assert moved[1] != moved[2]
    found, expected = ([sorted(group.tolist()) for group in ties.tie_groups(s)] for s in (moved, scores))
    assert found == expected == [[4], [0], [1, 2], [5], [3]]


def test_terms_that_cancel_leave_the_noise_of_the_terms():
    """Scores of about 1e-7 that are 3 - 3 in float32 are noise, whatever they are of each other: the scale says so."""
    scores = np.float32([3.0000002, 3.0, 2.9999998, 3.0000005]) - np.float32(3)
    assert len(set(scores.tolist())) == 4
    grades = [0, 1, 2, 3]
    frame = evaluation.per_query_ndcg(["q"] * 4, "abcd", grades, scores, scale=3.0)
    assert frame.loc["q", "tie_rate"] == 1.0
    assert frame.loc["q", "ndcg"] == frame.loc["q", "random"] == dcg.random_ndcg(grades)
    # Beside a query whose scores are of the terms' size they are noise by themselves; alone nothing tells them from a ranking.
    both = evaluation.per_query_ndcg([*"qqqqpp"], [*"abcdab"], [*grades, 0, 1], [*scores, 3.0, -1.0])
    assert both["tie_rate"].to_dict() == {"q": 1.0, "p": 0.0}
    assert evaluation.per_query_ndcg(["q"] * 4, "abcd", grades, scores).loc["q", "tie_rate"] == 0.0


# Gains and DCG


def test_gains():
    assert dcg.gains([-1, 0, 1, 2, 3]).tolist() == [0, 0, 1, 2, 3]
    assert dcg.gains([-1, 0, 1, 2, 3], "exponential").tolist() == [0, 0, 1, 3, 7]


def test_bad_gains():
    with pytest.raises(ValueError, match="'linear' or 'exponential' but got 'cubic'"):
        dcg.gains([1], "cubic")
    with pytest.raises(ValueError, match="finite grades"):
        dcg.gains([1.0, math.nan])
    with pytest.raises(ValueError, match="finite grades"):
        dcg.gains([[1, 2], [3, 0]])


def test_dcg_where_the_discounts_are_rational():
    # Ranks 1, 3 and 7 have the discounts 1, 1/2 and 1/3.
    grades, scores = [0, 3, 0, 2, 0, 0, 1], [6, 7, 4, 5, 3, 2, 1]
    assert dcg.expected_dcg(scores, grades) == pytest.approx(3 + 2 / 2 + 1 / 3, abs=1e-15)
    assert dcg.expected_dcg(scores, grades, gain="exponential") == pytest.approx(7 + 3 / 2 + 1 / 3, abs=1e-15)
    assert dcg.expected_dcg(scores, grades, cutoff=6) == pytest.approx(3 + 2 / 2, abs=1e-15)
    assert dcg.expected_dcg(scores, grades, cutoff=2) == 3.0
    assert dcg.ideal_dcg(grades) == pytest.approx(3 + 2 / math.log2(3) + 1 / 2, abs=1e-15)
    assert dcg.ideal_dcg(grades, cutoff=1, gain="exponential") == 7.0


def test_expected_dcg_by_hand():
    # Ranks 1..3 hold the tied gains 3, 0, 0 (mean 1), rank 4 the gain 2.
    d = [1 / math.log2(rank + 1) for rank in range(1, 5)]
    value = dcg.expected_dcg([5.0, 5.0, 5.0, 1.0], [0, 3, 0, 2])
    assert value == pytest.approx(d[0] + d[1] + d[2] + 2 * d[3], abs=1e-15)
    # With the cutoff 2 the group straddles it: ranks 1 and 2 get the mean, the rest of the group nothing.
    assert dcg.expected_dcg([5.0, 5.0, 5.0, 1.0], [0, 3, 0, 2], cutoff=2) == pytest.approx(d[0] + d[1])


def test_random_dcg_by_hand():
    # Mean gain (3 + 0 + 1) / 3 at ranks 1..3; the cutoff is beyond the passages.
    total = 1 + 1 / math.log2(3) + 1 / 2
    assert dcg.random_dcg([3, -1, 1]) == pytest.approx(4 / 3 * total, abs=1e-15)
    assert dcg.random_ndcg([3, -1, 1]) == pytest.approx(4 / 3 * total / (3 + 1 / math.log2(3)), abs=1e-15)


def test_random_ranking_of_a_full_pool():
    # Ten passages a grade, linear gains: the mean gain is 1.5 at every rank, the ideal 3, so exactly a half.
    assert dcg.random_ndcg([0, 1, 2, 3] * 10) == pytest.approx(0.5, abs=1e-15)
    # Exponential gains: the mean of 0, 1, 3, 7 is 11/4; the ideal 7.
    assert dcg.random_ndcg([0, 1, 2, 3] * 10, gain="exponential") == pytest.approx(11 / 28, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_query_without_relevant_passages_is_zero(kind):
    assert dcg.ndcg([3.0, 2.0, 2.0], [0, -1, 0], gain=kind) == 0.0
    assert dcg.random_ndcg([0, -1, 0], gain=kind) == 0.0
    frame = evaluation.per_query_ndcg(["q"] * 3, "abc", [0, -1, 0], [3.0, 2.0, 1.0], gain=kind)
    assert frame.loc["q", ["ndcg", "random", "ideal_dcg"]].tolist() == [0.0, 0.0, 0.0]


def test_query_without_passages_is_zero():
    assert dcg.ndcg([], []) == 0.0
    assert dcg.random_ndcg([]) == 0.0


def test_one_passage():
    assert dcg.ndcg([-4.0], [2]) == 1.0
    frame = evaluation.per_query_ndcg(["q"], ["a"], [2], [-4.0])
    assert frame.loc["q"].to_dict() == {
        "ndcg": 1,
        "random": 1,
        "ideal_dcg": 2,
        "tie_rate": 0,
        "n_passages": 1,
    }


def test_bad_cutoff_and_lengths():
    with pytest.raises(ValueError, match="cutoff of at least 1 but got 0"):
        dcg.ndcg([1.0], [1], cutoff=0)
    with pytest.raises(ValueError, match="expected 2 scores, one a grade, but got 3"):
        dcg.ndcg([1.0, 2.0, 3.0], [1, 2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cutoff", [1, 3, 10, 53])
def test_without_ties_closed_form_is_ir_measures(kind, cutoff):
    rng = np.random.default_rng(7)
    for n in (2, 11, 41):
        grades = rng.integers(-1, 4, n)
        scores = rng.permutation(n) / 4  # exact in float32, hence distinct there
        expected = by_ir_measures(grades, scores, cutoff, kind)
        assert dcg.ndcg(scores, grades, cutoff, kind) == pytest.approx(expected, abs=1e-12)
        ranked = grades[np.argsort(-scores)].tolist()
        assert expected == pytest.approx(slow_ndcg(ranked, cutoff, kind), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cutoff", [1, 2, 3, 5, 7, 10])
def test_ties_equal_the_mean_over_every_order(kind, cutoff):
    # Groups of 2, 1, 4 and 2 at ranks 1-2, 3, 4-7, 8-9: the cutoffs 1 and 5 cut through a group.
    levels = [9, 9, 5, 2, 2, 2, 2, 0, 0]
    grades = [0, 3, 1, 2, 0, 3, -1, 1, 2]
    expected = slow_expectation(levels, grades, cutoff, kind)
    assert dcg.ndcg(levels, grades, cutoff, kind) == pytest.approx(expected, abs=1e-12)


@LAW
@given(tied_queries(), st.sampled_from(KINDS), st.integers(1, 7))
def test_any_ties_equal_the_mean_over_every_order(query, kind, cutoff):
    grades, levels = query
    expected = slow_expectation(levels, grades, cutoff, kind)
    assert dcg.ndcg(levels, grades, cutoff, kind) == pytest.approx(expected, abs=1e-12)
    assert -1e-15 <= dcg.ndcg(levels, grades, cutoff, kind) <= 1 + 1e-12


@LAW
@given(grade_lists, st.floats(-100, 100), st.sampled_from(KINDS), st.integers(1, 7))
def test_all_equal_scores_are_the_random_ranking(grades, score, kind, cutoff):
    expected = slow_expectation([0] * len(grades), grades, cutoff, kind)
    assert dcg.random_ndcg(grades, cutoff, kind) == pytest.approx(expected, abs=1e-12)
    assert dcg.ndcg([score] * len(grades), grades, cutoff, kind) == pytest.approx(expected, abs=1e-12)


@LAW
@given(tied_queries(), st.data())
def test_noise_below_the_tolerance_changes_nothing(query, data):
    grades, levels = query
    scale = max(1, *levels)
    noise = [data.draw(st.floats(-0.4e-5, 0.4e-5)) * scale for _ in levels]
    noisy = [level + step for level, step in zip(levels, noise, strict=True)]
    found, expected = (dcg.ndcg(values, grades, scale=1.0) for values in (noisy, levels))
    assert found == pytest.approx(expected, abs=1e-14)
    documents = [str(i) for i in range(len(grades))]
    ids = ["q"] * len(grades), documents
    frames = [evaluation.per_query_ndcg(*ids, grades, s, scale=1.0) for s in (levels, noisy)]
    pd.testing.assert_frame_equal(*frames, rtol=0, atol=1e-14)


@LAW
@given(tied_queries(), st.randoms(use_true_random=False), st.floats(0.5, 8), st.integers(-9, 9))
def test_order_of_passages_shift_and_scale_do_not_matter(query, random, scale, shift):
    grades, levels = query
    order = list(range(len(grades)))
    random.shuffle(order)
    moved = dcg.ndcg([levels[i] * scale + shift for i in order], [grades[i] for i in order])
    assert moved == pytest.approx(dcg.ndcg(levels, grades), abs=1e-14)


# Many queries


def interleaved():
    """Three queries of 11, 7 and 5 pairs, shuffled together; only the second has ties."""
    rng = np.random.default_rng(3)
    pairs = [("q7", f"d{i}", int(g), float(i)) for i, g in enumerate(rng.integers(-1, 4, 11))]
    pairs += [
        ("10", f"d{i}", g, s) for i, (g, s) in enumerate(zip([0, 3, 1, 0, 2, 3, 1], [4, 4, 4, 2, 2, 1, 0], strict=True))
    ]
    pairs += [("q2", f"d{i}", int(g), -0.5 * i) for i, g in enumerate(rng.integers(0, 4, 5))]
    return [pairs[i] for i in rng.permutation(len(pairs))]


@pytest.mark.parametrize("kind", KINDS)
def test_per_query(kind):
    pairs = interleaved()
    query_ids, doc_ids, grades, scores = map(list, zip(*pairs, strict=True))
    frame = evaluation.per_query_ndcg(query_ids, doc_ids, grades, scores, cutoff=3, gain=kind)
    assert frame.index.tolist() == list(dict.fromkeys(query_ids))
    assert frame.index.name == "query_id"
    assert frame.columns.tolist() == ["ndcg", "random", "ideal_dcg", "tie_rate", "n_passages"]
    assert frame["n_passages"].to_dict() == {"q7": 11, "10": 7, "q2": 5}
    # Query 10: groups of 3, 2, 1, 1 passages, so 3 + 1 of 21 pairs are tied.
    assert frame["tie_rate"].to_dict() == {"q7": 0.0, "10": 4 / 21, "q2": 0.0}
    for query_id, row in frame.iterrows():
        own = [(g, s) for q, _, g, s in pairs if q == query_id]
        own_grades, own_scores = [g for g, _ in own], [s for _, s in own]
        if query_id == "10":
            expected = slow_expectation(own_scores, own_grades, 3, kind)
        else:
            expected = by_ir_measures(own_grades, own_scores, 3, kind)
        assert row["ndcg"] == pytest.approx(expected, abs=1e-12)
        ideal = slow_dcg(sorted(own_grades, reverse=True), 3, kind)
        assert row["ideal_dcg"] == pytest.approx(ideal, abs=1e-12)
        mean_gain = sum(slow_gain(g, kind) for g in own_grades) / len(own)
        total = sum(1 / math.log2(rank + 1) for rank in (1, 2, 3))
        assert row["random"] == pytest.approx(mean_gain * total / ideal, abs=1e-12)


def test_ties_ask_the_closed_form_and_the_rest_ir_measures(monkeypatch):
    asked = []
    real = ir_measures.iter_calc

    def spy(measures, qrels, run):
        asked.append((str(measures[0]), sorted(run), sorted(qrels)))
        return real(measures, qrels, run)

    monkeypatch.setattr(ir_measures, "iter_calc", spy)
    query_ids, doc_ids, grades, scores = map(list, zip(*interleaved(), strict=True))
    evaluation.per_query_ndcg(query_ids, doc_ids, grades, scores)
    evaluation.per_query_ndcg(query_ids, doc_ids, grades, scores, gain="exponential", cutoff=5)
    evaluation.per_query_ndcg(["q", "q"], ["a", "b"], [0, 1], [1.0, 1.0])
    # ir_measures prints no gain that equals its grade (1: 1).
    assert asked == [
        ("nDCG@10", ["q2", "q7"], ["q2", "q7"]),
        ("nDCG(gains={2:3,3:7})@5", ["q2", "q7"], ["q2", "q7"]),
    ]


def test_float32_casting_cannot_create_ties():
    # Equal in float32 (its spacing at 16 is 1.9e-6), distinct in float64: trec_eval would rank "z" first.
    scores = [16.0 + 1e-9, 16.0]
    assert np.float32(scores[0]) == np.float32(scores[1])
    frame = evaluation.per_query_ndcg(["q", "q"], ["a", "z"], [1, 0], scores, dtype="float64")
    assert frame.loc["q", "ndcg"] == 1.0
    assert frame.loc["q", "tie_rate"] == 0.0
    # As float32 scores they are a tie: the mean of 1 and 1 / log2(3).
    frame = evaluation.per_query_ndcg(["q", "q"], ["a", "z"], [1, 0], scores)
    assert frame.loc["q", "ndcg"] == pytest.approx((1 + 1 / math.log2(3)) / 2, abs=1e-15)
    assert frame.loc["q", "tie_rate"] == 1.0


def test_document_ids_do_not_decide():
    grades, scores = [3, 0, 1, 0], [2.0, 2.0, 2.0, 2.0]
    values = {
        evaluation.per_query_ndcg(["q"] * 4, names, grades, scores).loc["q", "ndcg"] for names in ("abcd", "dcba")
    }
    assert values == {dcg.random_ndcg(grades)}


def test_a_constant_scorer_is_perfect_or_worthless_by_its_ids_in_trec_eval_and_random_here():
    """One relevant passage of eleven, all scores equal: each of the ranks 1..11 is as likely, and the last gains nothing."""
    names, scores = [f"p{i:02}" for i in range(11)], [0.25] * 11
    expected = math.fsum(1 / math.log2(rank + 1) for rank in range(1, 11)) / 11
    for relevant, by_id in (("p10", 1.0), ("p00", 0.0)):
        grades = [int(name == relevant) for name in names]
        qrels = [ir_measures.Qrel("q", name, grade) for name, grade in zip(names, grades, strict=True)]
        run = [ir_measures.ScoredDoc("q", name, score) for name, score in zip(names, scores, strict=True)]
        assert ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run) == {ir_measures.nDCG @ 10: by_id}
        row = evaluation.per_query_ndcg(["q"] * 11, names, grades, scores).loc["q"]
        assert row["ndcg"] == pytest.approx(expected, abs=1e-15)
        assert row["ndcg"] == row["random"]
        assert row["tie_rate"] == 1.0


def test_numbers_as_ids_series_and_float32_scores():
    table = pd.DataFrame({"q": [5, 5, 3], "d": [10, 11, 10], "g": [1, 0, 2], "s": np.float32([0.5, 1.5, -2.0])})
    table.index = [2, 0, 1]  # labels that are not positions
    frame = evaluation.per_query_ndcg(table["q"], table["d"], table["g"], table["s"])
    assert frame["ndcg"].to_dict() == {"5": pytest.approx(1 / math.log2(3), abs=1e-15), "3": 1.0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("high", [16, 17, 20, 29, 30, 31, 40, 63, 70, 200])
def test_high_grades_have_their_gain_in_both_ways(high, kind):
    """Exact fractions of whole numbers; untied, tied, and with the query's other judgments."""
    grades, d = [high - 1, 0, high], [1.0, 1 / math.log2(3), 0.5]
    gain = [g if kind == "linear" else 2**g - 1 for g in grades]
    best = sorted(gain, reverse=True)
    ideal = sum(map(lambda g, w: float(g) * w, best, d))
    ranked, tied = ([gain[1], gain[0], gain[2]], [gain[1], (gain[0] + gain[2]) / 2, (gain[0] + gain[2]) / 2])
    for scores, order in (([2.0, 3.0, 1.0], ranked), ([1.0, 3.0, 1.0], tied)):
        frame = evaluation.per_query_ndcg(["q"] * 3, "abc", grades, scores, gain=kind)
        assert frame.loc["q", "ndcg"] == pytest.approx(sum(map(lambda g, w: float(g) * w, order, d)) / ideal, rel=1e-12)
        assert frame.loc["q", "ndcg"] == pytest.approx(dcg.ndcg(scores, grades, gain=kind), rel=1e-12)
    qrels = {"q": {"a": high - 1, "b": 0, "c": high, "x": high + 1}}
    more = evaluation.per_query_ndcg(["q"] * 3, "abc", grades, [2.0, 3.0, 1.0], gain=kind, qrels=qrels)
    extra = float(high + 1 if kind == "linear" else 2 ** (high + 1) - 1)
    ideal = extra + float(best[0]) * d[1] + float(best[1]) * d[2]
    assert more.loc["q", "ndcg"] == pytest.approx(sum(map(lambda g, w: float(g) * w, ranked, d)) / ideal, rel=1e-12)


def test_gains_that_are_no_numbers_any_more_are_refused():
    with pytest.raises(ValueError, match="grades up to 1000 for exponential gains but got 1024"):
        evaluation.per_query_ndcg(["q"] * 2, "ab", [1024, 0], [1.0, 2.0], gain="exponential")
    with pytest.raises(ValueError, match="grades below 2"):
        evaluation.per_query_ndcg(["q"] * 2, "ab", [1e300, 0], [1.0, 2.0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cutoff", [1, 3, 10])
def test_with_qrels_it_is_what_ir_measures_says_of_the_run(kind, cutoff):
    """Runs with unjudged passages, relevant ones that are missing, queries that are missing, and one without relevant ones."""
    rng = np.random.default_rng(5)
    qrels = {f"q{i}": {f"d{j}": int(g) for j, g in enumerate(rng.integers(0, 4, 12))} for i in range(7)}
    qrels["q5"] = dict.fromkeys(qrels["q5"], 0)
    run = {
        f"q{i}": {f"d{j}": float(s) for j, s in zip(rng.choice(20, 8, replace=False), rng.normal(size=8), strict=True)}
        for i in range(6)
    }
    pairs = [(q, d, qrels[q].get(d, 0), s) for q, ranking in run.items() for d, s in ranking.items()]
    frame = evaluation.per_query_ndcg(*map(list, zip(*pairs, strict=True)), cutoff=cutoff, gain=kind, qrels=qrels)
    measured = ir_measures.iter_calc([MEASURES[kind](cutoff)], qrels, run)
    assert frame["ndcg"].to_dict() == pytest.approx({m.query_id: m.value for m in measured}, abs=1e-12)
    assert frame.index.tolist() == [*run, "q6"]
    assert frame.loc["q6"].to_dict() == pytest.approx(
        {"ndcg": 0, "random": 0, "tie_rate": 0, "n_passages": 0}
        | {"ideal_dcg": slow_dcg(sorted(qrels["q6"].values(), reverse=True), cutoff, kind)}
    )
    # All orders of a run of three passages, tied.
    own = [qrels["q0"]["d0"], qrels["q0"]["d1"], 0]
    tied = evaluation.per_query_ndcg(["q0"] * 3, ["d0", "d1", "x"], own, [1, 1, 1], qrels=qrels)
    orders = itertools.permutations(own)
    ideal = slow_dcg(sorted(qrels["q0"].values(), reverse=True), 10, "linear")
    assert tied.loc["q0", "ndcg"] == pytest.approx(
        math.fsum(slow_dcg(o, 10, "linear") for o in orders) / 6 / ideal, abs=1e-12
    )
    assert tied.loc["q0", "random"] == tied.loc["q0", "ndcg"]


def test_grades_that_are_not_those_of_the_qrels_are_refused():
    with pytest.raises(ValueError, match="passage a of query q has 2, judged 1; take both from the same qrels"):
        evaluation.per_query_ndcg("q", "a", [2], [1.0], qrels={"q": {"a": 1}})
    with pytest.raises(ValueError, match="query q has none"):
        evaluation.per_query_ndcg("q", "a", [0], [1.0], qrels={"p": {"a": 1}})


def test_grade_above_three_has_its_gain():
    frame = evaluation.per_query_ndcg(["q"] * 2, "ab", [4, 5], [2.0, 1.0], gain="exponential")
    d = 1 / math.log2(3)
    assert frame.loc["q", "ndcg"] == pytest.approx((15 + 31 * d) / (31 + 15 * d), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_ids": ["q"]}, "but got 1, 2, 2, 2"),
        ({"scores": [1.0, 2.0, 3.0]}, "but got 2, 2, 2, 3"),
        ({"query_ids": [], "doc_ids": [], "grades": [], "scores": []}, "at least one of each"),
        ({"doc_ids": ["a", "a"]}, "query q has 2 with 1 ids; drop the duplicates"),
        ({"grades": [1, 0.5]}, "whole-number grades"),
        ({"dtype": "float8"}, "float64, float32, bfloat16 but got 'float8'"),
        ({"gain": "cubic"}, "'cubic'"),
        ({"cutoff": 0}, "cutoff"),
        ({"scores": [[1.0, 2.0]]}, "shape"),
    ],
)
def test_per_query_rejects(change, message):
    given = {"query_ids": ["q", "q"], "doc_ids": ["a", "b"], "grades": [1, 0], "scores": [2.0, 1.0], **change}
    with pytest.raises(ValueError, match=message):
        evaluation.per_query_ndcg(**given)


# TREC runs


def test_run_lines():
    lines = trec_run.trec_run_lines("q1", ["a", "c", "b", "d"], [0.1, -2.5, 0.1, 1e-8], "none")
    # float32(.1) = .100000001490116…, float32(1e-8) = 9.99999993922529e-09
    assert lines == [
        "q1 Q0 b 1 0.100000001 none",
        "q1 Q0 a 2 0.100000001 none",
        "q1 Q0 d 3 9.99999994e-09 none",
        "q1 Q0 c 4 -2.5 none",
    ]


@LAW
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=7))
def test_float32_round_trip(scores):
    names = [f"d{i}" for i in range(len(scores))]
    lines = [line.split() for line in trec_run.trec_run_lines("q", names, np.float32(scores), "t")]
    read = {line[2]: float(line[4]) for line in lines}
    packed = {name: struct.unpack("f", struct.pack("f", value))[0] for name, value in read.items()}
    assert packed == dict(zip(names, scores, strict=True))
    assert [int(line[3]) for line in lines] == list(range(1, len(scores) + 1))
    keys = [(packed[line[2]], line[2]) for line in lines]
    assert keys == sorted(keys, reverse=True)


def test_run_lines_are_in_the_order_of_trec_eval():
    # The reciprocal rank of each document, asked alone, is its rank in trec_eval's own order.
    names = ["2", "10", "B", "a", "ä", "9"]
    scores = [1.0, 1.0, 1.0, 1.0, 1.0, 16.0 + 1e-9]
    lines = [line.split() for line in trec_run.trec_run_lines("q", names, scores, "t")]
    run = {"q": {line[2]: float(line[4]) for line in lines}}
    for line in lines:
        (metric,) = ir_measures.iter_calc([ir_measures.RR], {"q": {line[2]: 1}}, run)
        assert 1 / metric.value == pytest.approx(int(line[3]))


@pytest.mark.parametrize(
    ("names", "scores", "tag", "message"),
    [
        (["a", "b"], [1.0], "t", r"2 ids \(2 distinct\) and 1 scores"),
        (["a", "a"], [1.0, 2.0], "t", r"2 ids \(1 distinct\)"),
        (["a b"], [1.0], "t", "white space but got 'a b'"),
        ([""], [1.0], "t", "white space but got ''"),
        (["a"], [1.0], "DOC -> QUERY", "white space but got 'DOC -> QUERY'"),
        (["a"], [1e39], "t", "1 of 1 are NaN or infinite"),
    ],
)
def test_run_lines_reject(names, scores, tag, message):
    with pytest.raises(ValueError, match=message):
        trec_run.trec_run_lines("q", names, scores, tag)


def test_negative_zero_is_zero():
    assert trec_run.trec_run_lines("q", ["a", "b"], [-0.0, 0.0], "t") == ["q Q0 b 1 0 t", "q Q0 a 2 0 t"]


@pytest.mark.parametrize("module", ["evaluation", "significance"])
def test_torch_is_not_imported(module):
    code = f"import sys, tl_crossenc.statistics.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
