"""Each head's scores of a pool's passages, from the store where they are there, else computed and stored.

A cell is (model, pool, content-free query, token budget, shard of the pool), cut as cells of scores are (`scoring`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.executors.task import Advance, Cell
from tl_crossenc.experiments.pair_tasks import OneCellTask, cell_meta
from tl_crossenc.experiments.scoring import shard_size, shards_by_length
from tl_crossenc.instruments.attention_flow import require_unablated
from tl_crossenc.instruments.head_rankers import RANKER_DIRECTIONS, HeadScores, measure_head_scores
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

METHOD = 1
"""Counts up with every change of how heads' scores are measured, batched or stored that changes a cell's numbers."""


@dataclass(frozen=True)
class HeadScoresTask(OneCellTask):
    """A shard of a pool.

    Attributes:
        content_free: the query to calibrate with; None for none.
    """

    content_free: str | None

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        passages = [pair.text for pair in self.pairs]
        found = measure_head_scores(
            model,
            model.encode_pairs([pair.query for pair in self.pairs], passages),
            None if self.content_free is None else model.encode_pairs(self.content_free, passages),
            token_budget=self.token_budget,
            progress=lambda count: advance(model.cfg.n_layers * count),
        )
        columns = {
            "query_id": pa.array([pair.query_id for pair in self.pairs], pa.string()),
            "doc_id": pa.array([pair.doc_id for pair in self.pairs], pa.string()),
            "mass": _rows(found.mass),
        }
        if found.calibrated is not None:
            columns["calibrated"] = _rows(found.calibrated)
        yield Cell(self.keys[0], pa.table(columns), self.meta)


def head_scores(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    content_free: str | None,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> list[HeadScores]:
    """What every head scores every pair of every pool, aligned with `pool.pairs`, computing only missing cells.

    Raises:
        ValueError: an active ablation, or a model that no key can name (see `identity`).
        CellsFailed, Waiting: see `Executor.run`.
    """
    require_unablated(model)
    budget, identity = executor.token_budget(model, token_budget), executor.identity(model)
    tasks = [_tasks(model, identity, pool, content_free, budget) for pool in pools]
    executor.run(model, [task for own in tasks for task in own], store, progress)
    shape = -1, len(RANKER_DIRECTIONS), model.cfg.n_layers, model.cfg.n_heads
    return [_stored(store, pool, own, shape) for pool, own in zip(pools, tasks, strict=True)]


def _tasks(
    model: HookedCrossEncoder, identity: Mapping[str, str], pool: Pool, content_free: str | None, budget: int
) -> list[HeadScoresTask]:
    return [
        HeadScoresTask(
            tuple(pool.pairs[index] for index in shard),
            (cell_key(identity, pool, content_free, i, budget),),
            model.cfg.n_layers * (1 if content_free is None else 2),
            budget,
            cell_meta(model, pool),
            content_free,
        )
        for i, shard in enumerate(shards_by_length(pool))
    ]


def cell_key(
    identity: Mapping[str, str], pool: Pool, content_free: str | None, shard: int, token_budget: int
) -> CellKey:
    """The key of one cell."""
    return CellKey.of(
        "head_scores",
        **identity,
        method=METHOD,
        pool=pool.digest,
        content_free=content_free,
        shard=shard,
        shard_size=shard_size(len(pool)),
        token_budget=token_budget,
    )


def _stored(store: Store, pool: Pool, tasks: Sequence[HeadScoresTask], shape: tuple[int, ...]) -> HeadScores:
    places = np.concatenate(shards_by_length(pool))
    tables = [store.read(task.keys[0]) for task in tasks]
    found = {}
    for name in ("mass", "calibrated"):
        if name in tables[0].column_names:
            rows = np.concatenate(
                [table[name].combine_chunks().flatten().to_numpy().reshape(shape) for table in tables]
            )
            found[name] = np.empty_like(rows)
            found[name][places] = rows
    return HeadScores(found["mass"], found.get("calibrated"))


def _rows(values: np.ndarray) -> pa.Array:
    """An array as a column of its rows, each flat."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
