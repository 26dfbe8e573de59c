"""The feed-forward part of a layer."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.model.activations import BY_NAME
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.hook_points import HookPoint
from tl_crossenc.model.layer_stack import LayerModule, LayerStack


class MLP(LayerModule):
    """The feed-forward part of one layer, without the residual connection and the LayerNorm."""

    def __init__(self, cfg: CrossEncoderConfig, stack: LayerStack, layer: int):
        super().__init__(stack, layer)
        self.activation = BY_NAME[cfg.act_fn].function
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        """Input weights, a view."""
        return self.stack.mlp_in_weight.detach()[self.layer].T

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        """Output weights, a view."""
        return self.stack.mlp_out_weight.detach()[self.layer].T

    @property
    def b_in(self) -> Float[Tensor, "d_mlp"]:
        """Input bias, a view."""
        return self.stack.mlp_in_bias.detach()[self.layer]

    @property
    def b_out(self) -> Float[Tensor, "d_model"]:
        """Output bias, a view."""
        return self.stack.mlp_out_bias.detach()[self.layer]

    def forward(self, x: Float[Tensor, "pair pos d_model"]) -> Float[Tensor, "pair pos d_model"]:
        """What the MLP writes at each position."""
        stack, layer = self.stack, self.layer
        pre = self.hook_pre(F.linear(x, stack.mlp_in_weight[layer], stack.mlp_in_bias[layer]))
        post = self.hook_post(self.activation(pre))
        return F.linear(post, stack.mlp_out_weight[layer], stack.mlp_out_bias[layer])
