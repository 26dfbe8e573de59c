"""One layer of the encoder, with a hook point on every activation.

Hook names and shapes are those of TransformerLens 3.9's `HookedEncoder`. Modules hold no weights: they read their layer's
slice of the shared `LayerStack`. An operation is fused (attention, LayerNorm) while no hook looks inside of it, and computed
in the open otherwise; both give the same numbers to rounding.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.attention_layer import QKV, Attention
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.fused_attention import edited_span, fused_attention
from tl_crossenc.model.hook_points import HookPoint, SharedHookPoint, has_hooks
from tl_crossenc.model.layer_stack import LayerModule, LayerStack
from tl_crossenc.model.mlp import MLP
from tl_crossenc.model.norms import LayerNorm


class BertBlock(LayerModule):
    """One post-LN layer: `hook_resid_mid` and `hook_resid_post` come before their LayerNorm."""

    hook_q_input: HookPoint  # there while cfg.use_split_qkv_input, as are the next two
    hook_k_input: HookPoint
    hook_v_input: HookPoint

    def __init__(self, cfg: CrossEncoderConfig, stack: LayerStack, layer: int):
        super().__init__(stack, layer)
        self.cfg = cfg
        self.hook_resid_pre = (
            SharedHookPoint()
        )  # of all branches, of the hook after the layer before, or the caller's own
        self.attn = Attention(cfg, stack, layer)
        self.hook_attn_out = HookPoint()
        self.hook_resid_mid = HookPoint()
        self.ln1 = LayerNorm(cfg.eps)
        self.mlp = MLP(cfg, stack, layer)
        self.hook_mlp_out = HookPoint()
        self.hook_resid_post = HookPoint()
        self.ln2 = LayerNorm(cfg.eps)
        self.hook_normalized_resid_post = HookPoint()

    def forward(
        self,
        resid: Float[Tensor, "pair pos d_model"],
        given: AttentionInput,
        edits: LayerEdits | None = None,
        rows: int | None = None,
        projected: QKV | None = None,
    ) -> Float[Tensor, "pair row d_model"]:
        """The residual stream after this layer, at the first `rows` positions (all by default).

        `projected` is what `attn.project` gave for the same `resid`, where another branch has it already.
        """
        resid = self.hook_resid_pre(resid)
        inputs = None
        if self.cfg.use_split_qkv_input:
            points = (self.hook_q_input, self.hook_k_input, self.hook_v_input)
            inputs = tuple(point(resid.unsqueeze(2).repeat(1, 1, self.cfg.n_heads, 1)) for point in points)
        return self._after_attention(resid[:, :rows], self.attn(resid, given, edits, rows, inputs, projected))

    def rerun_rows(
        self,
        resid: Float[Tensor, "pair pos d_model"],
        unedited: Float[Tensor, "pair pos d_model"],
        given: AttentionInput,
        edits: LayerEdits,
        projected: QKV,
    ) -> Float[Tensor, "pair pos d_model"]:
        """The residual stream after this layer with `edits`, from what it is without them.

        All but attention is done position by position, so only the rows of edited attenders differ; only those are run.
        """
        low, high = edited_span(given, edits)
        q, k, v = projected
        z = fused_attention(q[:, low:high], k, v, given, edits, first_row=low)
        after = unedited.clone()
        after[:, low:high] = self._after_attention(resid[:, low:high], self.attn.write(z))
        return after

    def _after_attention(self, resid: Tensor, attn_out: Tensor) -> Tensor:
        """The rest of the layer, position by position."""
        stack, layer = self.stack, self.layer
        resid_mid = self.hook_resid_mid(resid + self.hook_attn_out(attn_out))
        normalized_mid = self.ln1(resid_mid, stack.ln1_weight[layer], stack.ln1_bias[layer])
        mlp_out = self.hook_mlp_out(self.mlp(normalized_mid))
        resid_post = self.hook_resid_post(normalized_mid + mlp_out)
        normalized_post = self.ln2(resid_post, stack.ln2_weight[layer], stack.ln2_bias[layer])
        return self.hook_normalized_resid_post(normalized_post)

    def reads_only_first_row(self) -> bool:
        """Whether nobody looks at this layer's rows, so that the ones that nothing reads need not be computed.

        Hooks on the residual stream before the layer, on keys and on values are free: those are computed whole for whoever looks.
        """
        return not has_hooks(self, but={self.hook_resid_pre, self.attn.hook_k, self.attn.hook_v})
