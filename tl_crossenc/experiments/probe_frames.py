"""How well a probe's predictions rank, and how well they tell features: the tables of `probes`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.evaluation import per_query_ndcg
from tl_crossenc.statistics.reciprocal_rank import per_query_reciprocal_rank
from tl_crossenc.statistics.significance import mean_interval

PLACE = ("source", "set", "layer")
MEASURES = ("ndcg", "mrr")


@dataclass(frozen=True)
class Rankings:
    """What predictions are measured by.

    Attributes:
        pools: whose pairs, one after another, predictions are of.
        relevant: `[pair]`, which are relevant.
        cutoff, gain: of nDCG@k and MRR@k.
    """

    pools: tuple[Pool, ...]
    relevant: np.ndarray
    cutoff: int
    gain: str

    __repr__ = short_repr

    def per_query(
        self, predictions: np.ndarray, rows: np.ndarray, *, dtype: str = "float32", scale: float | None = None
    ) -> pd.DataFrame:
        """A row a query that has some of the pairs `rows`: ndcg, mrr, and both expected of a random ranking of these pairs.

        Args:
            predictions: `[row]`.
            rows: indices of pairs.
            dtype, scale: of the predictions, for what ties.
        """
        frames, start = [], 0
        for pool in self.pools:
            own = (rows >= start) & (rows < start + len(pool))
            pairs = [pool.pairs[i] for i in rows[own] - start]
            start += len(pool)
            if not pairs:
                continue
            ids = [pair.query_id for pair in pairs]
            found = per_query_ndcg(
                ids, [pair.doc_id for pair in pairs], [pair.grade for pair in pairs], predictions[own],
                cutoff=self.cutoff, gain=self.gain, dtype=dtype, scale=scale, qrels=_qrels(pool, ids),
            )  # fmt: skip
            ranks = per_query_reciprocal_rank(
                ids, self.relevant[rows[own]], predictions[own], cutoff=self.cutoff, dtype=dtype, scale=scale
            )
            table = pd.DataFrame(
                {
                    "collection": pool.collection,
                    "query_id": found.index,
                    "ndcg": found["ndcg"].to_numpy(),
                    "mrr": ranks["rr"].to_numpy(),
                    "random_ndcg": found["random"].to_numpy(),
                    "random_mrr": ranks["random"].to_numpy(),
                    "n_passages": found["n_passages"].to_numpy(),
                }
            )
            frames.append(table)
        return pd.concat(frames, ignore_index=True)


def _qrels(pool: Pool, query_ids: Iterable[str]) -> Mapping[str, Mapping[str, int]] | None:
    """The judgments of the queries asked about, where the ideal is theirs."""
    if pool.judgments is None:
        return None
    return {query_id: pool.judgments[query_id] for query_id in dict.fromkeys(query_ids)}


def relevance_frame(per_query: pd.DataFrame, left_out: Mapping[str, int]) -> pd.DataFrame:
    """A row a (source, set, layer): means over queries with 95 % t-intervals, and what is expected of a random ranking.

    Args:
        per_query: of `Rankings.per_query`, with source, set and layer.
        left_out: set -> pairs without a token of it.
    """
    rows = []
    for place, own in per_query.groupby(list(PLACE), sort=False):
        row: dict[str, object] = dict(zip(PLACE, place, strict=True))
        for measure in MEASURES:
            row[measure] = float(own[measure].mean())
            row[f"{measure}_low"], row[f"{measure}_high"] = mean_interval(own[measure])
            row[f"random_{measure}"] = float(own[f"random_{measure}"].mean())
        row |= {"n_queries": len(own), "n_pairs": int(own["n_passages"].sum())}
        rows.append(row | {"left_out": left_out.get(str(row["set"]), 0)})
    return pd.DataFrame(rows)


def constant_features(values: np.ndarray, names: Sequence[str]) -> list[str]:
    """The features that do not vary over the pairs that have them."""
    return [name for name, column in zip(names, values.T, strict=True) if np.unique(column[~np.isnan(column)]).size < 2]


def rows_of(sample: Pool, whole: Pool, values: np.ndarray) -> np.ndarray:
    """The rows of a sample's pairs, of values `[pair of the whole pool, ...]`."""
    place = {(pair.query_id, pair.doc_id): i for i, pair in enumerate(whole.pairs)}
    return np.asarray(values[[place[pair.query_id, pair.doc_id] for pair in sample.pairs]])
