"""Scores of a pool under conditions, from the store where they are there, else computed and stored.

A cell is (model, pool, condition, token budget, shard of the pool), the model being the weights, arithmetic, tokenizer and versions
that run (`identity`): an edited model finds none of the unedited one's cells. What cannot be named, such as a hook, is refused. The
shards depend on the pool alone and a shard's batches on the shard alone, so a cell's bytes do not depend on which other cells were
computed beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.executors.task import Advance, Cell, Task
from tl_crossenc.experiments.pair_tasks import cell_meta, encode
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.execution import Scores, count_layer_runs, run_conditions
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.first_stage import RunPairs, ShardPairs
from tl_crossenc.pools.pool import Pool, PoolPair
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

SHARD = 256
"""Pairs a cell, at most: what a killed job loses for each condition in flight."""
FEWEST = 32
"""Pairs a cell of a small pool."""
SHARES = 6
"""Cells that a pool of middling size is cut into, for each condition."""

METHOD = 2
"""Counts up with every change of how scores are batched or stored that changes a cell's numbers."""


@dataclass(frozen=True)
class PoolScores(Framed):
    """Scores of a pool.

    Attributes:
        conditions: one a row.
        values: `[condition, pair]`, aligned with `pool.pairs`.
        layers_run: layers that the model ran for this (0 when everything was stored), counted for each pair.
        layers_alone: layers that running each missing condition alone would have taken.
        whole_job: layers of the whole job with shared prefixes, and without; the same whatever was stored.
    """

    conditions: tuple[Condition, ...]
    values: Float[np.ndarray, "condition pair"]
    layers_run: int
    layers_alone: int
    whole_job: tuple[int, int]

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Conditions by their texts."""
        return {"condition": tuple(map(str, self.conditions))}


@dataclass(frozen=True)
class ScoreTask(Task):
    """A shard of a pool under some conditions, which share what they have in common.

    Attributes:
        pairs: of the shard; a tuple, or what looks the texts up whenever they are read.
        conditions: one a cell, on top of what the model ablates.
        keys: of the cells.
        shape: (layers, heads) of the model.
        token_budget: padded tokens a batch.
        meta: of the cells.
    """

    pairs: tuple[PoolPair, ...] | ShardPairs
    conditions: tuple[Condition, ...]
    keys: tuple[CellKey, ...]
    active: Condition
    shape: tuple[int, int]
    token_budget: int
    meta: Mapping[str, str]

    @property
    def cost(self) -> int:
        """See `Task`."""
        return layer_runs(self.active, self.conditions, self.shape) * len(self.pairs)

    @property
    def alone(self) -> int:
        """Layer runs if every condition were run by itself."""
        return self.shape[0] * len(self.conditions) * len(self.pairs)

    def only(self, keys: Set[CellKey]) -> ScoreTask | None:
        """See `Task`."""
        kept = [(c, key) for c, key in zip(self.conditions, self.keys, strict=True) if key in keys]
        if not kept:
            return None
        return replace(self, conditions=tuple(c for c, _ in kept), keys=tuple(key for _, key in kept))

    def split(self, parts: int) -> list[ScoreTask]:
        """By conditions, neighbours together, as they share most layers."""
        bounds = np.linspace(0, len(self.keys), min(parts, len(self.keys)) + 1).astype(int)
        return [
            replace(self, conditions=self.conditions[start:end], keys=self.keys[start:end])
            for start, end in pairwise(bounds)
        ]

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        pairs = tuple(self.pairs)
        scores = self._scores(model, encode(model, pairs), advance)
        _require_finite(scores.values, self.conditions)
        for key, values in zip(self.keys, scores.values, strict=True):
            table = pa.table(
                {
                    "query_id": [pair.query_id for pair in pairs],
                    "doc_id": [pair.doc_id for pair in pairs],
                    "grade": pa.array([pair.grade for pair in pairs], pa.int32()),
                    "score": values,
                }
            )
            yield Cell(key, table, self.meta)

    def _scores(self, model: HookedCrossEncoder, encoded: EncodedPairs, advance: Advance) -> Scores:
        return run_conditions(model, encoded, self.conditions, token_budget=self.token_budget, progress=advance)


@lru_cache(maxsize=64)
def layer_runs(active: Condition, conditions: tuple[Condition, ...], shape: tuple[int, int]) -> int:
    """Of a pair: the same in all shards."""
    return count_layer_runs([(active + condition).compile(*shape) for condition in conditions])


@recorded
def score_pool(
    model: HookedCrossEncoder,
    pool: Pool,
    conditions: Sequence[Condition],
    store: Store,
    *,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> PoolScores:
    """Score every pair of the pool under every condition, computing only the cells that are missing.

    Raises:
        ValueError: no conditions, a model that no key can name (see `identity`), or a score that is no finite number; nothing of
            that shard is stored then.
    """
    asked = [(pool, conditions)]
    return score_pools(model, asked, store, token_budget=token_budget, executor=executor, progress=progress)[0]


def score_pools(
    model: HookedCrossEncoder,
    asked: Sequence[tuple[Pool, Sequence[Condition]]],
    store: Store,
    *,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
    tell: bool = True,
) -> list[PoolScores]:
    """`score_pool` of several pools, each with conditions of its own: one failing keeps none of the others from being stored.

    Raises:
        ValueError: see `score_pool`.
        Waiting: see `Executor.run`.
    """
    budget, identity = executor.token_budget(model, token_budget), executor.identity(model)
    tasks = [_tasks(model, identity, pool, conditions, budget) for pool, conditions in asked]
    ran = executor.run(model, [task for some in tasks for task in some], store, progress, tell=tell)
    place = {key: i for i in reversed(range(len(tasks))) for task in tasks[i] for key in task.keys}
    return [
        _scores(store, pool, conditions, some, [task for task in ran if place[task.keys[0]] == i])
        for i, ((pool, conditions), some) in enumerate(zip(asked, tasks, strict=True))
    ]


def _tasks(
    model: HookedCrossEncoder, identity: Mapping[str, str], pool: Pool, conditions: Sequence[Condition], budget: int
) -> list[ScoreTask]:
    if not conditions:
        raise ValueError("expected at least one condition to score under, got none")
    distinct, active = tuple(dict.fromkeys(conditions)), model.active_condition
    return [
        ScoreTask(
            tuple(pool.pairs[index] for index in shard),
            distinct,
            tuple(cell_key(identity, pool, active + condition, i, budget) for condition in distinct),
            active,
            (model.cfg.n_layers, model.cfg.n_heads),
            budget,
            cell_meta(model, pool),
        )
        for i, shard in enumerate(shards_by_length(pool))
    ]


def _scores(
    store: Store, pool: Pool, conditions: Sequence[Condition], tasks: Sequence[ScoreTask], ran: Sequence[ScoreTask]
) -> PoolScores:
    """What is stored, `ran` being what was computed for it now."""
    shards = shards_by_length(pool)
    rows = {condition: row for row, condition in enumerate(dict.fromkeys(conditions))}
    stored = (stored_scores(store, [task.keys[row] for task in tasks], shards) for row in rows.values())
    first = next(stored)
    values = np.empty(
        (len(rows), len(pool)), first.dtype
    )  # filled a row at a time: a second copy is the size of the job
    for row, found in enumerate(chain([first], stored)):
        values[row] = found
    return PoolScores(
        tuple(conditions),
        values if len(rows) == len(conditions) else values[[rows[condition] for condition in conditions]],
        sum(task.cost for task in ran),
        sum(task.alone for task in ran),
        (sum(task.cost for task in tasks), sum(task.alone for task in tasks)),
    )


def shard_size(n_pairs: int) -> int:
    """Pairs a cell for a pool of so many: a `SHARES`th, within bounds, so that a job cut short keeps most of what it did."""
    return min(max(-(-n_pairs // SHARES), FEWEST), SHARD)


def shards_by_length(pool: Pool) -> list[np.ndarray]:
    """Indices of the pairs of each cell, in the pool's order; the cell of the longest texts first.

    Pairs of one length, by characters, are together, so that small cells are padded no more than large ones.
    """
    return shards_of([len(pair.query) + len(pair.text) for pair in pool.pairs])


def shards_of(characters: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """`shards_by_length` of pairs with so many characters."""
    size, order = shard_size(len(characters)), np.argsort(-np.asarray(characters, np.int64), kind="stable")
    return [np.sort(order[start : start + size]) for start in range(0, len(order), size)]


def stored_scores(store: Store, keys: Sequence[CellKey], shards: Sequence[np.ndarray]) -> np.ndarray:
    """`[pair]`, from the cells of one condition."""
    found = [store.read(key)["score"].to_numpy() for key in keys]
    if not found:
        return np.zeros(0)
    values = np.zeros(sum(map(len, shards)), found[0].dtype)
    values[np.concatenate(shards)] = np.concatenate(found)
    return values


def cell_key(
    identity: Mapping[str, str], pool: Pool | RunPairs, condition: Condition, shard: int, token_budget: int
) -> CellKey:
    """The key of one cell of scores, `condition` being all that is ablated."""
    return CellKey.of(
        "scores",
        **identity,
        method=METHOD,
        pool=pool.digest,
        condition=str(condition),
        shard=shard,
        shard_size=shard_size(len(pool)),
        token_budget=token_budget,
    )


def _require_finite(values: np.ndarray, conditions: Sequence[Condition]) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        worst = conditions[int(bad.any(1).argmax())]
        raise ValueError(
            f"expected finite scores, but {int(bad.sum())} of {values.size} are NaN or infinite (first under {worst}): "
            "check the checkpoint's weights, or use dtype float32"
        )
