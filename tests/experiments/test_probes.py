"""Probes by layer: on the planted model, whose match is where it is, and the controls on models that have none."""

import pickle

import numpy as np
import pandas as pd
import pytest
from planted_texts import graded_pool
from small_worlds import CONTEXT, TOPICS, forbid_model_work, pool_of_words, tiny_model

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, MOVING_HEAD
from tl_crossenc.executors.executor import InProcess
from tl_crossenc.experiments import probes
from tl_crossenc.experiments.probe_cells import StateCells, StateTask
from tl_crossenc.experiments.probe_work import ProbeWork, sample_queries
from tl_crossenc.experiments.probes import Probes, run_probes
from tl_crossenc.instruments.token_probe import TokenProbeSettings
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.pools.retrieval_features import FEATURES
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.significance import mean_interval
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

MATCHED_AT, MOVED_AT = MATCHING_HEAD[0] + 1, MOVING_HEAD[0] + 1
"""Layers run before the match stands in DOC, and before its share stands in CLS."""


@pytest.fixture(scope="module")
def planted():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu")


@pytest.fixture(scope="module")
def pool():
    return graded_pool(n_queries=17, per_grade=3, seed=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def found(planted, pool, place):
    return run_probes(planted, [pool], Store(place), n_shuffles=2)


def by_layer(frame, source, name, column="ndcg"):
    own = frame[(frame["source"] == source) & (frame["set"] == name)]
    return own.set_index("layer")[column]


def test_the_match_is_found_in_doc_from_the_planted_layer_on_and_not_before(found):
    ndcg, floor = (by_layer(found.relevance, "model", "DOC", column) for column in ("ndcg", "random_ndcg"))
    assert list(ndcg.index) == [0, 1, 2, 3, 4]
    assert ndcg[:MATCHED_AT].max() < floor[0] + 0.12  # words alone, of other queries
    assert ndcg[MATCHED_AT:].min() > 0.97
    features = found.features[(found.features["source"] == "model") & (found.features["set"] == "DOC")]
    within = features[features["feature"] == "exact_matches"].set_index("layer")["within"]
    assert within[: MATCHED_AT - 1].max() < 0.1
    assert within[MATCHED_AT:].min() > 0.9


def test_its_share_is_found_in_cls_from_the_moving_layer_on_and_before_that_every_pair_is_alike(found):
    rows = found.relevance[(found.relevance["source"] == "model") & (found.relevance["set"] == "CLS")]
    for _, row in rows.iterrows():
        if row["layer"] < MOVED_AT:
            assert (row["ndcg"], row["mrr"]) == (row["random_ndcg"], row["random_mrr"])
        else:
            assert row["ndcg"] > 0.995
            assert row["mrr"] == 1
    lens = by_layer(found.relevance, "lens", "CLS")
    assert lens[:MOVED_AT].tolist() == pytest.approx([rows["random_ndcg"].iloc[0]] * MOVED_AT, abs=1e-12)
    assert lens[MOVED_AT] == 1  # grades follow the share
    mrr = by_layer(found.relevance, "lens", "CLS", "mrr")
    assert mrr[MOVED_AT] == 1


def test_a_query_alone_tells_nothing_of_its_passages(found):
    """QUERY before the matching head is the same in every pair of its query, so its ranking is the floor to the bit."""
    for source in ("model", "shuffled"):
        rows = found.per_query[(found.per_query["source"] == source) & (found.per_query["set"] == "QUERY")]
        early = rows[rows["layer"] < MATCHED_AT]
        assert len(early) == 17 * MATCHED_AT
        np.testing.assert_array_equal(early["ndcg"], early["random_ndcg"])
        np.testing.assert_array_equal(early["mrr"], early["random_mrr"])


def test_neither_shuffled_labels_nor_the_untrained_twin_find_the_match(found):
    for name in ("CLS", "QUERY", "SEP", "DOC", "MATCHED"):
        shuffled = found.per_query[(found.per_query["source"] == "shuffled") & (found.per_query["set"] == name)]
        for _, own in shuffled.groupby("layer"):
            low, high = mean_interval(own["ndcg"] - own["random_ndcg"], 0.999)
            assert low <= 0 <= high
    assert by_layer(found.relevance, "untrained", "DOC").max() < 0.85
    assert (
        by_layer(found.relevance, "untrained", "CLS")[0]
        == by_layer(found.relevance, "untrained", "CLS", "random_ndcg")[0]
    )


def test_pairs_without_a_match_are_left_out_and_counted(found, pool):
    """Easy negatives are not ranked; grade 0 has one match, grades above more."""
    assert found.scalars["pairs"] == len(pool.ranked) == 204
    assert found.scalars["left_out"] == dict.fromkeys(("CLS", "QUERY", "SEP", "DOC", "MATCHED"), 0)
    assert set(found.relevance["n_pairs"]) == {204}


def test_the_twin_is_drawn_with_the_seed(tiny, words, tmp_path, monkeypatch):
    seeds = []
    monkeypatch.setattr(probes, "untrained_twin", lambda model, seed=0: seeds.append(seed) or model)
    run_probes(tiny, [words], Store(tmp_path), sets=("CLS",), n_folds=3, n_shuffles=0, seed=6)
    assert seeds == [6]


def test_a_second_run_needs_no_model_and_says_the_same(found, planted, pool, place, monkeypatch):
    assert found.pairs_run == 2 * len(pool.ranked)
    forbid_model_work(monkeypatch)
    seen = []
    again = run_probes(
        planted,
        [pool],
        Store(place),
        sets=("DOC",),
        n_shuffles=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert again.pairs_run == 0
    assert seen == [(i, 10) for i in range(1, 11)]
    for name in ("relevance", "per_query", "features"):
        whole = getattr(found, name)
        own = whole[(whole["set"] == "DOC")].reset_index(drop=True)
        frame = getattr(again, name)
        pd.testing.assert_frame_equal(frame[frame["source"] != "lens"].reset_index(drop=True), own)


def test_the_published_shape_is_kept(found):
    assert isinstance(found, Probes)
    assert found.scalars["bytes_per_pair"] == 5 * 140 * 4 * 5
    assert found.scalars["bm25"]["graded"]["passages"] == 17 * 15  # easy negatives are passages of the collection, too
    assert list(found.features["feature"].unique()) == list(FEATURES)
    pickle.dumps(found)


# The other probes.


def test_logistic_regression_finds_it_as_well(planted, pool, place):
    found = run_probes(planted, [pool], Store(place), probe="logistic", sets=("DOC",), n_shuffles=0, control=False)
    ndcg = by_layer(found.relevance, "model", "DOC")
    assert ndcg[:MATCHED_AT].max() < 0.85
    assert ndcg[MATCHED_AT:].min() > 0.95
    assert "shuffled" not in set(found.relevance["source"])


def test_the_probe_of_single_tokens_finds_it_as_well(planted, pool, place):
    settings = TokenProbeSettings(learning_rate=1e-2, epochs=8)
    given = {"probe": "tokens", "sets": ("DOC",), "n_shuffles": 0, "control": False, "settings": settings}
    small = pool.select([f"q{i}" for i in range(9)])
    found = run_probes(planted, [small], Store(place), **given)
    mrr = by_layer(found.relevance, "model", "DOC", "mrr")
    floor = by_layer(found.relevance, "model", "DOC", "random_mrr")
    assert found.pairs_run == 2 * len(small.ranked)  # pooled states for the features, single tokens for relevance
    assert mrr[:MATCHED_AT].max() < floor[0] + 0.3
    assert mrr[MATCHED_AT:].min() > 0.9


# What is stored.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), dtype="float32")


@pytest.fixture(scope="module")
def words():
    """Uneven passages, one of them empty, some without a word of the query."""
    queries = {f"q{i}": f"how do {TOPICS[i % 5]} rise {i}" for i in range(7)}
    grades = {query: (3, 0, 2, 0, 0, -1)[: 4 + i % 3] for i, query in enumerate(queries)}
    return pool_of_words("words", queries, grades, (*TOPICS, "lay", "eggs", "7", "the"), empty=[("q1", 3)])


def cells(model, pool, store, sets, pooling="mean", seed=0):
    return StateCells(model, pool, store, sets, pooling, seed=seed, token_budget=CONTEXT * 2, executor=InProcess())


def tables(store):
    return {kind: [store.read(key) for key in store.keys(kind)] for kind in ("layer-features", "layer-tokens")}


def test_a_cell_does_not_depend_on_the_cells_beside_it(tiny, words, tmp_path):
    """Which sets are asked for, and in which order, does not change a bit."""
    together, apart = Store(tmp_path / "a"), Store(tmp_path / "b")
    cells(tiny, words.ranked, together, ("CLS", "DOC", "MATCHED"))
    for name in ("MATCHED", "DOC", "CLS"):
        cells(tiny, words.ranked, apart, (name,))
    keys = sorted(together.keys("layer-features"), key=str)
    assert len(keys) == 3
    assert keys == sorted(apart.keys("layer-features"), key=str)
    for key in keys:
        one, other = together.read(key), apart.read(key)
        assert one.drop(["states"]).equals(other.drop(["states"]))
        np.testing.assert_array_equal(*(t["states"].combine_chunks().flatten().to_numpy() for t in (one, other)))


def test_what_was_pooled_or_drawn_otherwise_is_another_cell_and_pooled_states_know_no_seed(tiny, words, tmp_path):
    """In one store, one after another: each reads its own."""
    ranked, store = words.ranked.select(["q0", "q2"]), Store(tmp_path)
    mean, largest, same = (cells(tiny, ranked, store, ("DOC",), *how) for how in (("mean",), ("max",), ("mean", 9)))
    assert (mean.pairs_run, largest.pairs_run, same.pairs_run) == (len(ranked), len(ranked), 0)
    states, lengths, _ = mean.features("DOC")
    assert np.abs(largest.features("DOC")[0] - states)[lengths > 1].max() > 1e-3
    single = [cells(tiny, ranked, store, ("DOC",), None, seed) for seed in (0, 1)]
    assert [one.pairs_run for one in single] == [len(ranked)] * 2
    assert {kind: len(own) for kind, own in tables(store).items()} == {"layer-features": 2, "layer-tokens": 2}


def test_progress_counts_every_run_of_a_layer(tiny, words):
    """Pooled, all sets are read in one run of the pairs; single tokens, in a run a set."""
    pairs = words.ranked.pairs[:3]
    for pooling, runs in (("mean", 1), (None, 2)):
        keys = tuple(CellKey.of("any", set=name) for name in ("DOC", "SEP"))
        task = StateTask(pairs, ("DOC", "SEP"), keys, pooling, 0, tiny.cfg.n_layers, CONTEXT, {})
        done = []
        assert [cell.key for cell in task.cells(tiny, done.append)] == list(keys)
        assert sum(done) == task.cost == tiny.cfg.n_layers * 3 * runs


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_what_is_read_is_what_the_instrument_gives_in_the_pools_order(tiny, words, tmp_path, pooling):
    from tl_crossenc.instruments.layer_features import layer_features
    from tl_crossenc.instruments.layer_tokens import layer_tokens

    ranked = words.ranked
    stored = cells(tiny, ranked, Store(tmp_path), ("MATCHED", "DOC"), pooling)
    encoded = tiny.encode_pairs([pair.query for pair in ranked.pairs], [pair.text for pair in ranked.pairs])
    direct = layer_features(tiny, encoded, sets=("MATCHED", "DOC"), pooling=pooling)
    for i, name in enumerate(("MATCHED", "DOC")):
        values, counts, lens = stored.features(name)
        np.testing.assert_allclose(values, direct.values[:, :, i], atol=1e-5)
        np.testing.assert_array_equal(counts, direct.counts[:, i])
        np.testing.assert_allclose(lens, direct.lens, atol=1e-4)
    assert np.isnan(values[direct.counts[:, 1] == 0]).all()
    single = cells(tiny, ranked, Store(tmp_path), ("DOC",), None, seed=4).tokens("DOC")
    by_hand = layer_tokens(tiny, encoded, "DOC", seed=4)
    np.testing.assert_array_equal(single.offsets, by_hand.offsets)
    np.testing.assert_allclose(single.values, by_hand.values, atol=1e-5)


def test_sets_that_some_pairs_lack_and_a_feature_that_all_have(tiny, words, tmp_path, caplog):
    found = run_probes(tiny, [words], Store(tmp_path), n_folds=3, n_shuffles=1)
    assert found.scalars["constant_features"] == ["query_words"]  # every query has four
    assert "no R² of query_words: the same for every pair" in caplog.text
    constant = found.features[found.features["feature"] == "query_words"]
    assert constant[["r2", "low", "high", "within"]].isna().all(axis=None)
    assert found.features[found.features["feature"] == "bm25"]["r2"].notna().all()
    pieces = {text: set(tiny.tokenizer.tokenize(text)) for pair in words.pairs for text in (pair.query, pair.text)}
    lacking = [pair for pair in words.ranked.pairs if not pieces[pair.text] & pieces[pair.query]]
    assert 3 < len(lacking) < len(words.ranked) - 3
    assert found.scalars["left_out"] == {"CLS": 0, "QUERY": 0, "SEP": 0, "DOC": 1, "MATCHED": len(lacking)}
    matched = found.relevance[(found.relevance["set"] == "MATCHED") & (found.relevance["source"] == "model")]
    assert set(matched["n_pairs"]) == {len(words.ranked) - len(lacking)}
    assert set(matched["left_out"]) == {len(lacking)}
    whole = found.relevance[(found.relevance["set"] == "CLS") & (found.relevance["layer"] == 0)]
    assert (whole["ndcg"] == whole["random_ndcg"]).all()
    assert (whole["mrr"] == whole["random_mrr"]).all()
    assert set(whole["source"]) == {"model", "shuffled", "untrained", "lens"}


def test_two_collections_keep_their_queries_apart(tiny, words, tmp_path):
    """Queries of one id in two collections are two queries, in the folds and in the ranking."""
    other = Pool("more", words.spec, tuple(pair._replace(text=pair.text + " the") for pair in words.pairs))
    found = run_probes(tiny, [words, other], Store(tmp_path), sets=("DOC",), n_folds=3, n_shuffles=0, control=False)
    assert found.scalars["queries"] == 14
    rows = found.per_query[(found.per_query["layer"] == 1) & (found.per_query["source"] == "model")]
    assert rows.groupby("collection").size().to_dict() == {"words": 7, "more": 7}


def test_a_large_pool_is_a_sample_of_whole_queries(tiny, words, tmp_path):
    given = {"sets": ("CLS",), "n_folds": 2, "n_shuffles": 0, "control": False}
    drawn = [run_probes(tiny, [words], Store(tmp_path), seed=seed, max_pairs=23, **given) for seed in (0, 1)]
    sizes = {query: len(own) for query, own in words.ranked.by_query().items()}
    for found in drawn:
        assert found.scalars["of_queries"] == 7
        assert 4 <= found.scalars["queries"] < 7
        assert found.scalars["pairs"] <= 23 < found.scalars["pairs"] + max(sizes.values())
        counts = found.per_query[found.per_query["layer"] == 0].groupby("query_id")["n_passages"].first()
        assert counts.to_dict() == {query: sizes[query] for query in counts.index}
    assert set(drawn[0].per_query["query_id"]) != set(drawn[1].per_query["query_id"])
    few = run_probes(tiny, [words], Store(tmp_path), max_pairs=1, **given)
    assert few.scalars["queries"] == 4  # two a fold


def test_what_is_relevant_is_by_the_scale_of_the_collection_and_not_of_the_sample(tiny, tmp_path):
    """One query has the scale's top, 4, and is not drawn: 3 is relevant and 2 is not, as with all queries."""
    queries = {f"q{i}": f"how do {TOPICS[i % 5]} rise {i}" for i in range(5)}
    grades = {query: (4, 3, 0) if query == "q0" else (3, 2, 0) for query in queries}
    pool = pool_of_words("scale", queries, grades, (*TOPICS, "lay", "eggs"))
    given = {"sets": ("CLS",), "n_folds": 2, "n_shuffles": 0, "control": False, "max_pairs": 12}
    for seed in range(30):
        if "q0" not in {pair.query_id for part in sample_queries([pool], 12, 4, seed)[0] for pair in part.pairs}:
            break
    found = run_probes(tiny, [pool], Store(tmp_path), seed=seed, **given)
    assert "q0" not in set(found.per_query["query_id"])
    assert found.scalars["relevant_grades"] == {"scale": [3, 4]}
    assert found.per_query["random_mrr"].tolist() == pytest.approx([(1 + 1 / 2 + 1 / 3) / 3] * len(found.per_query))


# Shuffled labels, measured where there is something to find.


def test_shuffled_labels_give_the_random_ranking_on_average(pool):
    """States that are the label itself: the probe ranks perfectly, and with shuffled labels as a random ranking does."""
    ranked = pool.ranked.select([f"q{i}" for i in range(6)])
    grades = np.array([pair.grade for pair in ranked.pairs], dtype=float)
    states = np.stack([grades, grades >= 2], 1) + 0.01 * np.random.default_rng(0).normal(size=(len(grades), 2))
    features = np.tile(grades[:, None], (1, len(FEATURES)))
    given = {
        "cutoff": 3,
        "gain": "linear",
        "n_folds": 3,
        "n_shuffles": 60,
        "probe": "ridge",
        "settings": None,
        "seed": 0,
    }
    work = ProbeWork([ranked], features, {ranked.collection: (2, 3)}, **given)
    tables, rows = work.measured(("model", "CLS", 0), states, np.arange(len(ranked)), shuffled=True)
    by_source = {table["source"].iloc[0]: table for table in tables}
    assert (by_source["model"]["ndcg"] > 0.8).all()  # it is asked for relevant or not, and not for the grade
    assert (by_source["model"]["mrr"] == 1).all()
    shuffled = by_source["shuffled"]
    assert shuffled["ndcg"].mean() == pytest.approx(shuffled["random_ndcg"].mean(), abs=0.05)
    assert shuffled["mrr"].mean() == pytest.approx(shuffled["random_mrr"].mean(), abs=0.08)
    assert shuffled["random_ndcg"].mean() < 0.7
    assert min(row["r2"] for row in rows) > 0.99


# What cannot be probed.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probe": "forest"}, "expected a probe among ridge, logistic, tokens, .* got 'forest', 'mean', 3"),
        ({"pooling": "sum"}, "a pooling among mean, max and 0 or more shuffles, got 'ridge', 'sum', 3"),
        ({"n_shuffles": -1}, "0 or more shuffles, got 'ridge', 'mean', -1"),
        ({"sets": ("TITLE",)}, "expected sets among CLS, QUERY"),
        (
            {"n_folds": 8},
            "not fitted on: expected at least 8 queries for 8 folds, got 7: take fewer folds or more queries",
        ),
        ({"n_folds": 1}, "not fitted on: expected at least 2 folds"),
        ({"max_pairs": 0}, "expected max_pairs of at least 1, got 0"),
        ({"relevant_grades": (1,)}, r"need relevant passages \(grade 1\) and others, but 0 of 32 are relevant"),
        ({"relevant_grades": ()}, r"need relevant passages \(grade none\) and others, but 0 of 32 are relevant"),
        ({"sets": ("DOC", "STOPS", "DOC")}, "expected sets among CLS, QUERY"),
        ({"relevant_grades": (0, 1, 2, 3)}, "but 32 of 32 are relevant: choose other grades"),
    ],
)
def test_what_cannot_be_probed_is_said_before_anything_is_run(tiny, words, tmp_path, monkeypatch, changes, message):
    forbid_model_work(monkeypatch)
    with pytest.raises(ValueError, match=message) as raised:
        run_probes(tiny, [words], Store(tmp_path), **changes)
    assert isinstance(raised.value, Unavailable) == ("relevant" in message or "not fitted on" in message)


