"""Semantic BM25: regressions whose answer is known, sums by loops, the leak of a split by pair, and the planted model."""

import numpy as np
import pytest
import torch
from planted_texts import graded_pool
from scipy import stats
from sklearn.linear_model import LinearRegression
from small_worlds import collection_folder, forbid_model_work, tiny_model

from tl_crossenc.checkpoints.planted import MATCHING_HEAD
from tl_crossenc.executors.sharded import Shard
from tl_crossenc.executors.task import Waiting
from tl_crossenc.experiments.scoring import score_pool
from tl_crossenc.experiments.semantic_bm25 import GRID, run_semantic_bm25
from tl_crossenc.experiments.semantic_fits import (
    BM25,
    SEMANTIC,
    SOFT_TF,
    SYSTEMS,
    TUNED,
    WITH_SEP2,
    Fields,
    predict,
    within_queries,
)
from tl_crossenc.experiments.soft_tf_cells import soft_tf_sums
from tl_crossenc.instruments.soft_tf import measure_soft_tf
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.bm25 import bm25_scores
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec, build_pool
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.folds import dealt
from tl_crossenc.store.cells import Store

SIZES = (7, 11, 5, 13, 7, 5, 11, 13)


def fields(score, *, n_heads=6, seed=0, of_query=0.0):
    """Random features of 72 pairs of 8 queries; `score` makes the scores of them. `of_query`: how far heads are of queries."""
    rng = np.random.default_rng(seed)
    queries = np.repeat(np.arange(len(SIZES)), SIZES)
    n = len(queries)
    plain, weighted = (
        rng.normal(size=(2, n, n_heads)) + of_query * rng.normal(size=(2, len(SIZES), n_heads))[:, queries]
        for _ in range(2)
    )
    idf = rng.uniform(3, 9, size=len(SIZES))[queries]
    bm25 = {setting: rng.normal(size=n) for setting in GRID}
    return Fields(
        score(idf, plain[0], weighted[0], bm25, rng, queries), queries.tolist(), idf, plain, weighted, bm25, (2, 3)
    )


def test_a_score_that_is_a_bm25_of_heads_is_predicted_exactly_and_its_heads_found():
    """Heads 1.1 and 0.2, numbered 4 and 2: nothing else is in the score."""
    given = fields(
        lambda idf, plain, weighted, *_: 3 - 0.5 * idf + 4 * weighted[:, 4] - 2 * weighted[:, 2] + 0.3 * plain[:, 4]
    )
    folds = dealt(np.array(given.queries), 4, 1)
    found = predict(SEMANTIC, given, folds, 2)
    np.testing.assert_allclose(found.values, given.scores, atol=1e-10)
    assert found.heads == ((4, 2),) * 4
    assert found.chosen == ("1.1,0.2",) * 4
    other = predict(WITH_SEP2, given, folds, 2)  # other features, of which the score knows nothing
    assert abs(stats.pearsonr(other.values, given.scores).statistic) < 0.5


def within(values, given, learn):
    """Pearson's of some pairs' values with their scores, both less the mean over each query."""
    queries, sides = np.array(given.queries)[learn], []
    for side in (values, given.scores[learn]):
        left = side.copy()
        for query in set(queries.tolist()):
            left[queries == query] -= side[queries == query].mean()
        sides.append(left)
    return stats.pearsonr(*sides).statistic


