"""Circuits: the planted one found exactly, and every number of a circuit recomputed by hand."""

import math
import random
import statistics
from itertools import product

import numpy as np
import pandas as pd
import pytest
from planted_texts import graded_pool
from small_worlds import forbid_model_work, pool_of_words, tiny_model
from type_checks import unchecked

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, MOVING_HEAD
from tl_crossenc.executors.executor import IN_PROCESS
from tl_crossenc.experiments import circuits
from tl_crossenc.experiments.circuit_search import Found, Lab, search
from tl_crossenc.experiments.circuit_units import Unit, costs_of, importance_of, keep_only, units_of, without
from tl_crossenc.experiments.circuits import run_circuits
from tl_crossenc.experiments.query_folds import two_folds
from tl_crossenc.inputs.parts import Part
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.direction_effects import direction_effects
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.dcg import ndcg
from tl_crossenc.store.cells import Store

WORDS = ("how", "do", "flea", "lay", "egg", "the", "bread", "rise")


@pytest.fixture(scope="module")
def planted():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu")


@pytest.fixture(scope="module")
def found(planted, tmp_path_factory):
    return run_circuits(planted, [graded_pool(6, 2)], Store(tmp_path_factory.mktemp("store")), shares=(0.9, 0.99))


def test_the_planted_circuit_is_found_exactly_on_either_half(found):
    for _, own in found.units.groupby(["fold", "share"]):
        assert set(zip(own["layer"], own["head"], own["direction"], strict=True)) == {
            (*MATCHING_HEAD, "DOC->QUERY"),
            (*MOVING_HEAD, "CLS->DOC"),
        }
    assert len(found.circuits) == 4
    assert found.circuits["minimal"].all()
    assert (found.circuits["n_units"] == 2).all()


def test_the_planted_circuit_is_faithful_and_complete_on_the_other_half(found):
    rows = found.circuits
    np.testing.assert_allclose(rows["faithfulness"], 1, atol=1e-9)
    np.testing.assert_allclose(rows["completeness"], 1, atol=1e-9)  # all scores tie: the value of a random ranking
    np.testing.assert_allclose(rows["drawn"], rows["random"], atol=1e-9)
    for _, curve in found.curve.groupby(
        "fold"
    ):  # either of the two alone ranks nothing, and without either nothing does
        assert curve["faithfulness"].to_numpy() == pytest.approx([0.0] + [1.0] * (len(curve) - 1), abs=1e-9)
        assert curve["completeness"].to_numpy() == pytest.approx(1, abs=1e-9)
        assert (np.diff(curve["multiply_adds"]) > 0).all()
    assert set(found.per_query.query("fold == 0")["query_id"]).isdisjoint(
        found.per_query.query("fold == 1")["query_id"]
    )


def test_conditions_remove_what_they_say():
    every = [
        Unit(layer, head, a, b) for layer, head, a, b in product(range(2), range(2), (Part.CLS, Part.DOC), (Part.DOC,))
    ]
    kept = [Unit(1, 0, Part.CLS, Part.DOC), Unit(0, 1, Part.DOC, Part.DOC)]
    expected = (
        "zero(CLS->DOC; layers=0; heads=0,1) + zero(CLS->DOC; layers=1; heads=1) + zero(DOC->DOC; layers=0; heads=0) + "
        "zero(DOC->DOC; layers=1; heads=0,1)"
    )
    assert keep_only(kept, every, "zero") == Condition.parse(expected)
    assert without(kept, "mask") == Condition.parse(
        "mask(CLS->DOC; layers=1; heads=0) + mask(DOC->DOC; layers=0; heads=1)"
    )
    assert keep_only(every, every, "zero") == Condition()


@pytest.fixture(scope="module")
def pool():
    queries = {f"q{i}": " ".join(WORDS[i : i + 3]) for i in range(5)}
    grades = {query: [3, 0, 1, 0, 2][: 3 + i % 3] for i, query in enumerate(queries)}
    return pool_of_words("words", queries, grades, WORDS)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), seed=11)


