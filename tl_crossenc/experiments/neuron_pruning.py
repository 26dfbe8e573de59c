"""Neurons pruned by conductance: does the ranking need them more than as many others?

After Vast et al. 2024, who prune the MLP neurons of MonoBERT by their conductance from a baseline of padding tokens. The k neurons
of all layers together with the largest mean |conductance| over relevant passages are pruned, and so are k drawn at random, and the
k of the largest activations: large activations alone do damage when they are removed, which says nothing of relevance.

**Two folds.** Neurons are chosen on one half of the queries and pruned in rankings of the other, both ways; every query's nDCG is
one under neurons that it had no say in. Random draws are the same for both halves, and nested: k drawn are the first k of a draw.

**Limits.** Pruning takes activations where the model never was ("zero"), less so with their mean by part over the ranked passages
("mean"). Neurons that undo each other have large conductances and are not needed; neurons with copies are needed and can be spared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.conductance_cells import MEASURES, QueryConductance, query_conductance
from tl_crossenc.experiments.neuron_frames import (
    RANDOM,
    Ranked,
    best_first,
    contrast_frame,
    neuron_frame,
    query_frame,
    ranking_frame,
)
from tl_crossenc.experiments.pair_tasks import encode
from tl_crossenc.experiments.query_folds import Folds, of_queries, sampled_pools, two_folds
from tl_crossenc.experiments.relevant_sample import relevant_pools
from tl_crossenc.experiments.replacement import NONE, run_replacement
from tl_crossenc.instruments.attributed_difference import LARGEST_ERROR, NODES, check_nodes
from tl_crossenc.instruments.baselines import BaselineLike, as_baseline
from tl_crossenc.interventions.targets import Target, format_targets, neuron_targets
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.pool import Pool, require_distinct
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.significance import mean_interval
from tl_crossenc.store.cells import Store

COUNTS = (16, 64, 256)
KINDS = ("zero", "mean")
FEWEST_DRAWS, DRAWS = 2, 20


@dataclass(frozen=True)
class NeuronPruning(Framed):
    """nDCG with neurons pruned.

    Attributes:
        rankings: a row a (values, k, choice), the choices being conductance, activity and random: `mean` nDCG over queries, `low`,
            `high` (95 % t-interval), of random the means over draws with `lowest_draw` and `highest_draw`; `n_queries`.
        contrasts: a row a (values, k, against) of the neurons chosen by conductance less the unpruned model, the mean of the random
            draws, and those chosen by activity: `difference`, `low`, `high`, `p` (paired t over queries), `p_holm` over all rows.
        draws: a row a (values, k, draw): `mean`.
        neurons: a row a neuron of the `KEPT` with the largest conductance over all queries: `layer`, `neuron`, both measures.
        per_query: nDCG `[query x (unpruned, and values, k, choice)]`, and the `fold` that a query is in.
        scalars: settings, counts, `random_ranking`; `shared`: k -> how many of the k chosen on either half are the same.
    """

    rankings: pd.DataFrame
    contrasts: pd.DataFrame
    draws: pd.DataFrame
    neurons: pd.DataFrame
    per_query: pd.DataFrame
    scalars: dict[str, Any]

    __repr__ = short_repr


@recorded
def run_neuron_pruning(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    counts: Sequence[int] = COUNTS,
    kinds: Sequence[str] = KINDS,
    draws: int = DRAWS,
    baseline: BaselineLike = "both:pad",
    nodes: int = NODES,
    relevant_grades: Sequence[int] | None = None,
    queries: int | None = None,
    passages: int | None = None,
    seed: int = 0,
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> NeuronPruning:
    """Rank the graded passages of the pools with neurons pruned, computing only missing cells.

    Args:
        model: the model, with what it ablates at the moment.
        pools: the pools; easy negatives are left out of rankings.
        store: of the cells.
        counts: k; one that is not below the model's number of neurons is left out.
        kinds: what takes a pruned neuron's place, of "zero" and "mean" (by part, over the ranked passages).
        draws: of random neurons, at least 2; the paper-grade number is 20 or more.
        baseline: of the conductance.
        nodes: steps of its path.
        relevant_grades: of the passages that conductance is taken of; None for the upper half of the collections' scale.
        queries: on how many, drawn at random; None for all.
        passages: relevant ones a query for conductance, drawn at random; None for all.
        seed: of draws and halves.
        cutoff, gain: of nDCG.
        token_budget: padded tokens a pass.
        executor: of what is missing.
        progress: called with (layer runs done, layer runs in all) of conductance, and then of rankings.

    Raises:
        Unavailable: fewer than two queries, no relevant passage on a half.
        ValueError: no pools, two of one name, or counts, kinds or draws that there cannot be.
        CellsFailed, Waiting: see `Executor.run`.
    """
    n_neurons = model.cfg.n_layers * (model.cfg.d_mlp or 0)
    if not all(isinstance(k, Integral) for k in counts):
        raise ValueError(f"expected whole numbers of neurons, got {list(counts)}")
    sizes = sorted({int(k) for k in counts if 0 < k < n_neurons})
    if not sizes or min(counts) < 1 or draws < FEWEST_DRAWS or not kinds or set(kinds) - set(KINDS):
        raise ValueError(
            f"expected counts from 1 to below the {n_neurons} neurons, at least {FEWEST_DRAWS} draws, and kinds among "
            f"{', '.join(KINDS)}; got {list(counts)}, {draws} and {list(kinds)}"
        )
    if not pools:
        raise ValueError("expected at least one pool, got none")
    require_distinct([pool.collection for pool in pools])
    check_nodes(nodes)
    used = [pool.ranked for pool in sampled_pools(pools, queries, seed) or pools]
    folds = two_folds([(pool.collection, query) for pool in used for query in pool.by_query()], seed)
    relevant, grades = relevant_pools(used, relevant_grades, passages=passages, seed=seed)
    chosen = as_baseline(baseline)
    chosen.token_id(model, encode(model, relevant[0].pairs[:1]))  # told here, and not of every cell
    run: dict[str, Any] = {"executor": executor, "progress": progress}
    found = query_conductance(model, relevant, store, chosen, nodes=nodes, token_budget=token_budget, **run)
    orders = _orders(found, folds)
    drawn = [np.random.default_rng([seed, draw, n_neurons]).permutation(n_neurons) for draw in range(draws)]
    run |= {"token_budget": executor.token_budget(model, token_budget), "cutoff": cutoff, "gain": gain}
    halves = []
    for fold, other in ((0, 1), (1, 0)):
        sets = _sets(orders[other], drawn, sizes, model.cfg.d_mlp or 0)
        wanted = list(dict.fromkeys(sets.values()))
        ranked = run_replacement(model, of_queries(used, folds[fold]), store, wanted, kinds=kinds, **run)
        columns = {
            (kind, *place): ranked.per_query[f"{kind}({format_targets(own)})"]
            for place, own in sets.items()
            for kind in kinds
        }
        halves.append((columns, ranked.per_query[NONE], ranked.random))
    values: Ranked = {place: pd.concat([half[0][place] for half in halves]) for place in halves[0][0]}
    unpruned = pd.concat([half[1] for half in halves])
    sizes_of = [len(fold) for fold in folds]
    return NeuronPruning(
        rankings=ranking_frame(values, kinds, sizes, draws),
        contrasts=contrast_frame(values, unpruned, kinds, sizes, draws),
        draws=pd.DataFrame(
            [
                (kind, k, d, float(values[kind, k, RANDOM, d].mean()))
                for kind in kinds
                for k in sizes
                for d in range(draws)
            ],
            columns=["values", "k", "draw", "mean"],
        ),
        neurons=neuron_frame(found, model.cfg.d_mlp or 0),
        per_query=query_frame(values, unpruned, folds, draws),
        scalars={
            "n_queries": len(unpruned),
            "n_all_queries": sum(len(pool.ranked.by_query()) for pool in pools),
            "n_ranked": sum(map(len, used)),
            "fold_sizes": sizes_of,
            "unpruned": float(unpruned.mean()),
            "unpruned_interval": list(mean_interval(unpruned)),
            "random_ranking": float(np.average([half[2] for half in halves], weights=sizes_of)),
            "n_neurons": n_neurons,
            "n_draws": draws,
            "n_pairs": sum(map(len, relevant)),
            "baseline": str(chosen),
            "nodes": nodes,
            "missed": float((found.errors > LARGEST_ERROR).mean()),
            "median_error": float(np.median(found.errors)),
            "relevant_grades": list(grades),
            "shared": {str(k): len({*orders[0]["conductance"][:k]} & {*orders[1]["conductance"][:k]}) for k in sizes},
            "seed": seed,
        },
    )


def _orders(found: QueryConductance, folds: Folds) -> list[dict[str, Int[np.ndarray, "neuron"]]]:
    """For each half the neurons by each measure over its queries, largest first; ties in the neurons' order."""
    orders = []
    for fold in folds:
        rows = [i for i, query in enumerate(found.queries) if query in set(fold)]
        if not rows:
            raise Unavailable(
                "choosing neurons on either half of the queries needs a relevant passage in both, got one half without"
            )
        orders.append({name: best_first(found.values[name][rows].mean(0)) for name in MEASURES})
    return orders


def _sets(
    orders: Mapping[str, np.ndarray], drawn: Sequence[np.ndarray], sizes: Sequence[int], d_mlp: int
) -> dict[tuple[int, str, int], tuple[Target, ...]]:
    """(k, choice, draw) -> the neurons."""
    chosen = [(name, 0, order) for name, order in orders.items()]
    chosen += [(RANDOM, draw, order) for draw, order in enumerate(drawn)]
    return {
        (k, choice, draw): neuron_targets(divmod(int(neuron), d_mlp) for neuron in order[:k])
        for k in sizes
        for choice, draw, order in chosen
    }
