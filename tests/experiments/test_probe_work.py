"""The measuring of probes without a model: rankings and R² by hand, shuffled labels as a pool whose grades were dealt out anew."""

import math
from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge
from tiny_models import port, tiny_hf

from tl_crossenc.experiments import probe_work
from tl_crossenc.experiments.probe_cells import StateCells
from tl_crossenc.experiments.probe_frames import Rankings, constant_features, relevance_frame
from tl_crossenc.experiments.probe_work import ProbeWork, sample_queries, token_reader
from tl_crossenc.instruments.layer_tokens import TokenStates
from tl_crossenc.instruments.token_probe import TokenProbeSettings, fit_token_probe, token_probe_scores
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec
from tl_crossenc.pools.retrieval_features import FEATURES
from tl_crossenc.statistics.explained import explained
from tl_crossenc.statistics.folds import query_folds, shuffled_within
from tl_crossenc.statistics.probes import ridge_probe

GRADES = {"q0": (3, 0, 1, 2), "q1": (0, 2, 0), "q2": (1, 3, 0, 0), "q3": (2, 0, 3), "q4": (0, 0, 3, 1)}


def a_pool(name="one", grades=None, qrels=None):
    pairs = [
        PoolPair(query, f"query {query}", f"d{i}", f"text {i} of {query}", grade)
        for query, own in (grades or GRADES).items()
        for i, grade in enumerate(own)
    ]
    given = {} if qrels is None else {"ideal": "qrels", "qrels": qrels}
    return Pool(name, PoolSpec(None, 0, 0), tuple(pairs), **given)


def dcg(grades, cutoff):
    return sum((2**grade - 1) / math.log2(rank + 1) for rank, grade in enumerate(grades[:cutoff], 1))


def measured(predictions, grades, relevant, cutoff, judged):
    """(nDCG with exponential gains, RR, both of the random ranking by every order) of one query whose predictions do not tie."""
    places = list(range(len(grades)))

    def of(order):
        first = [rank for rank, i in enumerate(order, 1) if relevant[i] and rank <= cutoff]
        ideal = dcg(sorted(judged, reverse=True), cutoff)
        return dcg([grades[i] for i in order], cutoff) / ideal, 1 / first[0] if first else 0.0

    own = of(sorted(places, key=lambda i: -predictions[i]))
    return *own, *np.mean([of(order) for order in permutations(places)], axis=0)


@pytest.mark.parametrize("by_judgments", [False, True])
def test_some_pairs_of_two_pools_are_measured_query_by_query(by_judgments):
    """Cutoff 2, exponential gains, a grade of its own for relevance; pairs that are left out are no part of any number."""
    pools = []
    for name, turn in (("one", 1), ("two", -1)):
        pool = a_pool(name, {query: own[::turn] for query, own in GRADES.items()})
        judged = {query: {f"d{i}": g for i, g in enumerate(own[::turn])} | {"x": 3} for query, own in GRADES.items()}
        pools.append(a_pool(name, {q: o[::turn] for q, o in GRADES.items()}, judged) if by_judgments else pool)
    every = [(pool.collection, pair) for pool in pools for pair in pool.pairs]
    rows = np.array([i for i in range(len(every)) if i % 7 != 3])
    predictions = np.random.default_rng(2).permutation(len(rows)).astype(float)
    relevant = np.array([pair.grade >= 2 for _, pair in every])
    found = Rankings(tuple(pools), relevant, 2, "exponential").per_query(predictions, rows)
    assert found[["collection", "query_id"]].to_numpy().tolist() == [
        [name, q] for name in ("one", "two") for q in GRADES
    ]
    for row in found.to_dict("records"):
        own = [
            k for k, i in enumerate(rows) if (every[i][0], every[i][1].query_id) == (row["collection"], row["query_id"])
        ]
        grades = [every[rows[k]][1].grade for k in own]
        judged = [*GRADES[row["query_id"]], 3] if by_judgments else grades
        expected = measured(predictions[own], grades, [g >= 2 for g in grades], 2, judged)
        got = [row[name] for name in ("ndcg", "mrr", "random_ndcg", "random_mrr")]
        assert got == pytest.approx(expected, abs=1e-12)
        assert row["n_passages"] == len(own)
    assert found["mrr"].nunique() > 2


