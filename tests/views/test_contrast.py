"""Why one passage outranks another: sums, texts cut by hand, every subset of words, and patterns in loops."""

from itertools import combinations

import family_oracle as oracle
import numpy as np
import pandas as pd
import pytest
from family_models import opened
from planted_families import opened as planted_of

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, MOVING_HEAD
from tl_crossenc.instruments.direct_attribution import direct_attribution
from tl_crossenc.statistics.ties import TIE_TOLERANCE, tie_groups
from tl_crossenc.views.contrast import contrast
from tl_crossenc.views.contrasted_words import Ties

QUERY, A, B = "tune a zyx guitar", "the guitar by the window and a piano", "old piano garden tune"


@pytest.fixture(scope="module")
def found(random_model):
    return contrast(random_model, QUERY, A, B)


def score(model, query, passage):
    return float(model.score(query, passage)[0])


def cut(text, numbers):
    return " ".join(word for i, word in enumerate(text.split()) if i not in numbers)


# The sum.

FAMILIES = (
    "bert",
    "roberta",
    "electra-projected",
    "distilbert",
    "lightning-mono",
    "modernbert-mean",
    "gte",
    "deberta-v2",
)
TEXTS = ("how do fleas lay eggs", "The flea lays her eggs on the host.", "Yeast eats sugar and gives off gas")


@pytest.mark.parametrize("name", FAMILIES)
def test_components_sum_to_hugging_faces_difference(name, tmp_path):
    world, model = opened(name, tmp_path)
    query, a, b = TEXTS
    expected = oracle.run(world, oracle.encode(world, [(query, a), (query, b)])).score.numpy()
    found = contrast(model, query, a, b, most_runs=1)
    frame = found.to_frame()
    for column, value in (("a", expected[0]), ("b", expected[1]), ("difference", expected[0] - expected[1])):
        assert abs(frame[column].sum() - value) < 1e-10
    assert (frame["difference"] == frame["a"] - frame["b"]).all()
    assert (frame["difference"].abs().diff().dropna() <= 0).all()
    assert abs(frame.loc[frame["component"] == "remainder", "difference"].iloc[0]) < 1e-10
    assert frame["difference"].abs().max() > 1e-3
    for column, passage in (("a", a), ("b", b)):
        split = direct_attribution(model, model.encode_pairs(query, passage))
        rows = {tuple(row[:3]): row[3] for row in frame[["component", "layer", "head", column]].to_numpy()}
        for layer in range(model.cfg.n_layers):
            assert rows["mlp", layer, pd.NA] == pytest.approx(split.mlp[0, layer], abs=1e-11)
            for head in range(model.cfg.n_heads):
                assert rows["head", layer, head] == pytest.approx(split.head[0, layer, head], abs=1e-11)
    assert sum(row[3] for row in found.top_contributions[:-1]) == pytest.approx(found.difference, abs=1e-10)
    assert found.top_contributions[-1][1:] == (found.score_a, found.score_b, found.difference)


def test_in_float32_the_remainder_is_named_and_is_rounding(planted):
    found = contrast(planted, "tune a guitar", "a guitar garden", "a piano garden")
    frame = found.to_frame()
    assert frame["difference"].sum() == pytest.approx(found.difference, abs=1e-12)
    assert abs(frame.loc[frame["component"] == "remainder", "difference"].iloc[0]) < 1e-4
    assert found.difference == pytest.approx(
        score(planted, "tune a guitar", "a guitar garden") - score(planted, "tune a guitar", "a piano garden"), abs=1e-5
    )


def test_a_hooks_edit_is_in_the_sum(random_model):
    hooks = [("blocks.1.hook_resid_mid", lambda value, hook: value * 1.25 + 0.1)]
    with random_model.hooks(fwd_hooks=hooks):
        found = contrast(random_model, QUERY, A, B, most_runs=1)
        expected = score(random_model, QUERY, A) - score(random_model, QUERY, B)
    frame = found.to_frame()
    assert frame["difference"].sum() == pytest.approx(expected, abs=1e-10)
    assert frame.loc[frame["component"] == "edit", "difference"].abs().max() > 1e-3


# Words.


