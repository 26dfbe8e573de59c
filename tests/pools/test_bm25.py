"""BM25 of a pool, against the formula by loops."""

import math

import pytest

from tl_crossenc.pools.bm25 import bm25_scores
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec

TEXTS = ["bread bread rises", "fresh bread and eggs", "seven eggs hatch in the nest tonight", "", "nest", "BREAD again"]
QUERIES = {"q0": "bread eggs bread", "q1": "a quilt", "q2": "Nest of eggs", "q3": ""}


def a_pool(texts=TEXTS, queries=QUERIES):
    pairs = [
        PoolPair(query_id, query, f"d{i}", text, -1 if i == 4 else 0)
        for query_id, query in queries.items()
        for i, text in enumerate(texts)
    ]
    return Pool("words", PoolSpec(None, 0, 0), tuple(pairs))


def slow(query, passage, texts, k1, b):
    """The formula; words of two letters and more, without those that carry nothing."""

    def words(text):
        return [word for word in text.lower().split() if len(word) > 1 and word not in ("and", "in", "the", "of")]

    documents = [words(text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    own, total = words(passage), 0.0
    for word in words(query):
        df = sum(word in document for document in documents)
        idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
        total += idf * own.count(word) / (own.count(word) + k1 * (1 - b + b * len(own) / mean)) if own else 0.0
    return total


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.7, 1.0), (0.3, 0.0)])
def test_every_score_is_the_formulas_a_word_of_the_query_counting_each_time(k1, b):
    pool = a_pool()
    expected = [slow(pair.query, pair.text, TEXTS, k1, b) for pair in pool.pairs]
    assert bm25_scores(pool, k1, b).tolist() == pytest.approx(expected, abs=1e-12)
    assert sum(score > 0 for score in expected) == 7


def test_passages_are_counted_once_however_many_queries_have_them_and_in_any_order():
    pool, alone = a_pool(), a_pool(queries={"q0": QUERIES["q0"]})
    assert bm25_scores(pool)[: len(TEXTS)].tolist() == bm25_scores(alone).tolist()
    turned = a_pool(TEXTS[::-1], {"q0": QUERIES["q0"]})
    assert bm25_scores(turned)[::-1].tolist() == pytest.approx(bm25_scores(alone).tolist(), abs=1e-12)


def test_texts_without_words_score_nothing():
    assert bm25_scores(a_pool(["", "a", "?!"])).tolist() == [0.0] * 12


@pytest.mark.parametrize("bad", [{"k1": -0.1}, {"b": 1.1}, {"k1": float("nan")}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match="expected k1 from 0 on and b from 0 to 1"):
        bm25_scores(a_pool(), **bad)


def test_nothing_is_said_of_the_index(caplog):
    with caplog.at_level("DEBUG"):
        bm25_scores(a_pool())
    assert caplog.records == []
