"""Bits by layer: frames by plain loops over what the instrument gives, the draw, the store, a job that dies, bad input."""

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import VOCABULARY, bert_tokenizer
from planted_texts import graded_pool
from scipy import stats
from small_worlds import forbid_model_work, identities, pool_of_words, snapshot, tiny_model
from type_checks import unchecked

from tl_crossenc.executors.executor import IN_PROCESS
from tl_crossenc.executors.task import CellsFailed
from tl_crossenc.experiments import bottleneck_cells
from tl_crossenc.experiments.bottleneck import run_bottleneck
from tl_crossenc.experiments.bottleneck_cells import About, bottleneck_tasks, moments_tasks, read_moments
from tl_crossenc.experiments.bottleneck_frames import (
    GROUPS,
    Group,
    memberships,
    per_query_frame,
    query_bits,
    score_frame,
    token_kinds,
)
from tl_crossenc.experiments.bottleneck_sample import folds
from tl_crossenc.experiments.pair_tasks import encode
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.instruments.bottleneck import fit_bottlenecks
from tl_crossenc.instruments.fitting import Fitting
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

QUERIES = {
    f"q{i}": text
    for i, text in enumerate(("how do fleas lay", "the bread rise", "egg", "do fleas rise ?", "lay the egg"))
}
GRADES = dict.fromkeys(QUERIES, (3, 2, 0, 1, -1, -1))
WORDS = ["flea", "fleas", "egg", "the", "bread", "rise", "lay", "do", "how"]
FEW = Fitting(beta=0.5, steps=2, copies=2)
OTHER_SETTINGS = {
    **{"objective": "relevant", "beta": 0.4, "steps": 3, "lr": 0.9, "alpha0": 4.0, "copies": 3},
    **{"by": "part", "min_sigma": 0.02, "seed": 1},
}
CHOICE = {"n_queries": 4, "per_query": 3, "seed": 3, "token_budget": 90}


@pytest.fixture(scope="module")
def pool():
    return pool_of_words("words", QUERIES, GRADES, WORDS, empty={("q0", 0), ("q2", 3)})


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), seed=5)


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def found(reranker, pool, store_folder):
    return run_bottleneck(reranker, [pool], Store(store_folder), fitting=FEW, **CHOICE)


def literal(model, pool, layer):
    """[(query_id, {(part, kind or decile or None): bits of each token})], pair by pair, each alone."""
    found = []
    for sample, noise in folds(pool, n_queries=4, per_query=3, noise_pairs=512, seed=3):
        statistics = LayerStatistics.fit(model, encode(model, noise.pairs))
        for pair in sample.pairs:
            encoded = encode(model, [pair])
            bits = fit_bottlenecks(model, encoded, statistics, FEW, layers=[layer]).bits[0]
            tokens, parts = encoded.tokens.tolist(), encoded.parts.tolist()
            names = ("CLS", "QUERY", "SEP1", "DOC", "SEP2")
            groups = {}
            n_doc, seen = parts.count(3), 0
            for token, part, value in zip(tokens, parts, bits, strict=True):
                keys = [("part", names[part]), ("part", "ALL")]
                if part in (1, 3):
                    other = [t for t, p in zip(tokens, parts, strict=True) if p == 4 - part]
                    keys.append(("match", names[part], "same_piece" if token in other else "other"))
                if part == 3:
                    keys.append(("position", int(10 * (seen + 0.5) / n_doc)))
                    seen += 1
                for key in keys:
                    groups.setdefault(key, []).append(float(value))
            found.append((pair.query_id, groups))
    return found


def over_queries(pairs, value):
    """(mean, low, high, values by query) of the mean over a query's pairs, of `value(groups)` where it is not None."""
    by_query = {}
    for query_id, groups in pairs:
        one = value(groups)
        if one is not None:
            by_query.setdefault(query_id, []).append(one)
    means = np.array([np.mean(values) for values in by_query.values()])
    half = stats.t.ppf(0.975, len(means) - 1) * stats.sem(means) if len(means) > 1 else np.nan
    return (
        means.mean(),
        means.mean() - half,
        means.mean() + half,
        {query: np.mean(values) for query, values in by_query.items()},
    )


