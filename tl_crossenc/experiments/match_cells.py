"""What the store keeps of the attention weights between QUERY and DOC tokens.

A cell is (kind, model as `identity` names it, vocabulary, pool, token budget, shard of the pool), of three kinds:

    match-sums          by query and grade: masses of every layer and head, exact
    match-histograms    by grade: weights of every layer, head and kind of match
    match-pairs         by passage, for permutations: weights of every layer (its heads added up) and kind, and of the chosen heads
                        (kinds added up)

Grades are kept apart, so that other groups, comparisons and more permutations need no model. The last kind is the large one,
2 x 81 x (3 layers + chosen heads) counts a passage before compression; it is read a shard at a time, so that memory does not grow
with the pool. A shard's batches depend on the shard alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.executors.task import Advance, Cell, Task
from tl_crossenc.experiments.match_masses import ALL_HEADS, DIRECTION_NAMES
from tl_crossenc.experiments.pair_tasks import encode
from tl_crossenc.experiments.scoring import SHARD
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.instruments.attention_flow import require_unablated
from tl_crossenc.instruments.token_matches import KINDS, N_BINS, PairMatches, Tally, measure_matches
from tl_crossenc.interventions.heads import format_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool, PoolPair
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

ALL_KINDS = "all"
KINDS_OF_CELL = ("sums", "histograms", "pairs")

METHOD, WINDOWED = 1, 2
"""Count up with every change of how matches are measured, batched or stored that changes a cell's numbers: of models that see all
positions in every layer, and of models with windows."""

Heads = tuple[tuple[int, int], ...]


class Place(NamedTuple):
    """Where a passage's histogram is from."""

    layer: int
    head: str
    direction: str
    kind: str