def test_costs_are_shares_of_the_cells_that_the_score_needs(model, pool):
    units, counts = units_of(model), dict.fromkeys(units_of(model), 0)
    for pair in pool.pairs:
        n = dict.fromkeys(Part, 0)
        for code in model.encode_pairs([pair.query], [pair.text]).batch(np.arange(1)).parts.codes[0].tolist():
            n[Part(code)] += 1
        for unit in units:
            counts[unit] += n[unit.attender] * n[unit.attended]
    total, found = sum(counts.values()), costs_of(model, [pool], units)
    assert {unit.attender for unit in units if unit.layer == model.cfg.n_layers - 1} == {Part.CLS}
    for unit in units:
        assert found[unit] == pytest.approx(counts[unit] / total, rel=1e-12)


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cells")


GIVEN = {"shares": (0.5, 0.5), "seed": 3, "most_runs": 9, "mode": "mask", "cutoff": 3, "gain": "exponential"}


@pytest.fixture(scope="module")
def asked():
    """(the target, the result) of each search, and (query ids, conditions) of each ranking, as they come."""
    return {"search": [], "values": []}


@pytest.fixture(scope="module")
def any_circuits(model, pool, store_folder, asked):
    values = Lab.values

    def searched(lab, pools, order, least, most_runs, known=()):
        result = search(lab, pools, order, least, most_runs, known)
        asked["search"].append((least, list(order), result))
        return result

    def ranked(lab, pools, conditions):
        asked["values"].append(([*pools[0].by_query()], list(conditions)))
        return values(lab, pools, conditions)

    with pytest.MonkeyPatch.context() as patch, unchecked():  # `found` is checked
        patch.setattr(circuits, "_require_better", lambda whole, random: None)
        patch.setattr(circuits, "search", searched)
        patch.setattr(Lab, "values", ranked)
        return run_circuits(model, [pool], Store(store_folder), **GIVEN)


def value(model, pool, query, condition):
    """nDCG of a query under a condition, from scores that are asked for one query at a time."""
    pairs = [pool.pairs[i] for i in pool.by_query()[query]]
    with model.ablating(condition):
        scores = model.score([pair.query for pair in pairs], [pair.text for pair in pairs]).numpy()
    return ndcg(scores, [pair.grade for pair in pairs], 3, "exponential", tolerance=1e-12)


def random_value(pool, query):
    """Every rank of a random order gains the mean of 2^grade - 1."""
    gains = [2 ** pool.pairs[i].grade - 1 for i in pool.by_query()[query]]
    discounts = [1 / math.log2(rank + 1) for rank in (1, 2, 3)]
    best = sum(gain * discount for gain, discount in zip(sorted(gains, reverse=True), discounts, strict=False))
    return statistics.mean(gains) * sum(discounts) / best


def shares_of(model, pairs, kept):
    """What share of all cells these units have, one pair at a time."""
    units, own, all_cells = units_of(model), 0, 0
    for pair in pairs:
        codes = model.encode_pairs([pair.query], [pair.text]).batch(np.arange(1)).parts.codes[0].tolist()
        for unit in units:
            cells = codes.count(unit.attender) * codes.count(unit.attended)
            all_cells += cells
            own += cells * (unit in kept)
    return own / all_cells