def per_token(key):
    return lambda groups: np.mean(groups[key]) if key in groups else None


def test_frames_are_means_over_queries_of_means_over_pairs(found, reranker, pool):
    for layer in (0, 1):
        with unchecked():
            pairs = literal(reranker, pool, layer)
        assert len(pairs) == 12
        for part in ("CLS", "QUERY", "SEP1", "DOC", "SEP2", "ALL"):
            row = found.by_layer[(found.by_layer["layer"] == layer) & (found.by_layer["part"] == part)].iloc[0]
            key = ("part", part)
            for name, value in (
                ("bits", lambda g, key=key: sum(g[key]) if key in g else None),
                ("per_token", per_token(key)),
                ("share", lambda g, key=key: sum(g[key]) / sum(g["part", "ALL"]) if key in g else None),
            ):
                expected = over_queries(pairs, value)
                assert row[[name, f"{name}_low", f"{name}_high"]].tolist() == pytest.approx(
                    expected[:3], rel=1e-5, nan_ok=True
                )
            assert row["n_queries"] == 4
            assert row["n_pairs"] == sum(key in groups for _, groups in pairs)
        assert found.by_layer["n_pairs"].min() == 12 - sum(("part", "DOC") not in groups for _, groups in pairs) < 12
        for part in ("QUERY", "DOC"):
            sides = {}
            for kind in ("same_piece", "other"):
                chosen = (
                    (found.matches["layer"] == layer)
                    & (found.matches["part"] == part)
                    & (found.matches["kind"] == kind)
                )
                row = found.matches[chosen].iloc[0]
                key = ("match", part, kind)
                mean, low, high, sides[kind] = over_queries(pairs, per_token(key))
                assert row[["per_token", "per_token_low", "per_token_high"]].tolist() == pytest.approx(
                    [mean, low, high], rel=1e-5
                )
                assert row["n_tokens"] == sum(len(groups.get(key, ())) for _, groups in pairs)
                if kind == "same_piece":
                    matched = row
                else:
                    assert np.isnan(row["difference"])
            both = [query for query in sides["other"] if query in sides["same_piece"]]
            one, other = ([sides[kind][query] for query in both] for kind in ("same_piece", "other"))
            assert matched["difference"] == pytest.approx(np.mean(one) - np.mean(other), rel=1e-4, abs=1e-5)
            assert matched["p"] == pytest.approx(stats.ttest_rel(one, other).pvalue, rel=1e-3)
        for _, row in found.positions[found.positions["layer"] == layer].iterrows():
            assert row["per_token"] == pytest.approx(
                over_queries(pairs, per_token(("position", int(row["decile"]))))[0], rel=1e-5
            )
    assert (found.matches["p_holm"].dropna() >= found.matches["p"].dropna()).all()
    assert set(found.positions["decile"]) <= set(range(10))


def test_scores_under_the_mask_stand_beside_the_models_own(found, reranker, pool):
    own = {
        (pair.query_id, pair.doc_id): float(reranker.score(pair.query, [pair.text])[0]) for pair in pool.ranked.pairs
    }
    for _, row in found.pairs.iterrows():
        assert row["score"] == pytest.approx(own[row["query_id"], row["doc_id"]], abs=1e-9)
    for _, row in found.scores.iterrows():
        rows = found.pairs[found.pairs["layer"] == row["layer"]]
        distance = ((rows["masked"] - rows["score"]).abs() / rows["score_sd"]).groupby(rows["query_id"]).mean()
        assert row["error"] == pytest.approx(distance.mean())
        assert row["masked"] == pytest.approx(rows.groupby("query_id")["masked"].mean().mean())
        assert row["n_pairs"] == 12
    assert found.pairs["grade"].min() >= 0
    assert found.scalars["pairs"] == 12
    assert found.scalars["sampled"]  # of more passages


