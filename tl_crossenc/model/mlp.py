"""The feed-forward part of a layer."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.model.activations import BY_NAME
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.hook_points import HookPoint
from tl_crossenc.model.layer_stack import GATE, LINEAR, LayerModule, LayerStack


class MLP(LayerModule):
    """The feed-forward part of one layer, without the residual connection and the LayerNorm.

    A gated MLP multiplies two projections, one of them past the activation: `W_out (activation(W_gate x) * W_in x)`. Its
    `hook_pre` has the first, before the activation, and `hook_pre_linear` the second.
    """

    hook_pre_linear: HookPoint  # there in a gated MLP

    def __init__(self, cfg: CrossEncoderConfig, stack: LayerStack, layer: int):
        super().__init__(stack, layer)
        self.activation = BY_NAME[cfg.act_fn].function
        self.hook_pre = HookPoint()
        if cfg.gated_mlp:
            self.hook_pre_linear = HookPoint()
        self.hook_post = HookPoint()

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        """Input weights, a view; of a gated MLP those past which no activation comes."""
        return self.stack.mlp_in()[self.layer]

    @property
    def W_gate(self) -> Float[Tensor, "d_model d_mlp"] | None:
        """Of a gated MLP the weights of what goes through the activation, a view; else None."""
        return self.stack.mlp_in(GATE)[self.layer] if self.stack.gated else None

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        """Output weights, a view."""
        return self.stack.mlp_out_weight.detach()[self.layer].T

    @property
    def b_in(self) -> Float[Tensor, "d_mlp"]:
        """Input bias, a view."""
        return self.stack.mlp_in_bias_of()[self.layer]

    @property
    def b_out(self) -> Float[Tensor, "d_model"]:
        """Output bias, a view."""
        return self.stack.mlp_out_bias.detach()[self.layer]

    def forward(self, x: Float[Tensor, "pair pos d_model"]) -> Float[Tensor, "pair pos d_model"]:
        """What the MLP writes at each position."""
        stack, layer = self.stack, self.layer
        weight, bias = stack.mlp_in_weight[layer], stack.mlp_in_bias[layer]
        if stack.gated:
            both = F.linear(x, weight.flatten(0, 1), bias.flatten()).unflatten(-1, (2, -1))
            pre, linear = self.hook_pre(both[..., GATE, :]), self.hook_pre_linear(both[..., LINEAR, :])
            post = self.activation(pre) * linear
        else:
            post = self.activation(self.hook_pre(F.linear(x, weight, bias)))
        post = self.hook_post(post)
        return F.linear(post, stack.mlp_out_weight[layer], stack.mlp_out_bias[layer])
