"""Do the matching heads matter? The heads that an instrument ranks highest, ablated, against random heads of the same layers.

For growing k: remove the k highest-ranked heads, once in the directions between QUERY and DOC only (`QUERY<->DOC`) and once
wholly (every direction, so that the head writes nothing but its bias), and compare with random draws of other heads that have the
same number of heads in every layer. A draw is a random ranking, one other head for each ranked one; its first k are removed.

**The test.** Among the ranked heads and D draws, the ranked heads' rank by mean nDCG is a p-value, ties counted against them:

    p = (1 + #{draws whose mean is as low or lower}) / (1 + D)              1 / (1 + D) at least: 19 draws for .05

It is of one k and scope. Over all that are tested, with T the distance of a set's mean below the mean of all 1 + D sets in standard
deviations of these, the ranked heads' T at one k and scope is compared with each set's largest T at any (Westfall & Young 1993):

    p_family = #{sets whose largest T >= T of the ranked heads here} / (1 + D)            the ranked heads' own set counted

Draws cost most, so they may be scored on a random sample of queries; the ranked heads are then compared on the same sample. Heads
are ranked and ablated on the same queries: of new queries this says nothing, but `head_folds` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.query_folds import Query, sampled_pools
from tl_crossenc.experiments.ranking import rank_each
from tl_crossenc.interventions.conditions import UNABLATED, Condition, Mode
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.significance import mean_interval, rank_p_values
from tl_crossenc.store.cells import Store

LayerHead = tuple[int, int]
SCOPES: dict[str, tuple[str, ...]] = {"QUERY<->DOC": ("QUERY->DOC", "DOC->QUERY"), "whole head": ("ALL->ALL",)}
MOST_DRAWS = 10_000
LEAST_DRAWS = 19
"""Draws with which the ranked heads, below all of them, have p = .05."""


@dataclass(frozen=True)
class HeadAblation(Framed):
    """nDCG with k heads removed.

    Attributes:
        curve: a row a scope, k and kind of heads. "ranked", over all queries: `mean`; `low`, `high` its 95 % t-interval;
            `difference` from the unablated model, `diff_low`, `diff_high` its paired 95 % t-interval; `p_random` and `p_family`
            (above), NaN where nothing was drawn. "random", over the queries of the draws: the mean of the draws' means as `mean`
            and `difference`, their smallest and largest as the bounds; `n_draws`.
        draws: a row a scope, k, kind and draw: the heads, and over the queries of the draws `mean` and `difference`.
        unablated: (mean, low, high) over all queries.
        random: mean expected nDCG of a random ranking.
        per_query: `[query x condition]` nDCG; NaN where a draw was not scored.
        drawn_queries: (collection, query_id) that the draws were scored on; all of them where none was left out.
        seed: of the draws and the sample.
        layers_run, layers_alone, whole_job: what it cost.
    """

    curve: pd.DataFrame
    draws: pd.DataFrame
    unablated: tuple[float, float, float]
    random: float
    per_query: pd.DataFrame
    drawn_queries: tuple[Query, ...]
    seed: int
    layers_run: int
    layers_alone: int
    whole_job: tuple[int, int]

    __repr__ = short_repr


def heads_condition(heads: Sequence[LayerHead], scope: str, mode: Mode = "zero") -> Condition:
    """The condition that removes `scope` in the heads given, each in its layer."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    condition = UNABLATED
    for layer, chosen in sorted(by_layer.items()):
        condition = condition + Condition.ablate(SCOPES[scope], layers=layer, heads=chosen, mode=mode)
    return condition


def random_heads(
    heads: Sequence[LayerHead], n_heads: int, excluded: Sequence[LayerHead], rng: np.random.Generator
) -> tuple[LayerHead, ...] | None:
    """As many heads in each layer as `heads` has there, none of `excluded`; None where a layer has too few others."""
    drawn: list[LayerHead] = []
    for layer, count in sorted(Counter(layer for layer, _ in heads).items()):
        others = [head for head in range(n_heads) if (layer, head) not in excluded]
        if len(others) < count:
            return None
        drawn += [(layer, int(head)) for head in sorted(rng.choice(others, count, replace=False))]
    return tuple(drawn)


