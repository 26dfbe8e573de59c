"""The draw: sizes, seeds, near-duplicates, missing texts, easy negatives, their lengths, and how little it reads."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_collections import BackwardStore, FakeDocs

from tl_crossenc.pools.collections import Collection
from tl_crossenc.pools.ir_documents import IrDatasetsDocuments
from tl_crossenc.pools.length_matching import SAMPLE, length_balance, nearest, wanted_lengths
from tl_crossenc.pools.sampling import draw, normalized_text
from tl_crossenc.pools.spec import PoolSpec


def make(docs, qrels, queries=None):
    """A collection over a fake dataset; `qrels` is query_id -> doc_id -> grade."""
    queries = queries or {query_id: f"text of {query_id}" for query_id in qrels}
    return Collection("fake", queries, qrels, IrDatasetsDocuments(FakeDocs(docs), "fake"))


def numbered(n, prefix="d"):
    return {f"{prefix}{i:03}": f"passage {prefix} {i}" for i in range(n)}


def ids(pairs, query_id, grade=None):
    return [p.doc_id for p in pairs if p.query_id == query_id and grade in (None, p.grade)]


BOTH_DRAWS = pytest.mark.parametrize("matched", [True, False], ids=["matched", "plain"])


def test_quotas_and_order():
    docs = numbered(47)
    # d000..d012 grade 3 (13), d013..d017 grade 2 (5), d018..d028 grade 1 (11), d029..d035 grade 0 (7), rest unjudged
    grades = dict(zip(docs, [3] * 13 + [2] * 5 + [1] * 11 + [0] * 7, strict=False))
    pairs, _ = draw(make(docs, {"qb": grades, "qa": {"d000": 1}}), PoolSpec(7, 3, seed=5))
    assert Counter((p.query_id, p.grade) for p in pairs) == {
        ("qb", 3): 7,
        ("qb", 2): 5,
        ("qb", 1): 7,
        ("qb", 0): 7,
        ("qb", -1): 3,
        ("qa", 1): 1,
        ("qa", -1): 3,
    }
    assert [p.query_id for p in pairs] == ["qb"] * 29 + ["qa"] * 4
    for query_id in ("qb", "qa"):
        mine = [(-p.grade, p.doc_id) for p in pairs if p.query_id == query_id]
        assert mine == sorted(mine)
    assert all(p.text == docs[p.doc_id] and p.query == f"text of {p.query_id}" for p in pairs)
    assert all(grades.get(p.doc_id, -1) == p.grade for p in pairs if p.query_id == "qb")


def test_none_takes_every_passage():
    docs = numbered(211)
    pairs, _ = draw(make(docs, {"q": {d: i % 4 for i, d in enumerate(docs)}}), PoolSpec(None, 0))
    assert sorted(ids(pairs, "q")) == sorted(docs)


def test_a_seed_is_repeatable_and_another_differs():
    docs = numbered(101)
    collection = make(docs, {"q": dict.fromkeys(list(docs)[:53], 2)})
    drawn = [draw(collection, PoolSpec(11, 5, seed))[0] for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1]
    assert ids(drawn[0], "q", 2) != ids(drawn[2], "q", 2)
    assert ids(drawn[0], "q", -1) != ids(drawn[2], "q", -1)


def test_every_passage_is_as_likely_as_another():
    docs = numbered(7)
    collection = make(docs, {"q": dict.fromkeys(list(docs)[:5], 1)})
    drawn = Counter()
    for seed in range(500):
        drawn.update(ids(draw(collection, PoolSpec(2, 1, seed, match_length=False))[0], "q"))
    # 5 judged, 2 drawn: 200 of 500 expected, sd 11; 2 unjudged, 1 drawn: 250 of 500 expected, sd 11
    assert [drawn[d] for d in docs] == pytest.approx([200] * 5 + [250] * 2, abs=50)


def test_other_queries_and_the_order_of_the_judgments_change_nothing():
    docs = numbered(97)
    grades = {d: i % 3 for i, d in enumerate(list(docs)[:61])}
    alone, _ = draw(make(docs, {"q": grades}), PoolSpec(5, 4))
    backward = {"p": grades, "q": dict(reversed(grades.items()))}
    beside, _ = draw(make(docs, backward), PoolSpec(5, 4))
    assert [p for p in beside if p.query_id == "q"] == alone
    assert ids(beside, "p") != ids(beside, "q")  # the query enters the draw


def test_grades_are_drawn_apart():
    docs = numbered(58)
    grades = {d: i % 2 for i, d in enumerate(docs)}  # 29 of each grade
    pairs, _ = draw(make(docs, {"q": grades}), PoolSpec(7, 0))
    odd, even = ([int(d[1:]) // 2 for d in ids(pairs, "q", grade)] for grade in (1, 0))
    assert odd != even


def test_judged_pairs_do_not_depend_on_the_rest_of_the_collection():
    docs = numbered(41)
    qrels = {"q": dict.fromkeys(list(docs)[:23], 1)}
    less, _ = draw(make(docs, qrels), PoolSpec(6, 0))
    more, _ = draw(make(numbered(9, "a") | dict(reversed(docs.items())), qrels), PoolSpec(6, 0))
    assert less == more


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Fleas  jump\t far.", "fleas jump far."),
        ("\u00a0Fleas jump far. ", "fleas jump far."),
        ("ＦＬＥＡＳ jump far.", "fleas jump far."),
        ("Straße cafe\u0301", "STRASSE CAFÉ"),
    ],
)
def test_one_text(text, same):
    assert normalized_text(text) == normalized_text(same)


def test_punctuation_makes_another_text():
    assert normalized_text("Fleas jump!") != normalized_text("Fleas jump.")


def test_near_duplicates_give_way_to_others_of_the_grade():
    docs = {f"c{i}": ("Same  text" if i % 2 else "same TEXT") for i in range(29)} | {
        "x1": "one",
        "x2": "two",
        "z": "far",
    }
    qrels = {"q": {d: 2 for d in docs if d != "z"}}
    pairs, met = draw(make(docs, qrels), PoolSpec(3, 0))
    assert {normalized_text(p.text) for p in pairs} == {"same text", "one", "two"}
    # To find three texts it may have had to pass over up to 28 copies; across seeds it does so for most.
    assert met["duplicates_dropped"] <= 28
    everything, met = draw(make(docs, qrels), PoolSpec(None, 0))
    assert len(everything) == 3
    assert met["duplicates_dropped"] == 28


@BOTH_DRAWS
def test_a_text_under_two_grades_keeps_the_higher(matched):
    docs = {"low": "A text", "high": "a  text", "other": "another", "copy": "A TEXT", "free": "free"}
    qrels = {"q": {"low": 0, "high": 3, "other": 0}}
    for seed in range(20):
        pairs, met = draw(make(docs, qrels), PoolSpec(1, 5, seed, match_length=matched))
        # "copy" is not judged, yet its text is in the pool: no easy negative either
        assert [(p.doc_id, p.grade) for p in pairs] == [("high", 3), ("other", 0), ("free", -1)]
        assert met["queries_short_of_easy_negatives"] == ["q"]


def test_the_same_text_may_serve_two_queries():
    pairs, _ = draw(make({"d1": "text", "d2": "Text"}, {"q1": {"d1": 1}, "q2": {"d2": 1}}), PoolSpec(5, 0))
    assert [(p.query_id, p.doc_id) for p in pairs] == [("q1", "d1"), ("q2", "d2")]


def test_missing_and_empty_texts_are_passed_over(caplog):
    docs = {**numbered(5), "blank": " \u3000"}
    qrels = {"q": {**dict.fromkeys(docs, 1), **dict.fromkeys(["gone1", "gone2"], 1)}}
    pairs, met = draw(make(docs, qrels), PoolSpec(5, 0))
    assert ids(pairs, "q") == list(numbered(5))  # all five are found, whatever the order of the draw
    pairs, met = draw(make(docs, qrels), PoolSpec(None, 0))
    assert ids(pairs, "q") == list(numbered(5))
    assert met["missing_texts"] == 3
    assert set(met["missing_examples"]) == {"blank", "gone1", "gone2"}
    assert "3 judged passages have no text" in caplog.text


def test_no_text_at_all():
    with pytest.raises(ValueError, match="none of the 2 judged passages of collection 'fake' has a text"):
        draw(make({"d1": "text"}, {"q": {"g1": 3, "g2": 0}}), PoolSpec())


@BOTH_DRAWS
def test_queries_that_lack_something_are_named(matched):
    docs = numbered(5)
    qrels = {"none": {"d000": 0}, "gone": {"nowhere": 3}, "good": {"d001": 1}}
    queries = {query_id: query_id for query_id in ["idle", *qrels, "idle2"]}
    pairs, met = draw(make(docs, qrels, queries), PoolSpec(5, 1, match_length=matched))
    assert list(dict.fromkeys(p.query_id for p in pairs)) == ["none", "good"]
    assert met["queries_unjudged"] == 2
    assert met["queries_without_passages"] == ["gone"]
    assert met["queries_without_relevant"] == ["none"]
    assert met["queries_short_of_easy_negatives"] == []


@BOTH_DRAWS
def test_easy_negatives_are_unjudged_distinct_and_all_that_there_are(matched, caplog):
    docs = {**numbered(13), "n1": "near", "n2": "NEAR", "n3": "n3", "blank": ""}
    grades = {d: i % 4 for i, d in enumerate(numbered(13))}
    pairs, met = draw(make(docs, {"q": grades}), PoolSpec(2, 10, match_length=matched))
    negatives = ids(pairs, "q", -1)
    assert len(negatives) == 2  # n3, and one of n1 and n2, of ten asked for
    assert set(negatives) - {"n1", "n2"} == {"n3"}
    assert met["queries_short_of_easy_negatives"] == ["q"]
    assert "1 queries have fewer than 10 easy negatives" in caplog.text
    assert met["duplicates_dropped"] == 0  # counts judged passages alone


@BOTH_DRAWS
def test_a_collection_judged_through_and_through_has_no_easy_negatives(matched):
    docs = numbered(401)
    pairs, met = draw(make(docs, {"q": dict.fromkeys(docs, 1)}), PoolSpec(3, 2, match_length=matched))
    assert [p.grade for p in pairs] == [1, 1, 1]
    assert met["queries_short_of_easy_negatives"] == ["q"]


@BOTH_DRAWS
def test_the_few_unjudged_among_many_judged_are_found(matched):
    docs = numbered(401)
    qrels = {"q": dict.fromkeys(list(docs)[:-3], 1)}
    pairs, met = draw(make(docs, qrels), PoolSpec(3, 3, match_length=matched))
    assert ids(pairs, "q", -1) == list(docs)[-3:]
    assert met["queries_short_of_easy_negatives"] == []


def test_thousands_of_near_duplicates_are_not_all_read():
    # as in TREC DL 2022: thousands of judged ids a query, copies of about a hundred texts, graded alike
    docs = {f"m{i:04}": f"text {i % 101}" for i in range(5003)}
    qrels = {f"q{n}": {d: int(d[1:]) % 101 % 4 for d in docs} for n in range(3)}
    collection = make(docs, qrels)
    pairs, met = draw(collection, PoolSpec(10, 0))
    assert Counter((p.query_id, p.grade) for p in pairs) == {(q, g): 10 for q in qrels for g in range(4)}
    assert all(len({p.text for p in pairs if p.query_id == q}) == 40 for q in qrels)
    asked = collection.docs._dataset.store.asked
    assert len(asked) <= 3 * 4 * (10 + 64)  # the first block, and one more
    assert met["duplicates_dropped"] > 0


texts = st.sampled_from(["one", "ONE", "two", "three", "Three ", "four", "", "five"])


@given(
    judged=st.lists(st.tuples(texts, st.integers(0, 3)), min_size=1, max_size=17),
    unjudged=st.lists(texts, max_size=7),
    per_grade=st.one_of(st.none(), st.integers(1, 4)),
    easy=st.integers(0, 3),
    seed=st.integers(0, 2**31),
)
def test_laws_of_the_draw(judged, unjudged, per_grade, easy, seed):
    docs = {f"j{i}": text for i, (text, _) in enumerate(judged)} | {f"u{i}": t for i, t in enumerate(unjudged)}
    grades = {f"j{i}": grade for i, (_, grade) in enumerate(judged)}
    collection = make(docs, {"q": grades})
    if not any(text for text, _ in judged):
        with pytest.raises(ValueError, match="has a text"):
            draw(collection, PoolSpec(per_grade, easy, seed))
        return
    pairs, _ = draw(collection, PoolSpec(per_grade, easy, seed))
    taken: set[str] = set()
    for grade in (3, 2, 1, 0, -1):
        pool = grades if grade >= 0 else {d: -1 for d in docs if d not in grades}
        there = {docs[d].strip().lower() for d, g in pool.items() if g == grade} - taken - {""}
        drawn = [p.text.strip().lower() for p in pairs if p.grade == grade]
        limit = easy if grade < 0 else per_grade
        assert len(drawn) == (len(there) if limit is None else min(limit, len(there)))
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= there
        taken |= set(drawn)
    assert all(pool_pair.text == docs[pool_pair.doc_id] for pool_pair in pairs)


@pytest.mark.parametrize(
    "bad", [{"per_grade": 0}, {"per_grade": -1}, {"easy_negatives": -1}, {"seed": -3}, {"per_grade": True}]
)
def test_impossible_specs(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"{name} is a whole number from"):
        PoolSpec(**bad)


# Easy negatives as long as the relevant passages.


def of_length(n, name):
    """A text of n characters that is nobody else's."""
    return f"{name} ".ljust(n, "x")