def test_means_have_t_intervals_over_queries_and_the_floor_of_their_own_measure():
    rng = np.random.default_rng(0)
    columns = {name: rng.random(10) for name in ("ndcg", "mrr", "random_ndcg", "random_mrr")}
    per_query = pd.DataFrame(columns).assign(
        source="model", set=["CLS"] * 6 + ["DOC"] * 4, layer=1, n_passages=range(10)
    )
    found = relevance_frame(per_query, {"DOC": 7}).set_index("set")
    for name, own in (("CLS", slice(0, 6)), ("DOC", slice(6, 10))):
        row = found.loc[name]
        for measure in ("ndcg", "mrr"):
            values = columns[measure][own]
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
            expected = values.mean() - half, values.mean(), values.mean() + half
            assert [row[f"{measure}_low"], row[measure], row[f"{measure}_high"]] == pytest.approx(expected, abs=1e-12)
            assert row[f"random_{measure}"] == pytest.approx(columns[f"random_{measure}"][own].mean())
        assert (row["n_queries"], row["n_pairs"]) == ((6, 15) if name == "CLS" else (4, 30))
    assert found["left_out"].to_dict() == {"CLS": 0, "DOC": 7}


def test_a_feature_that_varies_only_in_being_there_is_constant():
    values = np.array([[1.0, 2.0, np.nan], [np.nan, 2.0, np.nan], [1.0, 3.0, np.nan]])
    assert constant_features(values, ("a", "b", "c")) == ["a", "c"]


# Fits.


def the_work(pool, features=None, **changes):
    given = {
        "cutoff": 3,
        "gain": "linear",
        "n_folds": 3,
        "n_shuffles": 0,
        "probe": "ridge",
        "settings": None,
        "seed": 5,
    }
    blank = np.random.default_rng(9).normal(size=(len(pool), len(FEATURES)))
    return ProbeWork([pool], blank if features is None else features, {pool.collection: (2, 3)}, **(given | changes))


def states_of(pool, seed=1):
    """What a probe finds a little of: noise beside the grade."""
    grades = np.array([pair.grade for pair in pool.pairs])
    return np.random.default_rng(seed).normal(size=(len(grades), 4)) + 0.2 * grades[:, None]


@pytest.mark.parametrize("level", [0.0, 3e3])
def test_shuffled_labels_are_a_pool_whose_grades_were_dealt_out_anew_twice(level):
    """Each draw is that pool's own probe of the same states, and their mean is shown. Large states tie what small ones do not."""
    pool = a_pool()
    queries = [pair.query_id for pair in pool.pairs]
    states, rows = states_of(pool) + level, np.arange(len(pool))
    tables, _ = the_work(pool, n_shuffles=2).measured(("model", "CLS", 1), states, rows, shuffled=True)
    own, shuffled = (table.set_index("query_id")[["ndcg", "mrr"]] for table in tables)
    draws, grades = [], np.array([pair.grade for pair in pool.pairs])
    for draw in range(2):
        dealt = shuffled_within(grades, queries, 5 + 1 + draw)
        pairs = [pair._replace(grade=int(grade)) for pair, grade in zip(pool.pairs, dealt, strict=True)]
        other = replace(pool, pairs=tuple(pairs))
        (table,), _ = the_work(other).measured(("model", "CLS", 1), states, rows, shuffled=False)
        draws.append(table.set_index("query_id")[["ndcg", "mrr"]])
    np.testing.assert_allclose(shuffled, (draws[0] + draws[1]) / 2, atol=1e-12)
    assert not np.allclose(draws[0], draws[1])
    assert not np.allclose(own, shuffled)


def test_predictions_of_relevance_are_ranked_as_the_probe_gives_them_and_features_each_as_its_own():
    """Every fold by scikit-learn at the penalty that was chosen; R² of each feature, of pairs that have all of them."""
    pool = a_pool()
    features = np.random.default_rng(4).normal(size=(len(pool), len(FEATURES))) + states_of(pool)[:, :1]
    lacking = np.array([pair.query_id == "q3" for pair in pool.pairs])
    features[lacking, 3] = np.nan
    states, rows = states_of(pool), np.arange(len(pool))
    queries = [("one", pair.query_id) for pair in pool.pairs]
    folds = query_folds(queries, 3, 5)
    for whole in (features, np.where(np.isnan(features), 0.0, features)):
        (table,), found = the_work(pool, whole).measured(("untrained", "DOC", 2), states, rows, shuffled=False)
        labels = np.array([float(pair.grade >= 2) for pair in pool.pairs])
        fitted, predicted = ridge_probe(states, labels, queries, folds), np.zeros(len(pool))
        for fold in range(3):
            learn = folds != fold
            mean, deviation = states[learn].mean(0), states[learn].std(0)
            own = Ridge(alpha=fitted.chosen[fold, 0]).fit((states[learn] - mean) / deviation, labels[learn])
            predicted[~learn] = own.predict((states[~learn] - mean) / deviation)
        expected = Rankings((pool,), labels > 0, 3, "linear").per_query(predicted, rows, scale=fitted.scale[0])
        pd.testing.assert_frame_equal(table[expected.columns.tolist()], expected)
        assert set(zip(table["source"], table["set"], table["layer"], strict=True)) == {("untrained", "DOC", 2)}
        kept = ~np.isnan(whole).any(1)
        assert kept.sum() == (15 if np.isnan(whole).any() else 18)
        known = [query for query, there in zip(queries, kept, strict=True) if there]
        by_feature = ridge_probe(states[kept], whole[kept], known, folds[kept]).predictions
        for i, row in enumerate(found):
            r2 = explained(whole[kept, i], by_feature[:, i], known, seed=5)
            assert [row[name] for name in ("r2", "low", "high", "within")] == pytest.approx(list(r2), abs=1e-9)
            assert (row["feature"], row["n_pairs"]) == (FEATURES[i], kept.sum())
        assert len({round(row["r2"], 6) for row in found}) == len(FEATURES)


