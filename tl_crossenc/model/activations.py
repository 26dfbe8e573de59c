"""Elementwise functions with their derivatives, by which a head that is bent at one place is made straight at a point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Way = Literal["secant", "tangent"]
WAYS: tuple[Way, ...] = get_args(Way)
_TINY = 1e-9


@dataclass(frozen=True)
class Activation:
    """A function f with f(0) = 0, applied to each element.

    Attributes:
        function: f.
        derivative: f'.
        bounded: whether |f| is at most 1 everywhere.
    """

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    bounded: bool = False

    def slope(self, x: Tensor, way: str) -> Tensor:
        """s of f(x) = s x + r at each element of x.

        Args:
            x: any shape; float64 where the sum of what is carried through has to be exact.
            way: "secant", the slope of the line through 0, so that r = 0 (next to 0, where it is f'); or "tangent", f'.

        Raises:
            ValueError: another way.
        """
        if way not in WAYS:
            raise ValueError(f"expected a way of making an activation linear among {', '.join(WAYS)}, got {way!r}")
        if way == "tangent":
            return self.derivative(x)
        tiny = x.abs() < _TINY
        return torch.where(tiny, self.derivative(x), self.function(x) / x.masked_fill(tiny, 1.0))


def _gelu_new(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _d_gelu_new(x: Tensor) -> Tensor:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    t = inner.tanh()
    return 0.5 * (1 + t) + 0.5 * x * (1 - t.square()) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x.square())


def _d_gelu(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def _d_relu(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _d_tanh(x: Tensor) -> Tensor:
    return 1 - x.tanh().square()


GELU = Activation(F.gelu, _d_gelu)
GELU_NEW = Activation(_gelu_new, _d_gelu_new)
RELU = Activation(F.relu, _d_relu)
TANH = Activation(torch.tanh, _d_tanh, bounded=True)

BY_NAME = {"gelu": GELU, "gelu_new": GELU_NEW, "relu": RELU, "tanh": TANH}
"""Activations by the names that checkpoints' configurations have for them."""
