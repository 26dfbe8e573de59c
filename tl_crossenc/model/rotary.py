"""Rotary positions: queries and keys turned by their position, so that a score depends on how far apart the two are.

The two halves of a head's d numbers are the coordinates of d/2 planes; at position t plane i is turned by the angle t f_i, with
f_i = base^(-2i/d) / divisor (Su et al. 2021, https://arxiv.org/abs/2104.09864; in halves, as Hugging Face's `rotate_half` has
it). With R(t) the matrix of it, the score of row r and column c is (R(r) q)^T R(c) k = q^T R(c - r) k: W_Q^T W_K alone is the
score at offset 0.

The angles of a float64 model are computed in float64, all others in float32 as Hugging Face does, which at the 8,000th position is
off by up to 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """The rotary positions of a layer.

    Attributes:
        base: the largest wavelength is about 2 pi base (`rope_theta`).
        d_head: the width of a head, an even number.
        divisor: what all frequencies are divided by.
    """

    base: float
    d_head: int
    divisor: float = 1.0

    def __post_init__(self) -> None:
        if self.d_head % 2 or self.d_head < 2 or not (self.base > 0 and self.divisor > 0):
            raise ValueError(
                "expected heads of an even width, and a base and a divisor above 0, for rotary positions; got "
                f"d_head {self.d_head}, base {self.base} and divisor {self.divisor}"
            )

    @classmethod
    def linear(cls, base: float, d_head: int, factor: float) -> Rotary:
        """Positions divided by `factor` (`rope_scaling` of the type `linear`)."""
        return cls(base, d_head, factor)

    @classmethod
    def ntk(cls, base: float, d_head: int, factor: float) -> Rotary:
        """Frequencies stretched over the planes, the last by `factor` (`rope_scaling` of the type `ntk`, of the older GTE models).

        Source: https://kexue.fm/archives/9706, equation 6, in the version that divides no plane by less than factor^(2/d).
        """
        return cls(base * factor, d_head, factor ** (2 / d_head))

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "half"]:
        """The angle a position of each plane."""
        exponents = torch.arange(0, self.d_head, 2, dtype=dtype) / self.d_head
        return 1.0 / (self.base**exponents) / self.divisor

    def table(
        self, n: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "pos 1 d_head"], Float[Tensor, "pos 1 d_head"]]:
        """(cosine, sine) of the angles at the first `n` positions, kept."""
        cos, sin = _table(self, 1 << max(n - 1, 0).bit_length(), device, dtype)
        return cos[:n], sin[:n]

    def rotate(
        self, x: Float[Tensor, "pair pos head d_head"], first_row: int = 0
    ) -> Float[Tensor, "pair pos head d_head"]:
        """Queries or keys turned by their positions, which count from `first_row`."""
        if x.shape[-1] != self.d_head:
            raise ValueError(f"expected queries or keys of d_head {self.d_head}, got {x.shape[-1]}")
        if x.dtype in (torch.bfloat16, torch.float16):  # rounded once
            return self.rotate(x.float(), first_row).to(x.dtype)
        cos, sin = (rows[first_row:] for rows in self.table(first_row + x.shape[1], x.device, x.dtype))
        half = self.d_head // 2
        turned = x * cos
        turned[..., :half] -= x[..., half:] * sin[..., :half]
        turned[..., half:] += x[..., :half] * sin[..., half:]
        return turned

    def rotation_matrix(self, offset: int) -> Float[Tensor, "d_head d_head"]:
        """R(offset) in float64: the score is q^T R(offset) k, of q and k before they are turned, at column - row = offset."""
        angles = offset * self.frequencies(torch.float64)
        cos, sin = torch.diag(angles.cos()), torch.diag(angles.sin())
        return torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])


@lru_cache(maxsize=64)
def _table(rotary: Rotary, n: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Kept for few lengths, powers of two, which all batches share."""
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.inference_mode(False), torch.no_grad():  # else what is kept could not take part in a backward pass later
        angles = torch.arange(n, device=device, dtype=precise)[:, None] * rotary.frequencies(precise).to(device)
        angles = torch.cat([angles, angles], 1)[:, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)
