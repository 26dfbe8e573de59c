"""What attention has to know of a batch: its padding, its parts, and how far a layer with a window looks.

A layer with a window w reads the cells |row - column| <= w alone, `AttentionInput.within(w)`. With P the number of the positions
of Y up to each position, a row r can read P[r + w] - P[r - w - 1] of them: `columns_seen`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_crossenc.inputs.parts import PartMasks


@dataclass(frozen=True)
class AttentionInput:
    """What attention has to know of a batch besides its activations.

    Attributes:
        attention_mask: `[pair, pos]`, True at real tokens.
        parts: the positions' parts; None when they are not known, and then no direction can be removed.
        dtype: of the activations, and so of the bias.
        tokens: `[pair, pos]`, by which pairs whose parts are not known can be told from others; else None.
        window: rows read the columns at most so far from them; None without a limit.
    """

    attention_mask: Bool[Tensor, "pair pos"]
    parts: PartMasks | None
    dtype: torch.dtype
    tokens: Int[Tensor, "pair pos"] | None = None
    window: int | None = None

    @cached_property
    def padded(self) -> bool:
        """Whether any pair is shorter than the batch is wide. Without padding the kernels need no mask at all."""
        return not bool(self.attention_mask.all())

    @cached_property
    def bias(self) -> Float[Tensor, "pair_or_1 1 row_or_1 pos"] | None:
        """Added to the scores: 0 at cells that may be read and -inf elsewhere; None where all may be.

        Without a window it is the same for all rows, `[pair, 1, 1, pos]`. With one it is `[1, 1, pos, pos]`, or
        `[pair, 1, pos, pos]` if the batch is padded.
        """
        if self.window is None and not self.padded:
            return None
        return additive_bias(self.readable(0, self.attention_mask.shape[1]), self.dtype)[:, None]

    def bias_of(self, low: int, high: int) -> Float[Tensor, "pair_or_1 1 row_or_1 pos"] | None:
        """The bias of the rows from `low` to before `high`."""
        return self.bias if self.window is None or self.bias is None else self.bias[:, :, low:high]

    def readable(self, low: int, high: int) -> Bool[Tensor, "pair_or_1 row_or_1 pos"]:
        """The cells that the rows from `low` to before `high` may read; one row for all where there is no window.

        Rows of padding, which mean nothing, read all real tokens, so that something is left for them. Nothing reads padding.
        """
        real = self.attention_mask[:, None]
        if self.window is None:
            return real
        at = torch.arange(self.attention_mask.shape[1], device=real.device)
        band = ((at[low:high, None] - at).abs() <= self.window)[None]
        return real & (band | ~self.attention_mask[:, low:high, None]) if self.padded else band

    def within(self, window: int | None) -> AttentionInput:
        """The same batch for a layer whose rows read the columns at most `window` away; itself where that leaves nothing out.

        Kept, so that the layers with a window share a bias.

        Raises:
            ValueError: a window below 0.
        """
        if window is None:
            return self
        if window < 0:
            raise ValueError(f"expected a window of 0 positions or more to either side, got {window}")
        if self.attention_mask.shape[1] <= window + 1 or (self.window is not None and self.window <= window):
            return self
        if window not in self._views:
            view = self._views[window] = replace(self, window=window)
            view.__dict__["padded"] = self.padded  # looked at once a batch, since that waits for the device
        return self._views[window]

    @cached_property
    def _views(self) -> dict[int, AttentionInput]:
        return {}

    def known_parts(self) -> PartMasks:
        """The parts.

        Raises:
            ValueError: they are not known.
        """
        if self.parts is None:
            raise ValueError(
                "removing a direction needs to know which position has which part: pass the pairs from "
                "model.to_pairs(query, passages), or parts=PartMasks(...) beside raw tokens"
            )
        return self.parts


def additive_bias(kept: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """What is added to scores: 0 where they are kept and -inf where they are not."""
    return torch.zeros(kept.shape, dtype=dtype, device=kept.device).masked_fill_(~kept, -torch.inf)


def columns_seen(
    given: AttentionInput, window: int | None, columns: Bool[Tensor, "pair pos set"]
) -> Int[Tensor, "pair row_or_1 set"]:
    """How many positions of each set a row of a layer with this window can read; one row for all where there is no limit."""
    window = given.within(window).window
    if window is None:
        return columns.sum(1, keepdim=True)
    n = columns.shape[1]
    up_to = F.pad(columns.cumsum(1), (0, 0, 1, 0))
    at = torch.arange(n, device=columns.device)
    return up_to[:, (at + window + 1).clamp(max=n)] - up_to[:, (at - window).clamp(min=0)]