def test_noise_is_of_other_queries(pool):
    sides = folds(pool, n_queries=None, per_query=None, noise_pairs=512, seed=0)
    assert len(sides) == 2
    measured = [{pair.query_id for pair in side.sample.pairs} for side in sides]
    assert measured[0] | measured[1] == set(QUERIES)
    assert not measured[0] & measured[1]
    for own, side in zip(measured, sides, strict=True):
        assert not own & {pair.query_id for pair in side.noise.pairs}
    assert sum(len(side.sample) for side in sides) == len(pool.ranked)
    assert sum(len(side.noise) for side in sides) == len(pool)


def test_the_sample_is_seeded_and_as_large_as_asked(pool):
    draws = [folds(pool, n_queries=3, per_query=2, noise_pairs=5, seed=seed) for seed in (0, 0, 1)]
    pairs = [[pair for side in draw for pair in side.sample.pairs] for draw in draws]
    assert pairs[0] == pairs[1] != pairs[2]
    for some, draw in zip(pairs, draws, strict=True):
        assert sorted(sum(pair.query_id == q for pair in some) for q in {pair.query_id for pair in some}) == [2, 2, 2]
        assert [len(side.noise) for side in draw] == [5, 5]
        assert all(pair.grade >= 0 for pair in some)


def test_two_ids_of_one_text_are_in_one_fold(pool):
    twice = pool_of_words("twice", {"a": "the Egg", "b": "the  egg", "c": "bread"}, dict.fromkeys("abc", (1, 0)), WORDS)
    for seed in range(5):
        sides = folds(twice, n_queries=None, per_query=None, noise_pairs=512, seed=seed)
        assert sorted({pair.query_id for pair in side.sample.pairs} for side in sides) in (
            [{"a", "b"}, {"c"}],
            [{"c"}, {"a", "b"}],
        )


def test_how_a_token_matches_the_other_side():
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    rows = [
        ("[CLS] fleas egg [SEP] flea ##s the egg fleas [SEP]", [-1, 0, 0, -1, 1, 1, 2, 0, 0, -1]),
        ("[CLS] flea ##s [SEP] fleas flea [SEP]", [-1, 0, 1, -1, 1, 0, -1]),
        ("[CLS] the [SEP] [SEP]", [-1, 2, -1, -1]),
    ]
    tokens, parts = [], []
    for text, _ in rows:
        words = text.split()
        first = words.index("[SEP]")
        tokens.append([ids[word] for word in words])
        parts.append([0, *[1] * (first - 1), 2, *[3] * (len(words) - first - 2), 4])
    flat = [np.concatenate(column).astype(np.int64) for column in (tokens, parts)]
    offsets = np.cumsum([0, *map(len, tokens)])
    pairs = EncodedPairs(flat[0], flat[1], flat[1].astype(np.int8), offsets, np.zeros(3, bool), 0)
    assert token_kinds(pairs, Pieces(bert_tokenizer())).tolist() == [kind for _, kinds in rows for kind in kinds]


