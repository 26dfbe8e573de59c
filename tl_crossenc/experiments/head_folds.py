"""Do the matching heads matter to queries that did not choose them? Heads ranked on one half of the queries, removed on the other.

The queries are drawn into two halves. Figure 1b ranks the heads on each half alone, which costs no run of the model, and the first
k are removed on the other half, so that every query is ranked once with heads removed that it had no part in choosing. Beside it is
the change of the same queries with the heads that all of them ranked: what that has beyond this is what the choice took from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.attention import Attention
from tl_crossenc.experiments.head_ablation import HeadAblation, LayerHead, heads_condition
from tl_crossenc.experiments.matching import QUANTITY, matching_heads, ranked_heads
from tl_crossenc.experiments.query_folds import Folds, Query, of_queries, two_folds
from tl_crossenc.experiments.ranking import rank_each
from tl_crossenc.interventions.conditions import UNABLATED, Condition, Mode
from tl_crossenc.interventions.heads import format_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.pool import Pool
from tl_crossenc.pools.spec import EASY_NEGATIVE
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.significance import holm, mean_interval, paired_t
from tl_crossenc.store.cells import Store

BOTH = "both"


@dataclass(frozen=True)
class HeadFolds(Framed):
    """nDCG with the k heads removed that the other half of the queries ranks highest.

    Attributes:
        folds: a row a scope, k and fold ("0", "1", or "both", all queries): the `heads` of one fold, `n_queries`, `mean` with `low`
            and `high`; `difference` from the unablated model with `diff_low` and `diff_high`, 95 % t-intervals over queries; `p` of
            the paired t-test, and of "both" `p_holm` over all k and scopes; `all_difference`, that of the same queries with the
            heads that all queries rank highest.
        per_query: `[query x (scope; k)]` nDCG, `none` unablated, and the `fold` that a query is in.
        scalars: seed, sizes of the halves.
        layers_run: layers that the model ran for this, a layer of one pair counting 1; 0 when everything was stored.
    """

    folds: pd.DataFrame
    per_query: pd.DataFrame
    scalars: dict[str, Any]
    layers_run: int = 0

    __repr__ = short_repr


@recorded
def run_head_folds(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    attention: Attention,
    whole: HeadAblation,
    *,
    relevant_grades: Iterable[int] | None = None,
    against: int | Iterable[int] = EASY_NEGATIVE,
    quantity: str = QUANTITY,
    seed: int = 0,
    mode: Mode = "zero",
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> HeadFolds:
    """Rank heads on either half of the queries and remove the first of them on the other.

    Args:
        model, pools, store: as `rank_under` takes them.
        attention: of the model on these pools.
        whole: the ablation of heads ranked on all queries, with the same settings; conditions that it has are not run again.
        relevant_grades, against, quantity: as `matching_heads` takes them.
        seed: of the halves.
        mode, cutoff, gain, token_budget, executor, progress: as `rank_under` takes them.

    Raises:
        Unavailable: heads cannot be ranked on a half of the queries.
        CellsFailed, Waiting: see `Executor.run`.
    """
    folds = two_folds([(str(name), str(query_id)) for name, query_id in whole.per_query.index], seed)
    compared: dict[str, Any] = {"relevant_grades": relevant_grades, "against": against, "quantity": quantity}
    rankings = [_ranked_on(attention, fold, compared) for fold in folds][::-1]  # each fold by the other's
    named = whole.draws[whole.draws["kind"] == "ranked"].set_index(["scope", "k"])["condition"]
    conditions = {
        (scope, k, i): heads_condition(ranking[:k], scope, mode)
        for scope, k in named.index
        for i, ranking in enumerate(rankings)
    }
    new = [
        list(dict.fromkeys(c for place, c in conditions.items() if place[2] == i and str(c) not in set(named)))
        for i in range(len(folds))
    ]
    asked = [(of_queries(pools, fold), own) for fold, own in zip(folds, new, strict=True) if own]
    given: dict[str, Any] = {"cutoff": cutoff, "gain": gain, "token_budget": token_budget}
    ran = rank_each(model, asked, store, executor=executor, progress=progress, **given) if asked else []
    per_query = _per_query(whole.per_query, folds, conditions, [part.ndcg for part in ran])
    return HeadFolds(
        folds=_frame(per_query, folds, whole.per_query, named, rankings),
        per_query=per_query,
        scalars={
            "seed": seed,
            "n_queries": len(per_query),
            "fold_sizes": [len(fold) for fold in folds],
        },
        layers_run=sum(part.layers_run for part in ran),
    )


def _ranked_on(attention: Attention, fold: Sequence[Query], compared: dict[str, Any]) -> tuple[LayerHead, ...]:
    wanted = set(fold)
    half = replace(attention, flow=attention.flow.regroup(lambda group: group if group[:2] in wanted else None))  # type: ignore[index]
    try:
        return ranked_heads(matching_heads(half, **compared))
    except Unavailable as reason:
        raise Unavailable(f"heads cannot be ranked on one half of the queries: {reason}") from reason


def _per_query(
    known: pd.DataFrame, folds: Folds, conditions: dict[tuple[str, int, int], Condition], ran: Sequence[pd.DataFrame]
) -> pd.DataFrame:
    """nDCG of every query with the heads removed that are its fold's; of a query without passages, as unablated."""
    in_fold = pd.Series({query: str(i) for i, fold in enumerate(folds) for query in fold})
    found = {"fold": in_fold.reindex(known.index), str(UNABLATED): known[str(UNABLATED)]}
    for (scope, k, i), condition in conditions.items():
        values = found.setdefault(f"{scope}; k={k}", known[str(UNABLATED)].copy())
        for frame in (known, *ran):
            if str(condition) in frame:
                there = [query for query in folds[i] if query in frame.index]
                values.loc[there] = frame.loc[there, str(condition)]
    return pd.DataFrame(found)


def _frame(
    per_query: pd.DataFrame,
    folds: Folds,
    known: pd.DataFrame,
    named: pd.Series,
    rankings: Sequence[tuple[LayerHead, ...]],
) -> pd.DataFrame:
    baseline, rows = per_query[str(UNABLATED)], []
    for (scope, k), condition in named.items():
        values, by_all = per_query[f"{scope}; k={k}"], known[condition] - baseline
        heads = [format_heads(ranking[:k]) for ranking in rankings]
        parts = [(str(i), heads[i], list(fold)) for i, fold in enumerate(folds)]
        for fold, removed, queries in (*parts, (BOTH, "those of each half", list(per_query.index))):
            own, before = values.loc[queries], baseline.loc[queries]
            change = own - before
            means = (float(own.mean()), *mean_interval(own), float(change.mean()), *mean_interval(change))
            place = (scope, k, fold, removed, len(own))
            rows.append((*place, *means, paired_t(own, before), float(by_all.loc[queries].mean())))
    bounded = ["mean", "low", "high", "difference", "diff_low", "diff_high"]
    frame = pd.DataFrame(rows, columns=["scope", "k", "fold", "heads", "n_queries", *bounded, "p", "all_difference"])
    both = frame["fold"] == BOTH
    frame.loc[both, "p_holm"] = holm(frame.loc[both, "p"].to_numpy(dtype=np.float64))
    return frame
