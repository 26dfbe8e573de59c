"""Two models on one pool: which ranks better, where they differ query by query, and from which layer on their streams part.

Differences are B − A, paired over queries: a t-test and a randomization test of the mean of a measure, any of ir_measures'
(`statistics.measures`). Of a drawn pool the passages drawn are all that is judged; of a run's, all judgments count. The same model
twice has the same cells, and every difference is exactly 0. Under several conditions the two are compared under each, and one
correction is over all that is tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from ir_measures.measures import Measure

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.console.shown import short_name
from tl_crossenc.executors.executor import IN_PROCESS, Executor
from tl_crossenc.experiments.model_divergence import SAMPLE, run_divergence
from tl_crossenc.experiments.paper import ProgressFactory, no_progress
from tl_crossenc.experiments.ranking import Ranked, rank_under
from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import made_by
from tl_crossenc.pools.pool import Pool
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.agreement import Agreement, randomization_p, ranking_agreement
from tl_crossenc.statistics.measures import evaluate_rankings, parse_measures, ties_text
from tl_crossenc.statistics.significance import ROUNDING, compare, holm, mean_interval
from tl_crossenc.store.cells import Store

_NOTHING = Agreement(float("nan"), float("nan"))


@dataclass(frozen=True)
class ModelComparison:
    """Two models, A and B, on the same pools.

    Where there are several conditions, the frames but `layers` have a column `condition` before all others, and rows of each.

    Attributes:
        names: of the models.
        conditions: under which both rank, by their texts.
        table: a row a condition and measure: `measure`, `ties` (whether it is expected over ties or taken by doc_id), `a`, `a_low`,
            `a_high` and the same of `b` (means over queries with 95 % t-intervals), `difference` (B − A), `diff_low`, `diff_high`,
            `p_t`, `p_holm` (of the t-test, over all measures and conditions, that is all rows), `p_randomization`, `n_queries`,
            `b_better`, `a_better`, `equal` (queries), and the means over queries of `tau` and `weighted_tau`.
        per_query: indexed by (collection, query_id), the largest difference in the first measure first: `query`, `n_passages`, `a`,
            `b`, `difference`, `tau`, `weighted_tau` (NaN where a model ranks nothing), and `a`, `b`, `difference` of further
            measures with their names behind.
        scores: a row a pair: collection, query_id, doc_id, grade, `a`, `b`.
        layers: see `run_divergence`, of the unablated models; None where the models are of two shapes.
        why_no_layers: why not; "" where there are.
        same: whether the two are one model, by weights, arithmetic and tokenizer.
        measures: their texts.
        ideal, one_gain: see `ranking.Ranked`.
        layers_run: layers that the models ran for the scores, a layer of one pair counting 1; 0 when everything was stored.
        made: how, as `made_by` says of both models.
    """

    names: tuple[str, str]
    conditions: tuple[str, ...]
    table: pd.DataFrame
    per_query: pd.DataFrame
    scores: pd.DataFrame
    layers: pd.DataFrame | None
    why_no_layers: str
    same: bool
    measures: tuple[str, ...]
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
    condition: Condition | Sequence[Condition] = UNABLATED,
    measures: Sequence[str] = ("nDCG@10",),
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
        condition: under which both rank, or several, each in turn; layers are compared without one.
        measures: as ir_measures names them; the first orders the queries.
        sample: pairs whose streams are compared.
        seed: of the randomization test and of the sample.
        progress: makes a bar for each model.

    Raises:
        ValueError: not two models, no condition, no measure or one that is unknown, or see `rank_under`.
        CellsFailed, Waiting: see `Executor.run`; what could be computed of either model is stored.
    """
    if len(models) != 2:
        raise ValueError(f"expected two models to compare, got {len(models)}")
    conditions = (condition,) if isinstance(condition, Condition) else tuple(dict.fromkeys(condition))
    if not conditions:
        raise ValueError("expected at least one condition to rank under, got none: leave it away for unablated models")
    asked = parse_measures(measures)
    names = tuple(str(model.cfg.model_name) for model in models)
    titles = tuple(f"{side} ({short_name(name)})" for side, name in zip("AB", names, strict=True))
    how: dict[str, Any] = {"token_budget": token_budget, "executor": executor}
    ranked: list[Ranked] = []
    reasons: list[Unavailable] = []
    for model, title in zip(models, titles, strict=True):
        try:
            with progress(f"Scores of {title}") as advance:
                tell = model is models[0]  # what is stored then is A's
                ranked.append(rank_under(model, pools, store, conditions, progress=advance, tell=tell, **how))
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
    scores = {text: _scores(ranked, text) for text in map(str, conditions)}
    per_query = {text: _per_query(models, frame, pools, asked) for text, frame in scores.items()}
    queries = _together(per_query)
    texts = tuple(map(str, asked))
    both = conditions[0] if len(conditions) == 1 else conditions
    about = {"condition_of_both": both, "measures": texts, "sample": sample, "seed": seed}
    return ModelComparison(
        names=(names[0], names[1]),
        conditions=tuple(scores),
        table=_corrected(_together({text: _table(frame, asked, seed) for text, frame in per_query.items()})),
        per_query=queries.iloc[np.argsort(-queries["difference"].abs().to_numpy(), kind="stable")],
        scores=_together(scores),
        layers=layers,
        why_no_layers=why,
        same=executor.identity(models[0]) == executor.identity(models[1]),
        measures=texts,
        ideal=ranked[0].ideal,
        one_gain=ranked[0].one_gain,
        layers_run=sum(one.layers_run for one in ranked),
        made=made_by(models[0], against=made_by(models[1]), **about),
    )


