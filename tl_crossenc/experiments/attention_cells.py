"""What the store keeps of attention by direction: moments by query, grade, layer, head and direction, of a shard of a pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa

from tl_crossenc.executors.task import Advance, Cell
from tl_crossenc.experiments.pair_tasks import OneCellTask, encode
from tl_crossenc.instruments.attention_flow import (
    ATTENDED,
    ATTENDERS,
    QUANTITIES,
    AttentionFlow,
    Moments,
    measure_attention,
)
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

METHOD = 1
"""Counts up with every change of how attention is measured, batched or stored that changes a cell's numbers."""


@dataclass(frozen=True)
class AttentionTask(OneCellTask):
    """A shard of a pool.

    Attributes:
        full_stops: token ids.
    """

    full_stops: tuple[int, ...]

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        measured = measure_attention(
            model,
            encode(model, self.pairs),
            [(pair.query_id, pair.grade) for pair in self.pairs],
            full_stops=self.full_stops,
            token_budget=self.token_budget,
            progress=lambda count: advance(model.cfg.n_layers * count),
        )
        yield Cell(self.keys[0], flow_to_table(measured), self.meta)


def flow_to_table(flow: AttentionFlow) -> pa.Table:
    """A row a (query_id, grade, layer, head, attender, attended): count, mean and M2 of each quantity."""
    moments = flow.moments
    shape = (*moments.mean.shape[:3], len(ATTENDERS), len(ATTENDED))
    places = np.indices(shape).reshape(len(shape), -1)
    groups = cast(tuple[tuple[str, int], ...], flow.groups)
    names = pa.array([group[0] for group in groups], pa.string())
    grades = np.asarray([group[1] for group in groups], dtype=np.int32)
    columns: dict[str, Any] = {"query_id": names.take(pa.array(places[0])), "grade": grades[places[0]]}
    columns |= {name: pa.array(places[i], pa.int16()) for i, name in ((1, "layer"), (2, "head"))}
    columns["attender"] = pa.array(ATTENDERS).take(pa.array(places[3]))
    columns["attended"] = pa.array(ATTENDED).take(pa.array(places[4]))
    for i, quantity in enumerate(QUANTITIES):
        columns[f"{quantity}_n"] = np.broadcast_to(moments.count[:, :, :, i], shape).reshape(-1)
        columns[f"{quantity}_mean"] = moments.mean[:, :, :, i].reshape(-1)
        columns[f"{quantity}_m2"] = moments.m2[:, :, :, i].reshape(-1)
    return pa.table(columns)


def flow_from_table(table: pa.Table, n_layers: int, n_heads: int) -> AttentionFlow:
    """The flow that `flow_to_table` wrote."""
    shape = (-1, n_layers, n_heads, len(ATTENDERS), len(ATTENDED))
    step = int(np.prod(shape[1:]))
    groups = zip(table["query_id"].to_pylist()[::step], table["grade"].to_pylist()[::step], strict=True)

    def stacked(kind: str) -> np.ndarray:
        return np.stack([table[f"{name}_{kind}"].to_numpy().reshape(shape) for name in QUANTITIES], axis=3)

    return AttentionFlow(tuple(groups), Moments(stacked("n")[:, :1, :1], stacked("mean"), stacked("m2")))