def test_predictions_are_of_folds_that_were_not_fitted_on_by_scikit_learn():
    given = fields(lambda idf, plain, weighted, bm25, rng, q: weighted[:, 1] + plain[:, 3] + rng.normal(size=len(q)))
    folds = dealt(np.array(given.queries), 3, 2)
    found = {system: predict(system, given, folds, 2) for system in SYSTEMS}
    for fold in range(3):
        learn = folds != fold
        by_setting = {k: stats.pearsonr(v[learn], given.scores[learn]).statistic for k, v in given.bm25.items()}
        best = max(by_setting, key=by_setting.get)
        columns = {BM25: [given.bm25[0.9, 0.4]], TUNED: [given.bm25[best]]}
        for system, which, sides in (
            (SOFT_TF, given.plain[0], [given.plain[0]]),
            (SEMANTIC, given.weighted[0], [given.plain[0], given.weighted[0]]),
            (WITH_SEP2, given.weighted[1], [given.plain[1], given.weighted[1]]),
        ):
            strengths = [abs(within(which[learn, h], given, learn)) for h in range(6)]
            heads = sorted(range(6), key=strengths.__getitem__, reverse=True)[:2]
            assert found[system].heads[fold] == tuple(heads)
            columns[system] = [side[:, h] for side in sides for h in heads] + ([] if system == SOFT_TF else [given.idf])
        for system, own_columns in columns.items():
            X = np.column_stack(own_columns)
            expected = LinearRegression().fit(X[learn], given.scores[learn]).predict(X[~learn])
            np.testing.assert_allclose(found[system].values[~learn], expected, atol=1e-9, err_msg=system)
        assert found[TUNED].chosen[fold] == f"k1 {best[0]:g}, b {best[1]:g}"


def test_what_a_query_s_other_pairs_tell_leaks_through_a_split_by_pair_alone():
    """The score is noise of the query, and heads know the query: nothing can be learnt for another. By pair it looks learnt."""
    given = fields(lambda *a: 3 * a[4].normal(size=len(SIZES))[a[5]] + 0.3 * a[4].normal(size=len(a[5])), of_query=40.0)
    by_query = dealt(np.array(given.queries), 4, 0)
    by_pair = np.random.default_rng(0).permutation(len(by_query)) % 4
    leaked, honest = (
        stats.pearsonr(predict(SEMANTIC, given, own, 4).values, given.scores).statistic for own in (by_pair, by_query)
    )
    assert leaked > 0.9
    assert honest < 0.4


