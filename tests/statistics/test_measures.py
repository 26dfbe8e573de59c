"""Any measure of ir_measures: its own numbers where nothing ties, the mean over all orders where passages do."""

import itertools
import re

import ir_measures
import numpy as np
import pytest

from tl_crossenc.statistics.measures import evaluate_rankings, has_expectation, parse_measures, ties_text
from tl_crossenc.statistics.trec_run import trec_run_lines

RNG = np.random.default_rng(5)
QRELS = {f"q{q}": {f"d{d}": int(g) for d, g in enumerate(RNG.integers(0, 4, 11 - q))} for q in range(5)}
QRELS["q5"] = {"d0": 0}
EVERY = [
    "nDCG@10",
    "nDCG",
    "nDCG(dcg='exp-log2')@3",
    "RR",
    "RR(rel=3)@2",
    "AP(rel=2)",
    "R@7",
    "P@5",
    "Judged@10",
    "Success@1",
]


def rankings(scores_of):
    """Some judged and some unjudged passages a query; q4 has none."""
    found = {}
    for q in (0, 1, 2, 3, 5):
        names = tuple(f"d{d}" for d in RNG.permutation(23)[:13])
        found[f"q{q}"] = names, np.asarray(scores_of(len(names)), float)
    return found


def instead(measure):
    """The same by explicit gains, since gdeval rounds to five decimals."""
    exponential = measure.params.get("dcg") == "exp-log2"
    return ir_measures.nDCG(gains={1: 1, 2: 3, 3: 7}) @ measure.params["cutoff"] if exponential else measure


def by_ir_measures(measures, given):
    run = {q: dict(zip(names, scores.tolist(), strict=True)) for q, (names, scores) in given.items()}
    # one at a time: together, an nDCG with gains lends them to one without, by the order of a set
    found = (m for measure in measures for m in ir_measures.iter_calc([measure], QRELS, run))
    return {(str(m.measure), m.query_id): m.value for m in found}


def test_without_ties_every_measure_is_that_of_ir_measures_of_the_run():
    given, measures = rankings(lambda n: RNG.normal(size=n)), parse_measures(EVERY)
    frame = evaluate_rankings(measures, given, QRELS, dtype="float64")
    expected = by_ir_measures([instead(m) for m in measures], given)
    assert list(frame.index) == list(QRELS)
    for measure in measures:
        for query in QRELS:
            assert frame.loc[query, str(measure)] == pytest.approx(
                expected.get((str(instead(measure)), query), 0.0), abs=1e-12
            )
    assert frame.loc["q4", "n_passages"] == 0
    assert (frame["tied"] == 0).all()


def test_with_ties_ndcg_and_rr_are_means_over_all_orders_and_the_others_those_by_doc_id():
    qrels = {"q": {"a": 2, "b": 0, "c": 1, "z": 3}}
    given = {"q": (("a", "b", "c", "d", "e"), np.array([1.0, 1.0, 1.0, 7.0, 0.0]))}
    measures = parse_measures(
        ["nDCG@3", "nDCG", "nDCG(dcg='exp-log2')@2", "RR(rel=2)@3", "RR", "AP", "P@2", "nDCG(judged_only=True)@3"]
    )
    frame = evaluate_rankings(measures, given, qrels)
    orders = [
        {"q": {"d": 9.0, **{name: 8.0 - i for i, name in enumerate(order)}, "e": 0.0}}
        for order in itertools.permutations("abc")
    ]
    for measure in measures:
        every = [m.value for run in orders for m in ir_measures.iter_calc([instead(measure)], qrels, run)]
        assert len(every) == 6
        by_doc_id = every[-1]  # c, b, a
        wanted = np.mean(every) if has_expectation(measure) else by_doc_id
        assert frame.loc["q", str(measure)] == pytest.approx(wanted, abs=1e-12), measure
    assert frame.loc["q", "tied"] == pytest.approx(3 / 10)
    assert frame.loc["q", "unjudged"] == 2
    assert [ties_text(m) for m in measures] == ["expected"] * 5 + ["by doc_id"] * 3


