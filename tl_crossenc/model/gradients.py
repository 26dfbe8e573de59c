"""Gradients of activations: what of autograd the weights are kept out of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def activations_only(model: nn.Module) -> Iterator[None]:
    """Have autograd follow activations and no weight inside of the `with` block, so that nothing is kept for the weights' sake."""
    followed = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in followed:
        weight.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight in followed:
            weight.requires_grad_(True)
