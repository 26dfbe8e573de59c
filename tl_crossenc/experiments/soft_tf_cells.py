"""Soft-TF of a pool's query tokens in every head, from the store where it is there, else computed and stored.

A cell is (model, pool, token budget, shard of the pool), cut as cells of scores are (`scoring`): of every query token its id and
what it gives to DOC, SEP2, SEP1 and CLS in every head, float32. That is 16 bytes a head and query token, for BERT-base and ten
tokens 23 kB a pair. No idf is in it: which collection says how rare a piece is, is asked later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.executors.task import Advance, Cell
from tl_crossenc.experiments.pair_tasks import OneCellTask, cell_meta, encode
from tl_crossenc.experiments.scoring import shard_size, shards_by_length
from tl_crossenc.instruments.attention_flow import require_unablated
from tl_crossenc.instruments.soft_tf import ATTENDED_PARTS, SoftTF, measure_soft_tf
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

METHOD = 1
"""Counts up with every change of how soft-TF is measured, batched or stored that changes a cell's numbers."""


@dataclass(frozen=True)
class SoftTFTask(OneCellTask):
    """A shard of a pool."""

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        found = measure_soft_tf(
            model,
            encode(model, self.pairs),
            token_budget=self.token_budget,
            progress=lambda count: advance(model.cfg.n_layers * count),
        )
        width = int(np.prod(found.values.shape[1:]))
        columns = {
            "query_id": pa.array([pair.query_id for pair in self.pairs], pa.string()),
            "doc_id": pa.array([pair.doc_id for pair in self.pairs], pa.string()),
            "tokens": _lists(found.tokens.astype(np.int32), found.offsets),
            "masses": _lists(found.values.astype(np.float32).reshape(-1), found.offsets * width),
        }
        yield Cell(self.keys[0], pa.table(columns), self.meta)


@dataclass(frozen=True)
class SoftTFSums:
    """Soft-TF of a pool's pairs, summed over each pair's query tokens; aligned with the pool's pairs.

    The first axis of `plain` and `weighted` is what is counted: DOC alone, and DOC with SEP2.

    Attributes:
        plain: sum of soft-TF.
        weighted: sum of idf times soft-TF.
        idf: sum of idf.
        parts: the means over query tokens of what they give to each of `ATTENDED_PARTS`; 0 for a query without tokens.
    """

    plain: np.ndarray
    weighted: np.ndarray
    idf: np.ndarray
    parts: np.ndarray

    __repr__ = short_repr


def soft_tf_sums(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    idf: Sequence[np.ndarray],
    store: Store,
    *,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> list[SoftTFSums]:
    """The sums of every pool, `[counted, pair, layer, head]`, computing only missing cells; in memory one shard's tokens at a time.

    Args:
        model: the model, with nothing ablated.
        pools: not empty.
        idf: of each pool, by token id.
        store, token_budget, executor, progress: as `scoring.score_pool` takes them.

    Raises:
        ValueError: an active ablation, or a model that no key can name (see `identity`).
        CellsFailed, Waiting: see `Executor.run`.
    """
    require_unablated(model)
    budget, identity = executor.token_budget(model, token_budget), executor.identity(model)
    tasks = [_tasks(model, identity, pool, budget) for pool in pools]
    executor.run(model, [task for own in tasks for task in own], store, progress)
    shape = -1, model.cfg.n_layers, model.cfg.n_heads, len(ATTENDED_PARTS)
    return [_sums(store, pool, own, weights, shape) for pool, own, weights in zip(pools, tasks, idf, strict=True)]


def _tasks(model: HookedCrossEncoder, identity: Mapping[str, str], pool: Pool, budget: int) -> list[SoftTFTask]:
    return [
        SoftTFTask(
            tuple(pool.pairs[index] for index in shard),
            (cell_key(identity, pool, i, budget),),
            model.cfg.n_layers,
            budget,
            cell_meta(model, pool),
        )
        for i, shard in enumerate(shards_by_length(pool))
    ]


def cell_key(identity: Mapping[str, str], pool: Pool, shard: int, token_budget: int) -> CellKey:
    """The key of one cell."""
    return CellKey.of(
        "soft_tf",
        **identity,
        method=METHOD,
        pool=pool.digest,
        shard=shard,
        shard_size=shard_size(len(pool)),
        token_budget=token_budget,
    )


def _sums(store: Store, pool: Pool, tasks: Sequence[SoftTFTask], idf: np.ndarray, shape: tuple[int, ...]) -> SoftTFSums:
    n, heads = len(pool), shape[1:3]
    found = SoftTFSums(np.zeros((2, n, *heads)), np.zeros((2, n, *heads)), np.zeros(n), np.zeros((n, *shape[1:])))
    for task, shard in zip(tasks, shards_by_length(pool), strict=True):
        own = _stored(store, task.keys[0], shape)
        weights = idf[own.tokens]
        with_sep2 = own.doc + own.values[..., 1]
        for i, values in enumerate((own.doc, with_sep2)):
            found.plain[i, shard], found.weighted[i, shard] = own.summed(values), own.summed(values, weights)
        found.idf[shard] = own.summed(weights)
        counts = np.maximum(np.diff(own.offsets), 1).reshape(-1, 1, 1, 1)
        found.parts[shard] = own.summed(own.values) / counts
    return found


def _stored(store: Store, key: CellKey, shape: tuple[int, ...]) -> SoftTF:
    table = store.read(key)
    tokens, masses = (table[name].combine_chunks() for name in ("tokens", "masses"))
    offsets = np.concatenate([[0], np.cumsum(tokens.value_lengths().to_numpy())]).astype(np.int64)
    return SoftTF(masses.flatten().to_numpy().reshape(shape), tokens.flatten().to_numpy().astype(np.int64), offsets)


def _lists(values: np.ndarray, offsets: np.ndarray) -> pa.Array:
    """Numbers as a column of lists, list i being `offsets[i]:offsets[i + 1]` of them."""
    return pa.LargeListArray.from_arrays(pa.array(offsets.astype(np.int64)), pa.array(np.ascontiguousarray(values)))
