"""Texts for the planted model: queries and passages of words that it knows whole, with a chosen number of matches."""

import random

from tl_crossenc.checkpoints.planted import vocabulary
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec

MATCHED_WORDS = {3: 8, 2: 5, 1: 3, 0: 1, -1: 0}
"""Grade -> how many of a passage's words are in its query."""
PASSAGE_WORDS = 11


def whole_words():
    """The vocabulary's words of three letters or more, in its order."""
    return [piece for piece in vocabulary() if piece.isalpha() and len(piece) > 2]


def passage_words(rng, query, matched, length=PASSAGE_WORDS):
    """A passage of `length` words, `matched` of them from the query, the rest from outside of it, in any order."""
    others = [word for word in whole_words() if word not in query]
    words = [rng.choice(query) for _ in range(matched)] + rng.sample(others, length - matched)
    rng.shuffle(words)
    return words


def graded_pool(n_queries=5, per_grade=3, seed=0):
    """A pool of equally long passages, whose grades follow how many of their words are in the query."""
    rng = random.Random(seed)
    pairs = []
    for i in range(n_queries):
        query = rng.sample(whole_words(), 7)
        for grade, matched in MATCHED_WORDS.items():
            for j in range(per_grade):
                text = " ".join(passage_words(rng, query, matched))
                pairs.append(PoolPair(f"q{i}", " ".join(query), f"d{i}_{grade}_{j}", text, grade))
    return Pool("graded", PoolSpec(per_grade=per_grade, easy_negatives=per_grade, seed=seed), tuple(pairs))
