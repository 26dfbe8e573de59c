"""A layer: heads and MLP around the residual stream, in an order that the layer knows and nobody else does.

Hook names and shapes are those of TransformerLens 3.9's `HookedEncoder`. Modules hold no weights: they read their layer's
slice of the shared `LayerStack`. An operation is fused (attention, LayerNorm) while no hook looks inside of it, and computed
in the open otherwise; both give the same numbers to rounding.

`Block` is what the rest of the package asks of a layer; `BertBlock` is the post-LN order. With x the stream before the layer:

    mid  = x + heads(read(x))               the stream with the heads' write, at `hook_resid_mid`
    post = .. mid .. + MLP(.. mid ..)       with the MLP's write too, at `hook_resid_post`
    after = .. post ..                      what the next layer gets

where `read` and `..` are a family's own: post-LN has `read(x) = x`, `post = LN1(mid) + MLP(LN1(mid))`, `after = LN2(post)`; pre-LN
has `read(x) = LN1(x)`, `post = mid + MLP(LN2(mid))`, `after = post`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint as AnyHookPoint

from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.attention_layer import QKV, Attention
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.fused_attention import edited_span
from tl_crossenc.model.held_run import HeldRun, LayerWorth
from tl_crossenc.model.hook_points import HookPoint, SharedHookPoint, has_hooks
from tl_crossenc.model.layer_stack import LayerModule, LayerStack
from tl_crossenc.model.mlp import MLP
from tl_crossenc.model.norms import LayerNorm

Stage = Literal["pre", "mid", "post"]
"""A place in a layer where a run can be entered: before it, with the heads' write added, with the MLP's write added too."""


class Block(LayerModule):
    """A layer, whatever its order. A subclass makes the modules and says what is below without a body.

    Attributes:
        STREAM: stage, or "after" for what the next layer gets, to the leaf of the hook point that holds the stream there.
        HELD: the leaves whose activations `carry_back` needs, besides what heads and MLP write.
        EDITABLE: the leaves whose hooks `carry_back` counts as edits.
        WRITES_ADD_UP: whether the stream after the layer is the stream before it plus what heads and MLP write.
    """

    STREAM: ClassVar[Mapping[str, str]]
    HELD: ClassVar[tuple[str, ...]]
    EDITABLE: ClassVar[tuple[str, ...]]
    WRITES_ADD_UP: ClassVar[bool]

    cfg: CrossEncoderConfig
    attn: Attention
    hook_resid_pre: HookPoint
    hook_attn_out: HookPoint
    hook_resid_mid: HookPoint
    hook_q_input: HookPoint  # there while cfg.use_split_qkv_input, as are the next two
    hook_k_input: HookPoint
    hook_v_input: HookPoint

    # What a family's order is.

    def read(self, resid: Float[Tensor, "*pair_pos d_model"]) -> Float[Tensor, "*pair_pos d_model"]:
        """What attention reads of the stream before the layer."""
        raise NotImplementedError

    def resume(
        self,
        stage: Stage,
        resid: Float[Tensor, "item row d_model"],
        mlp_out: Float[Tensor, "item row d_model"] | None = None,
    ) -> Float[Tensor, "item row d_model"]:
        """The stream after the layer from the stream at "mid" or "post", past that point's own hooks, position by position.

        With `mlp_out`, the MLP is not run: it writes that.
        """
        raise NotImplementedError

    def carry_back(self, held: HeldRun, g: Float[Tensor, "row d_model"]) -> LayerWorth:
        """What writes and stream are worth in the layer, the stream after it being worth `g`, with every scale held.

        What the MLP and the heads do to what they read is not gone back through: a write is worth what it brings by itself.
        """
        raise NotImplementedError

    @property
    def norm_after(self) -> tuple[Tensor, Tensor] | None:
        """Weight and bias of the norm that makes the stream after the layer; None where none does."""
        return None

    # What holds in any order.

    def name_of(self, leaf: str) -> str:
        """The full name of a hook point of this layer."""
        return f"blocks.{self.layer}.{leaf}"

    def stream_name(self, stage: str) -> str:
        """The full name of the hook point that holds the stream at a stage, or "after" the layer."""
        return self.name_of(self.STREAM[stage])

    def stream_point(self, stage: str) -> AnyHookPoint:
        """That hook point."""
        return getattr(self, self.STREAM[stage])

    def project(self, resid: Float[Tensor, "pair pos d_model"]) -> QKV:
        """(q, k, v) of the stream before the layer, through their hooks, as attention reads them."""
        return self.attn.project(self.read(resid))

    def project_head(
        self, resid: Float[Tensor, "pair pos d_model"], head: int, which: str
    ) -> Float[Tensor, "pair pos d_head"]:
        """One head's "q", "k" or "v" of the stream before the layer, as the hook point of that name holds it."""
        return self.attn.project_head(self.read(resid), head, which)

    def forward(
        self,
        resid: Float[Tensor, "pair pos d_model"],
        given: AttentionInput,
        edits: LayerEdits | None = None,
        rows: int | None = None,
        projected: QKV | None = None,
    ) -> Float[Tensor, "pair row d_model"]:
        """The residual stream after this layer, at the first `rows` positions (all by default).

        `projected` is what `project` gave for the same `resid`, where another branch has it already.
        """
        resid = self.hook_resid_pre(resid)
        inputs = None
        if self.cfg.use_split_qkv_input:
            points = (self.hook_q_input, self.hook_k_input, self.hook_v_input)
            inputs = tuple(self.read(point(resid.unsqueeze(2).repeat(1, 1, self.cfg.n_heads, 1))) for point in points)
        read = resid if projected is not None or inputs is not None else self.read(resid)
        return self._from_attention(resid[:, :rows], self.attn(read, given, edits, rows, inputs, projected))

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
        z = self.attn.attend_rows(projected, given, edits, low, high)
        after = unedited.clone()
        after[:, low:high] = self._from_attention(resid[:, low:high], self.attn.write(z))
        return after

    def _from_attention(self, resid: Tensor, attn_out: Tensor) -> Tensor:
        """The rest of the layer, position by position."""
        return self.resume("mid", self.hook_resid_mid(resid + self.hook_attn_out(attn_out)))

    def reads_only_first_row(self) -> bool:
        """Whether nobody looks at this layer's rows, so that the ones that nothing reads need not be computed.

        Hooks on the residual stream before the layer, on what attention reads of it, on keys and on values are free: those are
        computed whole for whoever looks.
        """
        return not has_hooks(self, but=self.whole())

    def whole(self) -> set[AnyHookPoint]:
        """The hook points that have all positions even where only the first row is wanted."""
        turned = set() if self.attn.rotary is None else {self.attn.hook_rot_k}
        return {self.hook_resid_pre, self.attn.hook_k, self.attn.hook_v, *turned}


