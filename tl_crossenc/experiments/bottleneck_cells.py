"""What the store keeps of information bottlenecks, and the tasks that compute it.

Two kinds of cells, each of the model as `identity` names it, what it ablates, and the token budget:

    layer-statistics    moments of every layer over a shard of the pairs that noise is estimated on
    bottlenecks         bits of every token and scores under the mask, of a shard of pairs at one layer; its key has how masks were
                        fitted, and the digest of the pairs that noise was estimated on

A shard's batches depend on the shard alone, so a cell's bytes do not depend on which other cells were computed beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from tl_crossenc.executors.task import Advance, Cell, Task
from tl_crossenc.experiments.pair_tasks import encode
from tl_crossenc.instruments.bottleneck import fit_bottlenecks
from tl_crossenc.instruments.fitting import Fitting
from tl_crossenc.instruments.layer_statistics import LayerStatistics, digests_of
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool, PoolPair
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

METHOD = 1
"""Counts up with every change of how bottlenecks or moments are computed, batched or stored that changes a cell's numbers."""
SHARD = 10
"""Pairs a cell of bottlenecks, at most: what a killed job loses of a layer."""
MOMENTS_SHARD = 128
"""Pairs a cell of moments."""


@dataclass(frozen=True)
class About:
    """What all cells of a run share.

    Attributes:
        identity: of the model.
        condition: what it ablates.
        token_budget: padded tokens a batch.
        n_layers: of the model.
    """

    identity: Mapping[str, str]
    condition: str
    token_budget: int
    n_layers: int

    def key(self, kind: str, **fields: object) -> CellKey:
        """Of a cell."""
        own = {"method": METHOD, "condition": self.condition, "token_budget": self.token_budget}
        return CellKey.of(kind, **self.identity, **own, **fields)


@dataclass(frozen=True, eq=False)
class MomentsTask(Task):
    """Moments of every layer over some pairs: one cell."""

    about: About
    pairs: tuple[PoolPair, ...]
    keys: tuple[CellKey, ...]
    meta: Mapping[str, str]

    @property
    def cost(self) -> int:
        """See `Task`."""
        return self.about.n_layers * len(self.pairs)

    def only(self, keys: Set[CellKey]) -> MomentsTask | None:
        """See `Task`."""
        return self if keys & set(self.keys) else None

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        n_layers, budget = self.about.n_layers, self.about.token_budget
        found = LayerStatistics.fit(
            model, encode(model, self.pairs), token_budget=budget, progress=lambda pairs: advance(pairs * n_layers)
        )
        layer, part = np.indices(found.mean.shape[:2]).reshape(2, -1)
        columns = {"layer": pa.array(layer, pa.int16()), "part": pa.array(part, pa.int16())}
        columns["count"] = pa.array(found.count[part], pa.int64())
        columns |= {
            name: pa.array([*values.reshape(len(layer), -1)])
            for name, values in (("mean", found.mean), ("m2", found.m2))
        }
        for name, value in zip(("scores", "scores_mean", "scores_m2"), found.scores, strict=True):
            columns[name] = pa.array(np.full(len(layer), value))
        yield Cell(self.keys[0], pa.table(columns), self.meta)


