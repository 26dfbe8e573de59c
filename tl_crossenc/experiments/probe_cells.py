"""What the store keeps of the states that probes read.

A cell is (kind, model as `identity` names it, pool, set of tokens, token budget, shard of the pool), of two kinds:

    layer-features    pooled states of a set at every layer, float32: (layers + 1) · d_model · 4 bytes a pair, for BERT-base 40 kB
    layer-tokens      states of at most 20 tokens of a set at every layer, for the probe of single tokens: up to twenty times that

All sets of a shard come from one run of the model. Probes are fitted on what is stored, without the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from tl_crossenc.executors.executor import Executor, Progress
from tl_crossenc.executors.task import Advance, Cell, Task
from tl_crossenc.experiments.pair_tasks import cell_meta, encode
from tl_crossenc.experiments.scoring import shard_size, shards_by_length
from tl_crossenc.instruments.attention_flow import require_unablated
from tl_crossenc.instruments.layer_features import layer_features
from tl_crossenc.instruments.layer_tokens import MOST_TOKENS, TokenStates, layer_tokens
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool, PoolPair
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

METHOD = 1
"""Counts up with every change of how states are pooled, drawn, batched or stored that changes a cell's numbers."""


@dataclass(frozen=True)
class StateTask(Task):
    """The states of some sets of tokens of a shard of a pool.

    Attributes:
        pairs: of the shard.
        sets: one a cell.
        keys: of the cells.
        pooling: "mean" or "max"; None for the states of single tokens.
        seed: of the choice of single tokens.
        layers: of the model.
        token_budget: padded tokens a batch.
        meta: of the cells.
    """

    pairs: tuple[PoolPair, ...]
    sets: tuple[str, ...]
    keys: tuple[CellKey, ...]
    pooling: str | None
    seed: int
    layers: int
    token_budget: int
    meta: Mapping[str, str]

    @property
    def cost(self) -> int:
        """See `Task`."""
        return self.layers * len(self.pairs) * (1 if self.pooling else len(self.sets))

    def only(self, keys: Set[CellKey]) -> StateTask | None:
        """See `Task`."""
        kept = [(name, key) for name, key in zip(self.sets, self.keys, strict=True) if key in keys]
        if not kept:
            return None
        return replace(self, sets=tuple(name for name, _ in kept), keys=tuple(key for _, key in kept))

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        encoded = encode(model, self.pairs)

        def tell(pairs: int) -> None:
            advance(self.layers * pairs)

        if self.pooling is None:
            for name, key in zip(self.sets, self.keys, strict=True):
                states = layer_tokens(
                    model, encoded, name, seed=self.seed, token_budget=self.token_budget, progress=tell
                )
                width = states.values[0].size if len(states.values) else 0
                yield Cell(
                    key, self._table(np.diff(states.offsets), _lists(states.values, states.offsets * width)), self.meta
                )
            return
        found = layer_features(
            model, encoded, sets=self.sets, pooling=self.pooling, token_budget=self.token_budget, progress=tell
        )
        lens = _lists(found.lens, np.arange(len(found.lens) + 1) * found.lens.shape[1], np.float64)
        for i, key in enumerate(self.keys):
            own = found.values[:, :, i]
            states_of = _lists(own, np.arange(len(own) + 1) * own[0].size)
            yield Cell(key, self._table(found.counts[:, i], states_of).append_column("lens", lens), self.meta)

    def _table(self, counts: np.ndarray, states: pa.Array) -> pa.Table:
        return pa.table(
            {
                "query_id": pa.array([pair.query_id for pair in self.pairs], pa.string()),
                "doc_id": pa.array([pair.doc_id for pair in self.pairs], pa.string()),
                "tokens": pa.array(counts, pa.int32()),
                "states": states,
            }
        )