@pytest.mark.usefixtures("unchecked")
def test_a_circuit_is_searched_for_on_its_half_and_told_of_the_other(any_circuits, asked, model, pool, store_folder):
    halves = two_folds([("words", query) for query in pool.by_query()], 3)
    assert len(any_circuits.circuits) == len(asked["search"]) == 2  # a share that is given twice counts once
    assert all(str(condition).startswith(("mask(", "none")) for _, some in asked["values"] for condition in some)
    for fold, (least, order, result) in enumerate(asked["search"]):
        here, there = ([query for _, query in half] for half in (halves[fold], halves[1 - fold]))
        whole = np.mean([value(model, pool, query, Condition()) for query in here])
        random = np.mean([random_value(pool, query) for query in here])
        assert least == pytest.approx(random + 0.5 * (whole - random), abs=1e-12)
        row = any_circuits.circuits.query("fold == @fold").iloc[0]
        kept = keep_only(result.units, order, "mask")
        assert row["chosen"] == pytest.approx(np.mean([value(model, pool, query, kept) for query in here]), abs=1e-12)
        assert row["random"] == pytest.approx(np.mean([random_value(pool, query) for query in there]), abs=1e-12)
        others = [pair for pair in pool.pairs if pair.query_id in there]
        assert row["multiply_adds"] == pytest.approx(shares_of(model, others, result.units), rel=1e-9)
        per_query = any_circuits.per_query.query("fold == @fold").set_index("query_id")
        assert set(per_query.index) == set(there)
        measured = next(some for queries, some in asked["values"] if set(queries) == set(there) and len(some) == 8)
        sizes = {len(order) - sum(len(edit.layers) * len(edit.heads) for edit in drawn.edits) for drawn in measured[3:]}
        assert sizes == {len(result.units)}
        assert len(set(measured[3:])) == 5
        drawn = [[value(model, pool, query, condition) for condition in measured[3:]] for query in per_query.index]
        assert per_query["drawn"].to_numpy() == pytest.approx(np.mean(drawn, axis=1), abs=1e-12)
        units = any_circuits.units.query("fold == @fold")
        assert [order[rank - 1] for rank in units["rank"]] == sorted(result.units, key=order.index)
        pools = [pool.select(here)]
        worth = importance_of(model, pools, order, Store(store_folder), None, IN_PROCESS)
        assert (np.diff(worth) <= 0).all()
        assert units["importance"].to_numpy() == pytest.approx(worth[units["rank"].to_numpy() - 1])
        second = any_circuits.curve.query("fold == @fold and k == 2").iloc[0]
        two = order[:2]
        for name, condition in (("kept", keep_only(two, order, "mask")), ("removed", without(two, "mask"))):
            expected = np.mean([value(model, pool, query, condition) for query in there])
            assert second[name] == pytest.approx(expected, abs=1e-12)
        assert second["multiply_adds"] == pytest.approx(shares_of(model, others, two), rel=1e-9)


def test_measured_values_are_those_of_the_conditions_on_the_other_half(any_circuits, model, pool):
    units = units_of(model)
    for fold in (0, 1):
        rows = any_circuits.units[any_circuits.units["fold"] == fold]
        kept = [
            Unit(row.layer, row.head, *(Part[name] for name in row.direction.split("->"))) for row in rows.itertuples()
        ]
        per_query = any_circuits.per_query[any_circuits.per_query["fold"] == fold].set_index("query_id")
        for name, condition in (("kept", keep_only(kept, units, "mask")), ("removed", without(kept, "mask"))):
            for query in pool.by_query():
                if query in per_query.index:
                    expected = value(model, pool, query, condition)
                    assert per_query.loc[query, name] == pytest.approx(expected, abs=1e-12)
        row = any_circuits.circuits[any_circuits.circuits["fold"] == fold].iloc[0]
        means = per_query[["unablated", "random", "kept", "removed"]].mean()
        over = means["unablated"] - means["random"]
        if over > 0:
            assert row["faithfulness"] == pytest.approx((means["kept"] - means["random"]) / over)
            assert row["completeness"] == pytest.approx(1 - (means["removed"] - means["random"]) / over)


def test_importance_is_the_mean_spread_of_effects_over_a_querys_passages(model, pool, tmp_path, monkeypatch):
    units = units_of(model)
    other = pool_of_words("other", {"q0": "bread egg", "q4": "rise"}, {"q0": [3, 1, 0], "q4": [1, 0]}, WORDS[:3])
    monkeypatch.setattr("tl_crossenc.experiments.circuit_units.SHARD", 7)  # queries reach from one to the next
    found = importance_of(model, [pool, other], units, Store(tmp_path), None, IN_PROCESS)
    spreads = []
    for some, own in [(one, own) for one in (pool, other) for own in one.by_query().values()]:
        alone = [model.encode_pairs([some.pairs[i].query], [some.pairs[i].text]) for i in own]
        effects = [direction_effects(model, pairs)[0] for pairs in alone]
        spreads.append([np.std([one[unit] for one in effects]) for unit in units])
    np.testing.assert_allclose(found, np.mean(spreads, axis=0), rtol=1e-8, atol=1e-9 * np.max(spreads))


