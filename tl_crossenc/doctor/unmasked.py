"""Padding that is attended to: what a system reads that pads its batches and forgets the attention mask, or feeds one of ones.

Padding then is tokens like all others, so that such a reading is each pair's tokens with its padding, on the tokenizer's side. How
much a pair has depends on how batches were padded: to a fixed length, whatever else is in the batch; or to the longest pair of a
batch, here of so many rows of the file in their order. Batches that were sorted or drawn otherwise cannot be told from a file.

Pairs are cut `longest_first`, as tokenizers do unless told otherwise. A family that counts positions without padding gives padding
the last row of its table that no position reads, which training leaves at zero (`runs.padding_hooks`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from tl_crossenc.doctor.readings import LIMITS, Reading, Tokens, Way
from tl_crossenc.inputs.encoder import PairEncoder

BATCH_SIZES = (8, 16, 32, 64, 100, 128)
"""Pairs that many systems run at a time."""
LONGEST = 1024
"""Tokens of the longest fixed length that is tried: every pair costs as much as the longest."""


@dataclass(frozen=True)
class Unmasked:
    """How pairs are read with their padding.

    Attributes:
        way: how they are read without.
        encoder: what knows the padding.
        length: tokens that every pair is padded to; None where `size` says.
        size: rows of a batch, which are padded to its longest.
        rows: `[row]`, the number of the pair in each row of the file. A pair has the padding of the first row that it is in.
    """

    way: Callable[[tuple[str, ...], tuple[str, ...]], list[Tokens | None]]
    encoder: PairEncoder
    length: int | None = None
    size: int = 1
    rows: Int[np.ndarray, "row"] | None = None

    def __call__(self, queries: Sequence[str], passages: Sequence[str]) -> list[Tokens | None]:
        """Each pair's tokens and types."""
        read = self.way(tuple(queries), tuple(passages))
        lengths = np.asarray([0 if row is None else len(row[0]) for row in read])
        widths = np.full(len(read), self.length or 0)
        if self.length is None:
            rows = np.arange(len(read)) if self.rows is None else self.rows
            for start in range(0, len(rows), self.size)[::-1]:  # the first of a pair's batches is written last
                batch = rows[start : start + self.size]
                widths[batch] = lengths[batch].max()
        return [
            None if row is None else self._padded(row, width) for row, width in zip(read, widths.tolist(), strict=True)
        ]

    def _padded(self, row: Tokens, width: int) -> Tokens:
        tokenizer = self.encoder.tokenizer
        more = width - len(row[0])
        beside = (0, more) if tokenizer.padding_side == "right" else (more, 0)
        kind = tokenizer.pad_token_type_id if self.encoder.types_fed else 0
        ids, types = row
        return (
            np.pad(ids, beside, constant_values=tokenizer.pad_token_id),
            np.pad(types, beside, constant_values=kind),
        )


def unmasked_readings(
    encoder: PairEncoder, rows: Int[np.ndarray, "row"]
) -> tuple[list[Reading], list[tuple[str, str]]]:
    """The known readings with padding that is attended to, and (name, why) of those that are not tried.

    Args:
        encoder: what reads texts here.
        rows: `[row]`, the number of the pair in each row of the file.
    """
    if encoder.tokenizer.pad_token_id is None:
        return [], [("padding without a mask", "the tokenizer has no padding token")]
    found, left = [], []
    for length in sorted({encoder.max_length, encoder.n_positions, *LIMITS}):
        name = f"padding to {length:,} tokens, without a mask"
        if not encoder.n_special < length <= encoder.n_positions:
            continue
        if length > LONGEST:
            left.append((name, f"at most {LONGEST:,} tokens for every pair are tried"))
            continue
        way = Way(encoder, limit=length, cut="longest_first")
        found.append(Reading(name, "all pairs have as many tokens", Unmasked(way, encoder, length), sampled=True))
    once = lru_cache(maxsize=1)(Way(encoder, cut="longest_first"))  # texts are tokenized once for all sizes
    for size in BATCH_SIZES:
        name = f"padding in batches of {size} in the file's order, without a mask"
        same = "the pairs of a batch have equally many tokens"
        found.append(Reading(name, same, Unmasked(once, encoder, size=size, rows=rows), sampled=True))
    return found, left
