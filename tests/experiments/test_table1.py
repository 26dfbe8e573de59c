"""Table 1 on a tiny model: every number recomputed by other means from what is written for others to read."""

import itertools

import ir_measures
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from small_worlds import collection_folder, forbid_model_work, tiny_model

from tl_crossenc.experiments.table1 import run_table1, table1_conditions
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import PoolSpec, build_pool
from tl_crossenc.results.outputs import file_name, write_runs
from tl_crossenc.store.cells import Store

PARTS = ("CLS", "QUERY", "SEP1", "DOC", "SEP2")


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    base = tmp_path_factory.mktemp("collections")
    first = collection_folder(base / "first", n_queries=4, per_grade=(2, 2, 1, 1))
    second = collection_folder(base / "second", n_queries=3, per_grade=(1, 1, 2, 1))  # the same query ids as the first
    return tuple(build_pool(load_collection(folder), PoolSpec(10, 3, 0)) for folder in (first, second))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), seed=5)


@pytest.fixture(scope="module")
def table(reranker, pools, tmp_path_factory):
    return run_table1(reranker, pools, Store(tmp_path_factory.mktemp("store")), cutoff=5, token_budget=60)


def dcg(grades, cutoff):
    return sum(grade / np.log2(rank + 1) for rank, grade in enumerate(grades[:cutoff], start=1))


def mean_over_orders(grades, cutoff=5):
    """nDCG of a random ranking, by trying every order."""
    orders = set(itertools.permutations(grades))  # equal passages make equal numbers of equal orders
    return np.mean([dcg(order, cutoff) for order in orders]) / dcg(sorted(grades, reverse=True), cutoff)


def test_per_query_values_are_those_of_the_trec_runs(table, pools, tmp_path):
    """Where nothing ties, ir_measures over the written run and the pool's grades gives the same number."""
    conditions = [condition for condition in table.per_query.columns if not table.tie_rate[condition].any()]
    assert len(conditions) > 25
    write_runs(tmp_path, table.scores, conditions)
    for pool in pools:
        qrels = [ir_measures.Qrel(p.query_id, p.doc_id, p.grade) for p in pool.pairs if p.grade >= 0]
        for condition in conditions:
            run = ir_measures.read_trec_run(str(tmp_path / pool.collection / f"{file_name(condition)}.run"))
            found = {m.query_id: m.value for m in ir_measures.iter_calc([ir_measures.nDCG @ 5], qrels, run)}
            expected = table.per_query.loc[pool.collection, condition]
            assert found.keys() == set(expected.index)
            for query_id, value in found.items():
                assert value == pytest.approx(expected[query_id], abs=1e-12)


def test_scores_are_the_models_own(table, pools, reranker):
    by_pair = table.scores.set_index(["collection", "query_id", "doc_id"])
    for pool in pools:
        judged = [pair for pair in pool.pairs if pair.grade >= 0]
        queries, texts = [p.query for p in judged], [p.text for p in judged]
        for name, directions in (("none", None), ("zero(DOC->QUERY)", "DOC->QUERY"), ("zero(SEP2->ALL)", "SEP2->ALL")):
            if directions is None:
                scores = reranker.score(queries, texts)
            else:
                with reranker.ablating(directions):
                    scores = reranker.score(queries, texts)
            stored = [by_pair.loc[(pool.collection, p.query_id, p.doc_id), name] for p in judged]
            np.testing.assert_allclose(stored, scores.numpy(), rtol=0, atol=1e-11)


def test_easy_negatives_are_not_ranked(table, pools):
    assert any(pair.grade == -1 for pool in pools for pair in pool.pairs)
    assert table.scores["grade"].min() == 0
    assert len(table.scores) == sum(pair.grade >= 0 for pool in pools for pair in pool.pairs)


def test_all_that_cls_reads_removed_is_the_random_ranking_exactly(table, pools):
    ablated = table.per_query["zero(CLS->ALL)"]
    for pool in pools:
        for query_id, indices in pool.by_query().items():
            grades = [pool.pairs[i].grade for i in indices if pool.pairs[i].grade >= 0]
            expected = mean_over_orders(grades)
            assert ablated[pool.collection, query_id] == pytest.approx(expected, abs=1e-12)
            assert table.random[pool.collection, query_id] == pytest.approx(expected, abs=1e-12)
            assert table.ideal_dcg[pool.collection, query_id] == pytest.approx(dcg(sorted(grades)[::-1], 5), abs=1e-12)
    assert (table.tie_rate["zero(CLS->ALL)"] == 1).all()
    assert table.comparison.loc["CLS->ALL", "tie_rate"] == 1
    assert table.comparison.loc["CLS->ALL", "mean"] == pytest.approx(table.random.mean(), abs=1e-12)
    assert table.comparison.loc["ALL->ALL", "tie_rate"] == 1


