"""Every head as a ranker of every query, and what heads are chosen by: the parts that `head_rankers` is put together from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_crossenc.experiments.query_folds import Folds, Query
from tl_crossenc.instruments.head_rankers import RANKER_DIRECTIONS, HeadScores, core_score, qr_score
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.dcg import expected_dcg, share_of_ideal
from tl_crossenc.statistics.evaluation import per_query_ndcg
from tl_crossenc.statistics.ties import TIE_TOLERANCE

HARD_NEGATIVE = 0
"""The grade of passages judged not relevant."""
Criteria = Mapping[str, Float[np.ndarray, "query direction head"]]
"""Name -> a query's value for each head, heads numbered layer by layer; NaN where a query has none."""


class HeadField:
    """The heads of a model on some pools, numbered layer by layer.

    Args:
        pools: graded passages alone.
        found: their scores, in the same order.
        calibrated: rank by the calibrated ones.
        dtype: of the model, as `per_query_ndcg` takes it.
        cutoff, gain: of nDCG.

    Attributes:
        queries: (collection, query_id), in the order of all values a query.
        shape: (layers, heads).
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        found: Sequence[HeadScores],
        calibrated: bool,
        *,
        dtype: str,
        cutoff: int,
        gain: str,
    ) -> None:
        self.pools, self.cutoff, self.gain = pools, cutoff, gain
        self._tolerance = TIE_TOLERANCE[dtype]
        self._queries = [_queries_of(pool, cutoff, gain) for pool in pools]
        self.queries: list[Query] = [query for own in self._queries for query in own]
        self.shape = found[0].mass.shape[2], found[0].mass.shape[3]
        flat = (-1, len(RANKER_DIRECTIONS), self.n_heads)
        self._mass = [scores.mass.reshape(flat) for scores in found]
        chosen = [scores.calibrated if calibrated else scores.mass for scores in found]
        self._used = [scores.reshape(flat) for scores in chosen if scores is not None]
        self._size = np.max([mass.max(0, initial=0.0) for mass in self._mass], axis=0)
        self._kept: dict[tuple[int, tuple[int, ...]], pd.Series] = {}

    @property
    def n_heads(self) -> int:
        """Of all layers."""
        return self.shape[0] * self.shape[1]

    def ranked_by(self, scores: Sequence[Float[np.ndarray, "_"]], scale: float | None = None) -> pd.Series:
        """nDCG of every query with these scores of each pool's pairs, whose terms are of the size `scale`."""
        found: dict[Query, float] = {}
        for queries, own in zip(self._queries, scores, strict=True):
            size = float(np.abs(own).max(initial=0.0)) if scale is None else scale
            for query, (members, grades, ideal) in queries.items():
                dcg = expected_dcg(own[members], grades, self.cutoff, self.gain, self._tolerance, size)
                found[query] = share_of_ideal(dcg, ideal)
        index = pd.MultiIndex.from_tuples(list(found), names=["collection", "query_id"])
        return pd.Series(list(found.values()), index)

    def ndcg(self, direction: int, heads: Sequence[int]) -> pd.Series:
        """nDCG of every query, ranked by the summed scores of some heads. Ties are what the sizes of their masses make them."""
        key = direction, tuple(sorted(heads))
        if key not in self._kept:
            chosen = list(key[1])
            sums = [used[:, direction, chosen].sum(1) for used in self._used]
            self._kept[key] = self.ranked_by(sums, float(self._size[direction, chosen].sum()))
        return self._kept[key]

    def criteria(self, grades: Sequence[int], temperatures: Sequence[float]) -> Criteria:
        """What heads are chosen by, see `head_rankers`; relevant are the passages of `grades`."""
        shape = len(self.queries), len(RANKER_DIRECTIONS), self.n_heads
        values = {name: np.full(shape, np.nan) for name in (*(f"core_{t:g}" for t in temperatures), "qr", "ndcg")}
        place = {query: i for i, query in enumerate(self.queries)}
        for pool, mass, used in zip(self.pools, self._mass, self._used, strict=True):
            for query_id, members in pool.by_query().items():
                row = place[pool.collection, query_id]
                own = np.array([pool.pairs[i].grade for i in members])
                relevant, negative = np.isin(own, grades), own == HARD_NEGATIVE
                if relevant.any():
                    values["qr"][row] = qr_score(used[members], relevant)
                if relevant.any() and negative.any():
                    for t in temperatures:
                        values[f"core_{t:g}"][row] = core_score(mass[members], relevant, negative, t)
        for direction in range(shape[1]):
            for head in range(self.n_heads):
                values["ndcg"][:, direction, head] = self.ndcg(direction, [head])
        return values

    def rows_of(self, folds: Folds) -> list[list[int]]:
        """The places in `queries` of each fold's."""
        place = {query: i for i, query in enumerate(self.queries)}
        return [[place[query] for query in fold] for fold in folds]


def _queries_of(pool: Pool, cutoff: int, gain: str) -> dict[Query, tuple[list[int], np.ndarray, float]]:
    """Of each query the places of its pairs, their grades, and the ideal DCG; as `per_query_ndcg` has them and in its order."""
    pairs, members = pool.pairs, pool.by_query()
    ids, grades = ([pair.query_id for pair in pairs], [pair.doc_id for pair in pairs]), [pair.grade for pair in pairs]
    frame = per_query_ndcg(*ids, grades, np.zeros(len(pairs)), cutoff=cutoff, gain=gain, qrels=pool.judgments)
    return {
        (pool.collection, str(query_id)): (own := members.get(str(query_id), []), np.array(grades)[own], float(ideal))
        for query_id, ideal in frame["ideal_dcg"].items()
    }


def usable(criteria: Criteria, rows: Sequence[Sequence[int]]) -> tuple[Criteria, dict[str, str]]:
    """The criteria that some query of each fold has, and of the others why they cannot choose."""
    left_out = {}
    for name, values in criteria.items():
        if any(np.isnan(values[own]).all() for own in rows):
            needed = "relevant passages" if name == "qr" else "relevant passages and hard negatives"
            left_out[name] = f"no query of one half has {needed}"
    return {name: values for name, values in criteria.items() if name not in left_out}, left_out


def best_first(values: Float[np.ndarray, "query head"]) -> list[int]:
    """Heads by the mean over the queries that have a value, ties in the heads' own order."""
    return np.argsort(-np.nanmean(values, axis=0), kind="stable").tolist()
