"""Heads as rankers: known answers on the planted model, choices and rankings by loops, and what choosing on noise gives."""

import math
import pickle

import numpy as np
import pytest
from planted_texts import graded_pool
from scipy import stats
from small_worlds import collection_folder, forbid_model_work, tiny_model

from tl_crossenc.checkpoints.planted import MATCHING_HEAD
from tl_crossenc.experiments import head_ranker_cells, head_rankers
from tl_crossenc.experiments.head_ranker_cells import head_scores
from tl_crossenc.experiments.head_rankers import run_head_rankers
from tl_crossenc.experiments.head_selection import HeadField, usable
from tl_crossenc.experiments.query_folds import sampled_pools, two_folds
from tl_crossenc.instruments.head_rankers import HeadScores
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.identity import model_identity
from tl_crossenc.pools.bm25 import bm25_scores
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec, build_pool
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.dcg import ndcg, random_ndcg
from tl_crossenc.statistics.significance import mean_interval
from tl_crossenc.store.cells import Store

DIRECTIONS = ("QUERY->DOC", "DOC->QUERY")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Pool of equally long passages, graded by how many of their words match, and what the heads make of it."""
    model, pool = HookedCrossEncoder.from_pretrained("planted", device="cpu"), graded_pool(n_queries=5, per_grade=3)
    return model, pool, run_head_rankers(model, [pool], Store(tmp_path_factory.mktemp("planted")))


def test_the_planted_matching_head_comes_first(planted):
    _, _, found = planted
    assert found.strongest[0] == MATCHING_HEAD
    for _, own in found.heads.groupby("direction"):
        for criterion in ("core_0.001", "core_0.1", "qr", "ndcg"):
            best = own.loc[own[criterion].idxmax()]
            assert (best["layer"], best["head"]) == MATCHING_HEAD, criterion
    chosen = found.rankings[(found.rankings["k"] == 1) & (found.rankings["fold"] != "both")]
    assert set(chosen["heads"]) == {"1.2"}


def test_alone_it_ranks_by_the_share_of_matched_pieces(planted):
    """DOC->QUERY: by grade, perfectly. QUERY->DOC: by the share of the query's words, one that is there m times m / (m + e^-5)."""
    _, pool, found = planted
    ranked = pool.ranked
    perfect = found.per_query["DOC->QUERY; core_0.001; k=1; other half"]
    assert perfect.tolist() == [1.0] * 5
    for (_, query_id), value in found.per_query["QUERY->DOC; qr; k=1; other half"].items():
        own = [pair for pair in ranked.pairs if pair.query_id == query_id]
        counts = [[pair.text.split().count(word) for word in pair.query.split()] for pair in own]
        scores = [sum(m / (m + math.exp(-5)) for m in row if m) for row in counts]
        assert value == pytest.approx(ndcg(scores, [pair.grade for pair in own]), abs=1e-12)
    for (_, query_id), value in found.per_query["random"].items():
        grades = [pair.grade for pair in ranked.pairs if pair.query_id == query_id]
        assert value == pytest.approx(random_ndcg(grades), abs=1e-12)