def two_lengths(n_queries=5, n_more=397):
    """Relevant passages of about 300 characters, others of about 40, and a collection that has seven short ones for a long one."""
    rng = random.Random(4)
    docs, qrels = {}, {}
    for q in range(n_queries):
        qrels[f"q{q}"] = {}
        for grade, length in ((3, 300), (2, 280), (1, 40), (0, 40)):
            for i in range(3):
                docs[f"j{q}-{grade}-{i}"] = of_length(length + rng.randrange(-25, 25), f"j{q}-{grade}-{i}")
                qrels[f"q{q}"][f"j{q}-{grade}-{i}"] = grade
    for i in range(n_more):
        length = rng.randrange(230, 370) if i % 8 == 0 else rng.randrange(20, 60)
        docs[f"x{i:03}"] = of_length(length, f"x{i:03}")
    return make(docs, qrels)


def mean_length(pairs, query_id, *grades):
    return np.mean([len(p.text) for p in pairs if p.query_id == query_id and p.grade in grades])


def test_matched_negatives_are_as_long_as_the_relevant_passages_of_each_query():
    collection = two_lengths()
    matched, met = draw(collection, PoolSpec(3, 6, seed=2))
    plain, met_plain = draw(collection, PoolSpec(3, 6, seed=2, match_length=False))
    for query_id in collection.qrels:
        wanted = mean_length(matched, query_id, 2, 3)
        assert mean_length(matched, query_id, -1) == pytest.approx(wanted, rel=0.03)
        assert mean_length(plain, query_id, -1) < 0.8 * wanted
    assert [p for p in matched if p.grade >= 0] == [p for p in plain if p.grade >= 0]
    assert all(p.doc_id not in collection.qrels[p.query_id] for p in matched if p.grade < 0)
    balance, unbalanced = met["easy_negatives_lengths"], met_plain["easy_negatives_lengths"]
    queries = list(collection.qrels)
    for told, pairs, near in ((balance, matched, 5), (unbalanced, plain, 0)):
        relevant, easy = ([mean_length(pairs, q, *grades) for q in queries] for grades in ((2, 3), (-1,)))
        sds = [np.std([len(p.text) for p in pairs if p.grade in grades]) for grades in ((2, 3), (-1,))]
        assert (told["unit"], told["queries"], told["queries_near"]) == ("characters", 5, near)
        assert told["relevant"] == pytest.approx(np.mean(relevant), abs=0.01)
        assert told["easy_negatives"] == pytest.approx(np.mean(easy), abs=0.01)
        expected = (np.mean(easy) - np.mean(relevant)) / np.sqrt((sds[0] ** 2 + sds[1] ** 2) / 2)
        assert told["standardized_difference"] == pytest.approx(expected, abs=1e-3)
    assert abs(balance["standardized_difference"]) < 0.1 < 1 < abs(unbalanced["standardized_difference"])


