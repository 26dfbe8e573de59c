"""The counts of Figure 1b by quantity and negatives, and the untrained twin of the planted model as a control."""

import random

import pytest
from planted_texts import graded_pool, whole_words

from tl_crossenc.checkpoints.planted import MATCHING_HEAD
from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.matching import matching_heads
from tl_crossenc.experiments.matching_counts import matching_counts
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.untrained import untrained_twin
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

QUANTITIES = ("mass", "density", "excess")


def long_and_short():
    """Seven queries whose relevant passages have 30 words, hard negatives 30, easy negatives 8; words at random in all."""
    rng = random.Random(8)
    pairs = []
    for q in range(7):
        words = rng.sample(whole_words(), 80)
        for grade, length in ((3, 30), (0, 30), (-1, 8)):
            for i in range(3):
                text = " ".join(rng.choices(words[5:], k=length))
                pairs.append(PoolPair(f"q{q}", " ".join(words[:5]), f"{grade}-{i}", text, grade))
    return Pool("long-and-short", PoolSpec(None, 0, 0), tuple(pairs))


@pytest.fixture(scope="module")
def models():
    planted = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    return {"model": planted, "untrained": untrained_twin(planted)}


@pytest.fixture(scope="module")
def measured(models, tmp_path_factory):
    pool, store = graded_pool(n_queries=7, per_grade=3, seed=3), Store(tmp_path_factory.mktemp("store"))
    return {name: run_attention(model, [pool], store) for name, model in models.items()}


def test_counts_equal_those_of_every_frame(measured):
    found = matching_counts(measured).set_index(["model", "against", "quantity"])
    assert len(found) == 2 * 2 * 4
    for model, attention in measured.items():
        for against, grade in (("easy", -1), ("hard", 0)):
            marks = {}
            for quantity in QUANTITIES:
                frame = matching_heads(attention, against=grade, quantity=quantity)
                more, less = set(), set()
                for row in frame.to_dict("records"):
                    place = row["direction"], row["layer"], row["head"]
                    if row["p_holm"] <= 0.05 and row["difference"] > 0:
                        more.add(place)
                    if row["p_holm"] <= 0.05 and row["difference"] < 0:
                        less.add(place)
                marks[quantity] = more, less
            marks["each"] = tuple(set.intersection(*(marks[q][i] for q in QUANTITIES)) for i in (0, 1))
            for quantity, (more, less) in marks.items():
                row = found.loc[model, against, quantity]
                assert (row["more"], row["less"], row["cells"]) == (len(more), len(less), 32)
                assert (row["heads"], row["n_heads"]) == (len({place[1:] for place in more}), 16)
                assert row["n_queries"] == 7


def test_the_planted_head_passes_under_every_choice_and_its_twin_has_none(measured):
    found = matching_counts(measured)
    model, twin = (found[found["model"] == name] for name in ("model", "untrained"))
    assert model["heads"].eq(1).all()
    assert twin[["heads", "more", "less"]].to_numpy().max() == 0
    for against in (-1, 0):
        for quantity in QUANTITIES:
            frame = matching_heads(measured["model"], against=against, quantity=quantity)
            passing = frame[frame["passes"]]
            assert set(zip(passing["layer"], passing["head"], strict=True)) == {MATCHING_HEAD}


def test_where_lengths_differ_the_mass_of_a_model_that_learnt_nothing_passes_everywhere(models, tmp_path):
    """What the control is for: mass and density follow the lengths, and excess does so far less."""
    attention = run_attention(models["untrained"], [long_and_short()], Store(tmp_path))
    found = matching_counts({"untrained": attention}).set_index(["against", "quantity"])
    assert found.loc[("easy", "mass"), ["heads", "more", "less"]].tolist() == [16, 16, 16]
    assert found.loc[("easy", "density"), "less"] == 32
    assert found.loc["hard", ["heads", "less"]].to_numpy().max() == 0  # as long as the relevant ones
    mass, excess = (matching_heads(attention, quantity=quantity)["difference"].abs() for quantity in ("mass", "excess"))
    assert mass.min() > 0.05
    assert excess.max() < mass.min() / 10


def test_one_kind_of_negatives_has_rows_alone_and_none_is_unavailable(measured, models, tmp_path):
    pool = graded_pool(n_queries=3, per_grade=2, seed=1)
    attention = run_attention(models["model"], [pool.ranked], Store(tmp_path))
    assert set(matching_counts({"model": attention})["against"]) == {"hard"}
    relevant = Pool("relevant", pool.spec, tuple(pair for pair in pool.pairs if pair.grade >= 2))
    attention = run_attention(models["model"], [relevant], Store(tmp_path))
    with pytest.raises(Unavailable, match="needs easy negatives"):
        matching_counts({"model": attention}, relevant_grades=(2, 3))
    with pytest.raises(ValueError, match="attention of at least one model"):
        matching_counts({})


def test_that_a_control_has_other_weights_is_no_message(models, tmp_path, caplog):
    caplog.set_level("INFO")
    store = Store(tmp_path)
    run_attention(models["model"], [long_and_short()], store)
    run_attention(models["untrained"], [long_and_short()], store, control=True)
    assert "computing anew" not in caplog.text
    run_attention(untrained_twin(models["model"], 1), [long_and_short()], store)
    assert "attention: computing anew; what is stored is of other weights" in caplog.text
