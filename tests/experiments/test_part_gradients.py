"""Attributions by part and layer: sums by hand over pairs, the planted model, the published table, the store, bad input."""

import numpy as np
import pytest
import torch
from planted_texts import graded_pool
from scipy.stats import ttest_1samp
from small_worlds import collection_folder, count_layers, forbid_model_work, identities, tiny_model

from tl_crossenc.executors.executor import IN_PROCESS
from tl_crossenc.executors.task import CellsFailed
from tl_crossenc.experiments.part_gradient_cells import KIND, part_gradient_tasks
from tl_crossenc.experiments.part_gradients import PARTS, run_part_gradients
from tl_crossenc.experiments.relevant_sample import relevant_pools
from tl_crossenc.instruments.baselines import Baseline
from tl_crossenc.instruments.integrated_gradients import integrated_gradients
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec, build_pool
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.published import ZHAN_2020_GRADIENTS
from tl_crossenc.store.cells import Store


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    base = tmp_path_factory.mktemp("collections")
    folders = [
        collection_folder(base / "first", n_queries=3, per_grade=(1, 1, 2, 2)),
        collection_folder(base / "second", n_queries=2, per_grade=(1, 1, 2, 1), prefix="s"),
    ]
    return [build_pool(load_collection(folder), PoolSpec(10, 2, 0)) for folder in folders]


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def found(reranker, pools, folder):
    return run_part_gradients(reranker, pools, Store(folder), nodes=32)


def test_values_are_means_over_a_query_s_pairs_each_attributed_alone(found, reranker, pools):
    query = pools[0].pairs[0].query_id
    pairs = [pair for pair in pools[0].pairs if pair.query_id == query and pair.grade >= 2]
    stop = reranker.tokenizer.get_vocab().get(".")
    sums = []
    for pair in pairs:
        encoded = reranker.encode_pairs(pair.query, [pair.text])
        values = integrated_gradients(reranker, encoded, "passage", nodes=32).values
        parts = [values[:, encoded.parts == part].sum(1) for part in range(5)]
        stops = values[:, (encoded.parts == 3) & (encoded.tokens == stop)].sum(1)
        sums.append([*parts, parts[2] + parts[4], stops, values.sum(1)])
    expected = np.mean(sums, axis=0).T  # [layer, part]
    rows = found.per_query.query("baseline == 'passage:pad' and query_id == @query").sort_values("layer")
    np.testing.assert_allclose(rows[list(PARTS)].to_numpy(), expected, rtol=0, atol=1e-11)
    assert (rows["n_pairs"] == len(pairs)).all()


def test_errors_are_those_of_the_pairs_and_the_published_shares_those_of_its_table(
    found, reranker, pools, folder, monkeypatch
):
    used, _ = relevant_pools(pools, None)
    encoded = [reranker.encode_pairs([p.query for p in pool.pairs], [p.text for p in pool.pairs]) for pool in used]
    alone = [integrated_gradients(reranker, pairs, "passage", nodes=32) for pairs in encoded]
    errors = np.concatenate([one.relative_error for one in alone], axis=1)  # [layer, pair]
    bound = float(np.sort(errors[1])[3])
    forbid_model_work(monkeypatch)
    monkeypatch.setattr("tl_crossenc.experiments.part_gradients.LARGEST_ERROR", bound * 0.999)
    table = {"query:pad": {"CLS": (1.0, 2.0), "SEP": (3.0, 5.0), "QUERY": (7.0, 11.0), "DOC": (13.0, 17.0)}}
    monkeypatch.setattr("tl_crossenc.experiments.part_gradients.ZHAN_2020_GRADIENTS", table)
    again = run_part_gradients(reranker, pools, Store(folder), nodes=32)
    rows = again.errors[again.errors["baseline"] == "passage:pad"].sort_values("layer")
    np.testing.assert_allclose(rows["largest"], errors.max(1), rtol=0.01, atol=1e-13)
    np.testing.assert_allclose(rows["median"], np.median(errors, 1), rtol=0.01, atol=1e-13)
    assert rows["missed"].tolist()[1] == errors.shape[1] - 3
    assert again.scalars["n_pairs"] == errors.shape[1] == rows["n_pairs"].iloc[0]
    said = again.parts.set_index(["baseline", "part", "layer"])["published"].sort_index()
    assert said["query:pad", "DOC"].tolist()[:2] == pytest.approx([13 / 24, 17 / 35])
    assert said["query:pad", "SEP"].tolist()[:2] == pytest.approx([3 / 24, 5 / 35])
    assert np.isnan(said["query:pad", "DOC", 2])
    assert said["passage:pad"].isna().all()
    assert found.scalars["score"] == "score"


