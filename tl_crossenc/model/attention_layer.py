"""Self-attention of a layer: projections, what the heads read, what they write, each through its hooks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.model.attention import Reading, column_masses, explicit_pattern, explicit_scores, one_row_attention
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.fused_attention import fused_attention
from tl_crossenc.model.hook_points import HookPoint, SharedHookPoint, has_hooks, is_hooked, telling
from tl_crossenc.model.layer_stack import K, LayerModule, LayerStack, Q, V
from tl_crossenc.model.rotary import Rotary

QKV = tuple[Tensor, Tensor, Tensor]
_PLACE = {"q": Q, "k": K, "v": V}


class Attention(LayerModule):
    """Self-attention of one layer, without the residual connection and the LayerNorm.

    Attributes:
        window: how far a position sees to either side; None for all.
        rotary: how queries and keys are turned by their positions; None where they are not. `hook_q` and `hook_k` have them before,
            `hook_rot_q` and `hook_rot_k` past it.
    """

    hook_result: HookPoint  # there while cfg.use_attn_result
    hook_rot_q: HookPoint  # there with rotary positions, as is the next
    hook_rot_k: HookPoint

    def __init__(self, cfg: CrossEncoderConfig, stack: LayerStack, layer: int):
        super().__init__(stack, layer)
        self.cfg = cfg
        self.window = None if cfg.windows is None else cfg.windows[layer]
        bases = cfg.rotary_bases
        self.rotary = None if bases is None else Rotary(bases[layer], cfg.d_head, cfg.rotary_factor)
        self.hook_q = HookPoint()
        self.hook_k = HookPoint()
        self.hook_v = HookPoint()
        if self.rotary is not None:
            self.hook_rot_q = HookPoint()
            self.hook_rot_k = HookPoint()
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
        given = given.within(self.window)
        if rows == 1 and inputs is None and projected is None and self.rotary is None and not has_hooks(self):
            return self.write(self._read_of_first_row(resid, given, edits))
        q, k, v = self.project(resid, rows, inputs) if projected is None else projected
        relative, scale = self.terms(q, k)
        z = self._read(Reading(given, edits, q, k, v, relative=relative, scale=scale))
        del relative  # as large as a pattern
        if self.cfg.use_attn_result:
            weight = self.stack.out_weight[self.layer].unflatten(1, z.shape[2:])
            result = self.hook_result(torch.einsum("brhe,dhe->brhd", z, weight))
            return result.sum(2) + self.stack.out_bias[self.layer]
        return self.write(z)

    def _read(self, running: Reading) -> Tensor:
        """z through its hooks, and scores and pattern where somebody looks at them."""
        given, edits, q, k, v, pattern, relative, scale = running
        if is_hooked(self.hook_attn_scores, self.hook_pattern):
            with telling((self.hook_attn_scores, self.hook_pattern), running):
                scores = self.hook_attn_scores(explicit_scores(q, k, given, edits, relative=relative, scale=scale))
                pattern = self.hook_pattern(explicit_pattern(scores, given, edits))
            z = (pattern @ v.transpose(1, 2)).transpose(1, 2)
        else:
            z = fused_attention(q, k, v, given, edits, relative=relative, scale=scale)
        if not is_hooked(self.hook_z):
            return z
        with telling((self.hook_z,), running._replace(pattern=pattern)):
            return self.hook_z(z)

    def attend(
        self,
        q: Float[Tensor, "pair row head d_head"],
        k: Float[Tensor, "pair pos head d_head"],
        v: Float[Tensor, "pair pos head d_head"],
        given: AttentionInput,
        edits: LayerEdits | None = None,
        *,
        first_row: int = 0,
        head: int | None = None,
    ) -> Float[Tensor, "pair row head d_head"]:
        """z of what `hook_q`, `hook_k` and `hook_v` hold, without a pattern.

        Args:
            q, k, v: of all heads, or of `head` alone.
            given: the batch.
            edits: the layer's, of all heads.
            first_row: the position of q's first row.
            head: the only head that q, k and v have.
        """
        if head is not None and edits is not None:
            edits = LayerEdits(edits.zero[head : head + 1], edits.mask[head : head + 1])
        if self.rotary is not None:
            q, k = self.rotary.rotate(q, first_row), self.rotary.rotate(k)
        relative, scale = self.terms(q, k, first_row, head)
        return fused_attention(
            q, k, v, given.within(self.window), edits, first_row=first_row, relative=relative, scale=scale
        )

    def attend_rows(self, projected: QKV, given: AttentionInput, edits: LayerEdits, low: int, high: int) -> Tensor:
        """z of the rows from `low` to before `high`, `[pair, row, head, d_head]`, of what `project` gave."""
        q, k, v = projected
        q = q[:, low:high]
        relative, scale = self.terms(q, k, low)
        return fused_attention(q, k, v, given.within(self.window), edits, first_row=low, relative=relative, scale=scale)

    @property
    def scored_points(self) -> tuple[str, str]:
        """The full names of the hook points that hold the queries and the keys that scores are made of."""
        kind = "hook" if self.rotary is None else "hook_rot"
        return f"blocks.{self.layer}.attn.{kind}_q", f"blocks.{self.layer}.attn.{kind}_k"

    def terms(
        self,
        q: Float[Tensor, "pair row head d_head"],
        k: Float[Tensor, "pair pos head d_head"],
        first_row: int = 0,
        head: int | None = None,
    ) -> tuple[Float[Tensor, "pair_or_1 head row pos"] | None, float | None]:
        """(`relative`, `scale`) of the scores of what `scored_points` hold; None for none, and for 1/sqrt(d_head).

        With `head`, q and k are of that head alone. They may be of a wider type than the weights.
        """
        shared = self.stack.relative
        if shared is None:
            return None, None
        weight, bias = self.stack.qkv_weight[self.layer, : K + 1], self.stack.qkv_bias[self.layer, : K + 1]
        heads = slice(None) if head is None else slice(head * self.stack.d_head, (head + 1) * self.stack.d_head)
        both = F.linear(shared.embeddings(), weight[:, heads].flatten(0, 1), bias[:, heads].flatten())
        buckets = both.to(q.dtype).unflatten(1, (2, -1, self.stack.d_head))
        positions = shared.positions
        found = positions.relative(q, k, buckets[:, K], buckets[:, Q], first_row)
        return found, positions.scale(self.stack.d_head)

    def masses(
        self,
        q: Float[Tensor, "pair row head d_head"],
        k: Float[Tensor, "pair pos head d_head"],
        given: AttentionInput,
        columns: Bool[Tensor, "pair pos set"],
    ) -> Float[Tensor, "pair row head set"]:
        """The attention that each row gives to each set of positions, with q and k as `scored_points` hold them; no pattern."""
        relative, scale = self.terms(q, k)
        return column_masses(q, k, given.within(self.window), columns, relative=relative, scale=scale)

    def pattern(
        self,
        q: Float[Tensor, "pair row head d_head"],
        k: Float[Tensor, "pair pos head d_head"],
        given: AttentionInput,
    ) -> Float[Tensor, "pair head row pos"]:
        """The pattern of what `scored_points` hold."""
        (relative, scale), seen = self.terms(q, k), given.within(self.window)
        return explicit_pattern(explicit_scores(q, k, seen, relative=relative, scale=scale), seen)

    def project_head(
        self, read: Float[Tensor, "pair pos d_model"], head: int, which: str
    ) -> Float[Tensor, "pair pos d_head"]:
        """One head's "q", "k" or "v" of what attention reads."""
        weight, bias = self.stack.projection(_PLACE[which]), self.stack.projection_bias(_PLACE[which])
        return read @ weight[self.layer, head] + bias[self.layer, head]

    def write(self, z: Float[Tensor, "pair row head d_head"]) -> Float[Tensor, "pair row d_model"]:
        """What the heads together write to the residual stream for what they read, z."""
        return F.linear(z.flatten(2), self.stack.out_weight[self.layer], self.stack.out_bias[self.layer])

    def _read_of_first_row(self, resid: Tensor, given: AttentionInput, edits: LayerEdits | None) -> Tensor:
        """z of the first row, without keys and values of the others."""
        weight, bias = self.stack.qkv_weight[self.layer], self.stack.qkv_bias[self.layer]
        heads = (self.stack.n_heads, self.stack.d_head)
        q = F.linear(resid[:, :1], weight[Q], bias[Q]).unflatten(2, heads)
        W_K, W_V = (weight[which].unflatten(0, heads) for which in (K, V))
        relative = scale = None
        if self.stack.relative is not None:  # whose terms need the keys themselves
            relative, scale = self.terms(q, F.linear(resid, weight[K], bias[K]).unflatten(2, heads))
        return one_row_attention(
            q, resid, W_K, W_V, bias[V].unflatten(0, heads), given, edits, relative=relative, scale=scale
        )

    def project(self, resid: Tensor, rows: int | None = None, inputs: tuple[Tensor, ...] | None = None) -> QKV:
        """(q, k, v), each `[pair, pos, head, d_head]` and q of the first `rows` positions only, through their hooks.

        With rotary positions q and k are turned already.
        """
        q, k, v = self._project(resid, rows, inputs)
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        if self.rotary is None:
            return q, k, v
        return self.hook_rot_q(self.rotary.rotate(q)), self.hook_rot_k(self.rotary.rotate(k)), v

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
