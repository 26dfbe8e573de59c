"""Heads as rankers: how well does each head rank alone, and how well do the k best together, on queries that did not choose them?

A head's score of a passage is `instruments.head_rankers`', calibrated or plain; a ranking by some heads is by the sum of theirs.
The queries are drawn into two halves. On each half heads are put in order by a criterion, a mean over its queries, and the first k
rank the other half, so that every query is ranked once by heads that it had no part in choosing ("other half"). Beside it is what
they rank on the half that chose them ("same half"): the difference is what the choice takes from those queries alone, the leak.

    criterion     a query's value for a head                                       queries that count
    core_t        CoRe score at temperature t, of the plain mass                   with relevant passages and hard negatives
    qr            QR score, of the score that is ranked by                         with relevant passages
    ndcg          nDCG of the head's own ranking                                   all

Hard negatives are passages judged 0. All heads together ("all heads") need no choice. Rankings are compared over queries with the
model's own, with BM25, with a random one, with all heads, and with the same half's, by paired t-tests; Holm's correction is over
the rankings that are compared with one and the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.head_ranker_cells import head_scores
from tl_crossenc.experiments.head_selection import HARD_NEGATIVE, Criteria, HeadField, best_first, usable
from tl_crossenc.experiments.matching import relevant_by_scale
from tl_crossenc.experiments.query_folds import Folds, sampled_pools, two_folds
from tl_crossenc.experiments.ranking import rank_under
from tl_crossenc.instruments.head_rankers import CONTENT_FREE, RANKER_DIRECTIONS, TEMPERATURES
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.interventions.heads import Head, format_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.bm25 import bm25_scores
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.significance import holm, mean_interval, paired_t
from tl_crossenc.store.cells import Store

COUNTS = (1, 2, 4, 8, 16)
KEPT = 16
"""Heads in the list that is kept, as many as QRHead takes."""
SAMPLED_QUERIES = 30
"""Of a run of minutes; the embedded collection has fewer."""
ALL_HEADS = "all heads"
OTHER_HALF, SAME_HALF, NOTHING = "other half", "same half", "nothing"
BOTH = "both"


@dataclass(frozen=True)
class HeadRankers(Framed):
    """How heads rank.

    Attributes:
        heads: a row a (direction, layer, head): the mean of each criterion over all queries, `ndcg` with `ndcg_low`, `ndcg_high`.
        rankings: a row a (direction, criterion, k, chosen_on, fold): `heads`, `n_queries`, `mean` nDCG, `low`,
            `high`. Folds are "0", "1" and "both". All heads are a criterion of their own, chosen on nothing.
        comparisons: a row a (direction, criterion, k, against) of those chosen on the other half, and of all heads: `difference`,
            `low`, `high`, `p`, `p_holm`; against model, BM25, random, all heads, same half.
        references: a row a `reference`, model, BM25 and random: `mean`, `low`, `high`.
        per_query: `[query x ranking]` nDCG, and the `fold` that a query is in.
        strongest: heads by their CoRe score at the first temperature (by nDCG without hard negatives), in the better of the two
            directions; `KEPT` at most.
        scalars: seed, settings, counts of queries; `left_out`, criterion -> why it is not there.
    """

    heads: pd.DataFrame
    rankings: pd.DataFrame
    comparisons: pd.DataFrame
    references: pd.DataFrame
    per_query: pd.DataFrame
    strongest: tuple[Head, ...]
    scalars: dict[str, Any]

    __repr__ = short_repr


@dataclass(frozen=True)
class _Ranking:
    """nDCG by some heads, `[query]`, and those heads by fold of the queries that they rank."""

    direction: str
    criterion: str
    k: int
    chosen_on: str
    values: pd.Series
    heads: tuple[str, str]

    @property
    def name(self) -> str:
        chosen = "" if self.criterion == ALL_HEADS else f"; k={self.k}; {self.chosen_on}"
        return f"{self.direction}; {self.criterion}{chosen}"


@recorded
def run_head_rankers(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    calibrated: bool = True,
    temperatures: Sequence[float] = TEMPERATURES,
    counts: Sequence[int] = COUNTS,
    relevant_grades: Sequence[int] | None = None,
    queries: int | None = None,
    seed: int = 0,
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> HeadRankers:
    """Rank the graded passages of the pools by heads, computing only missing cells.

    Args:
        model, pools, store: as `rank_under` takes them.
        calibrated: rank by the scores less those of a content-free query, which doubles the cost; else by the masses.
        temperatures: of the CoRe score.
        counts: k; one that is not below the model's number of heads is left out.
        relevant_grades: None for the upper half of the collections' scale.
        queries: on how many, drawn at random; None for all.
        seed: of that draw and of the halves.
        cutoff, gain, token_budget, executor, progress: as `rank_under` takes them.

    Raises:
        Unavailable: fewer than two queries, no passage that is relevant, or collections on different scales.
        ValueError: no pool; no count, one below 1, or none below the model's number of heads; no temperature, one that is not above
            0, or two alike; a number of queries below 2, or hard negatives that are relevant; see `rank_under`.
        CellsFailed, Waiting: see `Executor.run`.
    """
    _check(model, pools, counts, temperatures, queries)
    grades = relevant_by_scale(pool.highest_grade for pool in pools) if relevant_grades is None else relevant_grades
    if HARD_NEGATIVE in grades:
        raise ValueError(f"expected relevant grades above {HARD_NEGATIVE}, that of hard negatives, got {list(grades)}")
    used = [pool.ranked for pool in sampled_pools(pools, queries, seed) or pools]
    measure: dict[str, Any] = {"cutoff": cutoff, "gain": gain}
    run: dict[str, Any] = {"token_budget": token_budget, "executor": executor, "progress": progress}
    ranked = rank_under(model, used, store, [UNABLATED], **measure, **run)
    folds = two_folds([(str(name), str(query_id)) for name, query_id in ranked.values.index], seed)
    content_free = CONTENT_FREE if calibrated else None
    found = head_scores(model, used, store, content_free=content_free, **run)
    field = HeadField(used, found, calibrated, dtype=str(model.dtype).removeprefix("torch."), **measure)
    given = {
        "model": ranked.ndcg[str(UNABLATED)],
        "BM25": field.ranked_by([bm25_scores(pool) for pool in used]),
        "random": ranked.values["random", str(UNABLATED)],
    }
    every = field.criteria(grades, temperatures)
    criteria, left_out = usable(every, field.rows_of(folds))
    rankings = _rankings(field, criteria, sorted({k for k in counts if k < field.n_heads}), folds)
    references = [(name, values.mean(), *mean_interval(values)) for name, values in given.items()]
    in_fold = pd.Series({query: str(i) for i, fold in enumerate(folds) for query in fold}, name="fold")
    per_query = pd.concat(
        [in_fold.reindex(given["model"].index), *(values.rename(name) for name, values in given.items())]
        + [one.values.rename(one.name) for one in rankings],
        axis=1,
    )
    return HeadRankers(
        heads=_head_frame(field, criteria),
        rankings=_ranking_frame(rankings, folds),
        comparisons=_comparisons(rankings, given),
        references=pd.DataFrame(references, columns=["reference", "mean", "low", "high"]),
        per_query=per_query,
        strongest=_strongest(field, criteria),
        scalars={
            "n_queries": len(field.queries),
            "n_all_queries": sum(len(pool.ranked.by_query()) for pool in pools),
            "n_contrasted": int(np.isfinite(every[f"core_{temperatures[0]:g}"][:, 0, 0]).sum()),
            "fold_sizes": [len(fold) for fold in folds],
            "n_heads": field.n_heads,
            "content_free": content_free,
            "temperatures": list(temperatures),
            "relevant_grades": sorted(grades),
            "seed": seed,
            "left_out": left_out,
        },
    )


def _check(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    counts: Sequence[int],
    temperatures: Sequence[float],
    queries: int | None,
) -> None:
    if not pools:
        raise ValueError("expected at least one pool, got none")
    if not counts or min(counts) < 1 or (queries is not None and queries < 2):
        raise ValueError(f"expected counts from 1 on and at least 2 queries, got {list(counts)} and {queries}")
    n_heads = model.cfg.n_layers * model.cfg.n_heads
    if min(counts) >= n_heads:
        raise ValueError(f"expected counts of which one is below the model's {n_heads} heads, got {list(counts)}")
    named = {f"{t:g}" for t in temperatures}
    if not named or len(named) < len(temperatures) or not all(np.isfinite(t) and t > 0 for t in temperatures):
        raise ValueError(
            f"expected different temperatures above 0, got {list(temperatures)}: .001 and .1 are published"
        )


def _rankings(field: HeadField, criteria: Criteria, counts: Sequence[int], folds: Folds) -> list[_Ranking]:
    """For each direction all heads, and for each criterion and count the heads of either half on the other and on its own."""
    found, rows = [], field.rows_of(folds)
    for d, direction in enumerate(map(str, RANKER_DIRECTIONS)):
        everyone = range(field.n_heads)
        found.append(_Ranking(direction, ALL_HEADS, field.n_heads, NOTHING, field.ndcg(d, everyone), ("all", "all")))
        for criterion, values in criteria.items():
            orders = [best_first(values[own, d]) for own in rows]
            for k in counts:
                for chosen_on in (OTHER_HALF, SAME_HALF):
                    chosen = [order[:k] for order in (orders[::-1] if chosen_on == OTHER_HALF else orders)]
                    ranked = [field.ndcg(d, heads).iloc[own] for heads, own in zip(chosen, rows, strict=True)]
                    names = [format_heads(divmod(head, field.shape[1]) for head in heads) for heads in chosen]
                    whole = pd.concat(ranked).reindex(field.ndcg(d, everyone).index)
                    found.append(_Ranking(direction, criterion, k, chosen_on, whole, (names[0], names[1])))
    return found


def _head_frame(field: HeadField, criteria: Criteria) -> pd.DataFrame:
    rows = []
    for d, direction in enumerate(map(str, RANKER_DIRECTIONS)):
        for head in range(field.n_heads):
            means = {name: float(np.nanmean(values[:, d, head])) for name, values in criteria.items()}
            low, high = mean_interval(criteria["ndcg"][:, d, head])
            layer, number = divmod(head, field.shape[1])
            place = {"direction": direction, "layer": layer, "head": number}
            rows.append(place | means | {"ndcg_low": low, "ndcg_high": high})
    return pd.DataFrame(rows)


def _ranking_frame(rankings: Sequence[_Ranking], folds: Folds) -> pd.DataFrame:
    rows = []
    for one in rankings:
        parts = [(str(i), one.heads[i], one.values.loc[list(fold)]) for i, fold in enumerate(folds)]
        together = "all" if one.criterion == ALL_HEADS else "those of each half"
        for fold, heads, values in (*parts, (BOTH, together, one.values)):
            place = (one.direction, one.criterion, one.k, one.chosen_on, fold, heads)
            rows.append((*place, len(values), float(values.mean()), *mean_interval(values)))
    names = ["direction", "criterion", "k", "chosen_on", "fold", "heads", "n_queries", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def _comparisons(rankings: Sequence[_Ranking], given: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Each ranking chosen on the other half less what it is compared with."""
    by_place = {(one.direction, one.criterion, one.k, one.chosen_on): one.values for one in rankings}
    rows = []
    for one in rankings:
        if one.chosen_on == SAME_HALF:
            continue
        others = dict(given)
        if one.criterion != ALL_HEADS:
            others[ALL_HEADS] = next(
                other.values for other in rankings if (other.direction, other.criterion) == (one.direction, ALL_HEADS)
            )
            others[SAME_HALF] = by_place[one.direction, one.criterion, one.k, SAME_HALF]
        for against, values in others.items():
            change = one.values - values
            place = (one.direction, one.criterion, one.k, against)
            rows.append((*place, float(change.mean()), *mean_interval(change), paired_t(one.values, values)))
    names = ["direction", "criterion", "k", "against", "difference", "low", "high", "p"]
    frame = pd.DataFrame(rows, columns=names)
    frame["p_holm"] = frame.groupby("against", sort=False)["p"].transform(lambda p: holm(p.to_numpy(dtype=np.float64)))
    return frame


def _strongest(field: HeadField, criteria: Criteria) -> tuple[Head, ...]:
    name = next((name for name in criteria if name.startswith("core")), "ndcg")
    values = criteria[name]
    means = np.nanmean(values, axis=0).max(0)
    return tuple(Head(*divmod(head, field.shape[1])) for head in best_first(means[None])[:KEPT])
