"""Logits of pairs that were read in several ways, each distinct row of tokens run once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_crossenc.doctor.readings import Tokens
from tl_crossenc.inputs.batching import run_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.score_rule import score_from_logits


def encoded_rows(rows: Sequence[Tokens], pad: int) -> EncodedPairs:
    """Rows of tokens and types as unpadded pairs, whose parts are not known (all CLS: nothing is ablated by them)."""
    tokens, types = (np.concatenate([row[i] for row in rows]) for i in (0, 1))
    offsets = np.concatenate([[0], np.cumsum([len(row[0]) for row in rows])]).astype(np.int64)
    return EncodedPairs(tokens, types, np.zeros(len(tokens), np.int8), offsets, np.zeros(len(rows), dtype=bool), pad)


def padding_id(model: HookedCrossEncoder) -> int:
    """The token that fills up rows; 0 where the tokenizer has none."""
    return 0 if model.encoder is None else model.encoder.tokenizer.pad_token_id or 0


class RowTable:
    """The distinct rows of tokens of several readings, in the order in which they first came, and the logits of those that ran.

    Args:
        model: what runs them.
        token_budget: padded tokens a batch.
    """

    def __init__(self, model: HookedCrossEncoder, token_budget: int | None = None) -> None:
        self.model, self.token_budget = model, token_budget
        self.rows: list[Tokens] = []
        self._at: dict[tuple[bytes, bytes], int] = {}
        self._logits: dict[int, np.ndarray] = {-1: np.full(model.cfg.n_labels, np.nan)}

    def add(self, read: Sequence[Tokens | None]) -> Int[np.ndarray, "pair"]:
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

    def missing(self, *wanted: Int[np.ndarray, "pair"]) -> Int[np.ndarray, "row"]:
        """Those of the wanted rows that did not run yet, each once, in order."""
        numbers = np.unique(np.concatenate(wanted)) if wanted else np.zeros(0, np.int64)
        return np.asarray([number for number in numbers.tolist() if number not in self._logits], np.int64)

    def run(self, rows: Int[np.ndarray, "row"], progress: Callable[[int], Any] | None = None) -> None:
        """Run rows, each once."""
        if len(rows):
            chosen = encoded_rows([self.rows[row] for row in rows], padding_id(self.model))
            values = run_rows(self.model, chosen, self.token_budget, progress)
            self._logits.update(zip(rows.tolist(), values, strict=True))

    def logits(self, rows: Int[np.ndarray, "pair"]) -> Float[np.ndarray, "pair label"]:
        """The logits of rows that ran; NaN of pairs that were not read."""
        return np.stack([self._logits[row] for row in rows.tolist()])


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
        hooks = padding_hooks(model, batch)
        with model.hooks(hooks) if hooks else nullcontext():
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


def padding_hooks(
    model: HookedCrossEncoder, batch: PairBatch
) -> list[tuple[str | Callable[..., Any], Callable[..., Any]]]:
    """Hooks that give positions to rows with padding tokens as a family does that counts positions without them.

    The model holds the rows of its table from the first position on. The one just before is that of padding, taken for zeros, since
    training leaves it so.
    """
    padding, positions = batch.attention_mask & (batch.tokens == padding_id(model)), model.embed.W_pos
    if not model.cfg.position_offset or positions is None or not padding.any():
        return []

    def placed(embed: Tensor, hook: Any) -> Tensor:
        own = padding.to(embed.device)
        places = ((~own).cumsum(1) - 1).clamp(min=0)
        return positions[places].masked_fill(own[..., None], 0)

    return [("embed.hook_pos_embed", placed)]


def scores_of_logits(logits: Float[np.ndarray, "pair label"], rule: str) -> Float[np.ndarray, "pair"]:
    """The scores that a canonical rule makes of logits."""
    return score_from_logits(torch.from_numpy(logits), rule).numpy()