class MatchCells:
    """The cells of some pools.

    Args:
        model: with a tokenizer.
        pools: none empty.
        store: of the cells.
        heads: those kept by passage.
        token_budget: padded tokens a batch.
        executor: of what is missing.

    Raises:
        ValueError: the model has no tokenizer, an active ablation, or something that no key can name (see `identity`).
    """

    def __init__(
        self,
        model: HookedCrossEncoder,
        pools: Sequence[Pool],
        store: Store,
        heads: Heads,
        token_budget: int,
        executor: Executor = IN_PROCESS,
    ) -> None:
        if model.tokenizer is None:
            raise ValueError(
                "expected a model with a tokenizer to read texts; this one was made without: pass tokenizer="
            )
        require_unablated(model)
        self.model, self.store, self.heads, self.token_budget, self.executor = (
            model,
            store,
            heads,
            token_budget,
            executor,
        )
        self.n_layers, self.n_heads = model.cfg.n_layers, model.cfg.n_heads
        self.passages = [(pool, pair) for pool in pools for pair in pool.pairs]
        names = model.tokenizer.convert_ids_to_tokens(list(range(model.cfg.d_vocab)))
        self._vocabulary = hashlib.sha256(
            "\n".join(name or "" for name in names).encode("utf-8", "surrogatepass")
        ).hexdigest()[:16]
        self._identity = executor.identity(model)
        self._method = METHOD if all(window is None for window in model.cfg.windows or ()) else WINDOWED
        self._shards = [(pool, i, pool.pairs[i : i + SHARD]) for pool in pools for i in range(0, len(pool), SHARD)]
        self._keys = [
            {kind: self._key(kind, pool, start // SHARD) for kind in KINDS_OF_CELL} for pool, start, _ in self._shards
        ]

    def fill(self, progress: Progress | None = None) -> int:
        """Compute what is missing.

        Returns:
            The number of passages that the model ran.

        Raises:
            CellsFailed, Waiting: see `Executor.run`.
        """
        tasks = [
            MatchTask(
                tuple(pairs),
                tuple(keys.values()),
                self.heads,
                (self.n_layers, self.n_heads),
                self.token_budget,
                {"model": str(self.model.cfg.model_name), "collection": pool.collection},
            )
            for (pool, _, pairs), keys in zip(self._shards, self._keys, strict=True)
        ]
        ran = self.executor.run(self.model, tasks, self.store, progress)
        return sum(len(task.pairs) for task in ran)

    def sums(self) -> Tally:
        """`PairMatches.sums` by (collection, query_id, grade)."""
        shape = (2, self.n_layers, self.n_heads, len(KINDS))
        shapes = {"pairs": (), "token_pairs": shape[-1:], "token_share": shape[-1:], "mass": shape}
        found = []
        for (pool, _, _), keys in zip(self._shards, self._keys, strict=True):
            table = self.store.read(keys["sums"])
            names = zip(table["query_id"].to_pylist(), table["grade"].to_pylist(), strict=True)
            totals = {name: _array(table, name, one) for name, one in shapes.items()}
            found.append(Tally(tuple((pool.collection, *name) for name in names), totals))
        return Tally.join(found)

    def histograms(self) -> Tally:
        """`PairMatches.histograms` by grade."""
        shape = (2, self.n_layers, self.n_heads, len(KINDS), N_BINS)
        tables = [self.store.read(keys["histograms"]) for keys in self._keys]
        return Tally.join(
            Tally(tuple(table["grade"].to_pylist()), {"counts": _array(table, "counts", shape)}) for table in tables
        )

    def pair_histograms(self) -> Iterator[tuple[int, np.ndarray]]:
        """A shard at a time: the place of its first passage in `passages`, and counts, float64 `[passage, place * bin]`."""
        start = 0
        for keys in self._keys:
            table = self.store.read(keys["pairs"])
            counts = [_array(table, name, (-1,)) for name in ("by_layer", "by_head")]
            yield start, np.concatenate(counts, axis=1).astype(np.float64)
            start += len(table)

    def rows(self, counts: np.ndarray) -> tuple[list[Place], np.ndarray]:
        """Name the histograms of `pair_histograms`, with those of all kinds together added.

        Args:
            counts: `[..., place * bin]`.

        Returns:
            The places, and `[..., place, bin]` in their order.
        """
        lead = counts.shape[:-1]
        split = 2 * self.n_layers * len(KINDS) * N_BINS
        by_layer = counts[..., :split].reshape(*lead, 2, self.n_layers, len(KINDS), N_BINS)
        by_layer = np.concatenate([by_layer, by_layer.sum(-2, keepdims=True)], axis=-2)
        places = [
            Place(layer, ALL_HEADS, direction, kind)
            for direction in DIRECTION_NAMES
            for layer in range(self.n_layers)
            for kind in (*KINDS, ALL_KINDS)
        ]
        places += [
            Place(lay, str(head), direction, ALL_KINDS) for direction in DIRECTION_NAMES for lay, head in self.heads
        ]
        parts = [by_layer.reshape(*lead, -1, N_BINS), counts[..., split:].reshape(*lead, 2 * len(self.heads), N_BINS)]
        return places, np.concatenate(parts, axis=-2)

    def _key(self, kind: str, pool: Pool, shard: int) -> CellKey:
        return CellKey.of(
            f"match-{kind}",
            **self._identity,
            method=self._method,
            vocabulary=self._vocabulary,
            pool=pool.digest,
            shard=shard,
            shard_size=SHARD,
            token_budget=self.token_budget,
            heads=format_heads(self.heads) if kind == "pairs" else None,
        )


@dataclass(frozen=True)
class MatchTask(Task):
    """A shard of a pool.

    Attributes:
        pairs: of the shard.
        keys: of its cells, one a kind.
        heads: those kept by passage.
        shape: (layers, heads) of the model.
        token_budget: padded tokens a batch.
        meta: of the cells.
    """

    pairs: tuple[PoolPair, ...]
    keys: tuple[CellKey, ...]
    heads: Heads
    shape: tuple[int, int]
    token_budget: int
    meta: Mapping[str, str]

    @property
    def cost(self) -> int:
        """See `Task`."""
        return self.shape[0] * len(self.pairs)

    def only(self, keys: Set[CellKey]) -> MatchTask | None:
        """See `Task`."""
        kept = tuple(key for key in self.keys if key in keys)
        return replace(self, keys=kept) if kept else None

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        tables = _Measured(self, model, advance).tables()
        for key in self.keys:
            yield Cell(key, tables[key.kind], self.meta)


class _Measured:
    """What a shard's passages gave."""

    def __init__(self, task: MatchTask, model: HookedCrossEncoder, advance: Advance) -> None:
        self.pairs, self.advance, self.n_layers = task.pairs, advance, task.shape[0]
        self.layers, self.heads = (np.array([head[axis] for head in task.heads], dtype=int) for axis in (0, 1))
        self.sums: list[Tally] = []
        self.histograms: list[Tally] = []
        self.by_layer = np.zeros((len(self.pairs), 2 * self.n_layers * len(KINDS) * N_BINS), np.uint32)
        self.by_head = np.zeros((len(self.pairs), 2 * len(task.heads) * N_BINS), np.uint32)
        encoded = encode(model, self.pairs)
        measure_matches(model, encoded, Pieces(model.tokenizer), self.add, token_budget=task.token_budget)

    def add(self, indices: np.ndarray, found: PairMatches) -> None:
        """Take in a batch."""
        self.sums.append(found.sums([(self.pairs[i].query_id, self.pairs[i].grade) for i in indices]))
        self.histograms.append(found.histograms([self.pairs[i].grade for i in indices]))
        self.by_layer[indices] = found.counts.sum(3).reshape(len(indices), -1)
        by_head = found.counts[:, :, self.layers, self.heads].sum(3)
        self.by_head[indices] = by_head.reshape(len(indices), -1)
        self.advance(self.n_layers * len(indices))

    def tables(self) -> dict[str, pa.Table]:
        """Kind of cell -> its table."""
        sums, histograms = Tally.join(self.sums), Tally.join(self.histograms)
        queries, grades = zip(*sums.groups, strict=True)
        return {
            "match-sums": pa.table(
                {
                    "query_id": pa.array(queries, pa.string()),
                    "grade": pa.array(grades, pa.int32()),
                    **{name: _lists(values) for name, values in sums.totals.items()},
                }
            ),
            "match-histograms": pa.table(
                {"grade": pa.array(histograms.groups, pa.int32()), "counts": _lists(histograms.totals["counts"])}
            ),
            "match-pairs": pa.table(
                {
                    "query_id": pa.array([pair.query_id for pair in self.pairs], pa.string()),
                    "doc_id": pa.array([pair.doc_id for pair in self.pairs], pa.string()),
                    "by_layer": _lists(self.by_layer),
                    "by_head": _lists(self.by_head),
                }
            ),
        }


def _lists(values: np.ndarray) -> pa.Array:
    """An array as a column of its rows, each flat."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    offsets = np.arange(len(values) + 1, dtype=np.int64) * flat.shape[1]
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat.reshape(-1)))


def _array(table: pa.Table, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array that `_lists` made a column of; -1 in the shape may be 0."""
    flat = table[name].combine_chunks().flatten().to_numpy()
    width = flat.size // max(len(table), 1)
    return flat.reshape(len(table), *(width if size == -1 else size for size in shape))
