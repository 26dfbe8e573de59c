"""Two models on one pool: which ranks better, where they differ query by query, and from which layer on their streams part.

Differences are B − A, paired over queries: a t-test and a randomization test of the mean nDCG. The same model twice has the same
cells, and every difference is exactly 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor
from tl_crossenc.experiments.model_divergence import SAMPLE, run_divergence
from tl_crossenc.experiments.paper import ProgressFactory, no_progress
from tl_crossenc.experiments.ranking import Ranked, rank_under
from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import made_by
from tl_crossenc.pools.pool import Pool
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.agreement import randomization_p, ranking_agreement
from tl_crossenc.statistics.significance import compare, mean_interval
from tl_crossenc.store.cells import Store

_ABOUT_ORDER = ("tau", "weighted_tau")


@dataclass(frozen=True)
class ModelComparison:
    """Two models, A and B, on the same pools.

    Attributes:
        names: of the models.
        table: one row: `a`, `a_low`, `a_high` and the same of `b` (means over queries with 95 % t-intervals), `difference` (B − A),
            `diff_low`, `diff_high`, `p_t`, `p_randomization`, `random` (of a random ranking), `n_queries`, `b_better`, `a_better`,
            `equal` (queries), and the means over queries of `tau` and `weighted_tau`.
        per_query: indexed by (collection, query_id), the largest difference first: `query`, `n_passages`, `a`, `b`, `difference`,
            `tau`, `weighted_tau`. NaN of the last two where a model ranks nothing.
        scores: a row a pair: collection, query_id, doc_id, grade, `a`, `b`.
        layers: see `run_divergence`; None where the models are of two shapes.
        why_no_layers: why not; "" where there are.
        same: whether the two are one model, by weights, arithmetic and tokenizer.
        cutoff, gain, ideal, one_gain: of the measure, see `ranking`.
        layers_run: layers that the models ran for the scores, a layer of one pair counting 1; 0 when everything was stored.
        made: how, as `made_by` says of both models.
    """

    names: tuple[str, str]
    table: pd.DataFrame
    per_query: pd.DataFrame
    scores: pd.DataFrame
    layers: pd.DataFrame | None
    why_no_layers: str
    same: bool
    cutoff: int
    gain: str
    ideal: str
    one_gain: int
    layers_run: int
    made: dict[str, Any]

    __repr__ = short_repr

    def to_frame(self) -> pd.DataFrame:
        """`per_query`, with how it was made in its `attrs`."""
        frame = self.per_query.copy()
        frame.attrs.update(self.made)
        return frame


def run_compare_models(
    models: Sequence[HookedCrossEncoder],
    pools: Sequence[Pool],
    store: Store,
    *,
    condition: Condition = UNABLATED,
    cutoff: int = 10,
    gain: str = "linear",
    sample: int = SAMPLE,
    seed: int = 0,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: ProgressFactory = no_progress,
) -> ModelComparison:
    """Rank the pools' graded passages by two models, and compare rankings and residual streams.

    Args:
        models: A and B, both open.
        pools: drawn ones or those of runs, of different names.
        store: of the cells of both, whose keys differ by what the models are.
        condition: under which both rank; layers are compared without one.
        cutoff: the k of nDCG@k.
        gain: "linear" or "exponential".
        sample: pairs whose streams are compared.
        seed: of the randomization test and of the sample.
        progress: makes a bar for each model.

    Raises:
        ValueError: not two models, or see `rank_under`.
        CellsFailed, Waiting: see `Executor.run`; what could be computed of either model is stored.
    """
    if len(models) != 2:
        raise ValueError(f"expected two models to compare, got {len(models)}")
    names = tuple(str(model.cfg.model_name) for model in models)
    titles = (
        names if len(set(names)) == 2 else tuple(f"{name} ({side})" for name, side in zip(names, "AB", strict=True))
    )
    how = {"token_budget": token_budget, "executor": executor}
    ranked: list[Ranked] = []
    reasons: list[Unavailable] = []
    for model, title in zip(models, titles, strict=True):
        try:
            with progress(f"Scores of {title}") as advance:
                settings = {"cutoff": cutoff, "gain": gain, **how}
                ranked.append(rank_under(model, pools, store, [condition], progress=advance, **settings))
        except Unavailable as error:
            reasons.append(error)
    layers, why = None, ""
    try:
        layers = run_divergence(models, pools, store, sample=sample, seed=seed, progress=progress, names=titles, **how)
    except Unavailable as error:
        if type(error) is not Unavailable:
            reasons.append(error)
        why = str(error)
    if reasons:
        raise reasons[0]
    scores = _scores(ranked, str(condition))
    per_query = _per_query(ranked, scores, pools, str(condition))
    about = {"condition_of_both": condition, "cutoff": cutoff, "gain": gain, "sample": sample, "seed": seed}
    return ModelComparison(
        names=(names[0], names[1]),
        table=_table(ranked, per_query, str(condition), seed),
        per_query=per_query.iloc[np.argsort(-per_query["difference"].abs().to_numpy(), kind="stable")],
        scores=scores,
        layers=layers,
        why_no_layers=why,
        same=executor.identity(models[0]) == executor.identity(models[1]),
        cutoff=cutoff,
        gain=gain,
        ideal=ranked[0].ideal,
        one_gain=ranked[0].one_gain,
        layers_run=sum(one.layers_run for one in ranked),
        made=made_by(models[0], against=made_by(models[1]), **about),
    )


def _scores(ranked: Sequence[Ranked], condition: str) -> pd.DataFrame:
    frame = ranked[0].scores[["collection", "query_id", "doc_id", "grade"]].copy()
    for side, one in zip("ab", ranked, strict=True):
        frame[side] = one.scores[condition].to_numpy()
    return frame


def _per_query(ranked: Sequence[Ranked], scores: pd.DataFrame, pools: Sequence[Pool], condition: str) -> pd.DataFrame:
    """In the pools' order; a judged query that a run lacks has no passage, and is worth 0 in both."""
    a, b = (one.ndcg[condition] for one in ranked)
    texts = {(pool.collection, pair.query_id): pair.query for pool in pools for pair in pool.pairs}
    orders = {
        key: (len(own), *ranking_agreement(own["a"], own["b"]))
        for key, own in scores.groupby(["collection", "query_id"], sort=False)
    }
    lacking = (0, *(float("nan"),) * len(_ABOUT_ORDER))
    rows = [(texts.get(key, ""), *orders.get(key, lacking)) for key in a.index]
    frame = pd.DataFrame(rows, columns=["query", "n_passages", *_ABOUT_ORDER], index=a.index)
    for place, (name, values) in enumerate((("a", a), ("b", b), ("difference", b - a)), 2):
        frame.insert(place, name, values)
    return frame


def _table(ranked: Sequence[Ranked], per_query: pd.DataFrame, condition: str, seed: int) -> pd.DataFrame:
    a, b = per_query["a"], per_query["b"]
    compared, own = compare(a, {"b": b}).loc["b"], mean_interval(a)
    apart = per_query["difference"].where(per_query["difference"].abs() > 1e-12, 0.0)
    row = {
        **dict(zip(("a", "a_low", "a_high"), (float(a.mean()), *own), strict=True)),
        **{name: float(compared[of]) for name, of in (("b", "mean"), ("b_low", "mean_low"), ("b_high", "mean_high"))},
        **{name: float(compared[name]) for name in ("difference", "diff_low", "diff_high")},
        "p_t": float(compared["p_paired"]),
        "p_randomization": randomization_p(apart, seed=seed),
        "random": float(ranked[0].values["random", condition].mean()),
        "n_queries": len(per_query),
        "b_better": int((apart > 0).sum()),
        "a_better": int((apart < 0).sum()),
        "equal": int((apart == 0).sum()),
        **{name: float(per_query[name].mean()) for name in _ABOUT_ORDER},
    }
    return pd.DataFrame([row])
