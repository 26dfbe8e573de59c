"""Attention by direction of some pools, from the store where it is there, else measured and stored.

Mass, density and excess of every direction are measured once for each query, grade, layer and head; `attention_flow.py` defines
them. `matching.py` and `sinks.py` read their results off what comes out here.

A cell is (model as `identity` names it, full stops, pool, token budget, shard of the pool). A shard's batches depend on the shard
alone, so a cell's bytes do not depend on which other cells were computed beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple, cast

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.attention_cells import METHOD, AttentionTask, flow_from_table
from tl_crossenc.experiments.pair_tasks import cell_meta
from tl_crossenc.experiments.scoring import SHARD
from tl_crossenc.inputs.parts import N_PARTS, REAL_PART_NAMES
from tl_crossenc.instruments.attention_flow import (
    ATTENDERS,
    QUANTITIES,
    AttentionFlow,
    Moments,
    require_unablated,
)
from tl_crossenc.instruments.token_sets import full_stop_ids
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.pool import Pool, require_distinct
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey


class Group(NamedTuple):
    """The pairs of one query and one grade."""

    collection: str
    query_id: str
    grade: int


@dataclass(frozen=True)
class Attention(Framed):
    """Attention by direction on some collections.

    Attributes:
        by_direction: a row a (layer, head, attender, attended, grade, quantity): mean and variance over pairs, n_pairs. NaN where
            no pair counts (an empty part).
        flow: the moments behind it, by `Group`: what per-query values are read from.
        grades: the grades there are, in order.
        n_layers, n_heads: of the model.
        pairs_run: pairs that the model ran for this; 0 when everything was stored.
        model: the model's name.
        highest_grades: the highest grade in the qrels of each collection, once each (`grades.py`); the paper's 3 where not given.
        unjudged: of runs: how many pairs of grade 0 nobody judged; None of pools that were drawn, which have none.
    """

    by_direction: pd.DataFrame
    flow: AttentionFlow = field(repr=False)
    grades: tuple[int, ...]
    n_layers: int
    n_heads: int
    pairs_run: int
    model: str
    highest_grades: tuple[int, ...] = (3,)
    unjudged: int | None = None

    __repr__ = short_repr

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of the flow."""
        return cast(tuple[Group, ...], self.flow.groups)

    def per_query(self, direction: Direction | str, quantity: str = "mass") -> pd.DataFrame:
        """A row a (collection, query_id, grade, layer, head): the mean over the query's pairs of that grade, and n_pairs.

        Groups without a pair that counts are left out.

        Raises:
            ValueError: the attended side is ALL, or the quantity is unknown.
        """
        flow = self.only(direction, quantity)
        places = product(self.groups, range(self.n_layers), range(self.n_heads))
        frame = pd.DataFrame(
            [(*group, layer, head) for group, layer, head in places], columns=[*Group._fields, "layer", "head"]
        )
        frame["mean"] = flow.moments.mean.reshape(-1)
        frame["n_pairs"] = flow.moments.count.reshape(-1).repeat(self.n_layers * self.n_heads)
        return frame.loc[frame["n_pairs"] > 0].reset_index(drop=True)

    def only(self, direction: Direction | str, quantity: str = "mass") -> AttentionFlow:
        """The flow of one direction and one quantity, axes kept at size 1.

        Raises:
            ValueError: the attended side is ALL, or the quantity is unknown.
        """
        chosen = Direction.parse(direction) if isinstance(direction, str) else direction
        if chosen.attended is None:
            raise ValueError(f"expected a part on the attended side, got {chosen}: the mass on ALL is always 1")
        if quantity not in QUANTITIES:
            raise ValueError(f"expected a quantity among {', '.join(QUANTITIES)}, got {quantity!r}")
        attender = len(ATTENDERS) - 1 if chosen.attender is None else int(chosen.attender)
        q, y = QUANTITIES.index(quantity), int(chosen.attended)
        cell = (..., slice(q, q + 1), slice(attender, attender + 1), slice(y, y + 1))
        moments = self.flow.moments
        chosen_moments = Moments(moments.count[cell], moments.mean[cell], moments.m2[cell])
        return AttentionFlow(self.flow.groups, chosen_moments, made=self.made)


