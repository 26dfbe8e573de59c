"""What the store keeps of query-key circuits: sums over a shard of pairs, of three kinds.

    qk-means    part means and spreads of what attention reads, of a shard of a pool
    qk-terms    terms of the logits about those means, of a shard of the sample; computed when the means are known
    qk-offsets  how often offsets occur between tokens, of a shard of a pool, where positions are rotary; no model is run

A cell is one row, each field of the sums a flat list. The last layer is never run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.task import Advance, Cell
from tl_crossenc.experiments.pair_tasks import OneCellTask, encode
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.instruments.qk import PartMoments, Weighting, part_moments
from tl_crossenc.instruments.qk_offsets import OffsetCounts, offset_counts
from tl_crossenc.instruments.qk_terms import TermMoments, term_moments
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.store.cells import Store

Moments = TypeVar("Moments", PartMoments, TermMoments, OffsetCounts)

MEANS, TERMS, OFFSETS = "qk-means", "qk-terms", "qk-offsets"

METHOD = 1
"""Counts up with every change of how means and terms are measured, batched or stored that changes a cell's numbers."""


@dataclass(frozen=True)
class QKTask(OneCellTask):
    """A shard of pairs, for one kind of cell.

    Attributes:
        weighting: see `qk.part_moments`.
        means: `[layer, part, d_model]`, of terms, once they are known.
    """

    weighting: Weighting | str
    means: np.ndarray | None = field(default=None, compare=False, repr=False)

    __repr__ = short_repr

    def cells(self, model: HookedCrossEncoder, advance: Advance) -> Iterator[Cell]:
        """See `Task`."""
        moments = self._moments(model, encode(model, self.pairs))
        columns = {name: np.asarray(getattr(moments, name), dtype=np.float64) for name in _arrays(moments)}
        for name, values in columns.items():
            if not np.isfinite(values).all():
                raise ValueError(
                    f"expected finite activations, but {name} of the part means or scores has NaN or infinite "
                    "values: check the checkpoint's weights, or use dtype float32"
                )
        yield Cell(self.keys[0], pa.table({name: pa.array([v.ravel()]) for name, v in columns.items()}), self.meta)
        advance(self.cost)

    def _moments(self, model: HookedCrossEncoder, encoded: EncodedPairs) -> PartMoments | TermMoments | OffsetCounts:
        kind, budget = self.keys[0].kind, self.token_budget
        if kind == MEANS:
            return part_moments(model, encoded, weighting=self.weighting, token_budget=budget)
        if kind == OFFSETS:
            return offset_counts(encoded, model.cfg.n_ctx, weighting=self.weighting)
        if self.means is None:
            raise TypeError("expected the part means before their terms, got none: compute the means first")
        return term_moments(model, encoded, self.means, token_budget=budget)


def stored_moments(store: Store, tasks: Sequence[QKTask], empty: Moments) -> Moments:
    """The sums of all the cells, `empty` being those of none."""
    total = empty
    for task in tasks:
        row = store.read(task.keys[0]).to_pylist()[0]
        shaped = {name: getattr(empty, name) for name in _arrays(empty)}
        read: dict[str, Any] = {
            name: np.asarray(row[name]).reshape(v.shape).astype(v.dtype) for name, v in shaped.items()
        }
        total += replace(empty, **read)
    return total


def _arrays(moments: PartMoments | TermMoments | OffsetCounts) -> list[str]:
    """The names of the fields that are arrays."""
    return [f.name for f in fields(moments) if isinstance(getattr(moments, f.name), np.ndarray)]
