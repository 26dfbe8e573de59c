"""Cells of neurons' conductance: one a query, over its relevant passages; their keys, and what computes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import Executor, Progress
from tl_crossenc.executors.task import Advance, Cell
from tl_crossenc.experiments.pair_tasks import OneCellTask, cell_meta, encode
from tl_crossenc.experiments.query_folds import Query
from tl_crossenc.instruments.baselines import Baseline
from tl_crossenc.instruments.conductance import conductance, conductance_cost
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

KIND = "neuron-conductance"
METHOD = 1
"""Counts up with every change of how conductance is computed, batched or stored that changes a cell's numbers."""
MEASURES = ("conductance", "activity")
"""Means over a query's pairs: of the absolute conductance, and of the root mean square activation."""


@dataclass(frozen=True)
class ConductanceTask(OneCellTask):
    """The relevant passages of one query.

    Attributes:
        baseline: where the path begins.
        nodes: steps of the path.
    """

    baseline: Baseline
    nodes: int

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        encoded = encode(model, self.pairs)
        given: dict[str, Any] = {"nodes": self.nodes, "token_budget": self.token_budget, "progress": advance}
        found = conductance(model, encoded, self.baseline, **given)
        columns = {
            "conductance": np.abs(found.neurons).mean(0).reshape(-1),
            "activity": found.activity.mean(0).reshape(-1),
            "errors": found.relative_error[0].reshape(-1),  # of the neurons' cuts
        }
        if not np.isfinite(columns["conductance"]).all():
            raise ValueError("expected finite conductances, but some are NaN or infinite: use dtype float32")
        table = pa.table({name: pa.array([values], pa.list_(pa.float64())) for name, values in columns.items()})
        yield Cell(self.keys[0], table.append_column("query_id", [[self.pairs[0].query_id]]), self.meta)


@dataclass(frozen=True)
class QueryConductance:
    """Conductance by query.

    Attributes:
        queries: in the order of the rows.
        values: measure of `MEASURES` -> `[query, neuron]`, the neurons of all layers end to end.
        errors: relative errors of the neurons' cuts, of all layers and pairs.
    """

    queries: tuple[Query, ...]
    values: dict[str, Float[np.ndarray, "query neuron"]]
    errors: Float[np.ndarray, "error"]

    __repr__ = short_repr


def query_conductance(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    baseline: Baseline,
    *,
    nodes: int,
    token_budget: int | None,
    executor: Executor,
    progress: Progress | None,
) -> QueryConductance:
    """Conductance over the pairs of each query of the pools, computing only missing cells.

    Raises:
        ValueError: a model that no key can name, or see `conductance`.
        CellsFailed, Waiting: see `Executor.run`.
    """
    identity, budget = executor.identity(model), executor.token_budget(model, token_budget)
    runs, tasks, queries = conductance_cost(model, nodes), [], []
    for pool in pools:
        for query_id, own in pool.by_query().items():
            pairs = tuple(pool.pairs[i] for i in own)
            key = CellKey.of(
                KIND,
                **identity,
                method=METHOD,
                pool=pool.select([query_id]).digest,
                condition=str(model.active_condition),
                baseline=str(baseline),
                nodes=nodes,
                token_budget=budget,
            )
            tasks.append(ConductanceTask(pairs, (key,), runs, budget, cell_meta(model, pool), baseline, nodes))
            queries.append((pool.collection, query_id))
    executor.run(model, tasks, store, progress)
    tables = [store.read(task.keys[0]) for task in tasks]
    columns = {
        name: [table[name].combine_chunks().flatten().to_numpy() for table in tables] for name in (*MEASURES, "errors")
    }
    values = {name: np.stack(columns[name]) for name in MEASURES}
    return QueryConductance(tuple(queries), values, np.concatenate(columns["errors"]))
