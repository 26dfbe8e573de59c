"""Do the matching heads matter? The heads that an instrument ranks highest, ablated, against random heads of the same layers.

For growing k: remove the k highest-ranked heads, once in the directions between QUERY and DOC only (`QUERY<->DOC`) and once
wholly (every direction, so that the head writes nothing but its bias), and compare with random draws of k other heads that
have the same number of heads in every layer. The draws' spread is the null: a rank among them is reported as a p-value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tl_crossenc.conditions import UNABLATED, Condition, Mode
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.experiments.ranking import rank_under
from tl_crossenc.experiments.scoring import Progress
from tl_crossenc.pools import Pool
from tl_crossenc.significance import mean_interval
from tl_crossenc.store import Store

LayerHead = tuple[int, int]
SCOPES: dict[str, tuple[str, ...]] = {"QUERY<->DOC": ("QUERY->DOC", "DOC->QUERY"), "whole head": ("ALL->ALL",)}
MOST_DRAWS = 10_000


@dataclass(frozen=True)
class HeadAblation:
    """nDCG with k heads removed.

    Attributes:
        curve: a row a scope, k and kind of heads ("ranked", or "random" summed up over its draws): `mean`, `low`, `high` (for
            ranked heads a 95 % t-interval over queries; for random ones the smallest and largest mean over draws), `n_draws`,
            and for ranked heads `p_random`: the share of draws, the ranked heads counted with them, whose mean is as low.
        draws: a row a scope, k, kind and draw: the heads and their mean nDCG.
        unablated: (mean, low, high).
        random: mean expected nDCG of a random ranking.
        per_query: `[query x condition]` nDCG.
        seed: of the draws.
        layers_run, layers_alone, whole_job: what it cost.
    """

    curve: pd.DataFrame
    draws: pd.DataFrame
    unablated: tuple[float, float, float]
    random: float
    per_query: pd.DataFrame
    seed: int
    layers_run: int
    layers_alone: int
    whole_job: tuple[int, int]


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


def run_head_ablation(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    ranking: Sequence[LayerHead],
    *,
    counts: Sequence[int] = (1, 2, 4, 8),
    n_draws: int = 3,
    seed: int = 0,
    mode: Mode = "zero",
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> HeadAblation:
    """Ablate the first k heads of `ranking` for each k of `counts`, and `n_draws` random sets like each.

    Random heads are drawn from those that are not among the k ranked ones. A count larger than the ranking is left out.

    Raises:
        ValueError: an empty ranking, a head named twice or outside of the model, or no count that it can serve.
    """
    _check_ranking(model, ranking)
    usable = [k for k in sorted(set(counts)) if 1 <= k <= len(ranking)]
    if not usable:
        raise ValueError(f"expected a count of heads from 1 to {len(ranking)}, got {list(counts)}")
    if not 0 <= n_draws <= MOST_DRAWS:
        raise ValueError(f"expected n_draws from 0 to {MOST_DRAWS:,}, got {n_draws}: each is a condition that is run")
    sets = _head_sets(ranking, usable, model.cfg.n_heads, n_draws, seed)
    conditions = {(scope, *key): heads_condition(heads, scope, mode) for scope in SCOPES for key, heads in sets.items()}
    ranked = rank_under(
        model,
        pools,
        store,
        [UNABLATED, *conditions.values()],
        cutoff=cutoff,
        gain=gain,
        token_budget=token_budget,
        progress=progress,
    )
    ndcg = ranked.ndcg
    draws = pd.DataFrame(
        [
            {
                "scope": scope,
                "k": k,
                "kind": kind,
                "draw": draw,
                "heads": ",".join(f"{layer}.{head}" for layer, head in sets[k, kind, draw]),
                "condition": str(condition),
                "mean": float(ndcg[str(condition)].mean()),
            }
            for (scope, k, kind, draw), condition in conditions.items()
        ]
    )
    baseline = ndcg[str(UNABLATED)]
    interval = mean_interval(baseline)
    return HeadAblation(
        curve=_curve(draws, ndcg),
        draws=draws,
        unablated=(float(baseline.mean()), interval.low, interval.high),
        random=float(ranked.values["random", str(UNABLATED)].mean()),
        per_query=ndcg,
        seed=seed,
        layers_run=ranked.layers_run,
        layers_alone=ranked.layers_alone,
        whole_job=ranked.whole_job,
    )


def _check_ranking(model: HookedCrossEncoder, ranking: Sequence[LayerHead]) -> None:
    if not ranking or len(set(ranking)) < len(ranking):
        raise ValueError(f"expected a ranking of distinct heads, best first, got {list(ranking)}")
    outside = [f"{layer}.{head}" for layer, head in ranking if layer >= model.cfg.n_layers or head >= model.cfg.n_heads]
    if outside:
        raise ValueError(
            f"expected heads of a model with {model.cfg.n_layers} layers of {model.cfg.n_heads} heads, got {', '.join(outside)}"
        )


def _head_sets(
    ranking: Sequence[LayerHead], counts: Sequence[int], n_heads: int, n_draws: int, seed: int
) -> dict[tuple[int, str, int], tuple[LayerHead, ...]]:
    """(k, kind, draw) → heads. Draw number d of every k has a generator of its own, so more draws keep the earlier ones."""
    sets: dict[tuple[int, str, int], tuple[LayerHead, ...]] = {}
    for k in counts:
        chosen = tuple(ranking[:k])
        sets[k, "ranked", 0] = chosen
        for draw in range(n_draws):
            drawn = random_heads(chosen, n_heads, chosen, np.random.default_rng([seed, k, draw]))
            if drawn is not None:
                sets[k, "random", draw] = drawn
    return sets


def _curve(draws: pd.DataFrame, ndcg: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (scope, k), group in draws.groupby(["scope", "k"], sort=False):
        ours = group[group["kind"] == "ranked"].iloc[0]
        others = group[group["kind"] == "random"]["mean"].to_numpy()
        interval = mean_interval(ndcg[ours["condition"]])
        p_random = (1 + int((others <= ours["mean"]).sum())) / (1 + len(others)) if len(others) else float("nan")
        rows.append(
            {
                "scope": scope,
                "k": k,
                "kind": "ranked",
                "mean": ours["mean"],
                "low": interval.low,
                "high": interval.high,
                "n_draws": 1,
                "p_random": p_random,
            }
        )
        if len(others):
            rows.append(
                {
                    "scope": scope,
                    "k": k,
                    "kind": "random",
                    "mean": float(others.mean()),
                    "low": float(others.min()),
                    "high": float(others.max()),
                    "n_draws": len(others),
                    "p_random": float("nan"),
                }
            )
    return pd.DataFrame(rows)