def test_heads_that_attend_evenly_rank_as_chance_does(planted):
    """Passages of one length: all tie."""
    _, _, found = planted
    even = found.heads[(found.heads["layer"] == 2) & (found.heads["head"] == 1)]
    assert even["ndcg"].tolist() == pytest.approx([found.per_query["random"].mean()] * 2, abs=1e-12)
    assert even["core_0.1"].tolist() == pytest.approx([1 / 4] * 2, abs=1e-3)  # one of it and three hard negatives


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random model, a pool of seven queries of which one has no hard negatives, and what the heads make of it."""
    folder = tmp_path_factory.mktemp("tiny")
    drawn = build_pool(load_collection(collection_folder(folder / "c", n_queries=7)), PoolSpec(None, 0, 0))
    pairs = [pair for pair in drawn.pairs if (pair.query_id, pair.grade) != ("q3", 0)]
    pool, model, store = Pool("tiny", drawn.spec, tuple(pairs)), tiny_model(folder / "m"), Store(folder / "s")
    return model, pool, store, run_head_rankers(model, [pool], store, counts=(1, 2, 4, 6, 11), seed=3)


def by_hand(values, mass, pool, grades, fold):
    """Criterion -> each head's mean over a fold's queries, in one direction; all by loops."""
    found = {"core_0.001": [], "core_0.1": [], "qr": [], "ndcg": []}
    for query_id in fold:
        own = [i for i, pair in enumerate(pool.pairs) if pair.query_id == query_id]
        relevant = [i for i in own if pool.pairs[i].grade in grades]
        hard = [i for i in own if pool.pairs[i].grade == 0]
        heads = range(values.shape[1])
        found["qr"].append([np.mean([values[i, h] for i in relevant]) for h in heads])
        found["ndcg"].append([ndcg(values[own, h], [pool.pairs[i].grade for i in own], tolerance=0.0) for h in heads])
        for t in (0.001, 0.1) if hard else ():
            each = [
                [1 / (1 + sum(math.exp((mass[j, h] - mass[i, h]) / t) for j in hard)) for i in relevant] for h in heads
            ]
            found[f"core_{t:g}"].append([np.mean(row) for row in each])
    return {name: np.mean(rows, axis=0) for name, rows in found.items()}


def test_choices_and_rankings_of_both_halves_by_hand(tiny):
    model, pool, store, found = tiny
    scores = head_scores(model, [pool], store, content_free="N/A")[0]
    folds = {fold: [query for _, query in own.index] for fold, own in found.per_query.groupby("fold")}
    assert sorted(map(len, folds.values())) == [3, 4]
    assert set(folds["0"]) | set(folds["1"]) == {f"q{i}" for i in range(7)}
    for d, direction in enumerate(DIRECTIONS):
        values, mass = (side[:, d].reshape(len(pool), -1) for side in (scores.calibrated, scores.mass))
        for chosen_by, measured in (("0", "1"), ("1", "0")):
            means = by_hand(values, mass, pool, (2, 3), folds[chosen_by])
            for criterion, mean in means.items():
                order = np.argsort(-mean, kind="stable")
                for k in (1, 2, 4):
                    heads = order[:k]
                    for half, fold in (("other half", measured), ("same half", chosen_by)):
                        rows = found.rankings[
                            (found.rankings[["direction", "criterion", "k", "chosen_on", "fold"]]
                             == [direction, criterion, k, half, fold]).all(axis=1)
                        ]  # fmt: skip
                        expected = []
                        for query_id in folds[fold]:
                            own = [i for i, pair in enumerate(pool.pairs) if pair.query_id == query_id]
                            summed = [sum(values[i, h] for h in heads) for i in own]
                            grades = [pool.pairs[i].grade for i in own]
                            expected.append(ndcg(summed, grades, tolerance=0.0))
                            name = f"{direction}; {criterion}; k={k}; {half}"
                            value = found.per_query.loc[("tiny", query_id), name]
                            assert value == pytest.approx(expected[-1], abs=1e-9)
                        assert rows["heads"].item() == ",".join(f"{h // 3}.{h % 3}" for h in heads)
                        assert rows["mean"].item() == pytest.approx(np.mean(expected), abs=1e-9)
                        assert rows["n_queries"].item() == len(expected)
    assert set(found.rankings["k"]) == {1, 2, 4, 6}  # six heads are all heads
    assert set(found.rankings.loc[found.rankings["k"] == 6, "criterion"]) == {"all heads"}


def test_the_query_without_hard_negatives_is_no_part_of_the_core_score(tiny):
    _, _, _, found = tiny
    assert (found.scalars["n_queries"], found.scalars["n_contrasted"]) == (7, 6)
    assert found.scalars["left_out"] == {}


def test_comparisons_are_paired_over_all_queries_and_corrected_for_one_reference(tiny):
    _, _, _, found = tiny
    for against, rows in found.comparisons.groupby("against"):
        sizes = sorted(rows["p"])
        for row in rows.to_dict("records"):
            alone = row["criterion"] == "all heads"
            place = row["direction"], row["criterion"]
            name = "; ".join(place) if alone else f"{'; '.join(place)}; k={row['k']}; other half"
            reference = {"all heads": f"{row['direction']}; all heads", "same half": name.replace("other", "same")}
            a, b = (found.per_query[column] for column in (name, reference.get(against, against)))
            assert row["difference"] == pytest.approx((a - b).mean(), abs=1e-12)
            if (a - b).abs().max() > 1e-9:
                assert row["p"] == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=1e-9)
                half = stats.t.ppf(0.975, 6) * (a - b).std(ddof=1) / 7**0.5
                assert (row["low"], row["high"]) == pytest.approx(
                    (row["difference"] - half, row["difference"] + half), abs=1e-9
                )
            adjusted = max(min(1.0, p * (len(sizes) - i)) for i, p in enumerate(sizes) if p <= row["p"])
            assert row["p_holm"] == pytest.approx(adjusted, abs=1e-9)
        assert len(rows) == (24 if against in ("all heads", "same half") else 26)


def test_a_second_run_reads_all_and_the_seed_decides_on_the_halves(tiny, monkeypatch):
    model, pool, store, found = tiny
    forbid_model_work(monkeypatch)
    again = run_head_rankers(model, [pool], store, counts=(1, 2, 4, 6, 11), seed=3)
    assert again.per_query.equals(found.per_query)
    others = [run_head_rankers(model, [pool], store, counts=(1,), seed=seed).per_query["fold"] for seed in range(4)]
    assert any(not other.equals(found.per_query["fold"]) for other in others)


def test_a_task_has_all_that_it_needs_and_travels(tiny):
    model, pool, store, _ = tiny
    (task, *others) = head_ranker_cells._tasks(model, model_identity(model), pool, "N/A", model.token_budget(None))
    sent = pickle.loads(pickle.dumps(task))
    (cell,) = sent.cells(model, lambda count: None)
    assert cell.table.equals(store.read(task.keys[0]))
    assert sent.only(set(task.keys)) == task
    assert sent.only({key for other in others for key in other.keys}) is None
    done = []
    list(task.cells(model, done.append))
    assert sum(done) == task.cost == 2 * 2 * len(task.pairs)  # two layers, with and without a query


def test_choosing_on_noise_looks_good_where_it_was_chosen_and_nowhere_else():
    """Labels at random, 12 heads: the best of one half is better than chance on that half, and not on the other.

    A draw's values go together, so that the intervals are over the draws' means.
    """
    rng = np.random.default_rng(11)
    gained = {"same half": [], "other half": []}
    for draw in range(16):
        pairs = [
            PoolPair(f"q{q}", f"query {q}", f"d{i}", f"passage {q} {i}", int(rng.integers(0, 4)))
            for q in range(10)
            for i in range(6)
        ]
        pool = Pool("noise", PoolSpec(None, 0, 0), tuple(pairs))
        found = HeadScores(rng.random((len(pairs), 2, 2, 6)), None)
        field = HeadField([pool], [found], False, dtype="float64", cutoff=10, gain="linear")
        folds = two_folds(field.queries, draw)
        criteria, _ = usable(field.criteria((2, 3), (0.1,)), field.rows_of(folds))
        random = field.ranked_by([np.zeros(len(pairs))])
        rankings = [
            r for r in head_rankers._rankings(field, criteria, [1], folds) if r.criterion in ("ndcg", "core_0.1")
        ]
        for half, values in gained.items():
            values.append(np.mean([(r.values - random).mean() for r in rankings if r.chosen_on == half]))
    assert mean_interval(gained["same half"]).low > 0.03
    low, high = mean_interval(gained["other half"])
    assert low < 0 < high


def a_field(mass, pool, calibrated=None):
    given = {"dtype": "float32", "cutoff": 2, "gain": "exponential"}
    return HeadField([pool], [HeadScores(mass, calibrated)], calibrated is not None, **given)


def test_ndcg_of_heads_has_its_cutoff_gain_and_ideal_and_ties_what_is_small_beside_all_their_masses():
    """Two heads of mass .5 each, calibrated near 0: sums that differ by 7e-6 tie, those of one alone do not."""
    grades = [1, 3, 0, 2]
    pairs = tuple(
        PoolPair(f"q{q}", f"query {q}", f"d{i}", f"text {i}", g) for q in range(2) for i, g in enumerate(grades)
    )
    judged = {f"q{q}": {f"d{i}": g for i, g in enumerate(grades)} | {"x": 3} for q in range(2)}
    mass, near = np.full((8, 2, 1, 2), 0.5), np.zeros((8, 2, 1, 2))
    near[[0, 4], :, :, 0] += 7e-6
    far = near.copy()
    far[[3, 7]] += 0.1
    for pool, ideal in (
        (Pool("own", PoolSpec(None, 0, 0), pairs), 7 + 3 / math.log2(3)),
        (Pool("all", PoolSpec(None, 0, 0), pairs, ideal="qrels", qrels=judged), 7 + 7 / math.log2(3)),
    ):
        first = 1 + (7 + 0 + 3) / 3 / math.log2(3)  # grade 1 alone at the top, the others in any order
        assert a_field(mass, pool, near).ndcg(0, [0]).tolist() == pytest.approx([first / ideal] * 2, abs=1e-12)
        every = (1 + 7 + 0 + 3) / 4 * (1 + 1 / math.log2(3))
        assert a_field(mass, pool, near).ndcg(0, [0, 1]).tolist() == pytest.approx([every / ideal] * 2, abs=1e-12)
        best = 3 + (1 + 7 + 0) / 3 / math.log2(3)
        assert a_field(mass, pool, far).ndcg(0, [1]).tolist() == pytest.approx([best / ideal] * 2, abs=1e-12)


def test_a_criterion_that_one_half_lacks_chooses_on_neither():
    half = np.array([[[0.5]], [[np.nan]], [[0.25]]])
    whole = np.array([[[0.5]], [[0.75]], [[np.nan]]])
    kept, left_out = usable({"qr": half, "core_0.1": half, "ndcg": whole}, [[0, 2], [1]])
    assert set(kept) == {"ndcg"}
    assert left_out == {
        "qr": "no query of one half has relevant passages",
        "core_0.1": "no query of one half has relevant passages and hard negatives",
    }


def test_the_list_that_is_kept_is_the_sixteen_of_the_highest_core_score_in_either_direction():
    """Nineteen heads; CoRe at the first temperature, by loops, over all queries."""
    rng = np.random.default_rng(6)
    pairs = [PoolPair(f"q{q}", f"query {q}", f"d{i}", f"text {i}", (3, 0, 2, 0)[i]) for q in range(3) for i in range(4)]
    scores = rng.random((12, 2, 1, 19))
    field = a_field(scores, Pool("core", PoolSpec(None, 0, 0), tuple(pairs)))
    means = np.zeros((2, 19))
    for direction in range(2):
        for head in range(19):
            for start in (0, 4, 8):
                a, n, b, m = np.exp(scores[start : start + 4, direction, 0, head] / 0.1)
                means[direction, head] += (a / (a + n + m) + b / (b + n + m)) / 6
    order = sorted(range(19), key=lambda head: -max(means[:, head]))
    found = head_rankers._strongest(field, field.criteria((2, 3), (0.1, 0.001)))
    assert [tuple(head) for head in found] == [(0, head) for head in order[:16]]


def test_bm25_and_the_intervals_of_single_heads_by_hand(tiny):
    _, pool, _, found = tiny
    scores = bm25_scores(pool)
    for (_, query_id), value in found.per_query["BM25"].items():
        own = [i for i, pair in enumerate(pool.pairs) if pair.query_id == query_id]
        expected = ndcg(scores[own], [pool.pairs[i].grade for i in own], scale=float(scores.max()))
        assert value == pytest.approx(expected, abs=1e-9)
    assert found.per_query["BM25"].nunique() > 2
    assert (found.heads["ndcg_low"] <= found.heads["ndcg"]).all()
    assert (found.heads["ndcg"] <= found.heads["ndcg_high"]).all()
    assert (found.heads["ndcg_low"] < found.heads["ndcg_high"]).any()


def test_a_sample_is_of_ranked_queries_each_once_and_by_the_seed():
    pairs = [
        PoolPair(f"q{q}", f"query {q}", f"d{i}", f"text {i}", -1 if q > 8 else i) for q in range(12) for i in range(2)
    ]
    pool = Pool("sample", PoolSpec(None, 0, 0), tuple(pairs))
    drawn = set()
    for seed in range(40):
        (sample,) = sampled_pools([pool], 5, seed)
        names = list(sample.by_query())
        assert len(names) == 5
        assert len(sample) == 10
        drawn.add(tuple(names))
    assert len(drawn) > 20
    assert {name for names in drawn for name in names} == {f"q{q}" for q in range(9)}  # the others have nothing to rank
    assert sampled_pools([pool], 9, 0) is sampled_pools([pool], None, 0) is None
    with pytest.raises(ValueError, match="expected at least one query to draw, got 0: leave the number away for all"):
        sampled_pools([pool], 0, 0)


def test_equal_scores_are_the_random_ranking_whatever_the_passages_are_called():
    grades = [3, 0, 1, 0, 2]
    pairs = [PoolPair(f"q{q}", f"query {q}", f"d{i}", f"text {i}", g) for q in range(2) for i, g in enumerate(grades)]
    scores = np.full((10, 2, 1, 2), 0.25) + np.arange(10).reshape(-1, 1, 1, 1) * 1e-15  # rounding
    field = HeadField(
        [Pool("ties", PoolSpec(None, 0, 0), tuple(pairs))],
        [HeadScores(scores, None)],
        False,
        dtype="float64",
        cutoff=3,
        gain="linear",
    )
    assert field.ndcg(0, [0, 1]).tolist() == pytest.approx([random_ndcg(grades, 3)] * 2, abs=1e-12)


def test_without_hard_negatives_the_other_criteria_choose(planted, tmp_path):
    model, pool, _ = planted
    positive = Pool("positive", pool.spec, tuple(pair for pair in pool.pairs if pair.grade > 0))
    found = run_head_rankers(model, [positive], Store(tmp_path), counts=(1,), calibrated=False)
    assert set(found.scalars["left_out"]) == {"core_0.001", "core_0.1"}
    assert "hard negatives" in found.scalars["left_out"]["core_0.1"]
    assert set(found.rankings["criterion"]) == {"all heads", "qr", "ndcg"}
    assert found.strongest[0] == MATCHING_HEAD
    assert (found.scalars["content_free"], found.scalars["n_contrasted"]) == (None, 0)


def test_one_query_is_not_enough(planted, tmp_path):
    model, pool, _ = planted
    with pytest.raises(Unavailable, match="needs two, got 1"):
        run_head_rankers(model, [pool.select(["q0"])], Store(tmp_path))


def test_a_sample_of_queries_is_said(planted, tmp_path):
    model, pool, _ = planted
    found = run_head_rankers(model, [pool], Store(tmp_path), counts=(1,), queries=3, calibrated=False)
    assert (found.scalars["n_queries"], found.scalars["n_all_queries"], len(found.per_query)) == (3, 5, 3)


@pytest.mark.parametrize(
    "bad",
    [{"counts": ()}, {"counts": (0,)}, {"queries": 1}, {"temperatures": ()}, {"temperatures": (0.0,)},
     {"temperatures": (0.1, 0.10000000001)}, {"counts": (16, 31)},
     {"relevant_grades": (0, 1)}],
)  # fmt: skip
def test_impossible_settings_are_refused(planted, tmp_path, monkeypatch, bad):
    model, pool, _ = planted
    forbid_model_work(monkeypatch)
    with pytest.raises(ValueError, match=r"^expected (counts|temperatures|different temperatures|relevant grades) "):
        run_head_rankers(model, [pool], Store(tmp_path), **bad)


def test_no_pool_is_said(planted, tmp_path):
    with pytest.raises(ValueError, match=r"^expected at least one pool, got none$"):
        run_head_rankers(planted[0], [], Store(tmp_path))


def test_halves_are_of_all_queries_and_as_large():
    queries = [("c", f"q{i}") for i in range(9)]
    first, second = two_folds(queries, 4)
    assert (len(first), len(second)) == (5, 4)
    assert sorted(first + second) == queries
    assert two_folds(queries, 4) == (first, second)
    assert len({two_folds(queries, seed) for seed in range(9)}) > 1
    with pytest.raises(Unavailable, match="needs two, got 0"):
        two_folds([], 0)
