"""What an adapter adds to its base, matrix by matrix: to be left out of some layers or projections and put back.

Of a model opened from a LoRA adapter (Hu et al. 2022) the base's matrices are read once more, with the head that the adapter
trained. Matrices of the merged model that differ from these are the adapter's updates; each is one matrix, so that to apply it is
to have one or the other there, bit by bit: with all applied the model is the merged one, with none the base under the trained head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.checkpoints.embedded import open_model
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.identity import weights_digest
from tl_crossenc.model.layer_stack import GATE, LINEAR
from tl_crossenc.model.porting import port_weights

PROJECTIONS = ("query", "key", "value", "output", "mlp_gate", "mlp_in", "mlp_out")
"""The matrices of a layer: into queries, keys and values, out of the heads, into and out of the MLP."""


class Updated(NamedTuple):
    """A matrix that an adapter changes.

    Attributes:
        layer: its layer; -1 for one of no layer.
        projection: of `PROJECTIONS`; the parameter's name for one of no layer.
    """

    layer: int
    projection: str


class AdapterUpdates:
    """The updates of the adapter that a model was opened from.

    Args:
        model: as it was opened; its weights are not edited.

    Attributes:
        sizes: of each update, in layer order: the Frobenius norm of what is added, as a share of the base matrix's.

    Raises:
        ValueError: the model is of no adapter, or its weights are not those of its checkpoint any more.
    """

    def __init__(self, model: HookedCrossEncoder) -> None:
        self.model = model
        name = str(model.cfg.model_name)
        checkpoint = open_model(name)
        if checkpoint.unadapted is None:
            raise ValueError(
                f"expected a model opened from a LoRA adapter over a base, got {name!r}, which is whole: name the adapter's folder"
            )
        if weights_digest(_ported(model, checkpoint)) != weights_digest(model):
            raise ValueError(
                f"expected the weights of {name!r} as they are in its files, but some were edited, or the files are others now: "
                "open it anew"
            )
        base = _ported(model, checkpoint.unadapted)
        self._base, self._full = {}, {}
        self.sizes: dict[Updated, float] = {}
        before = dict(_matrices(base))
        for place, matrix in _matrices(model):
            if not torch.equal(matrix.cpu(), before[place]):
                self._base[place], self._full[place] = before[place].to(matrix.device), matrix.clone()
                there = before[place].double()
                self.sizes[place] = float((matrix.cpu().double() - there).norm() / there.norm())

    @contextmanager
    def only(self, places: Collection[Updated]) -> Iterator[HookedCrossEncoder]:
        """The model with these updates alone inside of the block, in place; as it was after it.

        Raises:
            ValueError: a matrix that the adapter does not change.
        """
        unknown = [place for place in places if place not in self._full]
        if unknown:
            raise ValueError(
                f"expected matrices that the adapter changes, {len(self._full)} of them, got {unknown[0].projection} of layer "
                f"{unknown[0].layer}"
            )
        matrices = dict(_matrices(self.model))
        with torch.no_grad():
            try:
                for place, base in self._base.items():
                    if place not in places:
                        matrices[place].copy_(base)
                yield self.model
            finally:
                for place, full in self._full.items():
                    matrices[place].copy_(full)


def unadapted_model(model: HookedCrossEncoder) -> HookedCrossEncoder | None:
    """The base of the adapter that a model was opened from, under the head that the adapter trained; None of a whole model."""
    checkpoint = open_model(str(model.cfg.model_name)).unadapted
    return None if checkpoint is None else _ported(model, checkpoint)


def _ported(model: HookedCrossEncoder, checkpoint: Checkpoint) -> HookedCrossEncoder:
    """A model of the same shape and tokenizer with a checkpoint's weights."""
    ported = HookedCrossEncoder(model.cfg, model.tokenizer)
    port_weights(ported, checkpoint)
    return ported


def _matrices(model: HookedCrossEncoder) -> Iterator[tuple[Updated, Tensor]]:
    """Every weight matrix of a model, a view: those of layers first."""
    stack = model.stack
    for layer in range(model.cfg.n_layers):
        sides = {name: stack.qkv_weight[layer, i] for i, name in enumerate(PROJECTIONS[:3])}
        sides["output"] = stack.out_weight[layer]
        if stack.gated:
            sides |= {"mlp_gate": stack.mlp_in_weight[layer, GATE], "mlp_in": stack.mlp_in_weight[layer, LINEAR]}
        else:
            sides["mlp_in"] = stack.mlp_in_weight[layer]
        sides["mlp_out"] = stack.mlp_out_weight[layer]
        for name, matrix in sides.items():
            yield Updated(layer, name), matrix.detach()
    for name, weight in model.named_parameters():
        if not name.startswith("stack.") or name.startswith("stack.relative"):
            yield Updated(-1, name.removesuffix(".weight")), weight.detach()
