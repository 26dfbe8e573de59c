"""LayerNorm with TransformerLens's hooks; fused while no hook looks inside of it, in the open otherwise."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tl_crossenc.model.hook_points import HookPoint, SharedHookPoint, is_hooked


class LayerNorm(nn.Module):
    """LayerNorm with `hook_scale` and `hook_normalized` (before weight and bias, as in TransformerLens 3.9)."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps
        self.hook_scale = SharedHookPoint()  # kept for the backward pass, as is the pooler's output
        self.hook_normalized = HookPoint()

    def forward(
        self,
        x: Float[Tensor, "pair pos d_model"],
        weight: Float[Tensor, "d_model"],
        bias: Float[Tensor, "d_model"],
    ) -> Float[Tensor, "pair pos d_model"]:
        """`(x - mean) / scale * weight + bias`, with scale the standard deviation."""
        if not is_hooked(self.hook_scale, self.hook_normalized):
            return F.layer_norm(x, weight.shape, weight, bias, self.eps)
        centred = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((centred.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        return self.hook_normalized(centred / scale) * weight + bias
