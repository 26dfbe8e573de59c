"""Which cells of a direction layers with a window have at all: a direction without cells is told apart from one without effect.

A cell is an attender token and an attended token of one pair. A layer whose rows see w positions to either side has those cells
that are at most w apart: few of DOC->QUERY in a long passage, and often none of CLS->SEP2. They are counted over the ranked
passages of all pools, from their tokens alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import length_batches
from tl_crossenc.inputs.parts import N_PARTS
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.interventions.directions import direction_grid
from tl_crossenc.model.attention_input import columns_seen
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool


@dataclass(frozen=True)
class ExistingCells:
    """The cells between parts that each layer has.

    Attributes:
        existing: `[layer, attender part, attended part]`.
        every: `[attender part, attended part]`, without windows.
        n_heads: of the model.
    """

    existing: Int[np.ndarray, "layer part part"]
    every: Int[np.ndarray, "part part"]
    n_heads: int

    __repr__ = short_repr

    def by_layer(self, condition: Condition) -> Float[np.ndarray, "layer"]:
        """How many of the cells that a condition removes in a layer, in all heads, exist, as a share; NaN where it removes none."""
        existing, every = self._counts(condition)
        return np.divide(existing, every, out=np.full(len(every), np.nan), where=every > 0)

    def share(self, condition: Condition) -> float:
        """The same of all layers together."""
        existing, every = (counts.sum() for counts in self._counts(condition))
        return float(existing / every) if every else float("nan")

    def frame(self) -> pd.DataFrame:
        """A row a (direction, layer) of the grid of Table 1: `cells` that there are, `existing` ones, their `share`."""
        rows = []
        for direction in direction_grid():
            every = int(self.every[direction.grid].sum())
            for layer, own in enumerate(self.existing):
                existing = int(own[direction.grid].sum())
                share = existing / every if every else float("nan")
                rows.append((str(direction), layer, every, existing, share))
        return pd.DataFrame(rows, columns=["direction", "layer", "cells", "existing", "share"])

    def _counts(self, condition: Condition) -> tuple[Int[np.ndarray, "layer"], Int[np.ndarray, "layer"]]:
        plan = condition.compile(len(self.existing), self.n_heads)
        heads = np.stack(
            [np.zeros_like(self.every) if edits is None else (edits.zero | edits.mask).sum(0) for edits in plan]
        )
        return (self.existing * heads).sum((1, 2)), (self.every * heads).sum((1, 2))


def existing_cells(model: HookedCrossEncoder, pools: Sequence[Pool]) -> ExistingCells | None:
    """The cells that each layer has in the ranked passages of the pools; None for a model whose layers have no window."""
    return None if all(window is None for window in model.cfg.windows or ()) else count_cells(model, pools)


def count_cells(model: HookedCrossEncoder, pools: Sequence[Pool]) -> ExistingCells:
    """The cells that each layer has in the ranked passages of the pools, windows or not."""
    windows = model.cfg.windows or (None,) * model.cfg.n_layers
    counts = {window: np.zeros((N_PARTS, N_PARTS), dtype=np.int64) for window in (None, *windows)}
    for pool in pools:
        ranked = pool.ranked
        pairs = model.encode_pairs([pair.query for pair in ranked.pairs], [pair.text for pair in ranked.pairs])
        for indices in length_batches(pairs.lengths, model.token_budget(None)):
            batch = pairs.batch(indices)
            given = model.attention_input(batch.attention_mask, batch.parts)
            parts = batch.parts.one_hot
            for window, total in counts.items():
                seen = columns_seen(given, window, parts).double().expand(-1, parts.shape[1], -1)
                total += torch.einsum("prx,pry->xy", parts.double(), seen).round().long().numpy()
    return ExistingCells(np.stack([counts[window] for window in windows]), counts[None], model.cfg.n_heads)
