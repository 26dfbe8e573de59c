"""Ablation beyond zero: nDCG with heads, MLPs and directions set to zero, to their mean, or to another pair's activations.

Zero takes an activation where the model never was; the mean keeps what does not depend on the pair, and resampling keeps the
distribution too. A target whose zero costs much and whose mean costs nothing carries a constant, not information. Means and
drawn pairs come from the pool's own ranked passages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.ranking import evaluate_pool, one_ideal
from tl_crossenc.experiments.replacement_cells import CellPlan, id_columns
from tl_crossenc.experiments.scoring import score_pools
from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.interventions.targets import Target, TargetLike, as_targets, check_apart, check_targets, format_targets
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.patching.replacement_values import MAX_DONORS
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.significance import compare, mean_interval
from tl_crossenc.store.cells import Store

KINDS = ("zero", "mean", "resample")
NONE = str(UNABLATED)
TargetSet = TargetLike | Iterable[TargetLike]


@dataclass(frozen=True)
class ReplacementAblation(Framed):
    """nDCG with targets replaced.

    Attributes:
        comparison: a row a (set of targets, kind of values): `targets`, `values`, the columns of `significance.compare`
            against the model as it is, Holm over all rows, and `tie_rate`.
        per_query: `[query x label]` nDCG, indexed by (collection, query_id); a label is `mean(3.7+mlp.2)`, or `none`.
        scores: a row a pair: collection, query_id, doc_id, grade, and a column of scores for each label.
        unchanged: (mean, low, high) nDCG of the model as it is, a 95 % t-interval over queries.
        random: mean expected nDCG of a random ranking.
        seed: of the draws.
        max_donors: pairs of a pool that are drawn from.
        layers_run: layers that the model ran for this, a layer of one pair counting 1; 0 when everything was stored.
    """

    comparison: pd.DataFrame
    per_query: pd.DataFrame
    scores: pd.DataFrame
    unchanged: tuple[float, float, float]
    random: float
    seed: int
    max_donors: int
    layers_run: int

    __repr__ = short_repr


@recorded
def run_replacement(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    targets: Sequence[TargetSet],
    *,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    max_donors: int = MAX_DONORS,
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> ReplacementAblation:
    """Rank the pools' graded passages with each set of targets replaced by each kind of values.

    Args:
        model: the model, with whatever it ablates at the moment.
        pools: easy negatives are left out.
        store: of the scores.
        targets: sets of targets, each replaced together: "3.7", "3.7+3.8", `["mlp.2", "DOC->QUERY@3.7"]`.
        kinds: of "zero", "mean" and "resample".
        seed: of the draws.
        max_donors: the most pairs of a pool to draw from.
        cutoff, gain: of nDCG.
        token_budget: padded tokens a batch.
        executor: of what is missing.
        progress: called with (layer runs done, layer runs in all).

    Raises:
        ValueError: no pools, pools of one name or without passages, no targets, targets that the model does not have or that
            share something, or another kind.
    """
    sets = _check(model, pools, targets, kinds)
    labels = {f"{kind}({format_targets(chosen)})": (chosen, kind) for chosen in sets for kind in kinds}
    identity, active = executor.identity(model), str(model.active_condition)
    plans = [
        CellPlan(pool.ranked, identity, active, model.cfg.n_layers, seed, max_donors, token_budget) for pool in pools
    ]
    tasks = [task for plan in plans for kind in dict.fromkeys(kinds) for task in plan.tasks(sets, kind)]
    ran = executor.run(model, tasks, store, progress)
    asked = [(plan.pool, [UNABLATED]) for plan in plans]
    bases = score_pools(model, asked, store, token_budget=token_budget, executor=executor)
    values, scores = [], []
    for plan, base in zip(plans, bases, strict=True):
        columns = {
            NONE: base.values[0],
            **{label: plan.scores(store, *of) for label, of in labels.items()},
        }
        scores.append(_score_frame(plan.pool, columns))
        values.append(evaluate_pool(model, plan.pool, columns, cutoff=cutoff, gain=gain))
    frame = pd.concat(values)
    ndcg = frame["ndcg"]
    comparison = compare(ndcg[NONE], {label: ndcg[label] for label in labels})
    comparison.insert(0, "targets", [format_targets(chosen) for chosen, _ in labels.values()])
    comparison.insert(1, "values", [kind for _, kind in labels.values()])
    comparison["tie_rate"] = [float(frame["tie_rate"][label].mean()) for label in labels]
    interval = mean_interval(ndcg[NONE])
    return ReplacementAblation(
        comparison=comparison,
        per_query=ndcg,
        scores=pd.concat(scores, ignore_index=True),
        unchanged=(float(ndcg[NONE].mean()), interval.low, interval.high),
        random=float(frame["random"][NONE].mean()),
        seed=seed,
        max_donors=max_donors,
        layers_run=sum(task.cost for task in ran) + sum(base.layers_run for base in bases),
    )


def _check(
    model: HookedCrossEncoder, pools: Sequence[Pool], targets: Sequence[TargetSet], kinds: Sequence[str]
) -> list[tuple[Target, ...]]:
    sets = list(dict.fromkeys(as_targets(chosen) for chosen in ([targets] if isinstance(targets, str) else targets)))
    for chosen in sets:
        check_targets(chosen, model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_mlp)
        check_apart(chosen)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds or not sets:
        raise ValueError(
            f"expected at least one set of targets, and kinds among {', '.join(KINDS)}; got {len(sets)} sets and {list(kinds)}"
        )
    names = [pool.collection for pool in pools]
    if not pools or len(set(names)) < len(names) or any(len(pool.ranked) == 0 for pool in pools):
        raise ValueError(f"expected pools of different names with passages to rank, got {names}")
    one_ideal(pools)
    return sets


def _score_frame(pool: Pool, columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame({"collection": pool.collection, **id_columns(pool.pairs), **columns})
