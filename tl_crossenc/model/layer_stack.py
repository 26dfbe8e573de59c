"""The weights of all layers, each kind in one tensor, and the views of them in TransformerLens's convention.

One tensor a kind, stacked over layers, is what lets `W_Q` and its like be views of `[layer, head, ...]`: editing a view in
place edits the model, and nothing is held twice. The storage is in the checkpoint's own (out, in) order, with the
query, key and value matrices side by side so that one product gives all three, and likewise the two of a gated MLP.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.relative_positions import RelativeTable

Q, K, V = 0, 1, 2
GATE, LINEAR = 0, 1


class LayerStack(nn.Module):
    """Uninitialized weights of `cfg.n_layers` layers; `porting` fills them.

    Shapes, with L layers, d = d_model, m = d_mlp: `qkv_weight` [L, 3, d, d], `qkv_bias` [L, 3, d], `out_weight` [L, d, d],
    `mlp_in_weight` [L, m, d], `mlp_out_weight` [L, d, m], every LayerNorm and remaining bias [L, d] or [L, m]. Of a gated MLP
    `mlp_in_weight` is [L, 2, m, d] and `mlp_in_bias` [L, 2, m], at `GATE` what goes through the activation and at `LINEAR` what
    that is multiplied with. With relative positions there is `relative.table` too, the one that all layers read.
    """

    relative: RelativeTable | None

    qkv_weight: nn.Parameter
    qkv_bias: nn.Parameter
    out_weight: nn.Parameter
    out_bias: nn.Parameter
    ln1_weight: nn.Parameter
    ln1_bias: nn.Parameter
    mlp_in_weight: nn.Parameter
    mlp_in_bias: nn.Parameter
    mlp_out_weight: nn.Parameter
    mlp_out_bias: nn.Parameter
    ln2_weight: nn.Parameter
    ln2_bias: nn.Parameter

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        self.n_heads, self.d_head = cfg.n_heads, cfg.d_head
        layers, d, m = cfg.n_layers, cfg.d_model, cfg.d_mlp or 0
        sides = (2,) if cfg.gated_mlp else ()
        shapes: dict[str, tuple[int, ...]] = {
            "qkv_weight": (3, d, d),
            "qkv_bias": (3, d),
            "out_weight": (d, d),
            "out_bias": (d,),
            "ln1_weight": (d,),
            "ln1_bias": (d,),
            "mlp_in_weight": (*sides, m, d),
            "mlp_in_bias": (*sides, m),
            "mlp_out_weight": (d, m),
            "mlp_out_bias": (d,),
            "ln2_weight": (d,),
            "ln2_bias": (d,),
        }
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(layers, *shape, dtype=cfg.dtype)))
        self.relative = RelativeTable(cfg) if cfg.relative else None

    @property
    def gated(self) -> bool:
        """Whether the MLP's input weights are two matrices side by side."""
        return self.mlp_in_weight.ndim == 4

    def projection(self, which: int) -> Float[Tensor, "layer head d_model d_head"]:
        """W_Q, W_K or W_V of every layer, a view."""
        weight = self.qkv_weight.detach()[:, which]
        return weight.unflatten(1, (self.n_heads, self.d_head)).transpose(-1, -2)

    def projection_bias(self, which: int) -> Float[Tensor, "layer head d_head"]:
        """b_Q, b_K or b_V of every layer, a view."""
        return self.qkv_bias.detach()[:, which].unflatten(1, (self.n_heads, self.d_head))

    def mlp_in(self, which: int = LINEAR) -> Float[Tensor, "layer d_model d_mlp"]:
        """W_in of every layer, or W_gate of a gated MLP, a view."""
        weight = self.mlp_in_weight.detach()
        return (weight[:, which] if self.gated else weight).transpose(1, 2)

    def mlp_in_bias_of(self, which: int = LINEAR) -> Float[Tensor, "layer d_mlp"]:
        """b_in of every layer, or what is added before the activation of a gated MLP, a view."""
        bias = self.mlp_in_bias.detach()
        return bias[:, which] if self.gated else bias

    def output(self) -> Float[Tensor, "layer head d_head d_model"]:
        """W_O of every layer, a view."""
        return self.out_weight.detach().unflatten(2, (self.n_heads, self.d_head)).permute(0, 2, 3, 1)


class LayerModule(nn.Module):
    """A module of one layer. It refers to the shared stack without owning it, so that the weights are listed once."""

    stack: LayerStack

    def __init__(self, stack: LayerStack, layer: int):
        super().__init__()
        self.__dict__["stack"] = stack
        self.layer = layer