def test_programs_that_know_queries_by_number_alone_are_told_so():
    """gdeval's ERR of queries called q0, ...: by hand, sum of p_i / i times the chance to get there, p = (2^g - 1) / 16."""
    qrels = {"q x": {"a": 3, "b": 0, "c": 1}}
    (measure,) = parse_measures(["ERR@20"])
    frame = evaluate_rankings([measure], {"q x": (("c", "b", "a"), np.array([3.0, 2.0, 1.0]))}, qrels)
    assert frame.loc["q x", "ERR@20"] == pytest.approx(1 / 16 + 15 / 16 * 7 / 16 / 3, abs=1e-5)


def test_what_ties_is_a_matter_of_the_arithmetic():
    qrels, near = {"q": {"a": 1}}, {"q": (("a", "b"), np.array([1.0, 1.0 + 1e-6]))}
    (measure,) = parse_measures(["RR"])
    assert evaluate_rankings([measure], near, qrels).loc["q", "RR"] == pytest.approx(0.75)
    assert evaluate_rankings([measure], near, qrels, dtype="float64").loc["q", "RR"] == 0.5
    assert evaluate_rankings([measure], near, qrels, dtype="float64", scale=1e7).loc["q", "RR"] == pytest.approx(0.75)


def test_what_a_runs_file_does_not_tell_apart_is_in_its_order():
    """Scores that are one in float32 and no tie in float64: the file that trec_eval reads has b before a."""
    given = {"q": (("a", "b"), np.array([1.0 + 1e-9, 1.0]))}
    lines = trec_run_lines("q", *given["q"], "tag")
    (measure,) = parse_measures(["AP"])
    run = list(ir_measures.read_trec_run("\n".join(lines)))
    (expected,) = (m.value for m in ir_measures.iter_calc([measure], {"q": {"b": 1}}, run))
    assert evaluate_rankings([measure], given, {"q": {"b": 1}}, dtype="float64").loc["q", "AP"] == expected == 1


def test_unjudged_are_counted_among_the_first_ten():
    names = tuple(f"d{d:02}" for d in range(14))
    qrels = {"q": dict.fromkeys(names[7:], 1)}
    (measure,) = parse_measures(["P@5"])
    frame = evaluate_rankings([measure], {"q": (names, -np.arange(14.0))}, qrels)
    assert frame.loc["q", "unjudged"] == 7
    assert evaluate_rankings([measure], {"q": (names, np.zeros(14))}, qrels).loc["q", "unjudged"] == 3  # d13 ... d04


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "at least one measure, such as nDCG@10"),
        (["nope"], "expected a measure as ir_measures names it, such as nDCG@10, RR@10, AP(rel=2)"),
        (["P@"], "got 'P@'"),
        ([""], "got ''"),
        (["P(foo=3)@10"], "got 'P(foo=3)@10'"),
        (["nDCG@0"], "a cutoff from 1 on, got 'nDCG@0'"),
        (["alpha_nDCG@10"], "needs a package that is not installed"),
    ],
)
def test_what_is_no_measure(texts, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_measures(texts)


def test_a_measure_is_taken_once():
    assert [str(m) for m in parse_measures(["P@5", "nDCG@10", "P@5 ", "MRR@10"])] == ["P@5", "nDCG@10", "RR@10"]


@pytest.mark.parametrize(
    ("ranking", "said"),
    [
        ((("a", "a"), np.zeros(2)), "distinct documents with a score each but query q has 2 ids (1 distinct)"),
        ((("a", "b"), np.zeros(3)), "2 ids (2 distinct) and 3 scores"),
        ((("a",), np.array([np.inf])), "NaN or infinite"),
    ],
)
def test_a_ranking_that_is_none(ranking, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        evaluate_rankings(parse_measures(["P@5"]), {"q": ranking}, {"q": {"a": 1}})