def test_what_words_add_is_what_texts_cut_by_hand_lose(random_model, found):
    scores = [score(random_model, QUERY, text) for text in (A, B)]
    words = found.to_frame("words")
    expected = []
    for i, word in enumerate(QUERY.split()):
        lost = [own - score(random_model, cut(QUERY, {i}), text) for own, text in zip(scores, (A, B), strict=True)]
        expected.append(("query", word, *lost))
    expected += [
        ("A", word, scores[0] - score(random_model, QUERY, cut(A, {i})), 0.0) for i, word in enumerate(A.split())
    ]
    expected += [
        ("B", word, 0.0, scores[1] - score(random_model, QUERY, cut(B, {i}))) for i, word in enumerate(B.split())
    ]
    assert list(zip(words["text"], words["word"], strict=True)) == [row[:2] for row in expected]
    np.testing.assert_allclose(words[["to_a", "to_b"]], [row[2:] for row in expected], rtol=0, atol=1e-10)
    np.testing.assert_allclose(words["difference"], words["to_a"] - words["to_b"], rtol=0, atol=0)
    assert words["difference"].abs().min() > 1e-6
    for row in words.itertuples():
        assert found.text_of(row.text)[row.start : row.stop] == row.word


def test_words_that_several_texts_have_are_cut_from_all_of_them(random_model):
    query, a, b = "A guitar and a piano", "a guitar by the piano by a window", "the Piano the window"
    found = contrast(random_model, query, a, b, most_runs=1)
    shared = found.to_frame("shared").set_index("word")
    expected = {"a": "query, A", "guitar": "query, A", "piano": "query, A, B", "the": "A, B", "window": "A, B"}
    assert shared["texts"].to_dict() == expected
    for word in expected:
        lost = []
        for text in (a, b):
            without = [" ".join(w for w in own.split() if w.lower() != word) for own in (query, text)]
            lost.append(score(random_model, query, text) - score(random_model, *without))
        row = shared.loc[word]
        np.testing.assert_allclose(row[["to_a", "to_b"]].astype(float), lost, rtol=0, atol=1e-10)
        assert row["difference"] == pytest.approx(lost[0] - lost[1], abs=1e-10)


def test_masked_words_are_texts_with_masks(random_model):
    found = contrast(random_model, "tune guitar", A, B, removal="mask", most_runs=1)
    words = found.to_frame("words").query("text == 'A'")
    for i, row in enumerate(words.itertuples()):
        masked = " ".join("[MASK]" if j == i else word for j, word in enumerate(A.split()))
        lost = score(random_model, "tune guitar", A) - score(random_model, "tune guitar", masked)
        assert row.to_a == pytest.approx(lost, abs=1e-10)
    assert "masked" in str(found)