def test_shares_are_ratios_of_means_with_intervals_over_queries():
    rng = random.Random(3)
    rows = [(0.6 + 0.4 * rng.random(), 0.4 + 0.1 * rng.random()) for _ in range(17)]
    frame = pd.DataFrame(rows, columns=["unablated", "random"])
    even = frame.assign(kept=frame["random"] + 0.8 * (frame["unablated"] - frame["random"]))
    np.testing.assert_allclose(circuits._share(even, "kept", False, 0), [0.8] * 3, atol=1e-12)
    np.testing.assert_allclose(circuits._share(even, "kept", True, 0), [0.2] * 3, atol=1e-12)

    kept = [0.5 + 0.5 * rng.random() for _ in rows]
    triples = [(*row, value) for row, value in zip(rows, kept, strict=True)]

    def ratio(drawn):
        whole, chance, value = (sum(column) for column in zip(*drawn, strict=True))
        return (value - chance) / (whole - chance)

    draws = sorted(ratio(rng.choices(triples, k=len(triples))) for _ in range(4000))
    value, low, high = circuits._share(frame.assign(kept=kept), "kept", False, 5)
    assert value == pytest.approx(ratio(triples), abs=1e-12)
    assert low == pytest.approx(draws[100], abs=0.06)
    assert high == pytest.approx(draws[-100], abs=0.06)
    bounds = [circuits._share(frame.assign(kept=kept), "kept", False, seed)[1:] for seed in range(9)]
    low, high = np.mean(bounds, axis=0)
    assert abs(low - draws[100]) < abs(low - draws[200])  # the 2.5 % bound, not the 5 % one
    assert abs(high - draws[-100]) < abs(high - draws[-200])
    worse = frame.assign(kept=kept, unablated=frame["random"] - 0.1)
    assert np.isnan(circuits._share(worse, "kept", False, 5)).all()


def test_the_curve_ends_at_the_whole_model(any_circuits, model):
    for fold, curve in any_circuits.curve.groupby("fold"):
        assert list(curve["k"])[:3] == [1, 2, 4]
        last = curve.iloc[-1]
        assert last["k"] == len(units_of(model))
        assert last["kept"] == pytest.approx(
            any_circuits.circuits.loc[any_circuits.circuits["fold"] == fold, "unablated"].iloc[0]
        )
        assert last["multiply_adds"] == pytest.approx(1)


@pytest.mark.usefixtures("unchecked")
def test_a_second_run_computes_nothing(any_circuits, model, pool, store_folder, monkeypatch):
    told = []
    forbid_model_work(monkeypatch)
    monkeypatch.setattr(circuits, "_require_better", lambda whole, random: None)
    again = run_circuits(model, [pool], Store(store_folder), progress=lambda *now: told.append(now), **GIVEN)
    assert (
        told[-1][0] == told[-1][1] == max(done for done, _ in told) > 0
    )  # a bar that is full, wherever the search ended
    assert again.scalars["most_runs"] == 9
    assert again.circuits.equals(any_circuits.circuits)
    assert again.units.equals(any_circuits.units)


class Bench:
    """A laboratory in which some units are worth something."""

    mode = "zero"

    def __init__(self, needed):
        self.needed, self.seen = needed, []

    def ndcg(self, pools, conditions):
        (condition,) = conditions
        grid = condition.compile(1, 19)[0]
        gone = np.zeros(19, bool) if grid is None else grid.zero[:, Part.CLS, Part.DOC]
        self.seen.append(gone)
        return pd.DataFrame({str(condition): [1.0 if not gone[self.needed].any() else 0.0]})


@pytest.mark.parametrize("needed", [[0], [18], [3, 11], [0, 5, 6, 18]])
def test_the_search_ends_with_what_is_needed_and_nothing_else(needed):
    order = [Unit(0, head, Part.CLS, Part.DOC) for head in range(19)]
    with unchecked():
        found = search(Bench(needed), [], order, 0.9, 500)
    assert isinstance(found, Found)
    assert [unit.head for unit in found.units] == needed
    assert found.minimal
    assert found.ndcg == 1.0


@pytest.mark.parametrize("least", [1.0, 0.5])
def test_what_just_suffices_suffices(least):
    order = [Unit(0, head, Part.CLS, Part.DOC) for head in range(19)]
    with unchecked():
        found = search(Bench([3, 11]), [], order, least, 500)
    assert [unit.head for unit in found.units] == [3, 11]