@given(wanted=st.lists(st.integers(1, 30), min_size=1, max_size=9), lengths=st.lists(st.integers(1, 30), max_size=12))
def test_each_length_takes_the_nearest_that_is_left(wanted, lengths):
    left, expected = dict(enumerate(lengths)), []
    for length in wanted:
        best = None
        for i in sorted(left):
            if best is None or abs(left[i] - length) < abs(left[best] - length):
                best = i
        if best is not None:
            expected.append(best)
            del left[best]
    assert nearest(wanted, lengths) == expected


def test_the_lengths_wanted_are_those_of_the_relevant_passages_in_turn():
    rng = np.random.default_rng(0)
    for count in (1, 3, 7, 11):
        wanted = wanted_lengths([10, 20, 30], count, rng).tolist()
        assert len(wanted) == count
        tally = Counter(wanted)
        assert set(tally) <= {10, 20, 30}
        assert max(tally.values()) - min(tally.get(length, 0) for length in (10, 20, 30)) <= 1
    firsts = {tuple(wanted_lengths([10, 20, 30], 3, np.random.default_rng(seed)).tolist()) for seed in range(40)}
    assert len(firsts) == 6  # every order


def test_a_collection_without_passages_of_those_lengths_says_so(caplog):
    docs = {f"j{i}": of_length(300, f"j{i}") for i in range(4)} | {f"x{i}": of_length(50, f"x{i}") for i in range(9)}
    pairs, met = draw(make(docs, {"q": {f"j{i}": 3 for i in range(4)}}), PoolSpec(4, 5))
    assert len(ids(pairs, "q", -1)) == 5
    balance = met["easy_negatives_lengths"]
    assert (balance["queries"], balance["queries_near"]) == (1, 0)
    assert (balance["relevant"], balance["easy_negatives"], balance["standardized_difference"]) == (300, 50, None)
    assert "the easy negatives of 1 of 1 queries differ by more than 10 % in mean length" in caplog.text
    caplog.clear()
    draw(make(docs, {"q": {f"j{i}": 3 for i in range(4)}}), PoolSpec(4, 5, match_length=False))
    assert "in mean length" not in caplog.text  # nobody asked for a match