class BertBlock(Block):
    """The post-LN layer: `hook_resid_mid` and `hook_resid_post` come before their LayerNorm."""

    STREAM: ClassVar[Mapping[str, str]] = {
        "pre": "hook_resid_pre",
        "mid": "hook_resid_mid",
        "post": "hook_resid_post",
        "after": "hook_normalized_resid_post",
    }
    HELD = ("hook_resid_mid", "hook_resid_post")
    EDITABLE = (
        *("hook_resid_mid", "ln1.hook_scale", "ln1.hook_normalized"),
        *("hook_resid_post", "ln2.hook_scale", "ln2.hook_normalized", "hook_normalized_resid_post"),
    )
    WRITES_ADD_UP = False

    def __init__(self, cfg: CrossEncoderConfig, stack: LayerStack, layer: int):
        super().__init__(stack, layer)
        self.cfg = cfg
        # The stream before the layer is that of all branches, of the hook after the layer before, or the caller's own.
        self.hook_resid_pre = SharedHookPoint()
        self.attn = Attention(cfg, stack, layer)
        self.hook_attn_out = HookPoint()
        self.hook_resid_mid = HookPoint()
        self.ln1 = LayerNorm(cfg.eps)
        self.mlp = MLP(cfg, stack, layer)
        self.hook_mlp_out = HookPoint()
        self.hook_resid_post = HookPoint()
        self.ln2 = LayerNorm(cfg.eps)
        self.hook_normalized_resid_post = HookPoint()

    def read(self, resid: Float[Tensor, "*pair_pos d_model"]) -> Float[Tensor, "*pair_pos d_model"]:
        """The stream itself: it is normalized already."""
        return resid

    def resume(
        self,
        stage: Stage,
        resid: Float[Tensor, "item row d_model"],
        mlp_out: Float[Tensor, "item row d_model"] | None = None,
    ) -> Float[Tensor, "item row d_model"]:
        """`LN2(LN1(mid) + MLP(LN1(mid)))`, or `LN2(post)`."""
        stack, layer = self.stack, self.layer
        if stage == "mid":
            normalized = self.ln1(resid, stack.ln1_weight[layer], stack.ln1_bias[layer])
            written = self.hook_mlp_out(self.mlp(normalized)) if mlp_out is None else mlp_out
            resid = self.hook_resid_post(normalized + written)
        return self.hook_normalized_resid_post(self.ln2(resid, stack.ln2_weight[layer], stack.ln2_bias[layer]))

    @property
    def norm_after(self) -> tuple[Tensor, Tensor]:
        """LN2's."""
        return self.stack.ln2_weight[self.layer], self.stack.ln2_bias[self.layer]

    def carry_back(self, held: HeldRun, g: Float[Tensor, "row d_model"]) -> LayerWorth:
        """Back through LN2, where the MLP's write is added, and LN1, where the heads' is."""
        stack, layer = self.stack, self.layer
        mid, post = self.name_of("hook_resid_mid"), self.name_of("hook_resid_post")
        edit = held.edit(g, self.name_of("hook_normalized_resid_post"))
        bias = g @ stack.ln2_bias[layer].detach().double()
        g, inside = self.ln2.carry_back(held, self.name_of("ln2"), g, held[post], stack.ln2_weight[layer])
        edit, mlp_out = edit + inside + held.edit(g, post), g
        bias = bias + g @ stack.ln1_bias[layer].detach().double()
        g, inside = self.ln1.carry_back(held, self.name_of("ln1"), g, held[mid], stack.ln1_weight[layer])
        return LayerWorth(g, mlp_out, g, bias, edit + inside + held.edit(g, mid))
