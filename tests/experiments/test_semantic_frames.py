"""The tables of semantic BM25 by SciPy on random predictions, and what the regressions are given of two pools and of a sample."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from small_worlds import TOPICS, pool_of_words, tiny_model

from tl_crossenc.experiments import semantic_bm25, semantic_frames
from tl_crossenc.experiments.semantic_bm25 import GRID, run_semantic_bm25
from tl_crossenc.experiments.semantic_fits import SYSTEMS, TUNED, Fields, Predicted, within_queries
from tl_crossenc.experiments.semantic_frames import comparison_frame, correlation_frame, embedding_frame, head_frame
from tl_crossenc.experiments.soft_tf_cells import SoftTFSums
from tl_crossenc.instruments.idf_in_embeddings import idf_in_embeddings, piece_frequencies
from tl_crossenc.pools.bm25 import bm25_scores
from tl_crossenc.store.cells import Store

SIZES = (7, 5, 11, 5, 7, 13)
N = sum(SIZES)


def less_its_mean(values, queries):
    return values - np.array([values[queries == query].mean() for query in queries])


@pytest.fixture(scope="module")
def drawn():
    """Scores with levels of their queries, and predictions that know something of them; by query and by pair."""
    rng = np.random.default_rng(1)
    queries = np.repeat(np.arange(6), SIZES)
    scores = rng.normal(size=N) + 2 * rng.normal(size=6)[queries]
    plain, weighted = (rng.normal(size=(2, N, 6)) + 0.3 * scores[:, None] for _ in range(2))
    folds = {"query": queries % 3, "pair": rng.permutation(N) % 3}
    found = {
        split: {
            system: Predicted(
                scores + (1 + i) * rng.normal(size=N),
                tuple(f"{system} {split} {fold}" for fold in range(3)),
                ((4, 1), (1,), (5, 4)) if split == "query" else ((0,), (0,), (0,)),
            )
            for i, system in enumerate(SYSTEMS)
        }
        for split in folds
    }
    fields = Fields(scores, queries.tolist(), rng.random(N), plain, weighted, {(0.9, 0.4): scores}, (2, 3))
    return fields, folds, found


def test_every_correlation_and_r2_is_of_its_own_split_system_and_fold(drawn):
    fields, folds, found = drawn
    frame = correlation_frame(fields, folds, found, seed=3)
    assert len(frame) == 2 * len(SYSTEMS) * 4
    queries = np.array(fields.queries)
    for row in frame.to_dict("records"):
        predicted = found[row["split"]][row["system"]]
        own = np.ones(N, bool) if row["fold"] == "all" else folds[row["split"]] == int(row["fold"])
        y, p, q = fields.scores[own], predicted.values[own], queries[own]
        assert (row["n_queries"], row["n_pairs"]) == (len(set(q.tolist())), own.sum())
        assert row["chosen"] == ("" if row["fold"] == "all" else predicted.chosen[int(row["fold"])])
        assert row["r"] == pytest.approx(stats.pearsonr(y, p).statistic, abs=1e-12)
        assert row["r2"] == pytest.approx(1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum(), abs=1e-12)
        within = less_its_mean(y, q), less_its_mean(p, q)
        assert row["r_within"] == pytest.approx(stats.pearsonr(*within).statistic, abs=1e-12)
        assert row["r2_within"] == pytest.approx(1 - ((within[0] - within[1]) ** 2).sum() / (within[0] ** 2).sum())
        assert row["r_low"] <= row["r"] <= row["r_high"]  # of two queries a draw may be both, as they are
        assert row["r2_low"] <= row["r2"] <= row["r2_high"]
        if row["fold"] == "all":
            assert row["r_low"] < row["r_high"]
            assert row["r2_low"] < row["r2_high"]


def test_differences_are_from_tuned_bm25_by_query_and_from_the_same_by_query(drawn):
    fields, _, found = drawn
    frame = comparison_frame(fields, found, seed=3)
    r = {
        (s, split): stats.pearsonr(found[split][s].values, fields.scores).statistic for split in found for s in SYSTEMS
    }
    assert len(frame) == 2 * len(SYSTEMS) - 1
    for row in frame.to_dict("records"):
        place = row["system"], row["split"]
        against = (row["system"], "query") if row["split"] == "pair" else (TUNED, "query")
        assert (row["against"], row["against_split"]) == against
        assert row["difference"] == pytest.approx(r[place] - r[against], abs=1e-12)
        assert row["low"] < row["difference"] < row["high"]


def test_heads_go_with_the_score_by_idf_times_attention_to_the_passage_alone(drawn):
    fields, _, found = drawn
    parts = np.random.default_rng(5).random((N, 2, 3, 4))
    nothing = np.zeros((2, N, 2, 3))
    sums = [
        SoftTFSums(nothing[:, own], nothing[:, own], np.zeros(N)[own], parts[own])
        for own in (slice(0, 20), slice(20, N))
    ]
    frame = head_frame(fields, sums, found["query"][SYSTEMS[3]])
    queries = np.array(fields.queries)
    for row in frame.to_dict("records"):
        head = 3 * row["layer"] + row["head"]
        own = less_its_mean(fields.weighted[0][:, head], queries), less_its_mean(fields.scores, queries)
        assert row["r_within"] == pytest.approx(stats.pearsonr(*own).statistic, abs=1e-12)
        assert row["chosen"] == {4: 2, 1: 2, 5: 1}.get(head, 0)
        means = parts[:, row["layer"], row["head"]].mean(0)
        assert [row[name] for name in ("DOC", "SEP2", "SEP1", "CLS")] == pytest.approx(means.tolist())


def test_what_varies_within_queries_by_rounding_alone_goes_with_nothing():
    """A thousandth of a millionth of 3,000: float32 would not have it, however well it goes with the score."""
    queries = np.repeat(np.arange(4), 5)
    scores = np.random.default_rng(2).normal(size=20)
    level = 3e3 + 7.0 * queries
    features = np.stack([level + 1e-6 * scores, level + scores, -scores, level], 1)
    assert within_queries(features, scores, queries.tolist()).tolist() == pytest.approx([0, 1, -1, 0])


# What the regressions are given.


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two collections with the same query ids and other passages, some of them easy negatives; a model."""
    folder = tmp_path_factory.mktemp("world")
    queries = {f"q{i}": f"how do {TOPICS[i % 5]} rise {i}" for i in range(5)}
    grades = dict.fromkeys(queries, (3, 0, 1, -1))
    pools = [
        pool_of_words(name, queries, grades, (*TOPICS, *more))
        for name, more in (("one", ["the", "lay"]), ("two", ["how"]))
    ]
    return tiny_model(folder / "m"), pools, Store(folder / "s")