def test_a_query_without_a_relevant_passage_is_matched_to_what_is_judged_for_it():
    docs = {f"j{i}": of_length(200, f"j{i}") for i in range(3)} | {
        f"x{i}": of_length(30 + 30 * i, f"x{i}") for i in range(12)
    }
    pairs, met = draw(make(docs, {"q": {"j0": 3, "j1": 0}, "none": {"j1": 0, "j2": 0}}), PoolSpec(4, 3))
    assert {len(p.text) for p in pairs if p.query_id == "none" and p.grade < 0} == {
        180,
        200,
        210,
    }  # j0 is not judged for it
    assert met["easy_negatives_lengths"]["queries"] == 1


def test_the_match_follows_the_scale_of_the_judgments():
    docs = {"rel": of_length(300, "rel"), "not": of_length(60, "not")}
    docs |= {f"x{i}": of_length(20 + 20 * i, f"x{i}") for i in range(20)}
    pairs, _ = draw(make(docs, {"q": {"rel": 1, "not": 0}}), PoolSpec(4, 1))
    assert [len(p.text) for p in pairs if p.grade < 0] == [300]


def test_the_match_follows_the_grades_that_are_asked_for():
    docs = {"high": of_length(300, "high"), "low": of_length(100, "low")}
    docs |= {f"x{i}": of_length(20 + 20 * i, f"x{i}") for i in range(20)}
    collection = make(docs, {"q": {"high": 3, "low": 1}})
    for grades, length in ((None, 300), ((1,), 100), ((3,), 300)):
        pairs, met = draw(collection, PoolSpec(4, 1, match_grades=grades))
        assert [len(p.text) for p in pairs if p.grade < 0] == [length]
        assert met["easy_negatives_lengths"]["relevant"] == length
    for bad in ((), (-1, 2)):
        with pytest.raises(ValueError, match="match_grades are grades from 0 on"):
            PoolSpec(match_grades=bad)