def test_what_ties_is_told_by_the_size_of_the_terms_and_not_of_the_predictions():
    """Predictions near .5 of states near 3,000: what is small beside the terms is rounding."""
    pool = a_pool()
    states, rows = states_of(pool) + 3e3, np.arange(len(pool))
    (table,), _ = the_work(pool).measured(("model", "CLS", 0), states, rows, shuffled=False)
    labels, (queries, folds) = np.array([float(pair.grade >= 2) for pair in pool.pairs]), _split(pool)
    found = ridge_probe(states, labels, queries, folds)
    rankings = Rankings((pool,), labels > 0, 3, "linear")
    size = max(np.abs(states[folds != fold] / states[folds != fold].std(0)).max() for fold in range(3))
    assert found.scale[0] > 100 * np.abs(found.predictions).max()
    assert found.scale[0] < 2 * size  # a weight is below 1
    told, untold = (rankings.per_query(found.predictions[:, 0], rows, scale=scale) for scale in (found.scale[0], None))
    assert table["ndcg"].tolist() == told["ndcg"].tolist()
    assert told["ndcg"].tolist() != untold["ndcg"].tolist()


def _split(pool):
    queries = [("one", pair.query_id) for pair in pool.pairs]
    return queries, query_folds(queries, 3, 5)


def test_logistic_probes_are_given_labels_folds_and_seed(monkeypatch):
    pool = a_pool()
    states, rows, asked = states_of(pool), np.arange(len(pool)), []

    def told(*given, **more):
        asked.append((*given, more))
        return SimpleNamespace(predictions=states[:, :1], scale=np.ones(1))

    monkeypatch.setattr(probe_work, "logistic_probe", told)
    (table,), _ = the_work(pool, probe="logistic").measured(("model", "CLS", 1), states, rows, shuffled=False)
    ((X, labels, queries, folds, more),) = asked
    expected = _split(pool)
    np.testing.assert_array_equal(X, states)
    assert labels[:, 0].tolist() == [float(pair.grade >= 2) for pair in pool.pairs]
    assert (queries, folds.tolist(), more) == (expected[0], expected[1].tolist(), {"seed": 5})
    by_hand = Rankings((pool,), labels[:, 0] > 0, 3, "linear").per_query(states[:, 0], rows, scale=1.0)
    assert table["ndcg"].tolist() == by_hand["ndcg"].tolist()


def some_tokens(pool, n_layers=3):
    rng = np.random.default_rng(8)
    lengths = rng.integers(1, 4, len(pool))
    lengths[[2, 5]] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return TokenStates(
        rng.normal(size=(offsets[-1], n_layers, 4)).astype(np.float32), offsets, np.zeros(offsets[-1], int)
    )


def the_cells(part):
    cells = object.__new__(StateCells)
    cells.tokens = lambda name: part
    return cells


def test_single_tokens_are_read_by_pair_and_layer_from_the_cells_of_all_pools():
    pools = a_pool("one"), a_pool("two", {q: own[:2] for q, own in GRADES.items()})
    parts = [some_tokens(pool) for pool in pools]
    kept = np.array([i for i in range(28) if i not in (2, 5, 20, 23)])
    read = token_reader([the_cells(part) for part in parts], "DOC", kept)
    rows = np.array([0, 3, 17, 21])
    values, offsets = read(1, rows)
    own = []
    for pair in kept[rows]:
        part, place = (parts[0], pair) if pair < 18 else (parts[1], pair - 18)
        own.append(part.values[part.offsets[place] : part.offsets[place + 1], 1])
    np.testing.assert_array_equal(values, np.concatenate(own))
    assert np.diff(offsets).tolist() == [len(one) for one in own]