def test_a_set_that_no_pair_has_is_said_and_alone_is_unavailable(tiny, words, tmp_path, caplog):
    """No passage has a full stop: the lens alone, which reads no set, is no probe."""
    given = {"n_folds": 3, "n_shuffles": 0, "control": False}
    with pytest.raises(Unavailable, match="probes need queries with tokens of STOPS in 3 folds, and there are too few"):
        run_probes(tiny, [words], Store(tmp_path), sets=("STOPS",), **given)
    caplog.clear()
    found = run_probes(tiny, [words], Store(tmp_path), sets=("STOPS", "CLS"), **given)
    assert "no probe of STOPS: 32 of 32 pairs have no token of it, and too few queries are left" in caplog.text
    assert set(found.relevance.loc[found.relevance["source"] == "model", "set"]) == {"CLS"}
    assert found.scalars["left_out"] == {"STOPS": 32, "CLS": 0}


def test_pools_that_cannot_be_probed_are_said(tiny, words, tmp_path):
    with pytest.raises(ValueError, match="expected at least one pool, got none"):
        run_probes(tiny, [], Store(tmp_path))
    with pytest.raises(ValueError, match="words"):
        run_probes(tiny, [words, words], Store(tmp_path))
    with pytest.raises(ValueError, match="expected passages to rank, got 1 pools without: check the qrels"):
        run_probes(tiny, [words.negatives], Store(tmp_path))
    with tiny.ablating("DOC->QUERY"), pytest.raises(ValueError, match="measure outside of `ablating`"):
        run_probes(tiny, [words], Store(tmp_path), n_folds=3)
