"""BM25 of a pool's passages: the baseline that counts words.

Lucene's form, by `bm25s` (Lù 2024, arXiv 2407.03618), with a query's words w, one by one,

    score(q, d) = sum_{w in q} log(1 + (N - df_w + .5) / (df_w + .5)) · f_wd / (f_wd + k1 (1 - b + b |d| / mean |d|))

N, df and the mean length are those of all distinct passages of the pool, easy negatives among them, not of the collection that it
was drawn from: words that the pool's queries are about are commoner in it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from jaxtyping import Float

from tl_crossenc.pools.pool import Pool

K1, B = 0.9, 0.4
"""As Anserini and Pyserini have them where nobody says."""


def bm25_scores(pool: Pool, k1: float = K1, b: float = B) -> Float[np.ndarray, "pair"]:
    """The score of every pair, aligned with `pool.pairs`; 0 where query and passage share no word.

    Words are lower-cased runs of two and more letters and digits, without English stop words; nothing is stemmed.

    Args:
        pool: whose passages are ranked and counted.
        k1: how fast a word's count saturates, from 0 on.
        b: how much a passage's length counts, 0 to 1.

    Raises:
        ValueError: k1 or b outside of their ranges.
    """
    bm25s = _library()
    if not (np.isfinite(k1) and k1 >= 0 and 0 <= b <= 1):
        raise ValueError(f"expected k1 from 0 on and b from 0 to 1, got {k1} and {b}: {K1} and {B} are usual")
    texts = list(dict.fromkeys(pair.text for pair in pool.pairs))
    place = {text: i for i, text in enumerate(texts)}
    words = words_of(texts)
    scores = np.zeros(len(pool.pairs))
    if not any(words):
        return scores
    index = bm25s.BM25(k1=k1, b=b, method="lucene", dtype="float64")
    index.index(words, show_progress=False)
    by_query = pool.by_query()
    queries = [pool.pairs[members[0]].query for members in by_query.values()]
    for members, own in zip(by_query.values(), words_of(queries), strict=True):
        known = [word for word in own if word in index.vocab_dict]
        if known:
            found = index.get_scores(known)
            scores[members] = found[[place[pool.pairs[i].text] for i in members]]
    return scores


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text as `bm25_scores` has them, in order."""
    return _library().tokenize(list(texts), return_ids=False, show_progress=False) if texts else []


def _library() -> ModuleType:
    """`bm25s`, which takes half a second to import and then tells of every index that it builds."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s