def test_what_a_cell_depends_on_is_in_its_key(reranker, pools):
    given = {"score": None, "nodes": 32, "stops": (7,), "token_budget": 90}
    changes = ({}, {"score": "probability"}, {"nodes": 33}, {"stops": (7, 8)}, {"token_budget": 91})
    baselines = ("query", "passage", "query:mask")
    found = [part_gradient_tasks(reranker, pools[0], Baseline.parse(b), IN_PROCESS, **given) for b in baselines]
    found += [part_gradient_tasks(reranker, pools[0], Baseline("query"), IN_PROCESS, **given | c) for c in changes[1:]]
    with reranker.ablating("CLS->DOC", layers=1):
        found.append(part_gradient_tasks(reranker, pools[0], Baseline("query"), IN_PROCESS, **given))
    keys = [key for tasks in found for task in tasks for key in task.keys]
    assert len(set(keys)) == len(keys) == 8 * len(found[0])


def test_the_score_and_the_seed_are_those_asked_for_and_own_baselines_are_counted(reranker, tmp_path, monkeypatch):
    texts = ("", "the flea", "")
    pool = Pool("e", PoolSpec(None, 0, 0), tuple(PoolPair("q", "do fleas", f"d{i}", t, 1) for i, t in enumerate(texts)))
    found = run_part_gradients(reranker, [pool], Store(tmp_path), baselines="passage", nodes=32, score="probability")
    assert found.errors["same"].tolist() == [2, 2, 2]
    own = float(reranker.score("do fleas", [texts[1]])[0])
    assert found.scalars["score"] == "probability"
    scores = 1 / (1 + np.exp(-np.array([*reranker.score("do fleas", list(texts))])))
    np.testing.assert_allclose(found.per_query["score"], scores.mean(), rtol=1e-6)
    assert abs(own - scores[1]) > 1e-3
    asked = []

    def record(pools, grades, **given):
        asked.append(given)
        raise Unavailable("enough")

    monkeypatch.setattr("tl_crossenc.experiments.part_gradients.relevant_pools", record)
    with pytest.raises(Unavailable, match="enough"):
        run_part_gradients(reranker, [pool], Store(tmp_path), queries=3, passages=2, seed=5)
    assert asked == [{"queries": 3, "passages": 2, "seed": 5}]


def test_what_is_not_finite_is_not_stored(tmp_path):
    model = tiny_model(tmp_path / "m", seed=5)
    with torch.no_grad():
        model.classifier.weight[:] = torch.inf
    pool = Pool("e", PoolSpec(None, 0, 0), (PoolPair("q", "do fleas", "d", "the flea", 1),))
    with pytest.raises(CellsFailed, match="finite attributions, but some are NaN or infinite"):
        run_part_gradients(model, [pool], Store(tmp_path / "s"), baselines=["query"], nodes=32)


def test_full_stops_are_the_passage_s_alone(reranker, tmp_path):
    pair = PoolPair("q", "do fleas . lay", "d", "the flea . egg .", 3)
    pool = Pool("stops", PoolSpec(None, 0, 0), (pair,))
    found = run_part_gradients(reranker, [pool], Store(tmp_path), baselines=["both"], nodes=32)
    encoded = reranker.encode_pairs(pair.query, [pair.text])
    values = integrated_gradients(reranker, encoded, "both", nodes=32).values
    at = [i for i, token in enumerate(encoded.tokens) if reranker.tokenizer.convert_ids_to_tokens(int(token)) == "."]
    assert len(at) == 3
    np.testing.assert_allclose(found.per_query["STOPS"], values[:, at[1:]].sum(1), rtol=0, atol=1e-12)
    assert np.abs(values[:2, at[0]]).min() > 1e-6


