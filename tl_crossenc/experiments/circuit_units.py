"""Units of a circuit, (direction, layer, head): which there are, how important each is, what it costs, and conditions of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from tl_crossenc.executors.executor import Executor
from tl_crossenc.executors.task import Advance, Cell
from tl_crossenc.experiments.existing_cells import count_cells
from tl_crossenc.experiments.pair_tasks import OneCellTask, cell_meta, encode
from tl_crossenc.experiments.scoring import SHARD
from tl_crossenc.inputs.parts import N_PARTS, REAL_PARTS, Part
from tl_crossenc.interventions.conditions import Condition, DirectionAblation, Mode
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.direction_effects import direction_effects
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

METHOD = 1
"""Counts up with every change of how effects are estimated, batched or stored that changes a cell's numbers."""


class Unit(NamedTuple):
    """A direction between two parts in one head."""

    layer: int
    head: int
    attender: Part
    attended: Part

    @property
    def direction(self) -> Direction:
        """Its direction."""
        return Direction(self.attender, self.attended)


def units_of(model: HookedCrossEncoder) -> list[Unit]:
    """Every unit that can reach the score: of the last layer those alone whose rows the head reads."""
    cfg, last = model.cfg, model.cfg.n_layers - 1
    return [
        Unit(layer, head, attender, attended)
        for layer in range(cfg.n_layers)
        for head in range(cfg.n_heads)
        for attender in REAL_PARTS
        for attended in REAL_PARTS
        if layer < last or attender == Part.CLS or not model.reads_only_first_row
    ]


def costs_of(model: HookedCrossEncoder, pools: Sequence[Pool], units: Sequence[Unit]) -> dict[Unit, float]:
    """Of the cells that all units have, the share of each."""
    cells = count_cells(model, pools).existing
    own = {unit: int(cells[unit.layer, unit.attender, unit.attended]) for unit in units}
    total = sum(own.values())
    return {unit: count / total for unit, count in own.items()}


def keep_only(units: Iterable[Unit], every: Sequence[Unit], mode: Mode) -> Condition:
    """The condition under which everything of `every` but `units` is removed."""
    return without(sorted(set(every) - set(units)), mode)


def without(units: Iterable[Unit], mode: Mode) -> Condition:
    """The condition under which these units are removed."""
    heads: dict[tuple[int, Direction], list[int]] = {}
    for unit in units:
        heads.setdefault((unit.layer, unit.direction), []).append(unit.head)
    return Condition(
        tuple(DirectionAblation(direction, mode, (layer,), tuple(own)) for (layer, direction), own in heads.items())
    )


@dataclass(frozen=True)
class EffectsTask(OneCellTask):
    """A shard of a pool: the spread of each unit's estimated effects over the passages of each query, as sums that add up."""

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        encoded = encode(model, self.pairs)
        effects = direction_effects(model, encoded, token_budget=self.token_budget, advance=advance)
        if not np.isfinite(effects).all():
            raise ValueError(
                "expected finite effects, but some are NaN or infinite: check the weights, or use dtype float32"
            )
        names = [pair.query_id for pair in self.pairs]
        queries = list(dict.fromkeys(names))
        flat = effects.reshape(len(names), -1)
        rows = [[i for i, name in enumerate(names) if name == query] for query in queries]
        table = {
            "query_id": queries,
            "n": [len(own) for own in rows],
            "sum": [flat[own].sum(0) for own in rows],
            "squares": [(flat[own] ** 2).sum(0) for own in rows],
        }
        yield Cell(self.keys[0], pa.table(table), self.meta)


def importance_of(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    units: Sequence[Unit],
    store: Store,
    token_budget: int | None,
    executor: Executor,
) -> Float64[np.ndarray, "unit"]:
    """The mean over queries of the standard deviation, over a query's passages, of the estimated effects."""
    budget, identity = executor.token_budget(model, token_budget) // 2 or 1, executor.identity(model)
    shape = model.cfg.n_layers, model.cfg.n_heads
    tasks = [
        EffectsTask(
            pool.pairs[start : start + SHARD],
            (
                CellKey.of(
                    "direction_effects",
                    **identity, method=METHOD, pool=pool.digest, shard=start // SHARD, shard_size=SHARD, token_budget=budget,
                ),
            ),
            2 * model.cfg.n_layers,
            budget,
            cell_meta(model, pool),
        )
        for pool in pools
        for start in range(0, len(pool), SHARD)
    ]  # fmt: skip
    executor.run(model, tasks, store)
    sums: dict[tuple[str, str], list[Any]] = {}
    for task in tasks:
        table = store.read(task.keys[0]).to_pydict()
        for query, n, total, squares in zip(
            *(table[name] for name in ("query_id", "n", "sum", "squares")), strict=True
        ):
            there = sums.setdefault((task.meta["collection"], query), [0, 0.0, 0.0])
            for i, value in enumerate((n, np.asarray(total), np.asarray(squares))):
                there[i] = there[i] + value
    spread = np.mean(
        [np.sqrt(np.maximum(squares / n - (total / n) ** 2, 0)) for n, total, squares in sums.values()], axis=0
    ).reshape(*shape, N_PARTS, N_PARTS)
    return np.array([spread[unit.layer, unit.head, unit.attender, unit.attended] for unit in units])
