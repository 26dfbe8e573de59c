"""Pairs of texts as a model takes them: encoded, end to end or as a padded batch, each position with its part."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_crossenc.inputs.parts import Part, PartMasks


@dataclass(frozen=True)
class PairBatch:
    """Pairs as the model takes them, padded on the right to one length.

    Attributes:
        tokens: `[pair, pos]` token ids.
        token_type_ids: `[pair, pos]` 0 up to the first separator, 1 after it (all 0 where they are not fed).
        attention_mask: `[pair, pos]` True at real tokens.
        parts: the part of each position.
    """

    tokens: Int[Tensor, "pair pos"]
    token_type_ids: Int[Tensor, "pair pos"]
    attention_mask: Bool[Tensor, "pair pos"]
    parts: PartMasks

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __repr__(self) -> str:
        return f"PairBatch({len(self)} pairs of up to {self.tokens.shape[1]} tokens)"

    def __getitem__(self, rows: int | slice | Sequence[int] | np.ndarray) -> PairBatch:
        """Some of the pairs, a batch of the same width; one for a number."""
        chosen = np.atleast_1d(
            np.arange(len(self))[np.asarray(rows, np.int64) if isinstance(rows, list | tuple) else rows]
        )
        index = torch.from_numpy(chosen).to(self.tokens.device)
        columns = (self.tokens, self.token_type_ids, self.attention_mask, self.parts.codes)
        tokens, types, mask, codes = (column[index] for column in columns)
        return PairBatch(tokens, types, mask, PartMasks(codes))

    def to(self, device: torch.device | str) -> PairBatch:
        """The same batch on another device."""
        return PairBatch(
            self.tokens.to(device, non_blocking=True),
            self.token_type_ids.to(device, non_blocking=True),
            self.attention_mask.to(device, non_blocking=True),
            self.parts.to(device),
        )


@dataclass(frozen=True)
class EncodedPairs:
    """Many encoded pairs, end to end without padding.

    Attributes:
        tokens, token_type_ids, parts: one entry a token.
        offsets: `[pair + 1]`; pair i has the tokens `offsets[i]:offsets[i + 1]`.
        truncated: `[pair]`, whether the passage lost tokens.
        pad_token_id: what fills up a batch.
    """

    tokens: np.ndarray
    token_type_ids: np.ndarray
    parts: np.ndarray
    offsets: np.ndarray
    truncated: np.ndarray
    pad_token_id: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """`[pair]`, the number of tokens."""
        return np.diff(self.offsets)

    def token_labels(self) -> dict[str, np.ndarray]:
        """Which pair each token is of, its `pos` there, its `part` by name, and its id as `token`: columns of a frame."""
        names = np.array([part.name for part in Part])
        pair = np.repeat(np.arange(len(self)), self.lengths)
        pos = np.arange(len(self.tokens)) - self.offsets[:-1][pair]
        return {"pair": pair, "pos": pos, "part": names[self.parts], "token": self.tokens}

    def batch(self, indices: Sequence[int] | np.ndarray | None = None) -> PairBatch:
        """The pairs at `indices` (all by default) as one padded batch."""
        chosen = np.arange(len(self)) if indices is None else np.asarray(indices)
        if not len(chosen):
            chosen = chosen.astype(np.int64)
        starts, lengths = self.offsets[:-1][chosen], self.lengths[chosen]
        width = int(lengths.max(initial=0))
        columns = np.arange(width)
        real = columns < lengths[:, None]
        source = np.where(real, starts[:, None] + columns, 0)
        return PairBatch(
            torch.from_numpy(np.where(real, self.tokens[source], self.pad_token_id).astype(np.int64)),
            torch.from_numpy(np.where(real, self.token_type_ids[source], 0).astype(np.int64)),
            torch.from_numpy(real),
            PartMasks(torch.from_numpy(np.where(real, self.parts[source], 5).astype(np.int8))),
        )


def as_encoded(pairs: Any) -> EncodedPairs:
    """Encoded pairs from `model.encode_pairs` as they are; a padded batch from `model.to_pairs` without its padding.

    Of a batch it is not known which passages were cut: none counts as `truncated`.

    Raises:
        TypeError: something else.
        ValueError: a batch that is not padded on the right alone.
    """
    if isinstance(pairs, EncodedPairs):
        return pairs
    if not isinstance(pairs, PairBatch):
        hint = "pass its .clean and its .corrupted" if hasattr(pairs, "corrupted") else "encode the texts first"
        raise TypeError(
            f"expected pairs from model.encode_pairs(query, passages) or model.to_pairs(...), got {type(pairs).__name__}: {hint}"
        )
    batch = pairs.to("cpu")
    real = batch.attention_mask.numpy().astype(bool)
    if (real[:, 1:] & ~real[:, :-1]).any():
        raise ValueError(
            "expected a batch padded on the right alone, got padding before a real token: use model.to_pairs"
        )
    padding = batch.tokens.numpy()[~real]
    offsets = np.concatenate([[0], np.cumsum(real.sum(1), dtype=np.int64)]).astype(np.int64)
    columns = (batch.tokens, batch.token_type_ids, batch.parts.codes)
    tokens, types, parts = (
        column.numpy()[real].astype(kind) for column, kind in zip(columns, (np.int32, np.int8, np.int8), strict=True)
    )
    cut = np.zeros(len(batch), dtype=bool)
    return EncodedPairs(tokens, types, parts, offsets, cut, int(padding[0]) if padding.size else 0)


def token_digest(tokens: np.ndarray) -> bytes:
    """What tells a pair from others: SHA-256 of its tokens, without padding, as 64-bit integers."""
    return hashlib.sha256(np.ascontiguousarray(tokens, dtype=np.int64).tobytes()).digest()
