"""Heads ranked on one half of the queries and removed on the other, against the same done by hand, half by half."""

import numpy as np
import pytest
from planted_texts import graded_pool
from scipy import stats
from small_worlds import collection_folder, forbid_model_work, tiny_model

from tl_crossenc.checkpoints.planted import MATCHING_HEAD
from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.head_ablation import heads_condition, run_head_ablation
from tl_crossenc.experiments.head_folds import run_head_folds
from tl_crossenc.experiments.matching import matching_heads, ranked_heads
from tl_crossenc.experiments.ranking import rank_under
from tl_crossenc.interventions.heads import format_heads, parse_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import PoolSpec, build_pool
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.dcg import random_ndcg
from tl_crossenc.store.cells import Store

SCOPES = ("QUERY<->DOC", "whole head")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    pool = build_pool(load_collection(collection_folder(folder / "c", n_queries=9)), PoolSpec(None, 2, 0))
    model, store = tiny_model(folder / "m"), Store(folder / "s")
    attention = run_attention(model, [pool], store)
    whole = run_head_ablation(model, [pool], store, ranked_heads(matching_heads(attention)), counts=(1, 2), n_draws=0)
    return model, pool, store, attention, whole, run_head_folds(model, [pool], store, attention, whole, seed=1)


def test_each_half_loses_the_heads_that_the_other_ranks_highest(tiny, tmp_path):
    """By hand: a pool of one half alone is measured and ranks heads, a pool of the other loses them; in stores of their own."""
    model, pool, _, _, whole, found = tiny
    members = {fold: [query for _, query in own.index] for fold, own in found.per_query.groupby("fold")}
    assert sorted(map(len, members.values())) == [4, 5]
    assert set(members["0"]) | set(members["1"]) == set(pool.by_query())
    for fold, other in (("0", "1"), ("1", "0")):
        store = Store(tmp_path / fold)
        measured = run_attention(model, [pool.select(members[other])], store)
        ranking = ranked_heads(matching_heads(measured))
        half = pool.select(members[fold])
        for scope in SCOPES:
            for k in (1, 2):
                heads = ranking[:k]
                condition = heads_condition(heads, scope)
                values = rank_under(model, [half], store, [condition]).ndcg[str(condition)]
                column = found.per_query.loc[values.index, f"{scope}; k={k}"]
                assert column.tolist() == pytest.approx(values.tolist(), abs=1e-9)
                row = found.folds[(found.folds[["scope", "k", "fold"]] == [scope, k, fold]).all(axis=1)].iloc[0]
                assert set(parse_heads(row["heads"])) == set(heads)
                assert row["heads"] == format_heads(heads)
                assert row["mean"] == pytest.approx(values.mean(), abs=1e-9)
                assert row["n_queries"] == len(values)
                by_all = whole.draws[(whole.draws[["scope", "k"]] == [scope, k]).all(axis=1)]["condition"].item()
                change = (whole.per_query[by_all] - whole.per_query["none"]).loc[values.index].mean()
                assert row["all_difference"] == pytest.approx(change, abs=1e-12)
    assert len({row["heads"] for row in found.folds.to_dict("records") if row["k"] == 2}) > 1  # the halves do not agree


def test_both_halves_together_are_all_queries_tested_once(tiny):
    _, _, _, _, _, found = tiny
    both = found.folds[found.folds["fold"] == "both"]
    assert len(both) == 4
    ordered = sorted(both["p"])
    for row in both.to_dict("records"):
        change = found.per_query[f"{row['scope']}; k={row['k']}"] - found.per_query["none"]
        half = stats.t.ppf(0.975, 8) * change.std(ddof=1) / 3
        assert row["n_queries"] == 9
        assert (row["difference"], row["diff_low"], row["diff_high"]) == pytest.approx(
            (change.mean(), change.mean() - half, change.mean() + half), abs=1e-9
        )
        if change.abs().max() > 1e-9:
            assert row["p"] == pytest.approx(stats.ttest_1samp(change, 0).pvalue, abs=1e-9)
        adjusted = max(min(1.0, p * (len(ordered) - i)) for i, p in enumerate(ordered) if p <= row["p"])
        assert row["p_holm"] == pytest.approx(adjusted, abs=1e-9)
    assert np.isnan(found.folds.loc[found.folds["fold"] != "both", "p_holm"]).all()


def test_a_second_run_runs_nothing_and_what_the_whole_has_is_not_run_again(tiny, monkeypatch):
    model, pool, store, attention, whole, found = tiny
    forbid_model_work(monkeypatch)
    again = run_head_folds(model, [pool], store, attention, whole, seed=1)
    assert again.folds.equals(found.folds)
    assert again.layers_run == 0 < found.layers_run


def test_on_the_planted_model_both_halves_find_the_matching_head_and_lose_all_without_it(tmp_path):
    """The head is the one that all queries find, so that nothing is run for the halves."""
    model, pool, store = (
        HookedCrossEncoder.from_pretrained("planted", device="cpu"),
        graded_pool(n_queries=6),
        Store(tmp_path),
    )
    attention = run_attention(model, [pool], store)
    whole = run_head_ablation(model, [pool], store, [MATCHING_HEAD], counts=(1,), n_draws=0)
    found = run_head_folds(model, [pool], store, attention, whole)
    assert set(found.folds.loc[found.folds["fold"] != "both", "heads"]) == {"1.2"}
    assert found.layers_run == 0
    for query, value in found.per_query["QUERY<->DOC; k=1"].items():
        grades = [pair.grade for pair in pool.ranked.pairs if pair.query_id == query[1]]
        assert value == pytest.approx(random_ndcg(grades), abs=1e-12)


def test_heads_are_removed_in_the_way_that_was_asked_for(tiny):
    """By a mask, which renormalises; the numbers are those of that condition, and not of zeroed weights."""
    model, pool, store, attention, whole, _ = tiny
    ranking = ranked_heads(matching_heads(attention))
    masked = run_head_ablation(model, [pool], store, ranking, counts=(1,), n_draws=0, mode="mask")
    found = run_head_folds(model, [pool], store, attention, masked, seed=1, mode="mask")
    rows = found.folds[(found.folds["scope"] == SCOPES[0]) & (found.folds["k"] == 1)].set_index("fold")
    for fold in ("0", "1"):
        condition = heads_condition(parse_heads(rows.loc[fold, "heads"]), SCOPES[0], "mask")
        queries = [query for _, query in found.per_query.index[found.per_query["fold"] == fold]]
        values = rank_under(model, [pool.select(queries)], store, [condition]).ndcg[str(condition)]
        own = found.per_query.loc[values.index, f"{SCOPES[0]}; k=1"]
        assert own.tolist() == pytest.approx(values.tolist(), abs=1e-9)
    assert str(heads_condition(ranking[:1], SCOPES[0], "mask")) in masked.per_query
    assert set(whole.draws["condition"]).isdisjoint(masked.draws["condition"])


def test_halves_too_small_to_rank_heads_are_said(tiny):
    model, pool, store, _, _, _ = tiny
    few = pool.select(["q0", "q1", "q2"])
    attention = run_attention(model, [few], store)
    whole = run_head_ablation(model, [few], store, [(0, 1)], counts=(1,), n_draws=0)
    with pytest.raises(
        Unavailable, match=r"^heads cannot be ranked on one half of the queries: a test over queries needs"
    ):
        run_head_folds(model, [few], store, attention, whole)