def test_few_pairs_take_few_heads_and_heads_without_variance_none():
    given = fields(lambda idf, plain, weighted, *_: weighted.sum(1))
    folds = np.where(np.array(given.queries) == 1, 0, 1)  # eleven pairs are left to predict the others by
    assert [len(own) for own in predict(SEMANTIC, given, folds, 6).heads] == [5, 1]
    flat = Fields(given.scores, given.queries, given.idf, *(np.ones((2, 72, 6)),) * 2, given.bm25, (2, 3))
    assert predict(SOFT_TF, flat, folds, 6).heads == ((), ())
    own = given.scores[folds == 0].mean()
    assert predict(SOFT_TF, flat, folds, 6).values[folds == 1] == pytest.approx(own)
    assert within_queries(flat.plain[0], given.scores, given.queries).tolist() == [0.0] * 6


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A pool of equally long passages, graded by how many of their words match."""
    model, pool = HookedCrossEncoder.from_pretrained("planted", device="cpu"), graded_pool(n_queries=7, per_grade=4)
    return model, pool, run_semantic_bm25(model, [pool], Store(tmp_path_factory.mktemp("planted")))


def whole(found, split, system):
    rows = found.correlations
    (row,) = rows[(rows["fold"] == "all") & (rows["split"] == split) & (rows["system"] == system)].to_dict("records")
    return row


def test_the_planted_matching_head_is_the_first_and_only_one_that_goes_with_the_score(planted):
    _, _, found = planted
    rows = found.correlations
    for system in (SOFT_TF, SEMANTIC):
        chosen = rows[(rows["system"] == system) & (rows["fold"] != "all")]["chosen"]
        assert {name.split(",")[0] for name in chosen} == {"1.2"}
        assert whole(found, "query", system)["r"] > 0.9
    own = found.heads.set_index(["layer", "head"])
    assert own["r_within"].idxmax() == MATCHING_HEAD
    assert own.loc[MATCHING_HEAD, "chosen"] == 5
    assert own.drop(MATCHING_HEAD)["r_within"].abs().max() < 0.3


def test_with_the_separator_counted_in_soft_tf_is_one_whatever_matches(planted):
    """A query token that matches nothing gives all to SEP2: DOC and SEP2 together get 1 of every token."""
    _, _, found = planted
    own = found.heads.set_index(["layer", "head"]).loc[MATCHING_HEAD]
    assert own["DOC"] + own["SEP2"] == pytest.approx(1.0, abs=1e-3)
    assert whole(found, "query", WITH_SEP2)["r"] < whole(found, "query", SEMANTIC)["r"] - 0.3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    pool = build_pool(load_collection(collection_folder(folder / "c", n_queries=7)), PoolSpec(None, 3, 0))
    model, store = tiny_model(folder / "m"), Store(folder / "s")
    return model, pool, store, run_semantic_bm25(model, [pool], store, n_heads=2, n_folds=3, seed=3)


def test_sums_over_query_tokens_by_loops_and_in_the_pools_order(tiny):
    model, pool, store, _ = tiny
    idf = np.random.default_rng(0).uniform(1, 5, model.cfg.d_vocab)
    (found,) = soft_tf_sums(model, [pool.ranked], [idf], store)
    for i, pair in enumerate(pool.ranked.pairs):
        own = measure_soft_tf(model, model.encode_pairs(pair.query, [pair.text]))
        doc, sep2 = own.values[..., 0], own.values[..., 1]
        for counted, values in enumerate((doc, doc + sep2)):
            plain = sum(values)
            weighted = sum(idf[token] * value for token, value in zip(own.tokens, values, strict=True))
            np.testing.assert_allclose(found.plain[counted, i], plain, rtol=1e-5)
            np.testing.assert_allclose(found.weighted[counted, i], weighted, rtol=1e-5)
        assert found.idf[i] == pytest.approx(sum(idf[token] for token in own.tokens), abs=1e-9)
        np.testing.assert_allclose(found.parts[i], own.values.mean(0), rtol=1e-5, atol=1e-7)


def test_frames_say_what_was_predicted(tiny):
    model, pool, store, found = tiny
    scores = score_pool(model, pool.ranked, [UNABLATED], store).values[0]
    assert found.per_pair["score"].tolist() == scores.tolist()
    assert found.per_pair["doc_id"].tolist() == [pair.doc_id for pair in pool.ranked.pairs]
    for system in SYSTEMS:
        row, predicted = whole(found, "query", system), found.per_pair[system]
        assert row["r"] == pytest.approx(stats.pearsonr(predicted, scores).statistic, abs=1e-9)
        assert row["r2"] == pytest.approx(1 - ((scores - predicted) ** 2).sum() / ((scores - scores.mean()) ** 2).sum())
        assert row["r_low"] <= row["r"] <= row["r_high"]
        own = found.correlations[(found.correlations["system"] == system) & (found.correlations["split"] == "query")]
        assert own[own["fold"] != "all"][["n_queries", "n_pairs"]].sum().tolist() == [7, len(scores)]
    of_words = [score for score, pair in zip(bm25_scores(pool), pool.pairs, strict=True) if pair.grade >= 0]
    folds, values = dealt(np.array([int(q[1]) for q in found.per_pair["query_id"]]), 3, 3), np.zeros(len(scores))
    for fold in range(3):
        learn, X = folds != fold, np.array(of_words)[:, None]
        values[~learn] = LinearRegression().fit(X[learn], scores[learn]).predict(X[~learn])
    np.testing.assert_allclose(found.per_pair[BM25], values, atol=1e-9)
    rows = found.comparisons.set_index(["system", "split"])
    for system in SYSTEMS:
        leak = whole(found, "pair", system)["r"] - whole(found, "query", system)["r"]
        assert rows.loc[(system, "pair"), "difference"] == pytest.approx(leak, abs=1e-12)
        if system != TUNED:
            above = whole(found, "query", system)["r"] - whole(found, "query", TUNED)["r"]
            assert rows.loc[(system, "query"), "difference"] == pytest.approx(above, abs=1e-12)


def test_a_second_run_reads_all_and_given_heads_are_taken(tiny, monkeypatch):
    model, pool, store, found = tiny
    forbid_model_work(monkeypatch)
    again = run_semantic_bm25(model, [pool], store, n_heads=2, n_folds=3, seed=3)
    assert again.per_pair.equals(found.per_pair)
    given = run_semantic_bm25(model, [pool], store, heads=[(1, 2), (0, 1)], n_folds=3, seed=3)
    rows = given.correlations
    assert set(rows[(rows["system"] == SEMANTIC) & (rows["fold"] != "all")]["chosen"]) == {"1.2,0.1"}
    assert given.scalars["given_heads"]


def test_a_shard_computes_its_part_of_scores_and_soft_tf_before_it_waits(tiny, tmp_path):
    model, pool, _, found = tiny
    store = Store(tmp_path)
    with pytest.raises(Waiting):
        run_semantic_bm25(model, [pool], store, n_heads=2, n_folds=3, seed=3, executor=Shard(1, 2))
    kinds = {kind: len(store.keys(kind)) for kind in ("scores", "soft_tf")}
    assert kinds == {"scores": 1, "soft_tf": 1}
    given = run_semantic_bm25(model, [pool], store, n_heads=2, n_folds=3, seed=3, executor=Shard(2, 2))
    assert given.per_pair.equals(found.per_pair)


def test_embeddings_of_a_model_without_a_base_and_counts(tiny):
    _, pool, _, found = tiny
    assert found.scalars["base"] == "none"
    assert found.scalars["idf_passages"] == len({pair.text for pair in pool.pairs})
    assert set(found.embeddings["weights"]) == {"model"}
    assert found.scalars["n_pieces"] + found.scalars["left_out_pieces"] == found.embeddings["decomposed"].max()


def test_embeddings_of_an_adapter_stand_beside_those_of_its_base(tiny, monkeypatch, tmp_path):
    from tl_crossenc.experiments import semantic_frames

    model, pool, store, found = tiny
    other = tiny_model(tmp_path / "other")
    with torch.no_grad():
        other.embed.W_E.mul_(torch.linspace(0.1, 2, model.cfg.d_model, dtype=torch.float64))
    for base, kind in ((other, "other"), (model, "same")):
        monkeypatch.setattr(semantic_frames, "unadapted_model", lambda _, base=base: base)
        given = run_semantic_bm25(model, [pool], store, n_heads=2, n_folds=3, seed=3)
        assert given.scalars["base"] == kind
        assert set(given.embeddings["weights"]) == ({"model", "base"} if kind == "other" else {"model"})
    assert found.embeddings.equals(given.embeddings)


def test_one_query_and_scores_that_do_not_vary_are_unavailable(planted, tmp_path):
    model, pool, _ = planted
    with pytest.raises(Unavailable, match="needs a query for each of 5 folds, got 1"):
        run_semantic_bm25(model, [pool.select(["q0"])], Store(tmp_path))
    words = [PoolPair(f"q{q}", "zzz", f"d{i}", "no match", i % 2) for q in range(5) for i in range(2)]
    with pytest.raises(Unavailable, match="needs scores that differ"):
        run_semantic_bm25(model, [Pool("flat", PoolSpec(None, 0, 0), tuple(words))], Store(tmp_path))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"n_heads": 0}, "expected heads and at least 2 folds, got 0 and 5"),
        ({"heads": []}, "expected heads and at least 2 folds, got 0 and 5"),
        ({"heads": [(1, 2), (0, 1), (1, 2)]}, "expected each head once, got 1.2,0.1,1.2"),
        ({"queries": 0}, "expected at least one query to draw, got 0"),
        ({"n_folds": 1}, "expected heads and at least 2 folds, got 13 and 1"),
        ({"heads": [(4, 0)]}, r"expected heads within 0.0 to 3.3 \(layer.head\), got 4.0"),
    ],
)
def test_impossible_settings_are_refused(planted, tmp_path, monkeypatch, bad, words):
    model, pool, _ = planted
    forbid_model_work(monkeypatch)
    with pytest.raises(ValueError, match=f"^{words}"):
        run_semantic_bm25(model, [pool], Store(tmp_path), **bad)