class StateCells:
    """The cells of a pool, computed where they are missing.

    Args:
        model: the model, with nothing ablated.
        pool: not empty.
        store: of the cells.
        sets: of `token_sets.ALL_SETS`.
        pooling: "mean", "max", or None for single tokens.
        seed: of the choice of single tokens.
        token_budget: padded tokens a batch.
        executor: who computes.
        tell: log where what is stored is of another model.
        progress: of the layer runs of what is missing.

    Raises:
        ValueError: an active ablation, or a model that no key can name (see `identity`).
    """

    def __init__(
        self,
        model: HookedCrossEncoder,
        pool: Pool,
        store: Store,
        sets: Sequence[str],
        pooling: str | None,
        *,
        seed: int,
        token_budget: int | None,
        executor: Executor,
        tell: bool = True,
        progress: Progress | None = None,
    ) -> None:
        require_unablated(model)
        self.pool, self.store, self.sets = pool, store, tuple(sets)
        self.n_layers, self.width = model.cfg.n_layers + 1, model.cfg.d_model
        budget, identity = executor.token_budget(model, token_budget), executor.identity(model)
        self._shards = shards_by_length(pool)
        self._keys = [
            {name: _key(identity, pool, name, pooling, seed, i, budget) for name in self.sets}
            for i in range(len(self._shards))
        ]
        tasks = [
            StateTask(
                tuple(pool.pairs[index] for index in shard),
                self.sets,
                tuple(keys.values()),
                pooling,
                seed,
                model.cfg.n_layers,
                budget,
                cell_meta(model, pool),
            )
            for shard, keys in zip(self._shards, self._keys, strict=True)
        ]
        ran = executor.run(model, tasks, store, progress, tell=tell)
        self.pairs_run = sum(len(task.pairs) for task in ran)

    def features(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of a set: states `[pair, layer, d_model]`, tokens `[pair]`, and the lens `[pair, layer]`; in the pool's order."""
        states = np.zeros((len(self.pool), self.n_layers, self.width), np.float32)
        tokens, lens = np.zeros(len(self.pool), np.int64), np.zeros((len(self.pool), self.n_layers))
        for shard, keys in zip(self._shards, self._keys, strict=True):
            table = self.store.read(keys[name])
            states[shard] = _flat(table, "states").reshape(len(shard), self.n_layers, self.width)
            lens[shard] = _flat(table, "lens").reshape(len(shard), self.n_layers)
            tokens[shard] = table["tokens"].to_numpy()
        return states, tokens, lens

    def tokens(self, name: str) -> TokenStates:
        """The single tokens of a set, pairs in the pool's order; their positions are not kept."""
        found: list[np.ndarray] = [np.zeros(0)] * len(self.pool)
        for shard, keys in zip(self._shards, self._keys, strict=True):
            table = self.store.read(keys[name])
            states = _flat(table, "states").reshape(-1, self.n_layers, self.width)
            bounds = np.cumsum(table["tokens"].to_numpy())[:-1]
            for index, own in zip(shard, np.split(states, bounds), strict=True):
                found[index] = own
        offsets = np.concatenate([[0], np.cumsum([len(own) for own in found])]).astype(np.int64)
        values = np.concatenate(found)
        return TokenStates(values, offsets, np.full(len(values), -1))


def _key(
    identity: Mapping[str, str], pool: Pool, name: str, pooling: str | None, seed: int, shard: int, token_budget: int
) -> CellKey:
    kept = {"pooling": pooling} if pooling else {"most": MOST_TOKENS, "seed": seed}
    return CellKey.of(
        "layer-features" if pooling else "layer-tokens",
        **identity,
        method=METHOD,
        pool=pool.digest,
        set=name,
        shard=shard,
        shard_size=shard_size(len(pool)),
        token_budget=token_budget,
        **kept,
    )


def _lists(values: np.ndarray, offsets: np.ndarray, kind: type = np.float32) -> pa.Array:
    """Numbers as a column of lists, list i being `offsets[i]:offsets[i + 1]` of them."""
    flat = pa.array(np.ascontiguousarray(values, dtype=kind).reshape(-1))
    return pa.LargeListArray.from_arrays(pa.array(offsets.astype(np.int64)), flat)


def _flat(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].combine_chunks().flatten().to_numpy())