def _together(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Of several conditions one frame, which says of each row whose it is; of one condition its own."""
    if len(frames) == 1:
        return next(iter(frames.values()))
    found = pd.concat(frames, names=["condition"]).reset_index("condition")
    return found if "query_id" in found.index.names else found.reset_index(drop=True)


def _scores(ranked: Sequence[Ranked], condition: str) -> pd.DataFrame:
    frame = ranked[0].scores[["collection", "query_id", "doc_id", "grade"]].copy()
    for side, one in zip("ab", ranked, strict=True):
        frame[side] = one.scores[condition].to_numpy()
    return frame


def _per_query(
    models: Sequence[HookedCrossEncoder], scores: pd.DataFrame, pools: Sequence[Pool], measures: Sequence[Measure]
) -> pd.DataFrame:
    """In the pools' order; a judged query that a run lacks has no passage, and the least value in both."""
    frames = []
    for pool in pools:
        own = scores[scores["collection"] == pool.collection]
        texts = {pair.query_id: pair.query for pair in pool.pairs}
        rankings = dict(list(own.groupby("query_id", sort=False)))
        qrels = pool.judgments or {
            query_id: dict(zip(rows["doc_id"], rows["grade"].tolist(), strict=True))
            for query_id, rows in rankings.items()
        }
        frame = pd.DataFrame(
            index=pd.MultiIndex.from_product([[pool.collection], qrels], names=["collection", "query_id"])
        )
        frame["query"] = [texts.get(query_id, "") for query_id in qrels]
        frame["n_passages"] = [len(rankings.get(query_id, ())) for query_id in qrels]
        for side, model in zip("ab", models, strict=True):
            given = {query: (rows["doc_id"].tolist(), rows[side].to_numpy()) for query, rows in rankings.items()}
            about: dict[str, Any] = {"dtype": str(model.dtype).removeprefix("torch."), "scale": model.score_scale}
            values = evaluate_rankings(measures, given, qrels, **about)
            for place, measure in enumerate(map(str, measures)):
                frame[_column(side, measure, place)] = values[measure].to_numpy(dtype=np.float64)
        for place, measure in enumerate(map(str, measures)):
            a, b = (frame[_column(side, measure, place)] for side in "ab")
            frame[_column("difference", measure, place)] = (b - a).where((b - a).abs() > ROUNDING, 0.0)
        agreed = [
            ranking_agreement(rankings[query_id]["a"], rankings[query_id]["b"]) if query_id in rankings else _NOTHING
            for query_id in qrels
        ]
        for place, name in enumerate(Agreement._fields):
            frame[name] = [one[place] for one in agreed]
        frames.append(frame)
    found = pd.concat(frames)
    first = ["query", "n_passages", "a", "b", "difference", *Agreement._fields]
    return found[[*first, *(column for column in found if column not in first)]]


def _column(what: str, measure: str, place: int) -> str:
    return what if place == 0 else f"{what} {measure}"


def _table(per_query: pd.DataFrame, measures: Sequence[Measure], seed: int) -> pd.DataFrame:
    rows = []
    for place, measure in enumerate(measures):
        a, b, apart = (per_query[_column(what, str(measure), place)] for what in ("a", "b", "difference"))
        compared, own = compare(a, {"b": b}).loc["b"], mean_interval(a)
        rows.append(
            {
                "measure": str(measure),
                "ties": ties_text(measure),
                **dict(zip(("a", "a_low", "a_high"), (float(a.mean()), *own), strict=True)),
                **{
                    name: float(compared[of])
                    for name, of in (("b", "mean"), ("b_low", "mean_low"), ("b_high", "mean_high"))
                },
                **{name: float(compared[name]) for name in ("difference", "diff_low", "diff_high")},
                "p_t": float(compared["p_paired"]),
                "p_holm": float("nan"),
                "p_randomization": randomization_p(apart, seed=seed),
                "n_queries": len(per_query),
                "b_better": int((apart > 0).sum()),
                "a_better": int((apart < 0).sum()),
                "equal": int((apart == 0).sum()),
                **{name: float(per_query[name].mean()) for name in Agreement._fields},
            }
        )
    return pd.DataFrame(rows)


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    """With Holm's correction over all rows."""
    if table["p_t"].notna().all():
        table["p_holm"] = holm(table["p_t"].to_numpy())
    return table