def test_parts_add_up_to_the_same_difference_at_every_layer(found):
    table = found.parts.pivot(index=["baseline", "layer"], columns="part", values="mean")
    errors = found.errors.set_index(["baseline", "layer"])
    np.testing.assert_allclose(table[["CLS", "QUERY", "SEP", "DOC"]].sum(axis=1), table["ALL"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(table["ALL"], errors["difference"].reindex(table.index), rtol=0, atol=1e-3)
    for baseline, own in errors.groupby("baseline"):
        assert own["difference"].nunique() == 1, baseline
    assert (errors["median"] < 1e-3).all()
    assert (table.xs(2, level="layer")[["QUERY", "SEP", "DOC"]] == 0).all(axis=None)
    assert (table.loc[("query:pad", 0), ["CLS", "SEP", "DOC", "STOPS"]] == 0).all()


def test_means_and_intervals_are_over_queries(found):
    row = found.parts.set_index(["baseline", "layer", "part"]).loc[("query:pad", 1, "DOC")]
    values = found.per_query.query("baseline == 'query:pad' and layer == 1")["DOC"]
    assert (row["n_queries"], found.scalars["n_queries"]) == (5, 5)
    assert row["mean"] == pytest.approx(values.mean())
    half = 2.7764451 * values.std() / np.sqrt(5)  # t of 4 degrees of freedom
    assert (row["low"], row["high"]) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-6)
    total = found.per_query.query("baseline == 'query:pad' and layer == 1")["ALL"].mean()
    assert row["share"] == pytest.approx(values.mean() / total)
    totals = found.per_query.query("baseline == 'query:pad' and layer == 1")["ALL"]
    if np.isfinite(row["share_low"]):
        for bound in (row["share_low"], row["share_high"]):
            assert ttest_1samp(values - bound * totals, 0.0).pvalue == pytest.approx(0.05, abs=1e-9)
    assert np.isfinite(row["share_low"]) == (ttest_1samp(totals, 0.0).pvalue < 0.05)
    assert found.parts["published"].isna().all()
    assert found.scalars["sampled"] == {"queries": None, "passages": None}


def test_a_second_run_does_no_model_work_and_a_lost_cell_comes_back_with_its_bytes(
    found, reranker, pools, folder, monkeypatch
):
    before = identities(folder)
    lost = sorted((folder / "cells" / KIND).glob("*.parquet"))[0]
    bytes_before = lost.read_bytes()
    lost.unlink()
    again = run_part_gradients(reranker, pools, Store(folder), nodes=32)
    assert lost.read_bytes() == bytes_before
    forbid_model_work(monkeypatch)
    once_more = run_part_gradients(reranker, pools, Store(folder), nodes=32)
    assert once_more.parts.equals(again.parts)
    assert again.parts.equals(found.parts)
    assert set(identities(folder)) == set(before)


def test_progress_counts_forward_and_backward_layers(reranker, pools, tmp_path, monkeypatch):
    calls, seen = count_layers(monkeypatch), []
    run_part_gradients(
        reranker,
        pools,
        Store(tmp_path),
        baselines=["query"],
        nodes=32,
        queries=1,
        passages=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    forward = sum(pairs for _, pairs in calls)
    assert forward == 2 * 2 + 32 * (2 + 1)  # both ends, and for each node what is above each of the two layers
    assert seen[-1] == (4 + 2 * 32 * 3, 4 + 2 * 32 * 3)


def test_the_planted_score_is_at_query_then_passage_then_cls(tmp_path):
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    pool = graded_pool(n_queries=2, per_grade=1, seed=1)
    found = run_part_gradients(model, [pool], Store(tmp_path), nodes=32)
    share = found.parts.set_index(["baseline", "layer", "part"])["share"]
    for layer, place in enumerate(["QUERY", "QUERY", "DOC", "DOC", "CLS"]):
        assert share["query:pad", layer, place] == pytest.approx(1, abs=2e-2)
        assert share["passage:pad", layer, "CLS" if layer == 4 else "DOC"] == pytest.approx(1, abs=2e-2)


def test_the_published_table_adds_up_as_completeness_demands():
    for baseline, total in (("query:pad", 0.978), ("passage:pad", 0.976)):
        table = ZHAN_2020_GRADIENTS[baseline]
        sums = np.sum([table[part] for part in ("CLS", "SEP", "QUERY", "DOC")], axis=0)
        assert sums.shape == (12,)
        np.testing.assert_allclose(sums, total, rtol=0, atol=1.5e-3)  # each entry was read to .0005


def test_samples_are_of_whole_queries_and_seeded(pools):
    every, grades = relevant_pools(pools, None)
    assert grades == (2, 3)
    assert [len(pool) for pool in every] == [sum(pair.grade >= 2 for pair in pool.pairs) for pool in pools]
    drawn = [relevant_pools(pools, (2, 3), queries=2, seed=seed)[0] for seed in (0, 0, 1, 2, 3)]
    keys = [[(pool.collection, query) for pool in chosen for query in pool.by_query()] for chosen in drawn]
    assert keys[0] == keys[1]
    assert len({tuple(key) for key in keys}) > 1
    for chosen in drawn:
        for pool in chosen:
            whole = next(own for own in every if own.collection == pool.collection)
            assert set(pool.pairs) == {pair for pair in whole.pairs if pair.query_id in pool.by_query()}
    (few, *_), _ = relevant_pools(pools, None, passages=1)
    assert all(len(own) == 1 for own in few.by_query().values())


def test_bad_input_is_one_sentence(reranker, pools, tmp_path):
    store = Store(tmp_path)
    for given, message in [
        ({"baselines": []}, "at least one pool and one baseline, got 2 and 0"),
        ({"baselines": ["title"]}, "expected a baseline that replaces query, passage or both"),
        ({"queries": 0}, "at least one query and one passage each, got 0 and None"),
        ({"nodes": 8}, "^expected at least 32 nodes, got 8"),
        ({"baselines": ["query:zzz"]}, "^expected pad, mask, unk or a piece of the vocabulary, got 'zzz'"),
        ({"score": "index:7"}, "expected a score that"),
    ]:
        with pytest.raises(ValueError, match=message):
            run_part_gradients(reranker, pools, store, **given)
    with pytest.raises(Unavailable, match=r"none of grades \[9\]"):
        run_part_gradients(reranker, pools, store, relevant_grades=(9,))
    with pytest.raises(ValueError, match="expected collections of different names"):
        run_part_gradients(reranker, [pools[0], pools[0]], store)