@recorded
def run_attention(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    token_budget: int | None = None,
    control: bool = False,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> Attention:
    """Measure attention by direction over all pairs of all pools, easy negatives included, computing only missing cells.

    The cells of a `control` lie beside those of another model; that they are of other weights is not worth a message.

    Raises:
        ValueError: no pool, pools without a pair, two pools of one name, an active ablation, or a model that no key can name (see
            `identity`).
        CellsFailed, Waiting: see `Executor.run`.
    """
    require_unablated(model)
    require_distinct([pool.collection for pool in pools])
    if not any(len(pool) for pool in pools):
        raise ValueError(f"expected at least one pool with passages, got {len(pools)} pools without: check the qrels")
    stops, layers = full_stop_ids(model), model.cfg.n_layers
    budget, identity = executor.token_budget(model, token_budget), executor.identity(model)
    shards = [
        (pool, i, pool.pairs[start : start + SHARD])
        for pool in pools
        for i, start in enumerate(range(0, len(pool), SHARD))
    ]
    tasks = [
        AttentionTask(
            tuple(pairs),
            (cell_key(identity, pool, i, stops, budget),),
            layers,
            budget,
            cell_meta(model, pool),
            stops,
        )
        for pool, i, pairs in shards
    ]
    ran = executor.run(model, tasks, store, progress, tell=not control)
    flow = AttentionFlow.join(
        [
            AttentionFlow.empty(layers, model.cfg.n_heads),
            *(
                _named(flow_from_table(store.read(task.keys[0]), layers, model.cfg.n_heads), pool)
                for task, (pool, _, _) in zip(tasks, shards, strict=True)
            ),
        ]
    )
    by_grade = flow.regroup(lambda group: cast(Group, group).grade)
    return Attention(
        by_direction=_by_direction(by_grade),
        flow=flow,
        grades=tuple(sorted(cast(tuple[int, ...], by_grade.groups))),
        n_layers=layers,
        n_heads=model.cfg.n_heads,
        pairs_run=sum(len(task.pairs) for task in ran),
        model=model.cfg.model_name,
        highest_grades=tuple(sorted({pool.highest_grade for pool in pools})),
        unjudged=sum(pool.unjudged for pool in pools) if any(pool.ideal == "qrels" for pool in pools) else None,
    )


def cell_key(identity: Mapping[str, str], pool: Pool, shard: int, stops: Sequence[int], token_budget: int) -> CellKey:
    """The key of one cell of moments."""
    return CellKey.of(
        "attention",
        **identity,
        method=METHOD,
        pool=pool.digest,
        full_stops=",".join(map(str, stops)),
        shard=shard,
        shard_size=SHARD,
        token_budget=token_budget,
    )


def _named(flow: AttentionFlow, pool: Pool) -> AttentionFlow:
    named = [Group(pool.collection, *cast(tuple[str, int], group)) for group in flow.groups]
    return AttentionFlow(tuple(named), flow.moments)


def _by_direction(by_grade: AttentionFlow) -> pd.DataFrame:
    grades = cast(tuple[int, ...], by_grade.groups)
    order = np.argsort(grades)
    moments, cells = by_grade.moments, (..., slice(N_PARTS), slice(N_PARTS))
    means, variances = moments.observed_mean[cells][order], moments.variance[cells][order]
    axes = {
        "grade": sorted(grades),
        "layer": range(means.shape[1]),
        "head": range(means.shape[2]),
        "quantity": QUANTITIES,
        "attender": REAL_PART_NAMES,
        "attended": REAL_PART_NAMES,
    }
    frame = pd.MultiIndex.from_product(axes.values(), names=axes.keys()).to_frame(index=False)
    frame["mean"], frame["variance"] = means.reshape(-1), variances.reshape(-1)
    frame["n_pairs"] = np.broadcast_to(moments.count[cells][order], means.shape).reshape(-1)
    return frame[["layer", "head", "attender", "attended", "grade", "quantity", "mean", "variance", "n_pairs"]]