def test_a_large_collection_is_read_no_further_than_a_sample_for_all_queries():
    docs = {f"x{i:05}": f"text {i}" for i in range(3 * SAMPLE)}
    collection = make(docs, {f"q{n}": {f"x{n:05}": 3} for n in range(7)})
    asked = []
    at = collection.docs.at
    collection.docs.at = lambda positions: asked.append(len(positions)) or at(positions)
    pairs, met = draw(collection, PoolSpec(4, 10))
    assert asked == [SAMPLE]
    assert met["queries_short_of_easy_negatives"] == []
    assert len({p.doc_id for p in pairs if p.grade < 0}) > 40  # not the same few for every query


def test_balance_of_nothing_and_of_equal_lengths():
    assert length_balance({}) is None
    assert length_balance({"q": ([3], [])}) is None
    told = length_balance({"q": ([7, 7], [7]), "p": ([7], [7])})
    assert (told["standardized_difference"], told["queries_near"]) == (0.0, 2)


def test_match_length_is_a_truth_value():
    with pytest.raises((ValueError, TypeError), match="match_length"):
        PoolSpec(match_length="matched")


def test_the_fake_store_is_unordered_and_silent():
    assert list(BackwardStore({"a": "1", "b": "2"}).get_many(["a", "gone", "b"])) == ["b", "a"]
