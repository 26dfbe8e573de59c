"""Scores of a pool under conditions, from the store where they are there, else computed and stored.

A cell is (model, pool, condition, token budget, shard of the pool), the model being the weights, arithmetic, tokenizer and versions
that run (`identity`): an edited model finds none of the unedited one's cells. What cannot be named, such as a hook, is refused. A
shard's batches depend on the shard alone, so a cell's bytes do not depend on which other cells were computed beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tl_crossenc.batching import default_token_budget
from tl_crossenc.conditions import Condition
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.execution import count_layer_runs, run_conditions
from tl_crossenc.identity import model_identity
from tl_crossenc.pools import Pool
from tl_crossenc.store import CellKey, Store

SHARD = 256
"""Pairs a cell: what a killed job loses at most, for each condition in flight."""

METHOD = 1
"""Counts up with every change of how scores are batched or stored that changes a cell's numbers."""

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
    budget = default_token_budget(model.device, model.cfg) if token_budget is None else token_budget
    identity = model_identity(model)
    distinct = list(dict.fromkeys(conditions))
    shards = [range(start, min(start + SHARD, len(pool))) for start in range(0, len(pool), SHARD)]
    keys = {
        (condition, i): cell_key(identity, pool, model.active_condition + condition, i, budget)
        for condition in distinct
        for i in range(len(shards))
    }
    absent = set(store.missing(keys.values()))
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
    values = np.stack(
        [
            np.concatenate(
                [store.read(keys[condition, i])["score"].to_numpy() for i in range(len(shards))] or [np.zeros(0)]
            )
            for condition in conditions
        ]
    )
    whole = count_layer_runs(list(plans.values())), model.cfg.n_layers * len(distinct)
    return PoolScores(tuple(conditions), values, done, alone, (whole[0] * len(pool), whole[1] * len(pool)))


def cell_key(identity: Mapping[str, str], pool: Pool, condition: Condition, shard: int, token_budget: int) -> CellKey:
    """The key of one cell of scores, `condition` being all that is ablated."""
    return CellKey.of(
        "scores",
        **identity,
        method=METHOD,
        pool=pool.digest,
        condition=str(condition),
        shard=shard,
        shard_size=SHARD,
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
