"""Cells of scores with targets replaced: their keys, and what computes them.

A cell is what `scoring` says, with the targets, the kind of values, and for resampling the seed and the number of pairs drawn
from, in place of the condition. The values come from the whole pool, so that a task has all of its pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from tl_crossenc.executors.task import Advance, Cell, Task
from tl_crossenc.experiments.pair_tasks import encode
from tl_crossenc.experiments.scoring import SHARD
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.interventions.targets import Target, format_targets
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.execution import run_conditions
from tl_crossenc.patching.replacement import replacing
from tl_crossenc.patching.replacement_values import ZERO, ReplacementMeans, ReplacementSamples, Values
from tl_crossenc.pools.pool import Pool, PoolPair
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

METHOD = 1
"""Counts up with every change of how values are taken, batched or stored that changes a cell's numbers."""
TOGETHER = 64
"""Targets whose activations are kept at a time for resampling, which bounds the memory."""

Targets = tuple[Target, ...]


@dataclass(frozen=True)
class ReplacementTask(Task):
    """A pool's shards under some sets of targets, whose values are taken at once.

    Attributes:
        pairs: of the pool.
        places: of each cell, what is replaced and the shard.
        keys: of the cells.
        kind: of the values.
        n_layers: of the model.
        seed, max_donors: of the draws.
        token_budget: padded tokens a batch.
        meta: of the cells.
    """

    pairs: tuple[PoolPair, ...]
    places: tuple[tuple[Targets, int], ...]
    keys: tuple[CellKey, ...]
    kind: str
    n_layers: int
    seed: int
    max_donors: int
    token_budget: int
    meta: Mapping[str, str]

    @property
    def cost(self) -> int:
        """See `Task`."""
        fitted = {"zero": 0, "mean": len(self.pairs), "resample": min(len(self.pairs), self.max_donors)}[self.kind]
        return self.n_layers * (fitted + sum(len(self._shard(i)) for _, i in self.places))

    def only(self, keys: Set[CellKey]) -> ReplacementTask | None:
        """See `Task`."""
        kept = [(place, key) for place, key in zip(self.places, self.keys, strict=True) if key in keys]
        if not kept:
            return None
        return replace(self, places=tuple(place for place, _ in kept), keys=tuple(key for _, key in kept))

    def split(self, parts: int) -> list[ReplacementTask]:
        """By cells; each part takes the values of its own targets, from all of the pool."""
        bounds = np.linspace(0, len(self.keys), min(parts, len(self.keys)) + 1).astype(int)
        return [
            replace(self, places=self.places[start:end], keys=self.keys[start:end]) for start, end in pairwise(bounds)
        ]

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        values = self._values(model, lambda pairs: advance(pairs * self.n_layers))
        encoded = {i: _encode(model, [self.pairs[at] for at in self._shard(i)]) for _, i in self.places}
        for (targets, i), key in zip(self.places, self.keys, strict=True):
            with replacing(model, targets, values):
                found = run_conditions(model, encoded[i], [UNABLATED], token_budget=self.token_budget, progress=advance)
            scores = found.values[0]
            if not np.isfinite(scores).all():
                raise ValueError(
                    f"expected finite scores, but some are NaN or infinite under {format_targets(targets)}: use dtype float32"
                )
            ids = id_columns([self.pairs[at] for at in self._shard(i)])
            yield Cell(key, pa.table({**ids, "score": scores}), self.meta)

    def _shard(self, number: int) -> range:
        return shards_of(len(self.pairs))[number]

    def _values(self, model: HookedCrossEncoder, ran: Callable[[int], object]) -> Values:
        if self.kind == "zero":
            return ZERO
        wanted = dict.fromkeys(target for targets, _ in self.places for target in targets)
        reference = _encode(model, self.pairs)
        if self.kind == "mean":
            return ReplacementMeans.fit(model, reference, wanted, token_budget=self.token_budget, progress=ran)
        return ReplacementSamples.fit(
            model,
            reference,
            wanted,
            seed=self.seed,
            max_donors=self.max_donors,
            token_budget=self.token_budget,
            progress=ran,
        )


@dataclass(frozen=True)
class CellPlan:
    """What one pool is scored under."""

    pool: Pool
    identity: Mapping[str, str]
    active: str
    n_layers: int
    seed: int
    max_donors: int
    token_budget: int

    def key(self, targets: Targets, kind: str, shard: int) -> CellKey:
        """What a shard's scores depend on."""
        drawn = kind == "resample"
        return CellKey.of(
            "replaced_scores",
            **self.identity,
            method=METHOD,
            pool=self.pool.digest,
            condition=self.active,
            targets=format_targets(targets),
            values=kind,
            seed=self.seed if drawn else None,
            max_donors=self.max_donors if drawn else None,
            shard=shard,
            shard_size=SHARD,
            token_budget=self.token_budget,
        )

    def keys(self, targets: Targets, kind: str) -> list[CellKey]:
        """Of all shards."""
        return [self.key(targets, kind, i) for i in range(len(shards_of(len(self.pool))))]

    def tasks(self, sets: Sequence[Targets], kind: str) -> list[ReplacementTask]:
        """All cells of one kind of values."""
        groups = [sets] if kind != "resample" else _within_memory(sets)
        return [
            ReplacementTask(
                pairs=self.pool.pairs,
                places=tuple((chosen, i) for chosen in group for i in range(len(shards_of(len(self.pool))))),
                keys=tuple(key for chosen in group for key in self.keys(chosen, kind)),
                kind=kind,
                n_layers=self.n_layers,
                seed=self.seed,
                max_donors=self.max_donors,
                token_budget=self.token_budget,
                meta={"collection": self.pool.collection},
            )
            for group in groups
        ]

    def scores(self, store: Store, targets: Targets, kind: str) -> np.ndarray:
        """`[pair]` scores of the pool, all of whose cells are stored."""
        return np.concatenate([store.read(key)["score"].to_numpy() for key in self.keys(targets, kind)])


def shards_of(n_pairs: int) -> list[range]:
    """A pool's pairs, by cell."""
    return [range(start, min(start + SHARD, n_pairs)) for start in range(0, n_pairs, SHARD)]


def id_columns(pairs: Sequence[PoolPair]) -> dict[str, list]:
    """Columns that say which pair a row is."""
    return {name: [getattr(pair, name) for pair in pairs] for name in ("query_id", "doc_id", "grade")}


def _within_memory(sets: Sequence[Targets]) -> list[list[Targets]]:
    """The sets in groups of `TOGETHER` targets at most; a larger set is a group."""
    groups: list[list[Targets]] = []
    for chosen in sets:
        held = len({target for other in groups[-1] for target in other} | {*chosen}) if groups else 0
        if not groups or held > TOGETHER:
            groups.append([])
        groups[-1].append(chosen)
    return groups


def _encode(model: HookedCrossEncoder, pairs: Sequence[PoolPair]) -> EncodedPairs:
    return encode(model, pairs)