def test_the_probe_of_single_tokens_is_fitted_on_the_other_folds_on_each_draw_s_labels():
    pool = a_pool()
    part = some_tokens(pool)
    kept = np.flatnonzero(np.diff(part.offsets))
    reader = token_reader([the_cells(part)], "DOC", kept)
    settings = TokenProbeSettings(learning_rate=0.05, epochs=3)
    work = the_work(pool, probe="tokens", settings=settings, n_shuffles=1)
    given = work.measured(("model", "DOC", 2), states_of(pool)[kept], kept, reader, shuffled=True)[0]
    queries, folds = _split(pool)
    labels = np.array([int(pair.grade >= 2) for pair in pool.pairs])[kept]
    order = shuffled_within(np.arange(len(kept)), [queries[i] for i in kept], 6)
    for table, targets, places in ((given[0], labels, np.arange(len(kept))), (given[1], labels[order], order)):
        predicted = np.zeros(len(kept))
        for fold in range(3):
            asked = folds[kept] == fold
            fitted = fit_token_probe(*reader(2, np.flatnonzero(~asked)), targets[~asked], settings, seed=5)
            predicted[places[asked]] = token_probe_scores(fitted, *reader(2, np.flatnonzero(asked)))
        expected = Rankings((pool,), np.array([pair.grade >= 2 for pair in pool.pairs]), 3, "linear")
        by_hand = expected.per_query(predicted, kept)
        np.testing.assert_allclose(table[["ndcg", "mrr"]], by_hand[["ndcg", "mrr"]], atol=1e-12)


def test_the_lens_ties_as_the_model_s_scores_do_and_is_named_by_what_the_head_reads(monkeypatch):
    pool, model = a_pool(), port(tiny_hf())
    scores = np.stack([np.arange(18) * 1e-3, np.arange(18.0)], 1)
    for first, name in ((True, "CLS"), (False, "ALL")):
        for attribute, value in (("reads_only_first_row", first), ("dtype", torch.bfloat16), ("score_scale", 1.0)):
            monkeypatch.setattr(HookedCrossEncoder, attribute, value)
        near, far = the_work(pool).lens(model, scores)
        assert set(near["set"]) == {name}
        assert (near["layer"].unique().tolist(), far["layer"].unique().tolist()) == ([0], [1])
        np.testing.assert_allclose(near["ndcg"], near["random_ndcg"], atol=1e-12)
        assert (far["ndcg"] - far["random_ndcg"]).abs().min() > 1e-3


# Samples.


def test_a_sample_takes_as_many_whole_queries_as_fit_to_the_pair():
    pools = [a_pool("one"), a_pool("none", {"q9": (-1, -1)}), a_pool("two", {q: o[:2] for q, o in GRADES.items()})]
    sizes = {}
    for most in range(1, 29):
        sample, of = sample_queries(pools, most, 1, 3)
        sizes[most] = sum(len(pool) for pool in sample)
        assert of == 10
        assert all(len(pool) for pool in sample)
        for pool in sample:
            whole = pools[0] if pool.collection == "one" else pools[2]
            for query_id, own in pool.by_query().items():
                assert len(own) == len(whole.by_query()[query_id])
    reached = sorted(set(sizes.values()))
    assert len(reached) == 10  # every query that is added
    for most, size in sizes.items():
        assert size == max([total for total in reached if total <= most], default=reached[0])
    few, _ = sample_queries(pools, 1, 4, 3)
    assert sum(len(pool.by_query()) for pool in few) == 4


def test_two_queries_outside_of_every_fold_are_enough_and_one_is_not():
    pool = a_pool()
    work = the_work(pool)
    by_query = pool.by_query()
    queries, folds = _split(pool)
    of_fold = {query: int(folds[i]) for i, (_, query) in enumerate(queries)}
    for chosen in ({"q0", "q1", "q2"}, {"q0", "q1"}, {"q3", "q4", "q1", "q0"}, set(GRADES), {"q2"}, set()):
        rows = np.array([i for query, own in by_query.items() if query in chosen for i in own], dtype=int)
        outside = [sum(of_fold[query] != fold for query in chosen) for fold in range(3)]
        asked = {of_fold[query] for query in chosen}
        assert work.can_fit(rows) == bool(asked and min(outside[fold] for fold in asked) >= 2)
