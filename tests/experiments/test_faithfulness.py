"""Faithfulness over queries: means by hand, the exact end of rankings, the planted circuit, the store, one query, bad input."""

import pickle
from itertools import product

import numpy as np
import pytest
from planted_texts import graded_pool
from small_worlds import forbid_model_work, pool_of_words, tiny_model

from tl_crossenc.executors.executor import IN_PROCESS
from tl_crossenc.experiments.bottleneck_cells import About
from tl_crossenc.experiments.faithfulness import run_faithfulness
from tl_crossenc.experiments.faithfulness_cells import Attribution, Measuring, faithfulness_tasks
from tl_crossenc.experiments.faithfulness_frames import MEASURES
from tl_crossenc.instruments.faithfulness import random_sets, removal_curves
from tl_crossenc.instruments.fitting import Fitting
from tl_crossenc.instruments.removal import Removal, as_removal, model_scorer
from tl_crossenc.instruments.token_attributions import ATTRIBUTIONS, Attributing, token_attributions
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.significance import holm, paired_t
from tl_crossenc.store.cells import Store

QUICK = {
    "fractions": (0.0, 0.4, 1.0),
    "bins": (0.2,),
    "sets": 5,
    "nodes": 32,
    "fitting": Fitting(copies=2, steps=2),
    "queries": None,
}
WORDS = ("flea", "egg", "bread", "quilt", "sponge", "the", "lay")
GRADES = {"q0": (3, 2, 0, 0, 1), "q1": (2, 0, 1), "q2": (3, 0, 0)}
QUERIES = {"q0": "how do fleas lay", "q1": "the bread rise", "q2": "egg"}


@pytest.fixture(scope="module")
def pool():
    return pool_of_words("words", QUERIES, GRADES, WORDS, empty=(("q1", 1),))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), seed=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def found(reranker, pool, folder):
    return run_faithfulness(reranker, [pool], Store(folder), removal="pad", draws=2, seed=3, **QUICK)


def test_a_query_s_values_are_means_over_its_pairs_each_alone(found, reranker, pool):
    assert set(found.measures["attribution"]) == set(ATTRIBUTIONS)
    scores = [float(reranker.score(pair.query, [pair.text])) for pair in pool.pairs]
    least = 0.1 * np.std(scores)
    assert found.scalars["least_span"] == pytest.approx(least, abs=1e-12)
    areas = 0
    for query, (name, draws) in product(QUERIES, (("leave-one-out", 1), ("direct", 1), ("random", 2))):
        values = {measure: [] for measure in MEASURES[:5]}
        pairs = [pair for pair in pool.pairs if pair.query_id == query]
        for pair in pairs:
            encoded = reranker.encode_pairs(pair.query, [pair.text])
            removal, score = as_removal(reranker, encoded, "pad"), model_scorer(reranker)
            sets = random_sets(score, encoded, removal, draws=5, seed=3)
            for draw in range(draws):
                own = token_attributions(reranker, encoded, name, Attributing(removal, seed=3 + draw))
                how = {"fractions": QUICK["fractions"], "bins": QUICK["bins"], "seed": 3}
                curves = removal_curves(score, encoded, own, removal, **how)
                drop = curves.most[0, 0] - curves.most[0, -1]
                values["area"].append(curves.raw_area[0] / drop if drop > least else np.nan)
                areas += drop > least
                for measure in MEASURES[1:4]:
                    values[measure].append(getattr(curves, measure)[0])
                values["sensitivity"].append(sets.sensitivity(own)[0])
        row = found.per_query.loc[name, "words", query]
        assert row["without_tokens"] == (query == "q1")
        for measure, own in values.items():
            some = np.reshape(own, (len(pairs), draws))
            by_draw = [np.mean(one[np.isfinite(one)]) if np.isfinite(one).any() else np.nan for one in some.T]
            np.testing.assert_allclose(row[measure], np.mean(by_draw), rtol=0, atol=1e-10, err_msg=measure)
    assert 0 < areas < 40