@pytest.mark.parametrize("needed", [[3, 11], [0, 5, 6, 18]])
def test_minimal_is_said_where_each_unit_was_left_out_by_itself_and_nowhere_else(needed):
    order = [Unit(0, head, Part.CLS, Part.DOC) for head in range(19)]
    minimal = []
    for most_runs in range(1, 50):
        bench = Bench(needed)
        with unchecked():
            found = search(bench, [], order, 0.9, most_runs)
        assert found.runs <= most_runs
        without_one = [{*range(19)} - {u.head for u in found.units} | {unit.head} for unit in found.units]
        tried = [set(np.flatnonzero(gone).tolist()) for gone in bench.seen]
        minimal.append(found.minimal)
        if found.minimal:
            assert all(gone in tried for gone in without_one)
            assert [unit.head for unit in found.units] == needed
    assert minimal == sorted(minimal)
    assert minimal[0] is False
    assert minimal[-1] is True


def test_a_search_that_runs_out_says_so():
    order = [Unit(0, head, Part.CLS, Part.DOC) for head in range(19)]
    bench = Bench([0, 5, 6, 18])
    with unchecked():
        found = search(bench, [], order, 0.9, 4)
    assert not found.minimal
    assert found.runs == 4
    assert {0, 5, 6, 18} <= {unit.head for unit in found.units}


class Trap(Bench):
    """Heads 0 to 3 together are worth .9 and any set with head 5 is worth 1: greedy search for .9 alone ends in the former."""

    def ndcg(self, pools, conditions):
        found = super().ndcg(pools, conditions)
        kept = ~self.seen[-1]
        found.iloc[:] = 1.0 if kept[5] else 0.9 if kept[:4].all() else 0.0
        return found


def test_a_smaller_set_that_keeps_more_is_where_the_search_for_less_begins():
    order = [Unit(0, head, Part.CLS, Part.DOC) for head in range(19)]
    with unchecked():
        more, alone = (search(Trap([]), [], order, least, 500) for least in (0.99, 0.9))
        less = search(Trap([]), [], order, 0.9, 500, more.units)
        larger = search(Trap([]), [], order, 0.9, 500, order[4:])
    assert [[unit.head for unit in found.units] for found in (more, alone, less)] == [[5], [0, 1, 2, 3], [5]]
    assert [unit.head for unit in larger.units] == [0, 1, 2, 3]
    assert less.ndcg == 1.0
    assert less.minimal


def test_a_share_s_search_begins_from_the_set_of_the_next_larger_and_rows_are_in_the_order_asked(
    model, pool, tmp_path, monkeypatch
):
    asked = []

    def searched(lab, pools, order, least, most_runs, known=()):
        asked.append((least, [*known]))
        return Found(tuple(order[: len(asked)]), least, True, 0)

    monkeypatch.setattr(circuits, "search", searched)
    shares = (0.5, 0.9, 0.3)
    found = run_circuits(model, [pool], Store(tmp_path), shares=shares)
    assert found.circuits["share"].tolist() == [*shares] * 2
    assert found.circuits["n_units"].tolist() == [2, 1, 3, 5, 4, 6]
    for half in (asked[:3], asked[3:]):
        assert [least for least, _ in half] == sorted((least for least, _ in half), reverse=True)
    assert [len(known) for _, known in asked] == [0, 1, 2, 0, 4, 5]


def test_too_few_queries_and_rankings_no_better_than_random_are_said(model, planted, pool, tmp_path):
    few = pool.select(["q0", "q1", "q2"])
    with pytest.raises(Unavailable, match="fewer than 4 queries"):
        run_circuits(model, [few], Store(tmp_path))
    same = pool_of_words("same", {f"q{i}": "flea" for i in range(4)}, {f"q{i}": [1, 0, 0] for i in range(4)}, ["egg"])
    with pytest.raises(Unavailable, match=r"is not above that of a random ranking, 0\.\d+"):
        run_circuits(planted, [same], Store(tmp_path))


def test_bad_shares_and_ablations_are_refused(model, pool, tmp_path):
    with pytest.raises(ValueError, match=r"expected shares above 0 and at most 1, got \[0\.0\]"):
        run_circuits(model, [pool], Store(tmp_path), shares=(0.0,))
    for asked, pools in (({"most_runs": 0}, [pool]), ({"seed": -1}, [pool]), ({}, [])):
        with pytest.raises(
            ValueError, match="expected at least one pool, at least one ablation a search and a seed of at"
        ):
            run_circuits(model, pools, Store(tmp_path), **asked)
    with model.ablating("DOC->QUERY"), pytest.raises(ValueError, match="expected a model with nothing ablated"):
        run_circuits(model, [pool], Store(tmp_path))
