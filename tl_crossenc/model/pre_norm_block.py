"""The pre-LN layer: heads and MLP each read the stream through a norm of their own, and what they write is added to it as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint as AnyHookPoint

from tl_crossenc.model.attention_layer import Attention
from tl_crossenc.model.block import Block, Stage
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.held_run import HeldRun, LayerWorth
from tl_crossenc.model.hook_points import HookPoint, SharedHookPoint
from tl_crossenc.model.layer_stack import LayerStack
from tl_crossenc.model.mlp import MLP
from tl_crossenc.model.norms import LayerNorm


class PreNormBlock(Block):
    """`mid = x + heads(LN1(x))`, `after = post = mid + MLP(LN2(mid))`.

    Where the embeddings are normalized already (`cfg.first_norm` False), layer 0 has no `ln1`: its heads read the stream itself.
    """

    STREAM: ClassVar[Mapping[str, str]] = {
        "pre": "hook_resid_pre",
        "mid": "hook_resid_mid",
        "post": "hook_resid_post",
        "after": "hook_resid_post",
    }
    HELD = ()
    EDITABLE = ("hook_resid_mid", "hook_resid_post")
    WRITES_ADD_UP = True

    def __init__(self, cfg: CrossEncoderConfig, stack: LayerStack, layer: int):
        super().__init__(stack, layer)
        self.cfg = cfg
        self.hook_resid_pre = SharedHookPoint()  # the stream goes on past the heads
        self.ln1 = LayerNorm(cfg.eps) if layer or cfg.first_norm else None
        self.attn = Attention(cfg, stack, layer)
        self.hook_attn_out = HookPoint()
        self.hook_resid_mid = HookPoint()
        self.ln2 = LayerNorm(cfg.eps)
        self.mlp = MLP(cfg, stack, layer)
        self.hook_mlp_out = HookPoint()
        self.hook_resid_post = HookPoint()

    def read(self, resid: Float[Tensor, "*pair_pos d_model"]) -> Float[Tensor, "*pair_pos d_model"]:
        """`LN1(x)`, or the stream itself."""
        stack, layer = self.stack, self.layer
        return resid if self.ln1 is None else self.ln1(resid, stack.ln1_weight[layer], stack.ln1_bias[layer])

    def resume(
        self,
        stage: Stage,
        resid: Float[Tensor, "item row d_model"],
        mlp_out: Float[Tensor, "item row d_model"] | None = None,
    ) -> Float[Tensor, "item row d_model"]:
        """`mid + MLP(LN2(mid))`, or the stream as it is at "post"."""
        if stage == "post":
            return resid
        if mlp_out is None:
            stack, layer = self.stack, self.layer
            mlp_out = self.hook_mlp_out(self.mlp(self.ln2(resid, stack.ln2_weight[layer], stack.ln2_bias[layer])))
        return self.hook_resid_post(resid + mlp_out)

    def carry_back(self, held: HeldRun, g: Float[Tensor, "row d_model"]) -> LayerWorth:
        """The stream is a plain sum: everything that is added to it is worth what it is worth after the layer."""
        edit = held.edit(g, self.name_of("hook_resid_post")) + held.edit(g, self.name_of("hook_resid_mid"))
        return LayerWorth(g, g, g, torch.zeros(len(g), dtype=g.dtype, device=g.device), edit)

    def whole(self) -> set[AnyHookPoint]:
        """Besides keys and values, what `LN1` makes of the stream."""
        read = set() if self.ln1 is None else {self.ln1.hook_scale, self.ln1.hook_normalized}
        return super().whole() | read
