"""Cells of integrated gradients by part: their keys, and what computes them.

A cell is (model, pool, ablation, baseline, score, nodes, full stops, shard of the pool): for every layer and pair the attributions
summed by part. A shard's pairs are of like length, and its batches depend on it alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tl_crossenc.executors.executor import Executor
from tl_crossenc.executors.task import Advance, Cell
from tl_crossenc.experiments.pair_tasks import OneCellTask, cell_meta, encode
from tl_crossenc.inputs.parts import REAL_PART_NAMES, Part
from tl_crossenc.instruments.baselines import Baseline
from tl_crossenc.instruments.integrated_gradients import integrated_gradients, integration_cost
from tl_crossenc.instruments.token_sets import STOPS
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.keys import CellKey

KIND = "part-gradients"
SHARD = 16
"""Pairs a cell: some minutes of two cores for a model of BERT-base's size."""
METHOD = 1
"""Counts up with every change of how attributions are computed, batched or stored that changes a cell's numbers."""


@dataclass(frozen=True)
class PartGradientTask(OneCellTask):
    """A shard of a pool to one baseline.

    Attributes:
        baseline: where the paths begin.
        score: what is attributed, as `integrated_gradients` takes it.
        nodes: of the quadrature.
        stops: ids of full stops.
    """

    baseline: Baseline
    score: str | None
    nodes: int
    stops: tuple[int, ...]

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        encoded = encode(model, self.pairs)
        found = integrated_gradients(
            model,
            encoded,
            self.baseline,
            nodes=self.nodes,
            score=self.score,
            token_budget=self.token_budget,
            progress=advance,
        )
        if not np.isfinite(found.values).all():
            raise ValueError("expected finite attributions, but some are NaN or infinite: use dtype float32")
        n_layers, n = len(found.layers), len(self.pairs)
        columns: dict[str, object] = {
            "query_id": [pair.query_id for pair in self.pairs] * n_layers,
            "doc_id": [pair.doc_id for pair in self.pairs] * n_layers,
            "layer": pa.array(np.repeat(found.layers, n), pa.int16()),
        }
        parts = found.by_part().reshape(n_layers * n, -1)
        columns |= {name: parts[:, i] for i, name in enumerate(REAL_PART_NAMES)}
        stops = np.isin(found.pairs.tokens, self.stops) & (found.pairs.parts == Part.DOC)
        columns[STOPS] = found.sums(stops).reshape(-1)
        columns |= {
            "score": np.tile(found.scores, n_layers),
            "baseline_score": np.tile(found.baseline_scores, n_layers),
        }
        columns["same"] = np.tile(found.same, n_layers).astype(np.int8)
        yield Cell(self.keys[0], pa.table(columns), self.meta)


def part_gradient_tasks(
    model: HookedCrossEncoder,
    pool: Pool,
    baseline: Baseline,
    executor: Executor,
    *,
    score: str | None,
    nodes: int,
    stops: Sequence[int],
    token_budget: int | None,
) -> list[PartGradientTask]:
    """All cells of a pool's pairs to one baseline.

    Raises:
        ValueError: a model that no key can name, see `identity`.
    """
    identity, budget = executor.identity(model), executor.token_budget(model, token_budget)
    order = np.argsort([-len(pair.query) - len(pair.text) for pair in pool.pairs], kind="stable")
    runs = integration_cost(model, range(model.cfg.n_layers + 1), "pre", nodes)
    tasks = []
    for shard, start in enumerate(range(0, len(pool), SHARD)):
        key = CellKey.of(
            KIND,
            **identity,
            method=METHOD,
            pool=pool.digest,
            condition=str(model.active_condition),
            baseline=str(baseline),
            score=score,
            nodes=nodes,
            full_stops=",".join(map(str, stops)),
            shard=shard,
            shard_size=SHARD,
            token_budget=budget,
        )
        pairs = tuple(pool.pairs[i] for i in np.sort(order[start : start + SHARD]))
        tasks.append(
            PartGradientTask(pairs, (key,), runs, budget, cell_meta(model, pool), baseline, score, nodes, tuple(stops))
        )
    return tasks
