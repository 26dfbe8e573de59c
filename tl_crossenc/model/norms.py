"""LayerNorm with TransformerLens's hooks; fused while no hook looks inside of it, in the open otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tl_crossenc.model.held_run import HeldRun
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
        x: Float[Tensor, "*place d_model"],
        weight: Float[Tensor, "d_model"],
        bias: Float[Tensor, "d_model"],
    ) -> Float[Tensor, "*place d_model"]:
        """`(x - mean) / scale * weight + bias`, with scale the standard deviation."""
        if not is_hooked(self.hook_scale, self.hook_normalized):
            return F.layer_norm(x, weight.shape, weight, bias, self.eps)
        centred = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((centred.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        return self.hook_normalized(centred / scale) * weight + bias

    def carry_back(
        self,
        held: HeldRun,
        name: str,
        g: Float[Tensor, "row d_model"],
        x: Float[Tensor, "row d_model"],
        weight: Float[Tensor, "d_model"],
    ) -> tuple[Float[Tensor, "row d_model"], Float[Tensor, "row"]]:
        """What `x` was worth, its normalized self being worth `g`, and what hooks inside of the norm added, `[row]`.

        Centring is its own transpose; the scale is that of `x`, or what hooks left of it. The bias is worth `g` too.

        Args:
            held: the run.
            name: the norm's own full name, such as "blocks.0.ln1".
            g: after the norm.
            x: what went in.
            weight: the norm's.
        """
        if f"{name}.hook_scale" in held:
            scale = held[f"{name}.hook_scale"]
        else:
            scale = (x.var(-1, correction=0, keepdim=True) + self.eps).sqrt()
        weighted = g * weight.detach().double()
        edit = held.edit(weighted, f"{name}.hook_normalized")
        return (weighted - weighted.mean(-1, keepdim=True)) / scale, edit


class WeightedNorm(LayerNorm):
    """A LayerNorm with weights of its own, outside of the layers."""

    def __init__(self, eps: float, d_model: int, dtype: torch.dtype):
        super().__init__(eps)
        self.weight = nn.Parameter(torch.empty(d_model, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(d_model, dtype=dtype))

    def forward(self, x: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place d_model"]:  # type: ignore[override]
        """`(x - mean) / scale * weight + bias`."""
        return super().forward(x, self.weight, self.bias)
