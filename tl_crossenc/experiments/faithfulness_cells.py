"""Cells of faithfulness: scores of pairs whose tokens are removed by the ranks of an attribution, and what computes them.

A cell is (model, pool, ablation, attribution with what it depends on, removal, fractions, bins, random sets, shard of the pool):
for every pair the scores of the curves, of the bins, and sensitivity-n. A shard's pairs are of like length, and its batches depend
on it alone. The random sets are the same for all attributions of a shard: they are run once where several are computed together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tl_crossenc.executors.task import Advance, Cell, Task
from tl_crossenc.experiments.bottleneck_cells import About
from tl_crossenc.experiments.pair_tasks import encode
from tl_crossenc.instruments.faithfulness import Curves, random_sets, removal_curves
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.instruments.removal import Removal, model_scorer
from tl_crossenc.instruments.token_attributions import (
    BOTTLENECK,
    GRADIENTS,
    LEAVE_ONE_OUT,
    RANDOM,
    Attributing,
    token_attributions,
)
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool, PoolPair
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

KIND = "faithfulness"
METHOD = 1
"""Counts up with every change of how attributions or scores are computed, batched or stored that changes a cell's numbers."""
SHARD = 8
"""Pairs a cell."""
TYPICAL = 64
"""Tokens of a passage, for the estimate of what leaving out costs."""
CURVES = ("most", "least", "without_top", "only_top")


@dataclass(frozen=True)
class Measuring:
    """How faithfulness is measured.

    Attributes:
        fractions: of the curves.
        bins: of comprehensiveness and sufficiency.
        share: of the tokens in a random set.
        sets: random sets a pair.
    """

    fractions: tuple[float, ...]
    bins: tuple[float, ...]
    share: float
    sets: int


@dataclass(frozen=True)
class Attribution:
    """An attribution of the experiment.

    Attributes:
        name: of `ATTRIBUTIONS`.
        draw: of random numbers; 0 for the others.
    """

    name: str
    draw: int = 0


@dataclass(frozen=True, eq=False)
class FaithfulnessTask(Task):
    """A shard of a pool, a cell an attribution.

    Attributes:
        about: what all cells share.
        pairs: of the shard.
        attributions: one a cell.
        keys: of the cells.
        given: what the methods are given; the seed of a random draw comes on top.
        measuring: how.
        statistics: the layers' distribution over other pairs; None while it is not known, or not needed.
        meta: of the cells.
    """

    about: About
    pairs: tuple[PoolPair, ...]
    attributions: tuple[Attribution, ...]
    keys: tuple[CellKey, ...]
    given: Attributing
    measuring: Measuring
    statistics: LayerStatistics | None
    meta: Mapping[str, str]

    @property
    def cost(self) -> int:
        """See `Task`: estimated, since removals that are the same are run once and texts differ in length."""
        return self._shared + sum(self._of(own) for own in self.attributions)

    @property
    def _shared(self) -> int:
        return self.about.n_layers * self.measuring.sets * len(self.pairs)

    def _of(self, own: Attribution) -> int:
        """Layer runs of an attribution's cell."""
        m, n_layers = self.measuring, self.about.n_layers
        runs = n_layers * 2 * (len(m.fractions) + len(m.bins))
        if own.name == BOTTLENECK:
            runs += self.given.fitting.layer_runs(n_layers, [self.given.bottleneck_layer(n_layers)])
        elif own.name == GRADIENTS:
            runs += 2 * n_layers * (1 + self.given.nodes)
        elif own.name == LEAVE_ONE_OUT:
            runs += n_layers * TYPICAL
        return runs * len(self.pairs)

    def only(self, keys: Set[CellKey]) -> FaithfulnessTask | None:
        """See `Task`."""
        kept = [(own, key) for own, key in zip(self.attributions, self.keys, strict=True) if key in keys]
        if not kept:
            return None
        return replace(self, attributions=tuple(own for own, _ in kept), keys=tuple(key for _, key in kept))

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        encoded, removal, m = encode(model, self.pairs), self.given.removal, self.measuring
        budget, seed = self.about.token_budget, self.given.seed
        score = model_scorer(model, budget)
        sets = random_sets(score, encoded, removal, share=m.share, draws=m.sets, seed=seed)
        advance(self._shared)
        for own, key in zip(self.attributions, self.keys, strict=True):
            given = replace(self.given, seed=seed + own.draw, token_budget=budget)
            values = token_attributions(model, encoded, own.name, given, statistics=self.statistics)
            found = removal_curves(score, encoded, values, removal, fractions=m.fractions, bins=m.bins, seed=seed)
            columns: dict[str, object] = {
                "query_id": [pair.query_id for pair in self.pairs],
                "doc_id": [pair.doc_id for pair in self.pairs],
                "n_tokens": pa.array(found.n_tokens, pa.int32()),
                "sensitivity": sets.sensitivity(values),
            }
            columns |= {name: pa.array([*getattr(found, name)]) for name in CURVES}
            yield Cell(key, pa.table(columns), self.meta)
            advance(self._of(own))


