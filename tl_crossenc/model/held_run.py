"""A run held still: what it had at the rows that the head reads, and what a write is worth on its way to the score.

With every norm's scale held at its value of the run, norms are linear but for their biases, and so is the way of a write to the
score. Embeddings, layers and head each carry worth back through themselves, `carry_back`, since each knows its own order; what
they give is below. A vector y that is worth g adds g . y to the score.

Rows are those of all pairs end to end, one a pair where the head reads the first alone. All numbers are float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

BEFORE = "before "
"""Put before a hook point's name: what it holds before its hooks."""


class HeldRun:
    """Activations by the full name of their hook point, past its hooks: `[row, ...]`, and `[pair, ...]` past the pooling.

    Args:
        activations: by name; under `BEFORE + name` also what came before the hooks of a point that somebody hooked.
    """

    def __init__(self, activations: Mapping[str, Tensor]):
        self._held = {name: activation.double() for name, activation in activations.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def __getitem__(self, name: str) -> Float[Tensor, "row *shape"]:
        return self._held[name]

    def before(self, name: str) -> Float[Tensor, "row *shape"] | None:
        """What a point held before its hooks; None where nobody hooked it."""
        return self._held.get(BEFORE + name)

    def edit(self, g: Tensor, name: str) -> Float[Tensor, "row"]:
        """What the hooks of a point added to the score, its activation being worth `g`; 0 where there are none."""
        before = self.before(name)
        if before is None:
            return torch.zeros(len(g) if g.ndim > 1 else 1, dtype=torch.float64, device=g.device)
        return (g * (self[name] - before)).sum(-1)

    def changed(self, name: str) -> Tensor | None:
        """Of which rows the hooks of a point changed what it holds, `[row]`; None where there are none."""
        before = self.before(name)
        return None if before is None else (self[name] != before).any(-1)


class LayerWorth(NamedTuple):
    """What is worth what in a layer.

    Attributes:
        attn_out, mlp_out: what the heads together and the MLP write, `[row, d_model]`.
        resid_pre: the stream before the layer, `[row, d_model]`.
        bias: what the biases of its norms add to the score, `[row]`.
        edit: what hooks on its stream past the heads' write, and inside of norms on the stream, add, `[row]`.
    """

    attn_out: Float[Tensor, "row d_model"]
    mlp_out: Float[Tensor, "row d_model"]
    resid_pre: Float[Tensor, "row d_model"]
    bias: Float[Tensor, "row"]
    edit: Float[Tensor, "row"]


class EmbeddingShares(NamedTuple):
    """What the embeddings add to the score, `[row]`: themselves, the biases after them, hooks in between."""

    embed: Float[Tensor, "row"]
    bias: Float[Tensor, "row"]
    edit: Float[Tensor, "row"]


class HeadWorth(NamedTuple):
    """What the stream after the last layer is worth at the rows that the head reads, and what the head adds by itself."""

    resid: Float[Tensor, "pair row d_model"]
    constant: Float[Tensor, "pair"]
