"""The five parts of a pair's input, and which positions belong to which.

A pair is `[CLS] query [SEP] passage [SEP]`. Every position of it has exactly one part: CLS, QUERY, SEP1, DOC or
SEP2; positions that only fill up a batch are PAD and take no part in anything. The split is that of Vast et al.
2025, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from jaxtyping import Bool, Int, Int8
from torch import Tensor


class Part(IntEnum):
    """The role of one position. The values index every axis named `part` (0..4; PAD is never on such an axis)."""

    CLS = 0
    QUERY = 1
    SEP1 = 2
    DOC = 3
    SEP2 = 4
    PAD = 5

    @classmethod
    def parse(cls, text: str) -> Part:
        """The part named `text`, in any case.

        Raises:
            ValueError: the name is not one of the five parts.

        >>> Part.parse("doc").name
        'DOC'
        """
        name = text.strip().upper()
        if name not in REAL_PART_NAMES:
            raise ValueError(f"expected a part among {', '.join(REAL_PART_NAMES)}, got {text!r}")
        return cls[name]


REAL_PARTS: tuple[Part, ...] = (Part.CLS, Part.QUERY, Part.SEP1, Part.DOC, Part.SEP2)
REAL_PART_NAMES: tuple[str, ...] = tuple(part.name for part in REAL_PARTS)
N_PARTS = len(REAL_PARTS)


def parts_of_sequence(sequence_ids: Sequence[int | None]) -> list[int]:
    """Parts of one encoded pair, from a fast tokenizer's `sequence_ids()` (None, 0 or 1 for each token).

    The first special token is CLS and the last is SEP2, whatever lies between the two texts (one separator in BERT,
    two in RoBERTa) is SEP1. A literal "[SEP]" inside a text has its text's sequence id, so it stays QUERY or DOC.

    Raises:
        ValueError: fewer than three special tokens, or the texts are not in the order query, passage.
    """
    special = [position for position, sequence in enumerate(sequence_ids) if sequence is None]
    if len(special) < 3 or special[0] != 0 or special[-1] != len(sequence_ids) - 1:
        raise ValueError(
            "expected a pair framed as CLS, query, separator, passage, separator; the tokenizer gave special tokens at "
            f"positions {special} of {len(sequence_ids)}: use the tokenizer that the model was trained with"
        )
    code = {0: int(Part.QUERY), 1: int(Part.DOC), None: int(Part.SEP1)}
    parts = [code[sequence] for sequence in sequence_ids]
    parts[0], parts[-1] = int(Part.CLS), int(Part.SEP2)
    if parts != sorted(parts):
        raise ValueError(f"expected the parts in the order {', '.join(REAL_PART_NAMES)}, got {parts}")
    return parts


@dataclass(frozen=True)
class PartMasks:
    """Which position of each pair of a batch has which part.

    Attributes:
        codes: `[pair, pos]`, the value of `Part` at each position.
    """

    codes: Int8[Tensor, "pair pos"]

    def __post_init__(self) -> None:
        if self.codes.ndim != 2:
            raise ValueError(f"expected parts of shape [pair, pos], got shape {tuple(self.codes.shape)}")

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[int]], length: int) -> PartMasks:
        """Masks from one sequence of part codes a pair, padded on the right with PAD to `length` positions."""
        filled = [list(row) + [int(Part.PAD)] * (length - len(row)) for row in rows]
        return cls(torch.tensor(filled, dtype=torch.int8).reshape(len(filled), length))

    def __getitem__(self, part: Part) -> Bool[Tensor, "pair pos"]:
        """True where a position has `part`."""
        return self.codes == int(part)

    @property
    def real(self) -> Bool[Tensor, "pair pos"]:
        """True at every position but padding."""
        return self.codes != int(Part.PAD)

    @property
    def lengths(self) -> Int[Tensor, "pair part"]:
        """The number of positions of each of the five parts, `[pair, part]`."""
        return self._once("lengths", lambda: self.one_hot.sum(1))

    @property
    def one_hot(self) -> Bool[Tensor, "pair pos part"]:
        """`[pair, pos, part]`, True where the position has the part; all False at padding."""
        return self._once("one_hot", self._one_hot)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """For each part, the half-open range of positions outside of which no pair of the batch has it.

        Empty parts give (0, 0). Read once from the host's copy, so that no layer waits for a device.
        """
        return self._once("spans", self._spans)

    def _once(self, name: str, read: Callable[[], Any]) -> Any:
        """What is read off the codes, anew after an edit of them in place."""
        version = 0 if self.codes.is_inference() else self.codes._version
        kept = self.__dict__.setdefault("_kept", {})
        if name not in kept or kept[name][0] != version:
            kept[name] = version, read()
        return kept[name][1]

    def _one_hot(self) -> Tensor:
        return self.codes.unsqueeze(-1) == torch.arange(N_PARTS, device=self.codes.device, dtype=torch.int8)

    def _spans(self) -> tuple[tuple[int, int], ...]:
        codes = self.codes.cpu()
        spans = []
        for part in REAL_PARTS:
            positions = (codes == int(part)).any(0).nonzero().flatten().tolist()
            spans.append((positions[0], positions[-1] + 1) if positions else (0, 0))
        return tuple(spans)

    def span(self, parts: Iterable[Part | int]) -> tuple[int, int]:
        """The half-open range of positions that covers all of `parts` in every pair of the batch."""
        spans = [self.spans[part] for part in parts if self.spans[part][1] > 0]
        return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else (0, 0)

    def to(self, device: torch.device | str) -> PartMasks:
        """The same masks on another device; what was already read from the host is kept."""
        if self.codes.device == torch.device(device):
            return self
        moved = PartMasks(self.codes.to(device))
        spans = self.spans
        moved._once("spans", lambda: spans)
        return moved