def test_idf_and_bm25_are_of_whole_pools_and_folds_keep_queries_of_two_collections_apart(world, monkeypatch):
    model, pools, store = world
    asked = {}

    def told(system, fields, folds, n_heads, heads=None):
        asked.setdefault(folds.tobytes(), (fields, folds))
        return predict(system, fields, folds, n_heads, heads)

    predict = semantic_bm25.predict
    monkeypatch.setattr(semantic_bm25, "predict", told)
    found = run_semantic_bm25(model, pools, store, n_heads=2, n_folds=3, queries=7, seed=2)
    (fields, by_query), (_, by_pair) = asked.values()
    pairs = [(row.collection, row.query_id, row.doc_id) for row in found.per_pair.itertuples()]
    assert len({pair[:2] for pair in pairs}) == 7
    assert sorted(np.bincount(by_pair)) == [7, 7, 7]
    of_query = {}
    for pair, fold in zip(pairs, by_query, strict=True):
        of_query.setdefault(pair[:2], set()).add(int(fold))
    assert all(len(own) == 1 for own in of_query.values())
    assert sorted(Counter(next(iter(own)) for own in of_query.values()).values()) == [2, 2, 3]
    both = [
        query for query in ("q0", "q1", "q2", "q3", "q4") if ("one", query) in of_query and ("two", query) in of_query
    ]
    assert any(of_query["one", query] != of_query["two", query] for query in both)
    whole = {pool.collection: pool for pool in pools}
    split = {
        text: set(model.tokenizer.tokenize(text))
        for pool in pools
        for pair in pool.pairs
        for text in (pair.text, pair.query)
    }
    bm25 = {
        name: {(p.query_id, p.doc_id): score for p, score in zip(pool.pairs, bm25_scores(pool, *GRID[0]), strict=True)}
        for name, pool in whole.items()
    }
    assert GRID[0] == (0.9, 0.4)
    for i, (name, query_id, doc_id) in enumerate(pairs):
        passages = {pair.text for pair in whole[name].pairs}
        query = next(pair.query for pair in whole[name].pairs if pair.query_id == query_id)
        expected = 0.0
        for piece in model.tokenizer.tokenize(query):
            df = sum(piece in split[text] for text in passages)
            expected += math.log(1 + (len(passages) - df + 0.5) / (df + 0.5))
        assert fields.idf[i] == pytest.approx(expected, abs=1e-9)
        assert fields.bm25[0.9, 0.4][i] == pytest.approx(bm25[name][query_id, doc_id], abs=1e-12)
    assert found.scalars["n_all_queries"] == 10
    assert found.scalars["n_queries"] == 7
    every = {pair.text for pool in pools for pair in pool.pairs}
    assert found.scalars["idf_passages"] == len(every)
    assert found.scalars["passages"] == {name: len({pair.text for pair in pool.pairs}) for name, pool in whole.items()}


def test_every_row_of_the_embeddings_is_of_its_weights_and_rows(world, monkeypatch, tmp_path):
    model, pools, _ = world
    other = tiny_model(tmp_path / "other", seed=5)
    with torch.no_grad():
        other.embed.W_E.mul_(torch.linspace(0.1, 2, model.cfg.d_model, dtype=torch.float64))
    monkeypatch.setattr(semantic_frames, "unadapted_model", lambda _: other)
    texts = [pair.text for pool in pools for pair in pool.pairs]
    frame, about = embedding_frame(model, texts, 4)
    frequencies = piece_frequencies(model, texts)
    for weights, which in (("model", model), ("base", other)):
        for rows, seen in (("all", False), ("passages'", True)):
            found = idf_in_embeddings(which.embed.W_E, frequencies, seen_rows=seen, seed=4)
            own = frame[(frame["weights"] == weights) & (frame["rows"] == rows)].set_index("feature")
            assert own["r2"].to_dict() == pytest.approx(found.r2, abs=1e-12)
            assert (own["decomposed"] == found.decomposed).all()
            assert (own["low"] < own["r2"]).all()
            assert (own["r2"] < own["high"]).all()
            assert about["correlation"][f"{weights}; {rows}"] == pytest.approx(found.correlation)
    assert frame["r2"].nunique() == len(frame) - 2  # lengths of rows are those of either decomposition
    assert about["base"] == "other"
