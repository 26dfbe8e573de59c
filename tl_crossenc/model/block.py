"""The modules of the encoder, with a hook point on every activation.

Hook names and shapes are those of TransformerLens 3.9's `HookedEncoder`. Modules hold no weights: they read their layer's
slice of the shared `LayerStack`. An operation is fused (attention, LayerNorm) while no hook looks inside of it, and computed
in the open otherwise; both give the same numbers to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.model.attention import AttentionInput, Reading, explicit_pattern, explicit_scores, one_row_attention
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.fused_attention import edited_span, fused_attention
from tl_crossenc.model.hook_points import HookPoint, SharedHookPoint, has_hooks, is_hooked, telling
from tl_crossenc.model.layer_stack import K, LayerStack, Q, V


def _gelu_new(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _gelu_new,
    "relu": F.relu,
}


QKV = tuple[Tensor, Tensor, Tensor]


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


class LayerModule(nn.Module):
    """A module of one layer. It refers to the shared stack without owning it, so that the weights are listed once."""

    stack: LayerStack

    def __init__(self, stack: LayerStack, layer: int):
        super().__init__()
        self.__dict__["stack"] = stack
        self.layer = layer


class Attention(LayerModule):
    """Self-attention of one layer, without the residual connection and the LayerNorm."""

    hook_result: HookPoint  # there while cfg.use_attn_result

    def __init__(self, cfg: CrossEncoderConfig, stack: LayerStack, layer: int):
        super().__init__(stack, layer)
        self.cfg = cfg
        self.hook_q = HookPoint()
        self.hook_k = HookPoint()
        self.hook_v = HookPoint()
        self.hook_attn_scores = HookPoint()
        self.hook_pattern = HookPoint()
        self.hook_z = SharedHookPoint()  # the fused kernel keeps its output for the backward pass

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        """Query weights, a view."""
        return self.stack.projection(Q)[self.layer]

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_head"]:
        """Key weights, a view."""
        return self.stack.projection(K)[self.layer]

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        """Value weights, a view."""
        return self.stack.projection(V)[self.layer]

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """Output weights, a view."""
        return self.stack.output()[self.layer]

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"]:
        """Query bias, a view."""
        return self.stack.projection_bias(Q)[self.layer]

    @property
    def b_K(self) -> Float[Tensor, "head d_head"]:
        """Key bias, a view."""
        return self.stack.projection_bias(K)[self.layer]

    @property
    def b_V(self) -> Float[Tensor, "head d_head"]:
        """Value bias, a view."""
        return self.stack.projection_bias(V)[self.layer]

    @property
    def b_O(self) -> Float[Tensor, "d_model"]:
        """Output bias, a view."""
        return self.stack.out_bias.detach()[self.layer]

    def forward(
        self,
        resid: Float[Tensor, "pair pos d_model"],
        given: AttentionInput,
        edits: LayerEdits | None = None,
        rows: int | None = None,
        inputs: tuple[Float[Tensor, "pair pos head d_model"], ...] | None = None,
        projected: QKV | None = None,
    ) -> Float[Tensor, "pair row d_model"]:
        """What attention writes at the first `rows` positions (all by default), with `edits` applied.

        With `inputs`, the queries', keys' and values' own copies of `resid` a head, those are projected in its stead; with
        `projected`, what `project` gave for `resid`, nothing is projected again.
        """
        if rows == 1 and inputs is None and projected is None and not has_hooks(self):
            return self.write(self._read_of_first_row(resid, given, edits))
        q, k, v = self.project(resid, rows, inputs) if projected is None else projected
        z = self._read(Reading(given, edits, q, k, v))
        if self.cfg.use_attn_result:
            weight = self.stack.out_weight[self.layer].unflatten(1, z.shape[2:])
            result = self.hook_result(torch.einsum("brhe,dhe->brhd", z, weight))
            return result.sum(2) + self.stack.out_bias[self.layer]
        return self.write(z)

    def _read(self, running: Reading) -> Tensor:
        """z through its hooks, and scores and pattern where somebody looks at them."""
        given, edits, q, k, v, pattern = running
        if is_hooked(self.hook_attn_scores, self.hook_pattern):
            with telling((self.hook_attn_scores, self.hook_pattern), running):
                scores = self.hook_attn_scores(explicit_scores(q, k, given, edits))
                pattern = self.hook_pattern(explicit_pattern(scores, given, edits))
            z = (pattern @ v.transpose(1, 2)).transpose(1, 2)
        else:
            z = fused_attention(q, k, v, given, edits)
        if not is_hooked(self.hook_z):
            return z
        with telling((self.hook_z,), running._replace(pattern=pattern)):
            return self.hook_z(z)

    def write(self, z: Float[Tensor, "pair row head d_head"]) -> Float[Tensor, "pair row d_model"]:
        """What the heads together write to the residual stream for what they read, z."""
        return F.linear(z.flatten(2), self.stack.out_weight[self.layer], self.stack.out_bias[self.layer])

    def _read_of_first_row(self, resid: Tensor, given: AttentionInput, edits: LayerEdits | None) -> Tensor:
        """z of the first row, without keys and values of the others."""
        weight, bias = self.stack.qkv_weight[self.layer], self.stack.qkv_bias[self.layer]
        heads = (self.stack.n_heads, self.stack.d_head)
        q = F.linear(resid[:, :1], weight[Q], bias[Q]).unflatten(2, heads)
        W_K, W_V = (weight[which].unflatten(0, heads) for which in (K, V))
        return one_row_attention(q, resid, W_K, W_V, bias[V].unflatten(0, heads), given, edits)

    def project(self, resid: Tensor, rows: int | None = None, inputs: tuple[Tensor, ...] | None = None) -> QKV:
        """(q, k, v), each `[pair, pos, head, d_head]` and q of the first `rows` positions only, through their hooks."""
        q, k, v = self._project(resid, rows, inputs)
        return self.hook_q(q), self.hook_k(k), self.hook_v(v)

    def _project(self, resid: Tensor, rows: int | None, inputs: tuple[Tensor, ...] | None) -> QKV:
        weight, bias = self.stack.qkv_weight[self.layer], self.stack.qkv_bias[self.layer]
        heads = (self.stack.n_heads, self.stack.d_head)
        if inputs is not None:
            split_weight = weight.unflatten(1, heads)
            q, k, v = (
                torch.einsum("bphd,hed->bphe", inputs[i], split_weight[i]) + bias[i].unflatten(0, heads)
                for i in range(3)
            )
            return q[:, :rows], k, v
        if rows is None:
            qkv = F.linear(resid, weight.flatten(0, 1), bias.flatten()).unflatten(2, (3, *heads))
            return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # not unbind, whose views hooks may not edit in place
        q = F.linear(resid[:, :rows], weight[0], bias[0]).unflatten(2, heads)
        kv = F.linear(resid, weight[1:].flatten(0, 1), bias[1:].flatten()).unflatten(2, (2, *heads))
        return q, kv[:, :, 0], kv[:, :, 1]


class MLP(LayerModule):
    """The feed-forward part of one layer, without the residual connection and the LayerNorm."""

    def __init__(self, cfg: CrossEncoderConfig, stack: LayerStack, layer: int):
        super().__init__(stack, layer)
        self.activation = ACTIVATION_FUNCTIONS[cfg.act_fn]
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


class BertEmbed(nn.Module):
    """Token, position and token-type embeddings, and the LayerNorm after their sum."""

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model, dtype=cfg.dtype))
        self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model, dtype=cfg.dtype))
        self.W_token_type = nn.Parameter(torch.empty(cfg.d_vocab_types, cfg.d_model, dtype=cfg.dtype))
        self.ln_weight = nn.Parameter(torch.empty(cfg.d_model, dtype=cfg.dtype))
        self.ln_bias = nn.Parameter(torch.empty(cfg.d_model, dtype=cfg.dtype))
        self.hook_embed = HookPoint()
        self.hook_pos_embed = SharedHookPoint()  # a view of the weights
        self.hook_token_type_embed = HookPoint()
        self.ln = LayerNorm(cfg.eps)

    def forward(
        self, tokens: Int[Tensor, "pair pos"], token_type_ids: Int[Tensor, "pair pos"]
    ) -> Float[Tensor, "pair pos d_model"]:
        """The normalized sum of the three embeddings."""
        embed = self.hook_embed(F.embedding(tokens, self.W_E))
        pos_embed = self.hook_pos_embed(self.W_pos[: tokens.shape[1]].expand(*tokens.shape, -1))
        type_embed = self.hook_token_type_embed(F.embedding(token_type_ids, self.W_token_type))
        return self.ln(embed + pos_embed + type_embed, self.ln_weight, self.ln_bias)


class BertPooler(nn.Module):
    """`tanh(W x_CLS + b)`, with hooks before and after the tanh."""

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cfg.d_model, cfg.d_model, dtype=cfg.dtype))
        self.bias = nn.Parameter(torch.empty(cfg.d_model, dtype=cfg.dtype))
        self.hook_pre = HookPoint()
        self.hook_pooler_out = SharedHookPoint()

    @property
    def W(self) -> Float[Tensor, "d_model d_model"]:
        """Weights as (in, out), a view."""
        return self.weight.detach().T

    def forward(self, resid: Float[Tensor, "pair pos d_model"]) -> Float[Tensor, "pair d_model"]:
        """The pooled CLS position."""
        pre = self.hook_pre(F.linear(resid[:, 0], self.weight, self.bias))
        return self.hook_pooler_out(pre.tanh())


class Classifier(nn.Module):
    """The linear head: pooled CLS to logits."""

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cfg.n_labels, cfg.d_model, dtype=cfg.dtype))
        self.bias = nn.Parameter(torch.empty(cfg.n_labels, dtype=cfg.dtype))
        self.hook_logits = HookPoint()

    @property
    def W(self) -> Float[Tensor, "d_model label"]:
        """Weights as (in, out), a view."""
        return self.weight.detach().T

    def forward(self, pooled: Float[Tensor, "pair d_model"]) -> Float[Tensor, "pair label"]:
        """The logits."""
        logits = self.hook_logits(F.linear(pooled, self.weight, self.bias))
        return (
            logits.clone() if is_hooked(self.hook_logits) else logits
        )  # the caller's, beside what a hook may have kept
