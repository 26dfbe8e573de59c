"""Which of an adapter's updates a ranking needs: nDCG with those of some layers or some projections applied and no others.

Of a model that is a LoRA adapter over a base (Nijasure et al. 2025, arXiv:2504.08780, ablate the updates of a decoder by layer and
projection). The classification head is the trained one throughout. Rankings, for L layers and the projections that the adapter has:

    none            the base under the trained head
    all             the model
    only layer l    the updates of layer l alone;           without layer l    all but these
    up to layer l   those of layers 0..l;                   from layer l       those of layers l..L−1
    only p          those of one projection in all layers;  without p          all but these

**Limits.** The head was trained on the fully adapted stream and reads what it never saw: a low nDCG says that the rest cannot do
without what is missing, not that what is missing holds the knowledge. Effects do not add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.ranking import evaluate_pool, one_ideal
from tl_crossenc.experiments.scoring import score_pool
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.model.adapter_updates import PROJECTIONS, AdapterUpdates, Updated
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.pool import Pool, require_distinct
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.significance import compare, mean_interval
from tl_crossenc.store.cells import Store

NONE, ALL = "none", "all"
KINDS = ("only layer", "without layer", "up to layer", "from layer", "only projection", "without projection")


@dataclass(frozen=True)
class AdapterRankings(Framed):
    """nDCG under parts of an adapter.

    Attributes:
        rankings: a row a ranking: `ranking`, `kind` ("none", "all" or one of `KINDS`), `layer` and `projection` (missing where it
            is of all), `n_updates`, `mean`, `low`, `high` (95 % t-interval over queries), and of the paired difference from the
            whole model `difference`, `diff_low`, `diff_high`, `p_holm` (paired t, Holm over all rows but "all"); `n_queries`.
        updates: a row an update: `layer`, `projection`, `size`: the Frobenius norm of what is added, as a share of the base
            matrix's.
        per_query: nDCG, `[query x ranking]`.
        random: mean nDCG of a random ranking.
        layers_run: layers that the model ran for this, a layer of one pair counting 1.
    """

    rankings: pd.DataFrame
    updates: pd.DataFrame
    per_query: pd.DataFrame
    random: float
    layers_run: int

    __repr__ = short_repr

    @property
    def scalars(self) -> dict[str, Any]:
        """What is no table."""
        return {"random": self.random, "n_queries": len(self.per_query)}


@recorded
def run_adapter_updates(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> AdapterRankings:
    """Rank the pools' graded passages with parts of the adapter's updates.

    Raises:
        Unavailable: the model is of no adapter, or not as it was opened.
        ValueError: no pools, two of one name, or one without passages to rank.
    """
    if not pools or any(len(pool.ranked) == 0 for pool in pools):
        raise ValueError(f"expected pools with passages to rank, got {[pool.collection for pool in pools]}")
    require_distinct([pool.collection for pool in pools])
    one_ideal(pools)
    try:
        updates = AdapterUpdates(model)
    except ValueError as reason:
        raise Unavailable(str(reason)) from reason
    chosen = _rankings(tuple(updates.sizes), model.cfg.n_layers)
    layers, pairs = model.cfg.n_layers, sum(len(pool.ranked) for pool in pools)
    values: list[pd.DataFrame] = []
    run = 0
    for pool in pools:
        columns = {}
        for done, (label, (_, _, _, places)) in enumerate(chosen.items()):
            with updates.only(places) as partly:
                scored = score_pool(
                    partly, pool.ranked, [UNABLATED], store, token_budget=token_budget, executor=executor
                )
            columns[label] = scored.values[0]
            run += scored.layers_run
            if progress is not None:
                before = sum(len(other.ranked) for other in pools[: len(values)]) * len(chosen)
                progress(layers * (before + len(pool.ranked) * (done + 1)), layers * pairs * len(chosen))
        values.append(evaluate_pool(model, pool.ranked, columns, cutoff=cutoff, gain=gain))
    frame = pd.concat(values)
    ndcg = frame["ndcg"]
    sizes = [(*place, size) for place, size in updates.sizes.items()]
    return AdapterRankings(
        rankings=_ranking_frame(chosen, ndcg),
        updates=pd.DataFrame(sizes, columns=["layer", "projection", "size"]),
        per_query=ndcg,
        random=float(frame["random"][ALL].mean()),
        layers_run=run,
    )


Chosen = tuple[str, int | None, str | None, frozenset[Updated]]


def _rankings(updates: Sequence[Updated], n_layers: int) -> dict[str, Chosen]:
    """Label → (kind, layer, projection, the updates applied); those of the same updates are one cell."""
    found: dict[str, Chosen] = {NONE: (NONE, None, None, frozenset()), ALL: (ALL, None, None, frozenset(updates))}
    for layer in range(n_layers):
        sides = {
            KINDS[0]: [place for place in updates if place.layer == layer],
            KINDS[1]: [place for place in updates if place.layer != layer],
            KINDS[2]: [place for place in updates if 0 <= place.layer <= layer],
            KINDS[3]: [place for place in updates if place.layer >= layer],
        }
        found |= {f"{kind} {layer}": (kind, layer, None, frozenset(places)) for kind, places in sides.items()}
    others = sorted({place.projection for place in updates} - set(PROJECTIONS))
    for name in (*PROJECTIONS, *others):
        own = [place for place in updates if place.projection == name]
        if own:
            rest = frozenset(updates) - frozenset(own)
            found[f"{KINDS[4]} {name}"] = (KINDS[4], None, name, frozenset(own))
            found[f"{KINDS[5]} {name}"] = (KINDS[5], None, name, rest)
    return found


def _ranking_frame(chosen: dict[str, Chosen], ndcg: pd.DataFrame) -> pd.DataFrame:
    tested = compare(ndcg[ALL], {label: ndcg[label] for label in chosen if label != ALL})
    rows = []
    for label, (kind, layer, projection, places) in chosen.items():
        interval = mean_interval(ndcg[label])
        row: dict[str, Any] = {
            "ranking": label,
            "kind": kind,
            "layer": layer,
            "projection": projection,
            "n_updates": len(places),
        }
        row |= {"mean": float(ndcg[label].mean()), "low": interval.low, "high": interval.high}
        if label != ALL:
            row |= {name: tested.loc[label, name] for name in ("difference", "diff_low", "diff_high", "p_holm")}
        rows.append(row | {"n_queries": len(ndcg)})
    frame = pd.DataFrame(rows)
    frame["layer"] = frame["layer"].astype("Int64")
    return frame
