"""A head in modules beside its encoder, as sentence-transformers has it: pooling, a dense layer, a norm, a linear layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from tl_crossenc.checkpoints.weight_files import read_weight_files

ROLES = ("dense", "norm", "scores")
"""What the modules with weights are."""
EPS = 1e-5
"""Of torch's LayerNorm, which the module's configuration does not name."""


@dataclass(frozen=True)
class HeadModules:
    """What the modules of a head say, and where their weights lie.

    Attributes:
        pooling: "cls" or "mean".
        activation: between Dense and LayerNorm.
        n_labels: what the last module gives.
        unbiased: of `ROLES`, those whose matrix has no bias.
        weights: a file a role, or the module itself.
    """

    pooling: str
    activation: str
    n_labels: int
    unbiased: tuple[str, ...]
    weights: Mapping[str, Path | nn.Module] = field(repr=False)

    def read_tensors(self, places: tuple[str, str, str]) -> Iterator[tuple[str, Tensor]]:
        """(key, tensor) of each weight, under a family's names of what `ROLES` are."""
        for role, place in zip(ROLES, places, strict=True):
            given = self.weights[role]
            for key, tensor in (
                given.state_dict().items() if isinstance(given, nn.Module) else read_weight_files([given])
            ):
                yield f"{place}.{key.removeprefix('norm.' if role == 'norm' else 'linear.')}", tensor
