"""Logits of pairs that were read in several ways, each distinct row of tokens run once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from tl_crossenc.doctor.readings import Tokens
from tl_crossenc.inputs.batching import run_batches
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.score_rule import score_from_logits


def encoded_rows(rows: Sequence[Tokens], pad: int) -> EncodedPairs:
    """Rows of tokens and types as unpadded pairs, whose parts are not known (all CLS: nothing is ablated by them)."""
    tokens, types = (np.concatenate([row[i] for row in rows]) for i in (0, 1))
    offsets = np.concatenate([[0], np.cumsum([len(row[0]) for row in rows])]).astype(np.int64)
    return EncodedPairs(tokens, types, np.zeros(len(tokens), np.int8), offsets, np.zeros(len(rows), dtype=bool), pad)


class RowTable:
    """The distinct rows of tokens of several readings, in the order in which they first came."""

    def __init__(self) -> None:
        self._at: dict[tuple[bytes, bytes], int] = {}
        self.rows: list[Tokens] = []

    def add(self, read: Sequence[Tokens | None]) -> np.ndarray:
        """`[pair]`, the number of each pair's row; -1 of a pair that was not read."""
        found = np.full(len(read), -1, dtype=np.int64)
        for i, row in enumerate(read):
            if row is None:
                continue
            key = (row[0].tobytes(), row[1].tobytes())
            if key not in self._at:
                self._at[key] = len(self.rows)
                self.rows.append(row)
            found[i] = self._at[key]
        return found


def run_rows(
    model: HookedCrossEncoder,
    pairs: EncodedPairs,
    token_budget: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Float[np.ndarray, "pair label"]:
    """The logits of unpadded pairs, in float64."""
    found = np.zeros((len(pairs), model.cfg.n_labels))

    def run(indices: np.ndarray) -> None:
        batch = pairs.batch(indices)
        logits = model(
            batch.tokens,
            token_type_ids=batch.token_type_ids,
            attention_mask=batch.attention_mask,
            return_type="logits",
        )
        found[indices] = logits.to("cpu", torch.float64).numpy()

    with torch.no_grad():
        for indices, _ in run_batches(pairs.lengths, model.token_budget(token_budget), run):
            if progress is not None:
                progress(len(indices))
    return found


def scores_of_logits(logits: Float[np.ndarray, "pair label"], rule: str) -> Float[np.ndarray, "pair"]:
    """The scores that a canonical rule makes of logits."""
    return score_from_logits(torch.from_numpy(logits), rule).numpy()