def test_only_what_is_read_counts(planted):
    text = "guitar garden " * 300
    found = contrast(planted, "tune a guitar", text, "a piano", most_runs=1, max_length=20)
    words = found.to_frame("words")
    assert found.truncated == (True, False)
    n_read = 20 - 3 - 3
    assert (words["text"] == "A").sum() == n_read
    assert found.read[0] == (0, len("guitar garden " * (n_read // 2)) - 1)
    assert found.score_a == pytest.approx(float(planted.score("tune a guitar", text, max_length=20)[0]), abs=1e-6)
    assert "longer than what the model reads" in " ".join(str(found).split())  # however wide the terminal
    assert "longer than what the model reads" in found._repr_html_()


# Attention.


def patterns_of(model, query, passage):
    """`[layer, head, pos, pos]` by hand from queries and keys."""
    _, cache = model.run_with_cache(model.to_pairs(query, passage))
    layers = []
    for layer in range(model.cfg.n_layers):
        q, k = (cache[f"blocks.{layer}.attn.hook_{x}"][0].numpy() for x in "qk")
        weights = np.exp(np.einsum("ihd,jhd->hij", q, k) / np.sqrt(q.shape[-1]))
        layers.append(weights / weights.sum(-1, keepdims=True))
    return np.array(layers)


def test_heads_and_links_are_what_the_patterns_say(random_model):
    query, a, b = "tune a guitar", "the guitar by the window", "a garden by the piano by a guitar"
    found = contrast(random_model, query, a, b, links=2, most_runs=1)
    heads = found.to_frame("heads").set_index(["direction", "layer", "head"])
    links = found.to_frame("links").groupby(["direction", "layer", "head"])
    patterns = [patterns_of(random_model, query, text) for text in (a, b)]
    assert len(heads) == 2 * 9
    for (direction, layer, head), row in heads.iterrows():
        weights, times = ({}, {}), {}
        for side, text in enumerate((a, b)):
            tokens = ["[CLS]", *query.split(), "[SEP]", *text.split(), "[SEP]"]
            places = {"QUERY": range(1, 4), "DOC": range(5, len(tokens) - 1)}
            rows, columns = (places[name] for name in direction.split("->"))
            mass = beyond = 0.0
            for r in rows:
                for c in columns:
                    weight = patterns[side][layer, head, r, c]
                    mass += weight / len(rows)
                    beyond += max(weight - 1 / len(tokens), 0) / len(rows)
                    key = tokens[r], tokens[c]
                    weights[side][key] = max(weight, weights[side].get(key, 0.0))
            assert row["mass_" + "ab"[side]] == pytest.approx(mass, abs=1e-9)
            assert row["beyond_" + "ab"[side]] == pytest.approx(beyond, abs=1e-9)
            assert row["even_" + "ab"[side]] == pytest.approx(len(columns) / len(tokens))
            times = times | {(side, key): weight * len(tokens) for key, weight in weights[side].items()}
        assert row["difference"] == pytest.approx(row["beyond_a"] - row["beyond_b"], abs=1e-12)
        assert row["reaches_score"] == (layer < 2)
        differences = {
            key: weights[0].get(key, 0.0) - weights[1].get(key, 0.0) for key in weights[0].keys() | weights[1].keys()
        }
        more_a = sorted((d for d in differences.values() if d > 0), reverse=True)[:2]
        more_b = sorted(d for d in differences.values() if d < 0)[:2]
        own = links.get_group((direction, layer, head))
        np.testing.assert_allclose(own["difference"], [*more_a, *more_b], rtol=0, atol=1e-9)
        for link in own.itertuples():
            key = link.attender, link.attended
            two = weights[0].get(key, 0.0), weights[1].get(key, 0.0)
            assert (link.weight_a, link.weight_b) == pytest.approx(two, abs=1e-9)
            assert link.difference == pytest.approx(two[0] - two[1], abs=1e-9)
            larger = times[int(two[1] > two[0]), key]
            assert link.times_even == pytest.approx(larger, abs=1e-9)
    for direction, frame in found.to_frame("heads").groupby("direction"):
        assert (frame["difference"].abs().diff().dropna() <= 0).all()
        shown = [f"{row.layer}.{row.head}" for row in frame[frame["reaches_score"]].head(5).itertuples()]
        assert [head.name for head in found.top_heads(direction)] == shown
        for head in found.top_heads(direction):
            layer, number = map(int, head.name.split("."))
            own = links.get_group((direction, layer, number)).query("times_even >= 2")
            assert [pair[:2] for pair in head.pairs] == list(zip(own["attender"], own["attended"], strict=True))


# Removal.

PAIRS = (
    (A, B),
    (B, A),
    ("guitar", "piano"),
    ("old guitar", "the window garden a tune by"),
    ("piano by ear and a window", "the old garden"),
    ("a window a garden", "fresh bread and cheese"),
)


def by_force(model, query, own, other, higher):
    """(size, removed words, score) of the best of the smallest subsets of words that turn the order, or None; texts cut by hand."""
    bar, n = score(model, query, other), len(own.split())
    for size in range(1, n + 1):
        sets = list(combinations(range(n), size))
        scores = model.score(query, [cut(own, words) for words in sets]).tolist()
        gain, best, value = max(
            ((bar - s) if higher else (s - bar), words, s) for words, s in zip(sets, scores, strict=True)
        )
        if gain > 1e-10:
            return size, best, value
    return None


@pytest.mark.parametrize("texts", PAIRS, ids=lambda pair: pair[0][:12])
def test_the_smallest_removals_are_what_all_subsets_give(random_model, texts):
    found = contrast(random_model, QUERY, *texts, most_runs=1000)
    frame = found.to_frame("removal").set_index("text")
    assert list(frame.index) == ["A", "B"]
    for side, own, other in (("A", *texts), ("B", *texts[::-1])):
        expected = by_force(random_model, QUERY, own, other, side == found.higher)
        row = frame.loc[side]
        assert row["minimal"]
        assert row["n_words"] == len(own.split())
        assert row["other"] == pytest.approx(score(random_model, QUERY, other), abs=1e-10)
        if expected is None:
            assert pd.isna(row["size"])
            assert found.removals[side].words is None
            assert row["runs"] == 2 ** len(own.split()) - 1
            assert f"Whatever words are removed from {side}, the order stays." in str(found)
            continue
        size, words, value = expected
        assert (row["size"], found.removals[side].words) == (size, words)
        assert row["words"] == ", ".join(own.split()[i] for i in words)
        assert row["score"] == pytest.approx(value, abs=1e-10)


def test_both_kinds_of_answers_are_among_the_cases(random_model):
    answers = [
        by_force(random_model, QUERY, own, other, score(random_model, QUERY, own) > score(random_model, QUERY, other))
        for pair in PAIRS
        for own, other in (pair, pair[::-1])
    ]
    assert {1, 2} <= {answer[0] for answer in answers if answer}
    assert None in answers


def test_a_removal_found_step_by_step_turns_the_order_and_says_so(planted):
    query = "how to tune a guitar by ear in the garden"
    a, b = "how to tune a guitar by ear in the garden", "how to tune a fresh bread by old cheese"
    found = contrast(planted, query, a, b, most_runs=10)
    row = found.to_frame("removal").iloc[0]
    assert (row["minimal"], row["whole"]) == (False, 1)
    removed = set(found.removals["A"].words)
    assert row["size"] == len(removed) > 2
    assert score(planted, query, cut(a, removed)) == pytest.approx(row["score"], abs=1e-5)
    assert row["score"] < row["other"] == pytest.approx(score(planted, query, b), abs=1e-5)
    assert "found step by step: no single word does it" in str(found).replace("\n", " ")


# The known answer.


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "modernbert"])
def test_on_the_planted_model_the_matching_word_is_the_smallest_removal(name, tmp_path):
    model = planted_of(name, tmp_path, "float32")[0]
    found = contrast(model, "tune guitar", "old guitar garden", "a window by the piano tune")
    assert found.higher == "A"
    assert found.removals["A"].words == (1,)
    assert found.to_frame("removal").loc[0, "minimal"]
    assert found.top_contributions[0][0] == "head {}.{}".format(*MOVING_HEAD)
    effects = found.to_frame("words").query("text == 'A'").set_index("word")["difference"]
    assert effects.idxmax() == "guitar"
    assert effects["guitar"] == pytest.approx(found.score_a, abs=1e-2)
    for direction in found.directions:
        head, *_ = found.top_heads(direction)
        assert head.name == "{}.{}".format(*MATCHING_HEAD)
        joined = {(attender.strip("▁Ġ"), attended.strip("▁Ġ")): (a, b) for attender, attended, a, b in head.pairs}
        assert set(joined) == {("guitar", "guitar"), ("tune", "tune")}
        assert joined["guitar", "guitar"] == pytest.approx((0.99, 0), abs=0.01)
        assert joined["tune", "tune"] == pytest.approx((0, 0.99), abs=0.01)


def test_under_an_ablation_it_is_the_ablated_run_that_is_explained(random_model):
    with random_model.ablating("DOC->QUERY"):
        found = contrast(random_model, QUERY, A, B)
        scores = [score(random_model, QUERY, text) for text in (A, B)]
        expected = by_force(random_model, QUERY, A, B, found.higher == "A")
        without = score(random_model, QUERY, cut(A, {1}))
    assert (found.score_a, found.score_b) == pytest.approx(scores, abs=1e-10)
    assert found.score_a != pytest.approx(score(random_model, QUERY, A), abs=1e-6)
    assert found.to_frame()["difference"].sum() == pytest.approx(scores[0] - scores[1], abs=1e-10)
    guitar = found.to_frame("words").query("text == 'A'").iloc[1]
    assert guitar["to_a"] == pytest.approx(scores[0] - without, abs=1e-10)
    assert found.removals["A"].words == (expected[1] if expected else None)
    assert (found.to_frame("heads").query("direction == 'DOC->QUERY'")["mass_a"] == 0).all()
    assert "ablating zero(DOC->QUERY)" in " ".join(str(found).split())
    assert "zero(DOC-&gt;QUERY)" in found._repr_html_()


def test_where_nothing_is_left_nothing_outranks(planted):
    with planted.ablating("DOC->QUERY", layers=[1], heads=[2]):
        found = contrast(planted, "tune a guitar", "a guitar garden", "old piano")
    assert found.tied
    assert (found.higher, found.lower) == ("", "")
    assert "Neither outranks the other" in str(found)
    assert found.to_frame()["difference"].sum() == pytest.approx(found.score_a - found.score_b, abs=1e-9)
    assert found.to_frame("removal").empty
    assert "no order to turn" in str(found)
    assert "no order to turn" in found._repr_html_()


@pytest.mark.parametrize("dtype", TIE_TOLERANCE)
def test_ties_are_those_of_rankings(dtype):
    rng, tolerance = np.random.default_rng(0), TIE_TOLERANCE[dtype]
    kinds = set()
    for scale in (0.0, 3.0, 50.0):
        ties = Ties(tolerance, scale)
        for _ in range(60):
            a = rng.normal(scale=10)
            b = a + rng.choice([0.3, 0.9, 1.1, 3.0]) * tolerance * max(scale, abs(a)) * rng.choice([-1, 1])
            tied = abs(a - b) <= ties.gap(np.array([a]), b)[0]
            assert tied == (len(tie_groups([a, b], tolerance, scale)) == 1)
            kinds.add(bool(tied))
    assert kinds == {True, False}


def test_the_other_order(random_model, found):
    turned = contrast(random_model, QUERY, B, A)
    assert turned.difference == pytest.approx(-found.difference, abs=1e-12)
    assert {turned.higher, found.higher} == {turned.lower, found.lower} == {"A", "B"}
    assert f"{turned.higher} outranks {turned.lower} by {abs(found.difference):.4f}." in str(turned)
    assert turned.removals["A"].words == found.removals["B"].words
    assert turned.removals["B"].words == found.removals["A"].words
