"""Faithfulness by query, and its tables: measures, curves, rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tl_crossenc.experiments.faithfulness_cells import Attribution
from tl_crossenc.experiments.query_folds import of_queries
from tl_crossenc.experiments.ranking import evaluate_pool
from tl_crossenc.instruments.faithfulness import Curves
from tl_crossenc.instruments.token_attributions import RANDOM
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool, PoolPair
from tl_crossenc.statistics.significance import holm, mean_interval, paired_t

MEASURES = ("area", "raw_area", "comprehensiveness", "sufficiency", "sensitivity", "ndcg")
"""Of a query: means over its passages; `ndcg` is the mean over the fractions between the ends of removal."""

PerPair = tuple[list[PoolPair], Curves, np.ndarray]
TESTED = ["mean", "low", "high", "difference", "diff_low", "diff_high", "p", "n_queries"]


def query_frame(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    samples: Sequence[Pool],
    per_pair: Mapping[Attribution, Sequence[PerPair]],
    *,
    cutoff: int,
    gain: str,
) -> pd.DataFrame:
    """Values of every query, indexed by (attribution, collection, query_id); of random orders the means over draws.

    Args:
        model: whose scores they are.
        pools: that the samples are of.
        samples: one a part of the measurement.
        per_pair: attribution -> for each sample, its pairs in the order of the scores, curves, and sensitivity-n.
        cutoff, gain: of nDCG.
    """
    frames = []
    for own, found in per_pair.items():
        rows = pd.concat([_pair_frame(sample.collection, *one) for sample, one in zip(samples, found, strict=True)])
        fractions = found[0][1].fractions
        groups = rows.groupby(["collection", "query_id"], sort=False)
        table = groups[[name for name in rows if name not in ("collection", "query_id", "doc_id")]].mean()
        for name in ("without_span", "without_tokens"):
            table[name] = groups[name].sum()
        ranked = pd.concat(
            [_ranking(model, pool, rows, fractions, cutoff, gain) for pool in of_queries(pools, list(table.index))]
        )
        table = table.drop(columns=[f"score@{fraction}" for fraction in fractions]).join(ranked)
        table["ndcg"] = table[[f"ndcg@{fraction}" for fraction in fractions[1:-1]]].mean(axis=1)
        frames.append(table.assign(attribution=own.name).reset_index())
    keys = ["attribution", "collection", "query_id"]
    return pd.concat(frames, ignore_index=True).groupby(keys, sort=False).mean()


def _pair_frame(collection: str, pairs: Sequence[PoolPair], curves: Curves, sensitivity: np.ndarray) -> pd.DataFrame:
    """A row a pair; NaN where it has no span or no token."""
    columns: dict[str, object] = {
        "collection": collection,
        "query_id": [pair.query_id for pair in pairs],
        "doc_id": [pair.doc_id for pair in pairs],
    }
    columns |= {name: getattr(curves, name) for name in MEASURES[:4]}
    columns["sensitivity"] = sensitivity
    for name, values in zip(("most", "least"), curves.normalised, strict=True):
        columns |= {f"{name}@{fraction}": values[:, i] for i, fraction in enumerate(curves.fractions)}
    columns |= {f"score@{fraction}": curves.most[:, i] for i, fraction in enumerate(curves.fractions)}
    empty = curves.n_tokens == 0
    columns |= {"without_tokens": empty.astype(float), "without_span": (~curves.has_span & ~empty).astype(float)}
    return pd.DataFrame(columns)


def _ranking(
    model: HookedCrossEncoder, pool: Pool, rows: pd.DataFrame, fractions: Sequence[float], cutoff: int, gain: str
) -> pd.DataFrame:
    """nDCG of each query of a pool at every fraction, and of the random ranking."""
    ranked = pool.ranked
    own = rows[rows["collection"] == pool.collection].set_index(["query_id", "doc_id"])
    aligned = own.loc[[(pair.query_id, pair.doc_id) for pair in ranked.pairs]]
    columns = {f"ndcg@{fraction}": aligned[f"score@{fraction}"].to_numpy() for fraction in fractions}
    found = evaluate_pool(model, ranked, columns, cutoff=cutoff, gain=gain)
    table = found["ndcg"].copy()
    table["random_ranking"] = found["random"].iloc[:, 0]
    return table


def measure_frame(values: pd.DataFrame) -> pd.DataFrame:
    """A row an (attribution, measure), tested against random with Holm's correction over all rows."""
    rows = [
        (name, measure, *_against_random(values, str(name), measure))
        for name in dict.fromkeys(values.index.get_level_values(0))
        for measure in MEASURES
    ]
    return _corrected(pd.DataFrame(rows, columns=["attribution", "measure", *TESTED]))


def ranking_frame(values: pd.DataFrame, fractions: Sequence[float]) -> pd.DataFrame:
    """A row an (attribution, fraction) of nDCG, tested against random but at the ends."""
    rows = []
    for name in dict.fromkeys(values.index.get_level_values(0)):
        for fraction in fractions:
            found = list(_against_random(values, str(name), f"ndcg@{fraction}"))
            if fraction in (fractions[0], fractions[-1]):
                found[TESTED.index("p")] = np.nan
            rows.append((name, fraction, *found))
    return _corrected(pd.DataFrame(rows, columns=["attribution", "fraction", *TESTED]))


def curve_frame(values: pd.DataFrame, fractions: Sequence[float]) -> pd.DataFrame:
    """A row an (attribution, order, fraction): the mean normalised score over queries that have one."""
    rows = []
    for name in dict.fromkeys(values.index.get_level_values(0)):
        for order in ("most", "least"):
            for fraction in fractions:
                own = values.loc[name, f"{order}@{fraction}"].dropna()
                rows.append((name, order, fraction, float(own.mean()), *mean_interval(own), len(own)))
    return pd.DataFrame(rows, columns=["attribution", "order", "fraction", "mean", "low", "high", "n_queries"])


def _against_random(values: pd.DataFrame, name: str, column: str) -> tuple[float | int, ...]:
    """The columns `TESTED`, of queries that have a value under both."""
    both = pd.DataFrame({"own": values.loc[name, column], "random": values.loc[RANDOM, column]}).dropna()
    change = both["own"] - both["random"]
    tested = (np.nan,) * 4 if name == RANDOM else (float(change.mean()), *mean_interval(change), _p(both))
    return (float(both["own"].mean()), *mean_interval(both["own"]), *tested, len(both))


def _p(both: pd.DataFrame) -> float:
    return paired_t(both["own"], both["random"])


def _corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `p_holm`, over all rows that have a p."""
    there = frame["p"].notna()
    frame.insert(frame.columns.get_loc("p") + 1, "p_holm", np.nan)
    frame.loc[there, "p_holm"] = holm(frame.loc[there, "p"].to_numpy(np.float64))
    return frame
