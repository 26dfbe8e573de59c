"""Scores of a pool under conditions, from the store where they are there, else computed and stored.

A cell is (model, pool, condition, token budget, shard of the pool), the model being the weights, arithmetic, tokenizer and versions
that run (`identity`): an edited model finds none of the unedited one's cells. What cannot be named, such as a hook, is refused. The
shards depend on the pool alone and a shard's batches on the shard alone, so a cell's bytes do not depend on which other cells were
computed beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.execution import count_layer_runs, run_conditions
from tl_crossenc.model.identity import model_identity
from tl_crossenc.pools.pool import Pool
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

TOLD = frozenset({"torch", "tokenizers", "dtype", "device", "method"})
IDENTITY = TOLD | {"weights", "arithmetic", "tokenizer", "shard_size", "revision"}
"""Fields of a key that say of what model and by what versions (the last was one once); those of `TOLD` are told by their values."""

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], object]
"""Called with (layer runs done, layer runs in all), a layer of one pair counting 1."""


@dataclass(frozen=True)
class PoolScores:
    """Scores of a pool.

    Attributes:
        conditions: one a row.
        values: `[condition, pair]`, aligned with `pool.pairs`.
        layers_run: layers that the model ran for this (0 when everything was stored), counted for each pair.
        layers_alone: layers that running each missing condition alone would have taken.
        whole_job: layers of the whole job with shared prefixes, and without; the same whatever was stored.
    """

    conditions: tuple[Condition, ...]
    values: np.ndarray
    layers_run: int
    layers_alone: int
    whole_job: tuple[int, int]

    __repr__ = short_repr


def score_pool(
    model: HookedCrossEncoder,
    pool: Pool,
    conditions: Sequence[Condition],
    store: Store,
    *,
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> PoolScores:
    """Score every pair of the pool under every condition, computing only the cells that are missing.

    Raises:
        ValueError: no conditions, a model that no key can name (see `identity`), or a score that is no finite number; nothing of
            that shard is stored then.
    """
    if not conditions:
        raise ValueError("expected at least one condition to score under, got none")
    budget = model.token_budget(token_budget)
    identity = model_identity(model)
    distinct = list(dict.fromkeys(conditions))
    shards = shards_by_length(pool)
    keys = {
        (condition, i): cell_key(identity, pool, model.active_condition + condition, i, budget)
        for condition in distinct
        for i in range(len(shards))
    }
    absent = missing_cells(store, keys.values())
    todo = [[condition for condition in distinct if keys[condition, i] in absent] for i in range(len(shards))]
    plans = {c: (model.active_condition + c).compile(model.cfg.n_layers, model.cfg.n_heads) for c in distinct}
    runs = [count_layer_runs([plans[condition] for condition in missing]) for missing in todo]
    total = sum(run * len(shard) for run, shard in zip(runs, shards, strict=True))
    done = 0
    alone = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    for i, (shard, missing) in enumerate(zip(shards, todo, strict=True)):
        if not missing:
            continue
        pairs = [pool.pairs[index] for index in shard]
        encoded = model.encode_pairs([pair.query for pair in pairs], [pair.text for pair in pairs])
        scores = run_conditions(model, encoded, missing, token_budget=budget, progress=advance)
        alone += scores.layers_alone
        _require_finite(scores.values, missing)
        for condition, values in zip(missing, scores.values, strict=True):
            table = pa.table(
                {
                    "query_id": [pair.query_id for pair in pairs],
                    "doc_id": [pair.doc_id for pair in pairs],
                    "grade": pa.array([pair.grade for pair in pairs], pa.int32()),
                    "score": values,
                }
            )
            store.write(keys[condition, i], table, {"model": model.cfg.model_name, "collection": pool.collection})
    cells = [[keys[condition, i] for i in range(len(shards))] for condition in conditions]
    values = np.stack([_stored(store, of_condition, shards) for of_condition in cells])
    whole = count_layer_runs(list(plans.values())), model.cfg.n_layers * len(distinct)
    return PoolScores(tuple(conditions), values, done, alone, (whole[0] * len(pool), whole[1] * len(pool)))


def missing_cells(store: Store, keys: Iterable[CellKey], *, tell: bool = True) -> set[CellKey]:
    """The keys whose cells are to be computed.

    Where all are, and those stored are of another model or version, this is logged, but for `tell=False`.
    """
    wanted = list(keys)
    absent = store.missing(wanted)
    if tell and wanted and len(absent) == len(set(wanted)):
        stored = [(key.fields, other.fields) for key in absent[:1] for other in store.keys(key.kind)]
        changes = [[name for name in {**new, **old} if new.get(name) != old.get(name)] for new, old in stored]
        nearest = min(zip(changes, stored, strict=True), key=lambda found: len(found[0]), default=None)
        if nearest is not None and set(nearest[0]) <= IDENTITY:
            new, old = nearest[1]
            told = [
                f"{name} {old.get(name)}, now {new.get(name)}" if name in TOLD else f"other {name}"
                for name in (nearest[0] if "method" in old else ())
            ]
            _log.info(
                "%s: computing anew; what is stored is of %s", absent[0].kind, "; ".join(told) or "an earlier version"
            )
    return set(absent)


def shard_size(n_pairs: int) -> int:
    """Pairs a cell for a pool of so many: a `SHARES`th, within bounds, so that a job cut short keeps most of what it did."""
    return min(max(-(-n_pairs // SHARES), FEWEST), SHARD)


def shards_by_length(pool: Pool) -> list[np.ndarray]:
    """Indices of the pairs of each cell, in the pool's order; the cell of the longest texts first.

    Pairs of one length, by characters, are together, so that small cells are padded no more than large ones.
    """
    size = shard_size(len(pool))
    order = np.argsort([-len(pair.query) - len(pair.text) for pair in pool.pairs], kind="stable")
    return [np.sort(order[start : start + size]) for start in range(0, len(pool), size)]


def _stored(store: Store, keys: Sequence[CellKey], shards: Sequence[np.ndarray]) -> np.ndarray:
    """`[pair]`, from the cells of one condition."""
    found = [store.read(key)["score"].to_numpy() for key in keys]
    if not found:
        return np.zeros(0)
    values = np.zeros(sum(map(len, shards)), found[0].dtype)
    values[np.concatenate(shards)] = np.concatenate(found)
    return values


def cell_key(identity: Mapping[str, str], pool: Pool, condition: Condition, shard: int, token_budget: int) -> CellKey:
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
