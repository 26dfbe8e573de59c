"""The hooked encoder: embeddings and layers with a hook point on every activation, in TransformerLens's own frame.

`HookedEncoder` is TransformerLens's `HookedRootModule` with the hook names and tensor shapes of TransformerLens 3.9's class of
the same name: here its run, whole and in steps; its weights, hooks, caches and ablations in `weight_views`, `checked_hooks`,
`caching` and `ablations`. `HookedCrossEncoder` (`cross_encoder.py`) adds pooler, classifier, texts and scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tl_crossenc.inputs.batching import default_token_budget
from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.inputs.parts import PartMasks
from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.model.ablations import Ablating
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.block import BertBlock, Block
from tl_crossenc.model.caching import Caching
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.embeddings import BertEmbed
from tl_crossenc.model.hook_points import HookPoint, has_hooks, is_hooked, sees_places
from tl_crossenc.model.input_checks import apart, check_input, layer_range
from tl_crossenc.model.layer_stack import LayerStack
from tl_crossenc.model.pre_norm_block import PreNormBlock
from tl_crossenc.model.weight_views import WeightViews


class HookedEncoder(WeightViews, Ablating, Caching):
    """Embeddings and layers. Weights are uninitialized until `porting` fills them.

    Args:
        cfg: sizes and conventions.
    """

    reads_only_first_row: bool = True
    looks_at_rows: bool = False  # past the layers, at rows that nothing reads

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        self.cfg = cfg
        self.embed = BertEmbed(cfg)
        self.hook_full_embed = HookPoint()
        self.stack = LayerStack(cfg)
        kind = PreNormBlock if cfg.norm_order == "pre" else BertBlock
        self.blocks = nn.ModuleList(kind(cfg, self.stack, layer) for layer in range(cfg.n_layers))
        self.setup()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights and activations."""
        return self.embed.W_E.dtype

    def block(self, layer: int) -> Block:
        """A layer, as what it can be asked."""
        return cast(Block, self.blocks[layer])

    @property
    def writes_add_up(self) -> bool:
        """Whether the residual stream is a plain sum of what embeddings, heads and MLPs write, as it is in no post-LN encoder."""
        return all(self.block(layer).WRITES_ADD_UP for layer in range(self.cfg.n_layers))

    def token_budget(self, asked: int | None = None) -> int:
        """Padded tokens a batch: as asked for, or what suits the device (`batching.default_token_budget`)."""
        if asked is not None:
            return asked
        return default_token_budget(self.device, token_bytes=self.cfg.token_bytes, n_ctx=self.cfg.n_ctx)

    def _apply(self, fn: Callable, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.cfg.device, self.cfg.dtype = str(self.device), self.dtype
        return self

    @property
    def hooked(self) -> bool:
        """Whether anything is called while the model runs that may tell pairs apart by their place in the batch."""
        return any(map(sees_places, self.modules()))

    # Forward, whole and in steps. The steps are what experiments share prefixes with.

    def attention_input(
        self,
        attention_mask: Bool[Tensor, "pair pos"] | Int[Tensor, "pair pos"],
        parts: PartMasks | None,
        tokens: Int[Tensor, "pair pos"] | None = None,
    ) -> AttentionInput:
        """What the layers need of a batch besides its activations; the tokens only where the parts are not known."""
        moved = None if parts is None else parts.to(self.device)
        given = AttentionInput(attention_mask.to(self.device).bool(), moved, self.dtype, tokens)
        _ = given.bias  # once a batch: reading it waits for the device, and torch.compile could not trace it in a layer
        return given

    def run_embed(
        self, tokens: Int[Tensor, "pair pos"], token_type_ids: Int[Tensor, "pair pos"]
    ) -> Float[Tensor, "pair pos d_model"]:
        """The residual stream before layer 0."""
        return self.hook_full_embed(self.embed(tokens.to(self.device), token_type_ids.to(self.device)))

    def run_layer(
        self,
        layer: int,
        resid: Float[Tensor, "pair pos d_model"],
        given: AttentionInput,
        edits: LayerEdits | None = None,
        *,
        only_cls: bool = False,
    ) -> Float[Tensor, "pair row d_model"]:
        """The residual stream after `layer`.

        With `only_cls`, nothing but what the head reads is wanted: where that is the CLS position, just that row is computed,
        unless a hook looks at the others.
        """
        block = self.block(layer)
        alone = only_cls and self.reads_only_first_row and not self.looks_at_rows
        rows = 1 if alone and block.reads_only_first_row() else None
        return block(resid, given, edits, rows)

    def run_branches(
        self,
        layer: int,
        resid: Float[Tensor, "pair pos d_model"],
        given: AttentionInput,
        branches: Sequence[LayerEdits | None],
        *,
        only_cls: bool = False,
        from_unedited: bool = False,
    ) -> Iterator[Tensor]:
        """The residual stream after `layer` for each of several edits of it, in their order, from one stream before it.

        Queries, keys and values are projected once. With `from_unedited`, a branch that edits few rows only has those run, on top
        of the unedited layer (run for it if need be); what it gives differs from a whole run by rounding, and does not depend on
        the other branches. Both are left where a hook is on the layer or only CLS is wanted.
        """
        block = self.block(layer)
        if (only_cls and self.reads_only_first_row) or self.cfg.use_split_qkv_input or has_hooks(block):
            for edits in branches:
                yield self.run_layer(layer, resid, given, edits, only_cls=only_cls)
            return
        few = [from_unedited and edits is not None and edits.spares_passage for edits in branches]
        projected: Any = block.project(resid)
        unedited = block(resid, given, projected=projected) if any(few) else None
        for i, edits in enumerate(branches):
            if edits is None and unedited is not None:
                after = unedited
            elif edits is not None and few[i] and unedited is not None:
                after = block.rerun_rows(resid, unedited, given, edits, projected)
            else:
                after = block(resid, given, edits, projected=projected)
            if i == len(branches) - 1:  # whoever walks on from the last branch does not hold the others' memory
                projected = unedited = None
            yield after
            del after

    def encode(
        self,
        tokens: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        parts: PartMasks | None,
        *,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        only_cls: bool = False,
    ) -> Float[Tensor, "pair row d_model"]:
        """The residual stream after the last layer, or before `stop_at_layer`, with the active ablations applied.

        With `start_at_layer`, `tokens` is the residual stream before that layer. Both may count from the end.
        """
        start, stop = layer_range(start_at_layer, stop_at_layer, self.cfg.n_layers)
        if token_type_ids is None and start_at_layer is None and self.cfg.d_vocab_types < 2:
            token_type_ids = torch.zeros_like(tokens)
        if attention_mask is None or (token_type_ids is None and start_at_layer is None):
            raise ValueError(
                "expected token_type_ids and attention_mask beside raw tokens (without them padding would be read as text "
                "and the passage as query); pass them, or the pairs from model.to_pairs(query, passages)"
            )
        check_input(self.cfg, tokens, token_type_ids, attention_mask, parts, from_resid=start_at_layer is not None)
        edits = self._active.compile(self.cfg.n_layers, self.cfg.n_heads)
        given = self.attention_input(
            attention_mask, parts, tokens if parts is None and start_at_layer is None else None
        )
        if start_at_layer is not None:
            resid = tokens.to(self.device)
        else:
            resid = self.run_embed(tokens, token_type_ids)  # type: ignore[arg-type]
        for layer in range(start, stop):
            last = only_cls and layer == self.cfg.n_layers - 1
            resid = self.run_layer(layer, resid, given, edits[layer], only_cls=last)
        return resid if only_cls else self._callers_own(resid, start, stop, start_at_layer is None)

    def _callers_own(self, resid: Tensor, start: int, stop: int, embedded: bool) -> Tensor:
        """The residual stream as the caller's, who may edit it: a copy if a hook may have kept it or the caller gave it."""
        if start == stop and not embedded:
            return resid.clone()
        last = self.block(stop - 1).stream_point("after") if stop > start else self.hook_full_embed
        return resid.clone() if is_hooked(last) else resid

    def forward(
        self,
        input: PairBatch | Tensor,
        *,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        parts: PartMasks | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
    ) -> Float[Tensor, "pair pos d_model"]:
        """The residual stream after the last layer (or before `stop_at_layer`)."""
        tokens, token_type_ids, attention_mask, parts = apart(input, token_type_ids, attention_mask, parts)
        return self.encode(
            tokens,
            token_type_ids,
            attention_mask,
            parts,
            start_at_layer=start_at_layer,
            stop_at_layer=stop_at_layer,
        )