def faithfulness_tasks(
    about: About,
    pool: Pool,
    attributions: Sequence[Attribution],
    given: Attributing,
    measuring: Measuring,
    noise: Pool | None,
) -> list[FaithfulnessTask]:
    """All cells of a pool; where bottlenecks are among the attributions, their `statistics`, of `noise`, is yet to come."""
    order = np.argsort([-len(pair.query) - len(pair.text) for pair in pool.pairs], kind="stable")
    tasks = []
    for shard, start in enumerate(range(0, len(pool), SHARD)):
        fields = {"pool": pool.digest, "shard": shard, "shard_size": SHARD}
        keys = tuple(_key(about, own, given, measuring, noise, fields) for own in attributions)
        pairs = tuple(pool.pairs[i] for i in np.sort(order[start : start + SHARD]))
        meta = {"collection": pool.collection}
        tasks.append(FaithfulnessTask(about, pairs, tuple(attributions), keys, given, measuring, None, meta))
    return tasks


def _key(
    about: About,
    own: Attribution,
    given: Attributing,
    measuring: Measuring,
    noise: Pool | None,
    fields: Mapping[str, object],
) -> CellKey:
    """Of one cell: what other attributions depend on is not in it."""
    removal: Removal = given.removal
    depends: dict[str, object] = {}
    if own.name == BOTTLENECK:
        fitted = {f"fitting_{name}": value for name, value in given.fitting.fields.items()}
        depends = {
            "noise": None if noise is None else noise.digest,
            "layer": given.bottleneck_layer(about.n_layers),
            **fitted,
        }
    elif own.name == GRADIENTS:
        depends = {"nodes": given.nodes}
    elif own.name == RANDOM:
        depends = {"draw": own.draw}
    how = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in asdict(measuring).items()
    }
    return about.key(
        KIND,
        faithfulness=METHOD,
        attribution=own.name,
        text=removal.text,
        removal=removal.way,
        seed=given.seed,
        **how,
        **depends,
        **fields,
    )


def read_curves(
    store: Store, tasks: Sequence[FaithfulnessTask], attribution: Attribution
) -> tuple[list[PoolPair], Curves, np.ndarray]:
    """(pairs, their curves, their sensitivity-n) of one attribution, from the store, task by task."""
    tables = [store.read(task.keys[task.attributions.index(attribution)]) for task in tasks]
    whole = pa.concat_tables(tables)
    arrays: dict[str, Any] = {name: np.array(whole[name].to_pylist(), np.float64) for name in CURVES}
    m = tasks[0].measuring
    curves = Curves(m.fractions, m.bins, whole["n_tokens"].to_numpy().astype(np.int64), **arrays)
    return [pair for task in tasks for pair in task.pairs], curves, whole["sensitivity"].to_numpy()
