"""Retrieval features against loops over the texts, in words of the formulas."""

import math
import re

import numpy as np
import pytest
from small_worlds import TOPICS, pool_of_words

from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec
from tl_crossenc.pools.retrieval_features import FEATURES, retrieval_features

WORDS = (*TOPICS, "Egg", "the", "a", "THE", "é", "7", "it's", "bread,")
QUERIES = {"q0": "the flea, the egg, flea?", "q1": "sponge A quilt 7", "q2": "unheard words", "q3": "?!"}
DRAWN = pool_of_words("words", QUERIES, dict.fromkeys(QUERIES, (2, 0, 1, 0, 3)), WORDS, empty=[("q1", 2)])
SHARED = PoolPair("q3", QUERIES["q3"], "shared", DRAWN.pairs[0].text, 0)
POOL = Pool("words", DRAWN.spec, (*DRAWN.pairs, SHARED))


def words(text):
    """Two letters or digits and more, and no word that says nothing."""
    return [word for word in re.split(r"\W+", text.lower()) if len(word) > 1 and word not in ("the", "it")]


def literal(pool, k1=0.9, b=0.4):
    """`[pair, feature]`, every sum written out."""
    passages = {pair.text: words(pair.text) for pair in pool.pairs}
    n = len(passages)
    mean = sum(len(own) for own in passages.values()) / n
    rows = []
    for pair in pool.pairs:
        own, query = passages[pair.text], words(pair.query)
        bm25 = tf_idf = covered = exact = 0.0
        for word in sorted(set(query)):
            df = sum(1 for other in passages.values() if word in other)
            tf = len([other for other in own if other == word])
            if tf == 0:
                continue
            idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
            bm25 += query.count(word) * idf * tf / (tf + k1 * (1 - b + b * len(own) / mean))
            tf_idf += tf * math.log(n / df)
            covered += 1
            exact += tf
        ratio = covered / len(set(query)) if query else math.nan
        rows.append([bm25, tf_idf, covered, ratio, len(query), len(own), exact])
    return np.array(rows), n, mean


def test_every_feature_is_its_formula():
    found = retrieval_features(POOL)
    expected, n, mean = literal(POOL)
    assert found.values.shape == (21, len(FEATURES))
    np.testing.assert_allclose(found.values, expected, rtol=1e-12, atol=1e-12)
    assert found.about == {"k1": 0.9, "b": 0.4, "passages": n, "mean_words": pytest.approx(mean)}
    assert n == len({pair.text for pair in POOL.pairs}) < len(POOL)  # one passage is of two queries
    assert np.ptp(expected[:, :3], axis=0).min() > 0.5


def test_texts_without_a_word_have_none():
    pool = Pool("bare", PoolSpec(None, 0, 0), (PoolPair("q", "?", "d", "", 1), PoolPair("q", "?", "e", "a", 0)))
    np.testing.assert_array_equal(retrieval_features(pool).values, [[0, 0, 0, math.nan, 0, 0, 0]] * 2)


def test_no_pairs_are_said():
    with pytest.raises(ValueError, match="expected at least one pair to take features of, got none"):
        retrieval_features(Pool("none", PoolSpec(None, 0, 0), ()))