def random_ranking(
    ranking: Sequence[LayerHead], n_heads: int, rng: np.random.Generator
) -> tuple[LayerHead, ...] | None:
    """For each head of `ranking` another of its layer, none of `ranking` and none twice; None where a layer has too few others."""
    drawn = random_heads(ranking, n_heads, ranking, rng)
    if drawn is None:
        return None
    shuffled = [drawn[i] for i in rng.permutation(len(drawn))]
    left = {layer: [head for place, head in shuffled if place == layer] for layer, _ in ranking}
    return tuple((layer, left[layer].pop()) for layer, _ in ranking)


@recorded
def run_head_ablation(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    ranking: Sequence[LayerHead],
    *,
    counts: Sequence[int] = (1, 2, 4, 8),
    n_draws: int = LEAST_DRAWS,
    drawn_counts: int | None = None,
    draw_queries: int | None = None,
    seed: int = 0,
    mode: Mode = "zero",
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> HeadAblation:
    """Ablate the first k heads of `ranking` for each k of `counts`, and `n_draws` random sets like them.

    A count larger than the ranking is left out.

    Args:
        model, pools, store: as `rank_under` takes them.
        ranking: heads, best first.
        counts: how many of them.
        n_draws: random rankings.
        drawn_counts: how many counts are compared with draws, the largest that enough others are left for; None for all.
        draw_queries: on how many queries, drawn at random; None for all.
        seed: of both.
        mode, cutoff, gain, token_budget, executor, progress: as `rank_under` takes them.

    Raises:
        ValueError: an empty ranking, a head named twice or outside of the model, no count that it can serve, or a number of draws
            below 0 or of counts or queries below 1.
    """
    _check_ranking(model, ranking)
    for name, value, least in (
        ("n_draws", n_draws, 0),
        ("drawn_counts", drawn_counts, 1),
        ("draw_queries", draw_queries, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"expected {name} from {least} on, got {value}")
    usable = [k for k in sorted(set(counts)) if 1 <= k <= len(ranking)]
    if not usable:
        raise ValueError(f"expected a count of heads from 1 to {len(ranking)}, got {list(counts)}")
    if n_draws > MOST_DRAWS:
        raise ValueError(f"expected n_draws from 0 to {MOST_DRAWS:,}, got {n_draws}: each is a condition that is run")
    tested = _drawable(ranking, usable, model.cfg.n_heads)[-(drawn_counts or len(usable)) :]
    drawn = _draws(ranking[: max(tested, default=0)], tested, model.cfg.n_heads, n_draws, seed)
    ranked_sets = {(k, "ranked", 0): tuple(ranking[:k]) for k in usable}

    def under(sets: Iterable[tuple[LayerHead, ...]]) -> list[Condition]:
        return [UNABLATED, *(heads_condition(heads, scope, mode) for scope in SCOPES for heads in sets)]

    sampled = sampled_pools(pools, draw_queries, seed)
    if sampled is None:  # the same queries: one job, which shares what it can
        asked = [(pools, under([*ranked_sets.values(), *drawn.values()]))]
    else:
        asked = [(pools, under(ranked_sets.values())), (sampled, under(drawn.values()))]
    given: dict[str, Any] = {"cutoff": cutoff, "gain": gain, "token_budget": token_budget, "progress": progress}
    parts = rank_each(model, asked, store, executor=executor, **given)
    ndcg = parts[0].ndcg
    if sampled is not None:
        ndcg = pd.concat([ndcg, parts[1].ndcg.drop(columns=str(UNABLATED))], axis=1)
    queries = parts[-1].ndcg.index
    baseline = ndcg[str(UNABLATED)]
    interval = mean_interval(baseline)
    draws = _draw_frame(ranked_sets | drawn, ndcg.loc[queries], mode)
    costs = [part.whole_job for part in parts]
    return HeadAblation(
        curve=_curve(draws, ndcg),
        draws=draws,
        unablated=(float(baseline.mean()), interval.low, interval.high),
        random=float(parts[0].values["random", str(UNABLATED)].mean()),
        per_query=ndcg,
        drawn_queries=tuple((str(collection), str(query_id)) for collection, query_id in queries),
        seed=seed,
        layers_run=sum(part.layers_run for part in parts),
        layers_alone=sum(part.layers_alone for part in parts),
        whole_job=(sum(cost[0] for cost in costs), sum(cost[1] for cost in costs)),
    )


def _check_ranking(model: HookedCrossEncoder, ranking: Sequence[LayerHead]) -> None:
    if not ranking or len(set(ranking)) < len(ranking):
        raise ValueError(f"expected a ranking of distinct heads, best first, got {list(ranking)}")
    outside = [f"{layer}.{head}" for layer, head in ranking if layer >= model.cfg.n_layers or head >= model.cfg.n_heads]
    if outside:
        raise ValueError(
            f"expected heads of a model with {model.cfg.n_layers} layers of {model.cfg.n_heads} heads, got {', '.join(outside)}"
        )


def _drawable(ranking: Sequence[LayerHead], counts: Sequence[int], n_heads: int) -> list[int]:
    """The counts for which every layer has as many other heads as ranked ones."""
    return [k for k in counts if all(2 * n <= n_heads for n in Counter(layer for layer, _ in ranking[:k]).values())]


def _draws(
    ranking: Sequence[LayerHead], counts: Sequence[int], n_heads: int, n_draws: int, seed: int
) -> dict[tuple[int, str, int], tuple[LayerHead, ...]]:
    """(k, "random", draw) → heads. Every draw has a generator of its own, so more draws keep the earlier ones."""
    sets: dict[tuple[int, str, int], tuple[LayerHead, ...]] = {}
    for draw in range(n_draws if counts else 0):
        drawn = random_ranking(ranking, n_heads, np.random.default_rng([seed, draw]))
        if drawn is not None:
            sets |= {(k, "random", draw): drawn[:k] for k in counts}
    return sets


def _draw_frame(
    sets: dict[tuple[int, str, int], tuple[LayerHead, ...]], ndcg: pd.DataFrame, mode: Mode
) -> pd.DataFrame:
    """A row a scope and set, `ndcg` being that of the queries of the draws."""
    unablated = float(ndcg[str(UNABLATED)].mean())
    rows = []
    for scope in SCOPES:
        for (k, kind, draw), heads in sets.items():
            condition = str(heads_condition(heads, scope, mode))
            mean = float(ndcg[condition].mean())
            named = ",".join(f"{layer}.{head}" for layer, head in heads)
            rows.append((scope, k, kind, draw, named, condition, mean, mean - unablated))
    return pd.DataFrame(rows, columns=["scope", "k", "kind", "draw", "heads", "condition", "mean", "difference"])


def _curve(draws: pd.DataFrame, ndcg: pd.DataFrame) -> pd.DataFrame:
    own = draws[draws["kind"] == "ranked"].set_index(["scope", "k"])
    p_values = {}
    if (draws["kind"] == "random").any():
        means = draws[draws["kind"] == "random"].pivot(index="draw", columns=["scope", "k"], values="mean")
        p = rank_p_values(own.loc[list(means.columns), "mean"].to_numpy(), means.to_numpy())
        p_values = dict(zip(means.columns, np.column_stack(p).tolist(), strict=True))
    baseline, rows = ndcg[str(UNABLATED)], []
    for (scope, k), row in own.iterrows():
        values = ndcg[row["condition"]]
        mean, difference = mean_interval(values), mean_interval(values - baseline)
        middle = (float(values.mean()), *mean, float((values - baseline).mean()), *difference)
        rows.append((scope, k, "ranked", *middle, 1, *p_values.get((scope, k), (np.nan, np.nan))))
        others = draws[(draws["scope"] == scope) & (draws["k"] == k) & (draws["kind"] == "random")]
        if len(others):
            spread = [getattr(others[of], how)() for of in ("mean", "difference") for how in ("mean", "min", "max")]
            rows.append((scope, k, "random", *map(float, spread), len(others), np.nan, np.nan))
    bounded = ("mean", "low", "high", "difference", "diff_low", "diff_high")
    return pd.DataFrame(rows, columns=["scope", "k", "kind", *bounded, "n_draws", "p_random", "p_family"])
