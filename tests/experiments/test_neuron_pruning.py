"""Neurons pruned by conductance: a model whose MLPs write through few neurons, halves by hand, tests by scipy, the store."""

from inspect import signature

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from small_worlds import collection_folder, forbid_model_work, identities, tiny_model
from type_checks import unchecked

from tl_crossenc.executors.executor import InProcess
from tl_crossenc.executors.task import CellsFailed
from tl_crossenc.experiments.conductance_cells import MEASURES
from tl_crossenc.experiments.neuron_frames import best_first
from tl_crossenc.experiments.neuron_pruning import run_neuron_pruning
from tl_crossenc.experiments.query_folds import two_folds
from tl_crossenc.experiments.replacement import run_replacement
from tl_crossenc.instruments.conductance import conductance
from tl_crossenc.interventions.targets import neuron_targets
from tl_crossenc.patching.replacement import replacing
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import PoolSpec, build_pool
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.dcg import ndcg
from tl_crossenc.statistics.significance import holm
from tl_crossenc.store.cells import Store

WRITING = [(0, 5), (0, 11), (1, 2), (1, 30)]
"""The only neurons whose row of W_out is not 0."""
SETTINGS = {"counts": (4, 7), "draws": 3, "nodes": 32, "seed": 3, "cutoff": 5, "passages": 3}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = collection_folder(tmp_path_factory.mktemp("c") / "c", n_queries=5, per_grade=(2, 1, 1, 2))
    return build_pool(load_collection(folder), PoolSpec(10, 2, 0))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    model = tiny_model(tmp_path_factory.mktemp("model"), seed=5)
    for layer in range(2):
        silent = [neuron for neuron in range(model.cfg.d_mlp) if (layer, neuron) not in WRITING]
        model.blocks[layer].mlp.W_out[silent] = 0.0
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def found(reranker, pool, folder):
    return run_neuron_pruning(reranker, [pool], Store(folder), **SETTINGS)


def ndcgs(reranker, pool, neurons):
    """nDCG@5 of every query with neurons at zero, pair by pair."""
    values = {}
    for query_id, own in pool.ranked.by_query().items():
        pairs = [pool.ranked.pairs[i] for i in own]
        with replacing(reranker, neuron_targets(neurons)), torch.no_grad():
            scores = [float(reranker.score(pair.query, [pair.text])[0]) for pair in pairs]
        values[query_id] = ndcg(scores, [pair.grade for pair in pairs], 5, "linear", 1e-9)
    return values


