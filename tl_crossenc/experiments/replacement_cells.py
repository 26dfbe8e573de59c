"""Cells of scores with targets replaced: their keys, which are missing, and what computes them.

A cell is what `scoring` says, with the targets, the kind of values, and for resampling the seed and the number of pairs drawn
from, in place of the condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tl_crossenc.experiments.scoring import SHARD
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.interventions.targets import Target, format_targets
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.execution import run_conditions
from tl_crossenc.patching.replacement import replacing
from tl_crossenc.patching.replacement_values import ZERO, ReplacementMeans, ReplacementSamples, Values
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

METHOD = 1
"""Counts up with every change of how values are taken, batched or stored that changes a cell's numbers."""
TOGETHER = 64
"""Targets whose activations are kept at a time for resampling, which bounds the memory."""


@dataclass(frozen=True)
class CellPlan:
    """What one pool is scored under."""

    pool: Pool
    store: Store
    identity: Mapping[str, str]
    active: str
    seed: int
    max_donors: int
    token_budget: int

    def key(self, targets: tuple[Target, ...], kind: str, shard: int) -> CellKey:
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

    @property
    def shards(self) -> list[range]:
        """The pool's pairs, by cell."""
        return [range(start, min(start + SHARD, len(self.pool))) for start in range(0, len(self.pool), SHARD)]

    def missing(self, targets: tuple[Target, ...], kind: str) -> list[int]:
        """The shards whose cells are to be computed."""
        keys = [self.key(targets, kind, i) for i in range(len(self.shards))]
        absent = set(self.store.missing(keys))
        return [i for i, key in enumerate(keys) if key in absent]


def _chunks(plan: CellPlan, sets: Sequence[tuple[Target, ...]], kind: str) -> list[list[tuple[Target, ...]]]:
    """The sets that miss a cell, in groups whose values are fitted at once."""
    groups: list[list[tuple[Target, ...]]] = []
    for chosen in sets:
        if plan.missing(chosen, kind):
            held = len({target for other in groups[-1] for target in other} | {*chosen}) if groups else 0
            if not groups or (kind == "resample" and held > TOGETHER):
                groups.append([])
            groups[-1].append(chosen)
    return groups


def layers_to_run(
    model: HookedCrossEncoder, plan: CellPlan, sets: Sequence[tuple[Target, ...]], kinds: Sequence[str]
) -> int:
    """Layers that the model has to run for what is missing, a layer of one pair counting 1."""
    pairs = 0
    for kind in kinds:
        groups = _chunks(plan, sets, kind)
        fit = {"zero": 0, "mean": len(plan.pool), "resample": min(len(plan.pool), plan.max_donors)}[kind]
        pairs += fit * len(groups)
        pairs += sum(len(plan.shards[i]) for group in groups for chosen in group for i in plan.missing(chosen, kind))
    return pairs * model.cfg.n_layers


def compute_missing(
    model: HookedCrossEncoder,
    plan: CellPlan,
    sets: Sequence[tuple[Target, ...]],
    kind: str,
    advance: Callable[[int], None],
) -> None:
    """Compute and store what is missing of one kind."""
    n_layers = model.cfg.n_layers
    for group in _chunks(plan, sets, kind):
        values = _fit(model, plan, group, kind, lambda pairs: advance(pairs * n_layers))
        for chosen in group:
            for i in plan.missing(chosen, kind):
                encoded = _encode(model, plan.pool, plan.shards[i])
                with replacing(model, chosen, values):
                    found = run_conditions(
                        model, encoded, [UNABLATED], token_budget=plan.token_budget, progress=advance
                    )
                _write(plan, plan.key(chosen, kind, i), plan.shards[i], found.values[0])


def _fit(
    model: HookedCrossEncoder,
    plan: CellPlan,
    group: Sequence[tuple[Target, ...]],
    kind: str,
    ran: Callable[[int], None],
) -> Values:
    if kind == "zero":
        return ZERO
    wanted = dict.fromkeys(target for chosen in group for target in chosen)
    reference = _encode(model, plan.pool, range(len(plan.pool)))
    if kind == "mean":
        return ReplacementMeans.fit(model, reference, wanted, token_budget=plan.token_budget, progress=ran)
    return ReplacementSamples.fit(
        model,
        reference,
        wanted,
        seed=plan.seed,
        max_donors=plan.max_donors,
        token_budget=plan.token_budget,
        progress=ran,
    )


def _encode(model: HookedCrossEncoder, pool: Pool, indices: range) -> EncodedPairs:
    pairs = [pool.pairs[i] for i in indices]
    return model.encode_pairs([pair.query for pair in pairs], [pair.text for pair in pairs])


def _write(plan: CellPlan, key: CellKey, shard: range, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(
            f"expected finite scores, but some are NaN or infinite under {key.fields['targets']}: use dtype float32"
        )
    ids = {name: column[shard.start : shard.stop] for name, column in id_columns(plan.pool).items()}
    plan.store.write(key, pa.table({**ids, "score": values}), {"collection": plan.pool.collection})


def read_scores(plan: CellPlan, targets: tuple[Target, ...], kind: str) -> np.ndarray:
    """`[pair]` scores of a pool, all of whose cells are stored."""
    cells = [plan.store.read(plan.key(targets, kind, i))["score"].to_numpy() for i in range(len(plan.shards))]
    return np.concatenate(cells)


def id_columns(pool: Pool) -> dict[str, list]:
    """Columns that say which pair a row is."""
    pairs = pool.pairs
    return {name: [getattr(pair, name) for pair in pairs] for name in ("query_id", "doc_id", "grade")}
