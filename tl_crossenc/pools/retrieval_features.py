"""What classical retrieval measures of a pair: BM25, tf-idf, covered words, lengths, exact matches; what probes are asked for.

Words are those of `bm25`: lower-cased runs of two and more letters and digits, without English stop words, nothing stemmed. With
tf(w) the times that a word is in the passage, df(w) the passages that have it, N the passages, and over the distinct words w of the
query:

    bm25            `bm25_scores`                         tf_idf           sum_w  tf · log(N / df)
    covered         how many w are in the passage         covered_ratio    their share of the query's distinct words
    query_words     words of the query                    passage_words    words of the passage
    exact_matches   sum_w  tf

N and df are those of all distinct passages of the pool, easy negatives included: a sample of the collection, whose own numbers are
others. `RetrievalFeatures.about` says which they are, and BM25's k1 and b.

After the features that Chowdhury, Nijasure and Allan 2025 (arXiv 2410.18527) look for in rankers. A feature of the query alone is
the same for all of its passages, and says nothing of their ranking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import numpy as np
from jaxtyping import Float64

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.pools.bm25 import K1, B, bm25_scores, words_of
from tl_crossenc.pools.pool import Pool

FEATURES = ("bm25", "tf_idf", "covered", "covered_ratio", "query_words", "passage_words", "exact_matches")


@dataclass(frozen=True)
class RetrievalFeatures(Framed):
    """The features of every pair of a pool.

    Attributes:
        values: `[pair, feature]`, in the order of `FEATURES`; NaN is the covered share of a query without words.
        passages: N, distinct passages whose statistics were taken.
        mean_words: their mean number of words.
    """

    values: Float64[np.ndarray, "pair feature"]
    passages: int
    mean_words: float

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Features by their names."""
        return {"feature": FEATURES}

    @property
    def about(self) -> dict[str, float]:
        """What BM25 was computed with."""
        return {"k1": K1, "b": B, "passages": self.passages, "mean_words": self.mean_words}


def retrieval_features(pool: Pool) -> RetrievalFeatures:
    """The features of every pair.

    Raises:
        ValueError: no pairs.
    """
    if not len(pool):
        raise ValueError("expected at least one pair to take features of, got none")
    texts, queries = (list(dict.fromkeys(getattr(pair, side) for pair in pool.pairs)) for side in ("text", "query"))
    passages, asked = dict(zip(texts, words_of(texts), strict=True)), dict(zip(queries, words_of(queries), strict=True))
    counts: dict[str, Counter[str]] = {text: Counter(words) for text, words in passages.items()}
    df = Counter(word for own in counts.values() for word in own)
    values = np.zeros((len(pool), len(FEATURES)))
    values[:, 0] = bm25_scores(pool)
    for row, pair in enumerate(pool.pairs):
        own, distinct = counts[pair.text], dict.fromkeys(asked[pair.query])
        covered = [word for word in distinct if word in own]
        values[row, 1:] = (
            sum(own[word] * log(len(passages) / df[word]) for word in covered),
            len(covered),
            len(covered) / len(distinct) if distinct else np.nan,
            len(asked[pair.query]),
            len(passages[pair.text]),
            sum(own[word] for word in covered),
        )
    mean_words = float(np.mean([len(words) for words in passages.values()]))
    return RetrievalFeatures(
        values, len(passages), mean_words, made={"collection": pool.collection, "pool": pool.digest}
    )