@dataclass(frozen=True, eq=False)
class BottleneckTask(Task):
    """Bottlenecks of some pairs at some layers, a cell a layer.

    Attributes:
        about: what all share.
        pairs: of the shard.
        layers: one a cell.
        keys: of the cells.
        fitting: how masks are fitted.
        statistics: the layers' distribution, over other pairs; None while it is not known, and the task not to be run.
        meta: of the cells.
    """

    about: About
    pairs: tuple[PoolPair, ...]
    layers: tuple[int, ...]
    keys: tuple[CellKey, ...]
    fitting: Fitting
    statistics: LayerStatistics | None
    meta: Mapping[str, str]

    @property
    def cost(self) -> int:
        """See `Task`; a layer's cell runs the pairs to the end anew."""
        return sum(self.fitting.layer_runs(self.about.n_layers, [layer]) for layer in self.layers) * len(self.pairs)

    def only(self, keys: Set[CellKey]) -> BottleneckTask | None:
        """See `Task`."""
        kept = [(layer, key) for layer, key in zip(self.layers, self.keys, strict=True) if key in keys]
        if not kept:
            return None
        return replace(self, layers=tuple(layer for layer, _ in kept), keys=tuple(key for _, key in kept))

    def split(self, parts: int) -> list[BottleneckTask]:
        """By layers, every so many together, since the first cost most."""
        parts = min(parts, len(self.keys))
        return [replace(self, layers=self.layers[i::parts], keys=self.keys[i::parts]) for i in range(parts)]

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        if self.statistics is None:
            raise ValueError("expected a task that has the layers' distribution, got one without")
        encoded = encode(model, self.pairs)
        for layer, key in zip(self.layers, self.keys, strict=True):
            found = fit_bottlenecks(
                model,
                encoded,
                self.statistics,
                self.fitting,
                layers=[layer],
                token_budget=self.about.token_budget,
                progress=advance,
            )
            table = pa.table(
                {
                    "query_id": [pair.query_id for pair in self.pairs],
                    "doc_id": [pair.doc_id for pair in self.pairs],
                    "grade": pa.array([pair.grade for pair in self.pairs], pa.int32()),
                    "score": found.scores,
                    "masked": found.masked[0],
                    "masked_sd": found.masked_sd[0],
                    "score_sd": np.full(len(self.pairs), found.score_sd),
                    "floored": pa.array([found.floored[0]] * len(self.pairs), pa.int32()),
                    "bits": pa.array([found.of(i)[0].astype(np.float32) for i in range(len(self.pairs))]),
                }
            )
            yield Cell(key, table, self.meta)


def moments_tasks(about: About, pool: Pool) -> list[MomentsTask]:
    """Those of a pool that noise is estimated on."""
    return [
        MomentsTask(
            about,
            pairs,
            (about.key("layer-statistics", pool=pool.digest, shard=i, shard_size=MOMENTS_SHARD),),
            {"collection": pool.collection},
        )
        for i, pairs in enumerate(_shards(pool, MOMENTS_SHARD))
    ]


def bottleneck_tasks(
    about: About, sample: Pool, noise: Pool, layers: Sequence[int], fitting: Fitting
) -> list[BottleneckTask]:
    """Those of a sample, whose noise is estimated on another pool; their `statistics` is yet to come."""
    fields = {"pool": sample.digest, "noise": noise.digest, "shard_size": SHARD, **fitting.fields}
    return [
        BottleneckTask(
            about,
            pairs,
            tuple(layers),
            tuple(about.key("bottlenecks", **fields, shard=i, layer=layer) for layer in layers),
            fitting,
            None,
            {"collection": sample.collection},
        )
        for i, pairs in enumerate(_shards(sample, SHARD))
    ]


def read_moments(model: HookedCrossEncoder, store: Store, tasks: Sequence[MomentsTask]) -> LayerStatistics:
    """Of all pairs of the tasks, whose cells are stored."""
    found = []
    for task in tasks:
        table, n_layers = store.read(task.keys[0]), task.about.n_layers
        mean, m2 = (
            np.stack(table[name].to_pylist()).reshape(n_layers, -1, model.cfg.d_model) for name in ("mean", "m2")
        )
        n, centre, spread = (table[name].to_numpy()[0] for name in ("scores", "scores_mean", "scores_m2"))
        count = table["count"].to_numpy()[: mean.shape[1]]
        digests = frozenset(digests_of(encode(model, task.pairs)))
        found.append(
            LayerStatistics(tuple(range(n_layers)), count, mean, m2, (int(n), float(centre), float(spread)), digests)
        )
    return LayerStatistics.join(found)


def _shards(pool: Pool, size: int) -> list[tuple[PoolPair, ...]]:
    return [pool.pairs[start : start + size] for start in range(0, len(pool), size)]