def test_means_differences_and_tests_are_scipys(table):
    baseline = table.per_query["none"].to_numpy()
    n = len(baseline)
    assert n == 7
    paired = {}
    for direction, row in table.comparison.iterrows():
        values = table.per_query[f"zero({direction})"].to_numpy()
        assert row["n_queries"] == n
        assert row["mean"] == pytest.approx(values.mean(), abs=1e-12)
        assert row["difference"] == pytest.approx((values - baseline).mean(), abs=1e-12)
        if np.ptp(values - baseline) < 1e-9:
            paired[direction] = 1.0
            assert abs(values - baseline).max() < 1e-9
        else:
            paired[direction] = scipy.stats.ttest_rel(values, baseline).pvalue
            interval = scipy.stats.ttest_1samp(values - baseline, 0).confidence_interval(0.95)
            assert (row["diff_low"], row["diff_high"]) == pytest.approx(tuple(interval), abs=1e-9)
            assert row["p_unpaired"] == pytest.approx(scipy.stats.ttest_ind(values, baseline).pvalue, abs=1e-9)
        assert row["p_paired"] == pytest.approx(paired[direction], abs=1e-9)
    ordered = sorted(paired, key=paired.get)
    running = 0.0
    for i, direction in enumerate(ordered):
        running = max(running, min(1.0, (36 - i) * paired[direction]))
        assert table.comparison.loc[direction, "p_holm"] == pytest.approx(running, abs=1e-8)
    interval = scipy.stats.t.interval(0.95, n - 1, baseline.mean(), scipy.stats.sem(baseline))
    assert table.unablated == pytest.approx(baseline.mean())
    assert table.unablated_interval == pytest.approx(interval)


def test_the_table_has_36_directions_and_the_unablated_model(table):
    sides = (*PARTS, "ALL")
    expected = [f"{row}->{column}" for row in sides for column in sides]
    assert list(table.comparison.index) == expected
    assert list(map(str, table.directions)) == expected
    assert list(table.per_query.columns) == ["none", *(f"zero({direction})" for direction in expected)]
    assert str(table1_conditions("mask")[Direction.parse("DOC->QUERY")]) == "mask(DOC->QUERY)"


@pytest.mark.usefixtures("unchecked")
def test_several_collections_count_query_by_query(table, pools, reranker, tmp_path):
    assert [*table.per_query.index] == [("first", f"q{i}") for i in range(4)] + [("second", f"q{i}") for i in range(3)]
    alone = [run_table1(reranker, [pool], Store(tmp_path / "s"), cutoff=5, token_budget=60) for pool in pools]
    together = pd.concat([one.per_query for one in alone])
    pd.testing.assert_frame_equal(together, table.per_query)
    weighted = (4 * alone[0].unablated + 3 * alone[1].unablated) / 7
    assert table.unablated == pytest.approx(weighted)


@pytest.mark.usefixtures("unchecked")
def test_the_cost_is_counted_and_a_second_run_costs_nothing(reranker, pools, tmp_path, monkeypatch):
    store = Store(tmp_path / "s")
    first = run_table1(reranker, pools, store, cutoff=5, token_budget=60)
    n = len(first.scores)
    # Two layers; 37 conditions that edit both of them, or none: nothing is shared but the embedding.
    assert (first.layers_run, first.layers_alone) == (2 * 37 * n, 2 * 37 * n)
    forbid_model_work(monkeypatch)
    again = run_table1(reranker, pools, store, cutoff=5, token_budget=60)
    assert (again.layers_run, again.layers_alone) == (0, 0)
    pd.testing.assert_frame_equal(again.comparison, first.comparison)
    # Another cutoff or gain is another evaluation of the same scores.
    other = run_table1(reranker, pools, store, cutoff=3, gain="exponential", token_budget=60)
    assert other.per_query["none"].mean() != first.per_query["none"].mean()


@pytest.mark.usefixtures("unchecked")
def test_modes_differ(reranker, pools, table, tmp_path):
    masked = run_table1(reranker, pools[:1], Store(tmp_path / "s"), mode="mask", cutoff=5, token_budget=60)
    assert masked.mode == "mask"
    zeroed = table.scores[table.scores["collection"] == "first"]
    assert np.abs(masked.scores["mask(DOC->DOC)"].to_numpy() - zeroed["zero(DOC->DOC)"].to_numpy()).max() > 1e-3
    np.testing.assert_allclose(masked.scores["mask(ALL->ALL)"], zeroed["zero(ALL->ALL)"], rtol=0, atol=1e-11)


def test_pools_that_cannot_be_ranked_or_told_apart_are_errors(reranker, pools, tmp_path):
    store = Store(tmp_path / "s")
    with pytest.raises(ValueError, match="at least one pool"):
        run_table1(reranker, [], store)
    with pytest.raises(ValueError, match="passages to rank in the pool of first"):
        run_table1(reranker, [pools[0].negatives], store)
    with pytest.raises(ValueError, match="collections of different names, got first, first"):
        run_table1(reranker, [pools[0], pools[0]], store)