def test_differences_are_tested_against_random_with_holm_over_all_rows(found):
    tested = found.measures[found.measures["attribution"] != "random"].dropna(subset="p")
    np.testing.assert_allclose(tested["p_holm"], holm(tested["p"].to_numpy()), rtol=0, atol=0)
    row = tested.set_index(["attribution", "measure"]).loc["direct", "raw_area"]
    own, random = (found.per_query.loc[name, "raw_area"] for name in ("direct", "random"))
    assert row["p"] == paired_t(own, random)
    assert row["difference"] == pytest.approx((own - random).mean(), abs=1e-12)
    ends = found.rankings[found.rankings["fraction"].isin((0.0, 1.0))]
    assert ends["p"].isna().all()
    assert ends["difference"].dropna().abs().max() < 1e-12
    starts = found.curves.query("fraction == 0").dropna()
    assert (starts["mean"] == 1).all()
    assert (found.curves.query("fraction == 1").dropna()["mean"] == 0).all()


def expected_of_random(grades, cutoff=10):
    """nDCG of passages in random order: every rank gains the mean."""
    discounts = 1 / np.log2(np.arange(2, len(grades) + 2))
    discounts[cutoff:] = 0
    return np.mean(grades) * discounts.sum() / (np.sort(grades)[::-1] * discounts).sum()


def test_where_all_of_doc_is_deleted_the_ranking_is_the_random_one_and_where_lengths_stay_it_is_not(
    found, reranker, pool, tmp_path
):
    deleted = run_faithfulness(
        reranker, [pool], Store(tmp_path), attributions=["attention"], removal="delete", draws=1, **QUICK
    )
    away = []
    for query, grades in GRADES.items():
        exact = expected_of_random(np.array(grades, float))
        for name in ("attention", "random"):
            assert deleted.per_query.loc[(name, "words", query), "ndcg@1.0"] == pytest.approx(exact, abs=1e-12)
            assert deleted.per_query.loc[(name, "words", query), "random_ranking"] == pytest.approx(exact, abs=1e-12)
            away.append(abs(found.per_query.loc[(name, "words", query), "ndcg@1.0"] - exact))
    assert max(away) > 0.05
    assert deleted.scalars["random_ranking"] == pytest.approx(
        np.mean([expected_of_random(np.array(grades, float)) for grades in GRADES.values()]), abs=1e-12
    )


@pytest.mark.parametrize("way", ["mask", "delete"])
@pytest.mark.usefixtures("unchecked")
def test_planted_matches_are_what_the_score_is_made_of(tmp_path, way):
    planted = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    pool = graded_pool(n_queries=5, per_grade=2, seed=1)
    names = ["direct", "leave-one-out", "attention"]
    found = run_faithfulness(
        planted, [pool], Store(tmp_path), attributions=names, removal=way, bins=(0.1,), sets=8, queries=4, draws=2
    )
    assert found.scalars["n_queries"] == 4
    assert found.scalars["n_pairs"] == 4 * 8  # whole queries, without easy negatives
    assert found.scalars["sampled"]
    rows = found.measures.set_index(["attribution", "measure"])
    for name in ("direct", "leave-one-out"):
        assert rows.loc[(name, "area"), "p_holm"] <= 0.05
        assert rows.loc[(name, "area"), "diff_low"] > 0.5
        assert rows.loc[(name, "sensitivity"), "mean"] > 0.99
    random, attention = rows.loc[("random", "area")], rows.loc[("attention", "area")]
    assert random["low"] < 0 < random["high"]
    assert attention["diff_low"] < 0 < attention["diff_high"]  # even over DOC: no better than random
    for query in found.per_query.loc["random"].index:  # 11 words in every passage: alike under each removal
        grades = [pair.grade for pair in pool.ranked.pairs if pair.query_id == query[1]]
        exact = expected_of_random(np.array(grades, float))
        ends = found.per_query.xs(query, level=("collection", "query_id"))["ndcg@1.0"]
        np.testing.assert_allclose(ends, exact, rtol=0, atol=1e-12)


def test_what_is_stored_is_not_run_again_and_fewer_attributions_are_the_same_cells(
    found, reranker, pool, folder, monkeypatch
):
    forbid_model_work(monkeypatch)
    fewer = {"attributions": ["direct", "bottleneck"], "removal": "pad", "draws": 2, "seed": 3}
    again = run_faithfulness(reranker, [pool], Store(folder), **fewer, **QUICK)
    for name in ("direct", "bottleneck", "random"):
        left, right = (one.per_query.loc[name].sort_index() for one in (again, found))
        np.testing.assert_array_equal(left.to_numpy(), right.to_numpy())