def test_the_writing_neurons_are_chosen_and_pruning_them_is_a_model_without_mlps(found, reranker, pool):
    top = list(zip(found.neurons["layer"], found.neurons["neuron"], strict=True))
    assert set(top[:4]) == set(WRITING)
    assert (found.neurons["conductance"][4:] == 0).all()
    assert found.scalars["shared"]["4"] == 4
    whole = [(layer, neuron) for layer in range(2) for neuron in range(reranker.cfg.d_mlp)]
    without = ndcgs(reranker, pool, whole)
    plain = {}
    for query_id, rows in pool.ranked.by_query().items():
        pairs = [pool.ranked.pairs[i] for i in rows]
        scores = [float(reranker.score(pair.query, [pair.text])[0]) for pair in pairs]
        plain[query_id] = ndcg(scores, [pair.grade for pair in pairs], 5, "linear", 1e-9)
    own = found.per_query["unpruned"]
    assert {query: value for (_, query), value in own.items()} == pytest.approx(plain, abs=1e-12)
    assert found.scalars["unpruned"] == pytest.approx(np.mean([*plain.values()]), abs=1e-12)
    assert plain != pytest.approx(without, abs=1e-3)
    for k in (4, 7):  # the others write nothing
        own = found.per_query[f"zero; k={k}; conductance"]
        assert {query: value for (_, query), value in own.items()} == pytest.approx(without, abs=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_neurons_are_those_of_the_other_half_s_mean_over_queries(reranker, pool, folder, monkeypatch):
    asked = []

    def recorded(model, pools, store, wanted, **rest):
        asked.append(([(own.collection, query) for own in pools for query in own.by_query()], wanted))
        assert (rest["gain"], rest["cutoff"]) == ("exponential", 5)
        return run_replacement(model, pools, store, wanted, **rest)

    monkeypatch.setattr("tl_crossenc.experiments.neuron_pruning.run_replacement", recorded)
    given = {**SETTINGS, "counts": (23,), "draws": 2, "kinds": ("zero",), "gain": "exponential"}
    found = run_neuron_pruning(reranker, [pool], Store(folder), **given)
    folds = two_folds([(pool.collection, query) for query in pool.ranked.by_query()], 3)
    assert dict(found.per_query["fold"].items()) == {q: str(i) for i, own in enumerate(folds) for q in own}
    expected = []
    for fold in folds:
        activity = []
        for _, query_id in fold:
            rows = [pair for pair in pool.pairs if pair.query_id == query_id and pair.grade >= 2]
            assert len(rows) <= 3  # so that none is left out
            encoded = reranker.encode_pairs([pair.query for pair in rows], [pair.text for pair in rows])
            activity.append(conductance(reranker, encoded, "both:pad", nodes=32).activity.mean(0))
        order = np.argsort(-np.mean(activity, 0).reshape(-1), kind="stable")[:23]
        expected.append(neuron_targets(divmod(int(i), reranker.cfg.d_mlp) for i in order))
    assert expected[0] != expected[1]
    assert [queries for queries, _ in asked] == [list(fold) for fold in folds]
    for (_, wanted), other in zip(asked, expected[::-1], strict=True):
        assert wanted[1] == other  # after the neurons by conductance
        n = 2 * reranker.cfg.d_mlp
        for draw in (0, 1):
            drawn = np.random.default_rng([3, draw, n]).permutation(n)[:23]
            assert wanted[2 + draw] == neuron_targets(divmod(int(i), reranker.cfg.d_mlp) for i in drawn)


@pytest.mark.usefixtures("unchecked")
def test_conductance_is_the_mean_over_queries_of_means_of_absolute_values(found, reranker, pool):
    values, activity, errors = [], [], []
    for query_id in pool.ranked.by_query():
        rows = [pair for pair in pool.pairs if pair.query_id == query_id and pair.grade >= 2]
        encoded = reranker.encode_pairs([pair.query for pair in rows], [pair.text for pair in rows])
        one = conductance(reranker, encoded, "both:pad", nodes=32)
        values.append(np.abs(one.neurons).mean(0))
        activity.append(one.activity.mean(0))
        errors.append(one.relative_error[0].reshape(-1))  # of the neurons' cuts
    assert len(found.neurons) == 2 * reranker.cfg.d_mlp > 50
    at = found.neurons["layer"].to_numpy(), found.neurons["neuron"].to_numpy()
    np.testing.assert_allclose(found.neurons["conductance"], np.mean(values, 0)[at], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found.neurons["activity"], np.mean(activity, 0)[at], rtol=1e-9)
    assert found.scalars["median_error"] == pytest.approx(np.median(np.concatenate(errors)), rel=1e-4)
    assert found.scalars["missed"] == pytest.approx((np.concatenate(errors) > 0.05).mean())


def test_what_both_halves_choose_is_counted_and_the_random_ranking_is_the_mean_over_queries(
    reranker, pool, folder, monkeypatch
):
    orders = [{name: np.roll(np.arange(2 * reranker.cfg.d_mlp), -shift) for name in MEASURES} for shift in (0, 3)]
    monkeypatch.setattr("tl_crossenc.experiments.neuron_pruning._orders", lambda found, folds: orders)
    monkeypatch.setattr("tl_crossenc.experiments.neuron_pruning.LARGEST_ERROR", 0.0)
    given = {**SETTINGS, "counts": (2, 5), "draws": 2, "kinds": ("zero",)}
    found = run_neuron_pruning(reranker, [pool], Store(folder), **given)
    assert found.scalars["shared"] == {"2": 0, "5": 2}  # 3 and 4 of 0..4 and 3..7
    assert found.scalars["fold_sizes"] == [3, 2]
    assert found.scalars["missed"] == 1.0  # a share
    tied = [
        ndcg([0.0] * len(own), [pool.ranked.pairs[i].grade for i in own], 5, "linear", 1e-9)
        for own in pool.ranked.by_query().values()
    ]
    assert found.scalars["random_ranking"] == pytest.approx(np.mean(tied), abs=1e-12)
    assert abs(np.mean(tied[:3]) - np.mean(tied[3:])) > 1e-3


def test_draws_are_twenty_by_default():
    assert signature(run_neuron_pruning).parameters["draws"].default == 20


def test_largest_first_and_ties_in_the_neurons_order():
    assert best_first(np.array([1.0, 3.0, 0.0, 3.0, 1.0])).tolist() == [1, 3, 0, 4, 2]


def test_what_a_cell_depends_on_is_in_its_key(reranker, pool, tmp_path):
    """An executor that computes nothing."""
    keys = []

    class Counting(InProcess):
        def run(self, model, tasks, store, progress=None, **rest):
            keys.extend(key for task in tasks for key in task.keys)
            raise Unavailable("enough")

    changes = [{}, {"baseline": "query"}, {"nodes": 33}, {"token_budget": 91}, {}]
    for i, change in enumerate(changes):
        given = {**SETTINGS, "token_budget": 90, "executor": Counting(), **change}
        with pytest.raises(Unavailable, match="enough"), reranker.ablating("CLS->DOC" if i == 4 else "none"):
            run_neuron_pruning(reranker, [pool], Store(tmp_path), **given)
    with pytest.raises(ValueError, match=f"counts from 1 to below the {2 * reranker.cfg.d_mlp} neurons"):
        run_neuron_pruning(reranker, [pool], Store(tmp_path), **{**SETTINGS, "counts": (2 * reranker.cfg.d_mlp,)})
    assert len(keys) == len(set(keys)) == len(changes) * len(pool.ranked.by_query())


def test_what_is_not_finite_is_not_stored(pool, tmp_path):
    model = tiny_model(tmp_path / "m", seed=5)
    with torch.no_grad():
        model.classifier.weight[:] = torch.inf
    with pytest.raises(CellsFailed, match="finite conductances, but some are NaN or infinite"):
        run_neuron_pruning(model, [pool], Store(tmp_path / "s"), **{**SETTINGS, "passages": 1, "queries": 2})


def test_random_neurons_are_the_first_of_seeded_draws_and_their_mean_is_compared(found, reranker, pool):
    n = 2 * reranker.cfg.d_mlp
    means = []
    for draw in range(3):
        drawn = np.random.default_rng([3, draw, n]).permutation(n)[:7]
        means.append(ndcgs(reranker, pool, [divmod(int(i), reranker.cfg.d_mlp) for i in drawn]))
    frame = pd.DataFrame(means)
    rows = found.draws.query("values == 'zero' and k == 7")
    np.testing.assert_allclose(rows["mean"], frame.mean(axis=1), atol=1e-12)
    own = found.per_query["zero; k=7; random"]
    assert {query: value for (_, query), value in own.items()} == pytest.approx(frame.mean().to_dict(), abs=1e-12)
    ranking = found.rankings.set_index(["values", "k", "choice"]).loc[("zero", 7, "random")]
    assert ranking["mean"] == pytest.approx(frame.mean(axis=1).mean())
    assert (ranking["lowest_draw"], ranking["highest_draw"]) == pytest.approx(
        (frame.mean(axis=1).min(), frame.mean(axis=1).max())
    )


def test_contrasts_are_paired_tests_with_holm_over_all(found):
    contrasts = found.contrasts
    assert len(contrasts) == 2 * 2 * 3
    for row in contrasts.itertuples():
        own = found.per_query[f"{row.values}; k={row.k}; conductance"]
        other = found.per_query["unpruned" if row.against == "unpruned" else f"{row.values}; k={row.k}; {row.against}"]
        assert row.difference == pytest.approx((own - other).mean(), abs=1e-12)
        if np.ptp(own - other) > 1e-9:
            assert row.p == pytest.approx(stats.ttest_rel(own, other).pvalue, rel=1e-6)
        else:
            assert row.p in (0.0, 1.0)
    np.testing.assert_allclose(contrasts["p_holm"], holm(contrasts["p"]), rtol=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_a_second_run_does_no_model_work(found, reranker, pool, folder, monkeypatch):
    before = identities(folder)
    forbid_model_work(monkeypatch)
    again = run_neuron_pruning(reranker, [pool], Store(folder), **SETTINGS)
    assert again.rankings.equals(found.rankings)
    assert again.per_query.equals(found.per_query)
    assert identities(folder) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"baseline": "both:zzz"}, "^expected pad, mask, unk or a piece of the vocabulary, got 'zzz'"),
        ({"counts": ()}, "expected counts from 1 to below the"),
        ({"counts": (0, 4)}, "expected counts from 1"),
        ({"counts": (10**6,)}, "expected counts from 1"),
        ({"counts": (4, 4.5)}, r"expected whole numbers of neurons, got \[4, 4\.5\]"),
        ({"draws": 1}, "at least 2 draws"),
        ({"kinds": ("median",)}, "kinds among zero, mean"),
        ({"nodes": 3}, "^expected at least 32 nodes, got 3"),
        ({"baseline": "query:pad:"}, "has no such|or a piece of the vocabulary"),
        ({"queries": 1}, "needs two, got 1"),
    ],
)
def test_bad_input_is_one_sentence(reranker, pool, tmp_path, given, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        run_neuron_pruning(reranker, [pool], Store(tmp_path), **{**SETTINGS, **given})
