"""What classical retrieval measures of a pair: BM25, tf-idf, covered terms, lengths, exact matches; what probes are asked for.

Terms are the runs of letters and digits of a text, without case; no stop words, no stemming. With tf(t, d) the times that a term is
in passage d, df(t) the passages that have it, N the passages, |d| a passage's terms and avgdl their mean, over the distinct
terms t of query q:

    bm25            sum_t  log(1 + (N - df + .5) / (df + .5)) · tf / (tf + k1 (1 - b + b |d| / avgdl))
    tf_idf          sum_t  tf · log(N / df)
    covered         how many t are in d                covered_ratio    their share of q's distinct terms
    query_terms     terms of q                         passage_terms    terms of d, |d|
    exact_matches   sum_t  tf

BM25 is that of `bm25s` (Lù 2024, arXiv 2407.03618) in Lucene's variant, without the factor k1 + 1, which orders nothing; k1 = 0.9
and b = 0.4 are Anserini's. N, df and avgdl are those of all distinct texts of the pool, easy negatives included: a sample of the
collection, whose own numbers are others. `RetrievalFeatures.about` states them.

After the features that Chowdhury, Nijasure and Allan 2025 (arXiv 2410.18527) look for in rankers. A feature of the query alone is
the same for all of its passages, and says nothing of their ranking.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import bm25s
import numpy as np
from jaxtyping import Float64

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.pools.pool import Pool

K1, B = 0.9, 0.4
FEATURES = ("bm25", "tf_idf", "covered", "covered_ratio", "query_terms", "passage_terms", "exact_matches")
_TERM = re.compile(r"\w+")


@dataclass(frozen=True)
class RetrievalFeatures:
    """The features of every pair of a pool.

    Attributes:
        values: `[pair, feature]`, in the order of `FEATURES`; NaN is the covered share of a query without terms.
        passages: N, distinct texts whose statistics were taken.
        mean_terms: avgdl, their mean number of terms.
    """

    values: Float64[np.ndarray, "pair feature"]
    passages: int
    mean_terms: float

    __repr__ = short_repr

    @property
    def about(self) -> dict[str, float]:
        """What BM25 was computed with."""
        return {"k1": K1, "b": B, "passages": self.passages, "mean_terms": self.mean_terms}


def terms(text: str) -> list[str]:
    """The terms of a text, in its order.

    >>> terms("The eggs' CAFÉ, 7:45")
    ['the', 'eggs', 'café', '7', '45']
    """
    return _TERM.findall(text.casefold())


def retrieval_features(pool: Pool, background: Pool | None = None) -> RetrievalFeatures:
    """The features of every pair.

    Args:
        pool: the pairs.
        background: whose distinct texts the statistics are of; the pool itself by default. It has all of the pool's passages.

    Raises:
        ValueError: no pairs, or a passage that is not in the background.
    """
    if not len(pool):
        raise ValueError("expected at least one pair to take features of, got none")
    passages = list(dict.fromkeys(pair.text for pair in (background or pool).pairs))
    place = {text: i for i, text in enumerate(passages)}
    absent = [pair.doc_id for pair in pool.pairs if pair.text not in place]
    if absent:
        raise ValueError(f"expected every passage in the background, but {absent[0]!r} is not: give the pool's own")
    tokenized = [terms(text) for text in passages]
    counts = [Counter(own) for own in tokenized]
    df = Counter(term for own in counts for term in own)
    bm25 = _bm25({pair.query for pair in pool.pairs}, tokenized)
    values = np.zeros((len(pool), len(FEATURES)))
    for row, pair in enumerate(pool.pairs):
        asked, at = terms(pair.query), place[pair.text]
        distinct, own = dict.fromkeys(asked), counts[at]
        covered = sum(term in own for term in distinct)
        values[row] = (
            bm25[pair.query][at],
            sum(own[term] * log(len(passages) / df[term]) for term in distinct if term in own),
            covered,
            covered / len(distinct) if distinct else np.nan,
            len(asked),
            len(tokenized[at]),
            sum(own[term] for term in distinct),
        )
    return RetrievalFeatures(values, len(passages), float(np.mean([len(own) for own in tokenized])))


def _bm25(queries: set[str], tokenized: Sequence[list[str]]) -> dict[str, np.ndarray]:
    """Query -> the score of every passage."""
    known = {term for own in tokenized for term in own}
    if not known:
        return {query: np.zeros(len(tokenized)) for query in queries}
    index = bm25s.BM25(k1=K1, b=B, method="lucene", dtype="float64")
    index.index([list(own) for own in tokenized], show_progress=False)
    found = {}
    for query in queries:
        asked = [term for term in dict.fromkeys(terms(query)) if term in known]
        found[query] = index.get_scores(asked) if asked else np.zeros(len(tokenized))
    return found