def test_a_task_travels_and_each_of_its_cells_is_the_same_alone(reranker, pool):
    about = About(IN_PROCESS.identity(reranker), "", 50, reranker.cfg.n_layers)
    asked = [Attribution("leave-one-out"), Attribution("random", 1)]
    given, measuring = Attributing(Removal("delete", "query", None)), Measuring((0.0, 0.5, 1.0), (0.3,), 0.3, 4)
    (task,) = faithfulness_tasks(about, pool.select(["q0"]), asked, given, measuring, None)
    counted = []
    both = {cell.key: cell.table for cell in pickle.loads(pickle.dumps(task)).cells(reranker, counted.append)}
    assert sum(counted) == task.cost
    assert tuple(both) == task.keys
    for key in task.keys:
        alone = task.only({key})
        (cell,) = alone.cells(reranker, lambda runs: None)
        assert cell.key == key
        assert cell.table.equals(both[key])
    assert task.only(set()) is None


def test_a_pool_of_one_query_has_no_bottleneck_and_no_intervals(reranker, pool, tmp_path, monkeypatch):
    one = pool.select(["q0"])
    names = ["bottleneck", "attention"]
    found = run_faithfulness(reranker, [one], Store(tmp_path), attributions=names, removal="pad", draws=1, **QUICK)
    assert set(found.measures["attribution"]) == {"attention", "random"}
    assert "at least two queries" in found.scalars["left_out"]["bottleneck"]
    assert found.measures[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    assert found.measures.set_index(["attribution", "measure"]).loc[("attention", "raw_area"), "n_queries"] == 1
    with pytest.raises(Unavailable, match="at least two queries"):
        run_faithfulness(reranker, [one], Store(tmp_path), attributions=["bottleneck"], **QUICK)


def test_passages_without_text_are_counted_and_change_nothing_else(reranker, tmp_path):
    grades = {"q0": (3, 0), "q1": (2, 1)}
    empty = pool_of_words("none", QUERIES, grades, WORDS, empty=[(query, i) for query in grades for i in (0, 1)])
    found = run_faithfulness(
        reranker, [empty], Store(tmp_path), attributions=["leave-one-out"], removal="pad", draws=1, **QUICK
    )
    assert found.scalars["without_tokens"] == 4
    assert not found.scalars["sampled"]  # the queries asked for are as many as there are
    assert found.measures.query("measure != 'ndcg'")["n_queries"].eq(0).all()
    assert found.measures.query("measure != 'ndcg'")["mean"].isna().all()


def test_bad_input_is_told_before_anything_is_run(reranker, pool, tmp_path, monkeypatch):
    forbid_model_work(monkeypatch)
    store = Store(tmp_path)
    for given, said in (
        ({"attributions": ["lime"]}, "expected attributions among bottleneck"),
        ({"attributions": []}, "expected attributions among bottleneck"),
        ({"fractions": (0.0, 1.0)}, "expected fractions that rise from 0 to 1"),
        ({"share": 1.0}, "a share between 0 and 1, and a seed of at least 0, got 1, None, 3, 5, 1.0 and 0"),
        ({"nodes": 8}, "^expected at least 32 nodes, got 8"),
        ({"removal": "blank"}, "expected tokens of passage or query removed by mask, pad, delete"),
        ({"text": "title"}, "expected tokens of passage or query removed by mask, pad, delete"),
        ({"queries": 0}, "expected at least one pool, query and draw"),
        ({"sets": 1}, "expected at least one pool, query and draw"),
        ({"fractions": (0.5, 1.0)}, "expected fractions that rise from 0 to 1"),
        ({"layer": 9}, "layer"),
    ):
        with pytest.raises(ValueError, match=said):
            run_faithfulness(reranker, [pool], store, **{**QUICK, **given})
    with pytest.raises(ValueError, match="expected at least one pool"):
        run_faithfulness(reranker, [], store)