@pytest.mark.parametrize(
    ("length", "deciles"),
    [
        (0, []),
        (1, [5]),
        (3, [1, 5, 8]),
        (10, list(range(10))),
        (20, [i // 2 for i in range(20)]),
        (11, [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9]),
    ],
)
def test_positions_are_shares_of_the_passage(length, deciles):
    parts = np.array([0, 1, 1, 2, *[3] * length, 4])
    found = memberships(parts, np.full(len(parts), -1))
    places = [i for i, group in enumerate(GROUPS) if group.what == "position"]
    assert found[4 : 4 + length, places].argmax(1).tolist() == deciles
    assert found[:, places].sum() == length
    assert found[:, :5].sum(1).tolist() == [1] * len(parts)


def test_a_second_run_does_no_model_work(found, reranker, pool, store_folder, monkeypatch):
    before, told = identities(store_folder), []
    forbid_model_work(monkeypatch)
    again = run_bottleneck(
        reranker, [pool], Store(store_folder), fitting=FEW, progress=lambda done, total: told.append(done), **CHOICE
    )
    assert again.layers_run == 0 < found.layers_run
    for name in ("by_layer", "matches", "positions", "scores", "per_query", "pairs"):
        assert getattr(again, name).equals(getattr(found, name))
    assert identities(store_folder) == before
    assert told == []


def test_a_job_that_dies_goes_on_and_ends_with_the_same_bytes(
    found, reranker, pool, store_folder, tmp_path, monkeypatch
):
    fit, done = bottleneck_cells.fit_bottlenecks, []

    def fails_once(*args, **kwargs):
        done.append(kwargs["layers"])
        if len(done) == 2:
            raise ValueError("no more")
        return fit(*args, **kwargs)

    monkeypatch.setattr(bottleneck_cells, "fit_bottlenecks", fails_once)
    with pytest.raises(CellsFailed, match="no more"):
        run_bottleneck(reranker, [pool], Store(tmp_path), fitting=FEW, **CHOICE)
    told = []
    again = run_bottleneck(
        reranker, [pool], Store(tmp_path), fitting=FEW, progress=lambda *told_now: told.append(told_now), **CHOICE
    )
    assert 0 < again.layers_run < found.layers_run
    assert told[-1] == (again.layers_run, again.layers_run)
    assert [one for one, _ in told] == sorted({one for one, _ in told})
    assert len({total for _, total in told}) == 1
    assert {k: v for k, v in snapshot(tmp_path).items() if k.endswith(".parquet")} == {
        k: v for k, v in snapshot(store_folder).items() if k.endswith(".parquet")
    }


def test_what_a_cell_depends_on_is_in_its_key(found, reranker, pool, store_folder):
    for change in ({"beta": 0.4}, {"seed": 1}, {"objective": "relevant"}, {"steps": 1}):
        other = Fitting(**(FEW.fields | change))
        again = run_bottleneck(reranker, [pool], Store(store_folder), fitting=other, layers=[1], **CHOICE)
        assert again.layers_run > 0
        assert not np.allclose(again.pairs["masked"], found.pairs.loc[found.pairs["layer"] == 1, "masked"])
    with reranker.ablating("CLS->DOC", layers=1):
        again = run_bottleneck(reranker, [pool], Store(store_folder), fitting=FEW, layers=[0], **CHOICE)
    assert not np.allclose(again.pairs["score"], found.pairs.loc[found.pairs["layer"] == 0, "score"])
    fewer = run_bottleneck(reranker, [pool], Store(store_folder), fitting=FEW, noise_pairs=9, layers=[1], **CHOICE)
    assert not np.allclose(fewer.pairs["masked"], found.pairs.loc[found.pairs["layer"] == 1, "masked"])


def test_progress_is_one_count_of_both_kinds_of_work(reranker, pool, tmp_path):
    told = []
    chosen = {"layers": [1], "n_queries": 2, "per_query": 2, "seed": 0}
    found = run_bottleneck(
        reranker, [pool], Store(tmp_path), fitting=FEW, progress=lambda *now: told.append(now), **chosen
    )
    # both layers for each pair of both folds; both and the mask's three runs for each of the four pairs
    total = 2 * len(pool) + 4 * (2 + 3)
    assert {of for _, of in told} == {total}
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == found.layers_run == total
    assert found.scalars["sampled"]


def test_tasks_travel_and_are_split_by_layers(reranker, pool):
    sample, noise = folds(pool, n_queries=2, per_query=2, noise_pairs=5, seed=0)[0]
    about = About({"weights": "w"}, "none", 90, 2)
    (task,) = bottleneck_tasks(about, sample, noise, [0, 1], FEW)
    parts = task.split(7)
    assert [part.layers for part in parts] == [(0,), (1,)]
    assert [part.keys for part in parts] == [task.keys[:1], task.keys[1:]]
    assert sum(part.cost for part in parts) == task.cost
    assert task.only({task.keys[1]}).layers == (1,)
    assert task.only(set()) is None
    for one in (task, *moments_tasks(about, noise)):
        assert pickle.loads(pickle.dumps(one)).keys == one.keys
    with pytest.raises(ValueError, match="the layers' distribution"):
        next(task.cells(reranker, lambda count: None))


def test_bad_input_is_one_sentence(reranker, pool, tmp_path):
    store = Store(tmp_path)
    with pytest.raises(Unavailable, match=r"at least two queries, .* the pool of words has 1"):
        run_bottleneck(reranker, [pool.select(["q1"])], store)
    easy = Pool("easy", PoolSpec(None, 0, 0), tuple(PoolPair(f"q{i}", f"egg {i}", "d", "the", -1) for i in range(3)))
    with pytest.raises(Unavailable, match="easy negatives alone"):
        run_bottleneck(reranker, [easy], store)
    with pytest.raises(ValueError, match="at least one pool"):
        run_bottleneck(reranker, [], store)
    for wrong, least in ({"n_queries": 0}, 1), ({"per_query": 0}, 1), ({"noise_pairs": 1}, 2), ({"seed": -1}, 0):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} of at least {least}"):
            run_bottleneck(reranker, [pool], store, **wrong)
    silent = tiny_model(tmp_path / "m")
    with torch.no_grad():
        silent.classifier.weight.zero_()
    with pytest.raises(Unavailable, match="scores that vary"):
        run_bottleneck(silent, [pool], store, n_queries=1, per_query=1)
    with (
        reranker.hooks(fwd_hooks=[("hook_full_embed", lambda value, hook: None)]),
        pytest.raises(ValueError, match="hook"),
    ):
        run_bottleneck(reranker, [pool], store)


def test_queries_of_two_collections_are_two_whatever_their_ids():
    """A CLS and a QUERY token of three pairs: 1 and 4 bits, 5 and 6, 7 and 8."""
    owners = [("a", "q"), ("b", "q"), ("a", "q")]
    bits = [np.array([[1.0, 4.0]]), np.array([[5.0, 6.0]]), np.array([[7.0, 8.0]])]
    members = [memberships(np.array([0, 1]), np.array([-1, 2]))] * 3
    found = query_bits(owners, bits, members)
    names = {name: GROUPS.index(Group("part", name, name)) for name in ("CLS", "QUERY", "DOC", "ALL")}
    assert found.queries == (("a", "q"), ("b", "q"))
    assert found.bits[:, 0, names["CLS"]].tolist() == [4, 5]
    assert found.per_token[:, 0, names["ALL"]].tolist() == [5, 5.5]
    np.testing.assert_allclose(found.share[:, 0, names["CLS"]], [(1 / 5 + 7 / 15) / 2, 5 / 11])
    assert np.isnan(found.bits[:, 0, names["DOC"]]).all()
    assert found.n_pairs[:, names["QUERY"]].tolist() == [2, 1]
    frame = per_query_frame(found, [3])
    assert set(frame["name"]) == {"CLS", "QUERY", "ALL", "other"}
    assert frame[frame["what"] == "match"]["part"].unique().tolist() == ["QUERY"]

    columns = ["collection", "query_id", "layer", "score", "masked", "score_sd", "floored"]
    rows = [("a", "q", 3, 1.0, 2.0, 0.5, 4), ("b", "q", 3, 5.0, 4.0, 2.0, 9), ("a", "q", 3, 3.0, 2.5, 0.5, 4)]
    (row,) = score_frame(pd.DataFrame(rows, columns=columns)).to_dict("records")
    assert (row["score"], row["masked"]) == ((1 + 3) / 4 + 5 / 2, (2 + 2.5) / 4 + 4 / 2)
    assert row["error"] == ((2 + 1) / 2 + 0.5) / 2  # in standard deviations, whichever way
    assert (row["n_queries"], row["n_pairs"], row["floored"]) == (2, 3, 9)


def test_cls_has_half_first_after_the_first_layer_where_it_has(found):
    def half(shares):
        frame = pd.DataFrame({"layer": range(4), "part": "CLS", "share": shares})
        return replace(found, by_layer=pd.concat([frame, frame.assign(part="DOC", share=0.9)])).first_half

    assert half([0.2, 0.5, 0.4, 0.9]) == 1
    assert half([0.2, 0.49, 0.4, 0.3]) is None


def test_every_setting_of_a_fit_is_in_the_key_and_so_is_the_noise(pool):
    sample, noise = folds(pool, n_queries=2, per_query=2, noise_pairs=5, seed=0)[0]
    about = About({"weights": "w"}, "none", 90, 2)
    fits = [FEW, *(Fitting(**FEW.fields | {name: value}) for name, value in OTHER_SETTINGS.items())]
    assert set(OTHER_SETTINGS) == set(FEW.fields)
    tasks = [task for fit in fits for task in bottleneck_tasks(about, sample, noise, [0, 1], fit)]
    tasks += bottleneck_tasks(about, sample, sample, [0, 1], FEW)
    tasks += bottleneck_tasks(replace(about, token_budget=91), sample, noise, [0, 1], FEW)
    tasks += bottleneck_tasks(replace(about, condition="other"), sample, noise, [0, 1], FEW)
    keys = [key for task in tasks for key in task.keys]
    assert len(set(keys)) == len(keys) == 2 * (1 + len(OTHER_SETTINGS) + 3)


def test_moments_of_many_shards_are_those_of_all_pairs_and_floored_features_are_stored(
    reranker, pool, tmp_path, monkeypatch
):
    monkeypatch.setattr(bottleneck_cells, "MOMENTS_SHARD", 7)
    about, store = About({"weights": "w"}, "none", 90, 2), Store(tmp_path)
    tasks = moments_tasks(about, pool)
    assert len({task.keys for task in tasks}) == len(tasks) == -(-len(pool) // 7) > 3
    IN_PROCESS.run(reranker, tasks, store)
    found, whole = read_moments(reranker, store, tasks), LayerStatistics.fit(reranker, encode(reranker, pool.pairs))
    for name in ("count", "mean", "m2", "scores"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-9, atol=1e-11)
    assert found.digests == whole.digests
    given = {"fitting": Fitting(steps=0, copies=1, min_sigma=100.0), "layers": [1], "n_queries": 1, "per_query": 1}
    assert run_bottleneck(reranker, [pool], store, **given).pairs["floored"].tolist() == [reranker.cfg.d_model]


def test_scores_that_do_not_vary_are_no_unit_of_an_error(pool, tmp_path):
    """With `relevant` such a model has bits all the same."""
    silent = tiny_model(tmp_path / "m")
    with torch.no_grad():
        silent.classifier.weight.zero_()
    given = {"fitting": Fitting("relevant", steps=1, copies=1), "layers": [1], "n_queries": 2, "per_query": 1}
    found = run_bottleneck(silent, [pool], Store(tmp_path / "s"), **given)
    assert found.scores[["error", "error_low", "error_high"]].isna().all(axis=None)
    assert found.scores["masked"].tolist() == found.scores["score"].tolist() == [found.pairs["score"].iloc[0]]
    assert (found.by_layer["bits"] > 0).all()


def test_planted_cls_gathers_after_the_moving_head(tmp_path):
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    found = run_bottleneck(
        model,
        [graded_pool(n_queries=4, per_grade=1, seed=1)],
        Store(tmp_path),
        fitting=Fitting(beta=1.0, by="part", copies=3),
        layers=[0, 2, 3],
        n_queries=4,
        per_query=2,
    )
    assert found.first_half == 3
    share = found.by_layer.set_index(["layer", "part"])["share"]
    assert share[3, "CLS"] > 0.8
    assert share[[0, 2]].unstack()["CLS"].max() < 0.02
    assert share[0, "QUERY"] > 0.3
    assert share[2, "DOC"] > 0.9
    matched = found.matches.set_index(["layer", "part", "kind"])
    assert matched.loc[(0, "DOC", "same_piece"), "p_holm"] < 0.01
    assert matched.loc[(0, "DOC", "same_piece"), "difference"] > 50


def test_which_queries_are_measured_is_drawn(pool):
    drawn = set()
    for seed in range(20):
        sides = folds(pool, n_queries=2, per_query=None, noise_pairs=512, seed=seed)
        drawn.add(frozenset(pair.query_id for side in sides for pair in side.sample.pairs))
    assert len(drawn) > 5
    assert {len(queries) for queries in drawn} == {2}
