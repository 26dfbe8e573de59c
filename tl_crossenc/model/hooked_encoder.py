"""The hooked encoder: BERT with a hook point on every activation, in TransformerLens's own frame.

`HookedEncoder` is TransformerLens's `HookedRootModule` with the hook names and tensor shapes of TransformerLens 3.9's class of
the same name; `HookedCrossEncoder` (`cross_encoder.py`) adds pooler, classifier, texts and scores.
"""

from __future__ import annotations

import difflib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens import FactoredMatrix, HookedRootModule
from transformer_lens.utilities import Slice

from tl_crossenc.inputs.batching import default_token_budget
from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.inputs.parts import PartMasks
from tl_crossenc.interventions.conditions import UNABLATED, Condition, LayerEdits, Mode
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.interventions.indices import Indices, as_indices
from tl_crossenc.model.activation_cache import EncoderCache
from tl_crossenc.model.attention import AttentionInput, mask_scores, zero_pattern
from tl_crossenc.model.blocks import BertBlock, BertEmbed
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.hook_points import HookPoint, has_hooks, is_hooked, sees_places
from tl_crossenc.model.layer_stack import K, LayerStack, Q, V

Ablation = Condition | Direction | str
FwdHooks = list[tuple[str | Callable, Callable]]
_WITHOUT_POSITIONS = ("pooler.", "classifier.")
_SPLIT_INPUTS = ("hook_q_input", "hook_k_input", "hook_v_input")


class HookedEncoder(HookedRootModule):
    """Embeddings and layers. Weights are uninitialized until `porting` fills them.

    Args:
        cfg: sizes and conventions.
    """

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        self.cfg = cfg
        self.embed = BertEmbed(cfg)
        self.hook_full_embed = HookPoint()
        self.stack = LayerStack(cfg)
        self.blocks = nn.ModuleList(BertBlock(cfg, self.stack, layer) for layer in range(cfg.n_layers))
        self._active = UNABLATED
        self.setup()

    # Weights, as views in TransformerLens's convention.

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights, a view: an edit in place is an edit of the model."""
        return self.stack.projection(Q)

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Key weights, a view."""
        return self.stack.projection(K)

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Value weights, a view."""
        return self.stack.projection(V)

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights, a view."""
        return self.stack.output()

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        """Query biases, a view."""
        return self.stack.projection_bias(Q)

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        """Key biases, a view."""
        return self.stack.projection_bias(K)

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        """Value biases, a view."""
        return self.stack.projection_bias(V)

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        """Output biases, a view."""
        return self.stack.out_bias.detach()

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """MLP input weights, a view."""
        return self.stack.mlp_in_weight.detach().transpose(1, 2)

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        """MLP output weights, a view."""
        return self.stack.mlp_out_weight.detach().transpose(1, 2)

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        """MLP input biases, a view."""
        return self.stack.mlp_in_bias.detach()

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        """MLP output biases, a view."""
        return self.stack.mlp_out_bias.detach()

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Token embeddings, a view."""
        return self.embed.W_E.detach()

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """Position embeddings, a view."""
        return self.embed.W_pos.detach()

    @property
    def QK(self) -> FactoredMatrix:
        """`W_Q W_K^T` of every head, `[layer, head, d_model, d_model]`, factored at rank d_head.

        attender^T QK attended is the attention score before biases and the division by sqrt(d_head).
        """
        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:
        """`W_V W_O` of every head, `[layer, head, d_model, d_model]`, factored at rank d_head."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights and activations."""
        return self.embed.W_E.dtype

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

        With `only_cls`, nothing but the CLS position is wanted: just that row is computed, unless a hook looks at the others.
        """
        block = cast(BertBlock, self.blocks[layer])
        rows = 1 if only_cls and block.reads_only_first_row() else None
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
        block = cast(BertBlock, self.blocks[layer])
        if only_cls or self.cfg.use_split_qkv_input or has_hooks(block):
            for edits in branches:
                yield self.run_layer(layer, resid, given, edits, only_cls=only_cls)
            return
        few = [from_unedited and edits is not None and edits.spares_passage for edits in branches]
        projected: Any = block.attn.project(resid)
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
        start, stop = self._layer_range(start_at_layer, stop_at_layer)
        if attention_mask is None or (token_type_ids is None and start_at_layer is None):
            raise ValueError(
                "expected token_type_ids and attention_mask beside raw tokens (without them padding would be read as text "
                "and the passage as query); pass them, or the pairs from model.to_pairs(query, passages)"
            )
        self._check_input(tokens, token_type_ids, attention_mask, parts, start_at_layer)
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
        last = (
            cast(BertBlock, self.blocks[stop - 1]).hook_normalized_resid_post if stop > start else self.hook_full_embed
        )
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
        if isinstance(input, PairBatch):
            if token_type_ids is not None or attention_mask is not None or parts is not None:
                raise ValueError("expected nothing beside pairs, which carry their own types, mask and parts; got more")
            token_type_ids, attention_mask, parts = input.token_type_ids, input.attention_mask, input.parts
            input = input.tokens
        return self.encode(
            input,
            token_type_ids,
            attention_mask,
            parts,
            start_at_layer=start_at_layer,
            stop_at_layer=stop_at_layer,
        )

    def _layer_range(self, start: int | None, stop: int | None) -> tuple[int, int]:
        n_layers = self.cfg.n_layers
        bounds = []
        for name, value, default in (("start_at_layer", start, 0), ("stop_at_layer", stop, n_layers)):
            layer = default if value is None else value + n_layers if value < 0 else value
            if not 0 <= layer <= n_layers:
                raise ValueError(f"expected {name} in {-n_layers}..{n_layers}, got {value}")
            bounds.append(layer)
        if bounds[0] > bounds[1]:
            raise ValueError(f"expected start_at_layer <= stop_at_layer, got {start} and {stop}")
        return bounds[0], bounds[1]

    def _check_input(
        self,
        tokens: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor,
        parts: PartMasks | None,
        start_at_layer: int | None,
    ) -> None:
        from_resid = start_at_layer is not None
        wants = f"residual stream of floats [pair, pos, {self.cfg.d_model}]" if from_resid else "token ids [pair, pos]"
        fits = tokens.ndim == 3 and tokens.shape[2] == self.cfg.d_model if from_resid else tokens.ndim == 2
        if tokens.is_floating_point() != from_resid or not fits:
            raise ValueError(f"expected a {wants}, got {tokens.dtype} of shape {tuple(tokens.shape)}")
        beside = {
            "an attention mask": attention_mask,
            "token_type_ids": None if from_resid else token_type_ids,
            "parts": None if parts is None else parts.codes,
        }
        for what, tensor in beside.items():
            if tensor is not None and tensor.shape != tokens.shape[:2]:
                raise ValueError(
                    f"expected {what} of the input's shape {tuple(tokens.shape[:2])} [pair, pos], got {tuple(tensor.shape)}"
                )
        if tokens.shape[1] > self.cfg.n_ctx:
            raise ValueError(
                f"expected at most {self.cfg.n_ctx} positions, got {tokens.shape[1]}: truncate the passage"
            )

        if from_resid or tokens.device.type != "cpu" or not tokens.numel():
            return  # looking at the ids would wait for the device
        for what, ids, size in (
            ("token ids", tokens, self.cfg.d_vocab),
            ("token_type_ids", token_type_ids, self.cfg.d_vocab_types),
        ):
            low, high = (0, 0) if ids is None or ids.device.type != "cpu" else map(int, ids.aminmax())
            if low < 0 or high >= size:
                raise ValueError(
                    f"expected {what} 0..{size - 1}, got {low if low < 0 else high}: use the model's tokenizer"
                )

    # Ablations.

    @contextmanager
    def ablating(
        self,
        *ablations: Ablation | Iterable[Ablation],
        layers: Indices = None,
        heads: Indices = None,
        mode: Mode = "zero",
    ) -> Iterator[HookedEncoder]:
        """Remove directions of attention from every run inside of the `with` block.

        Args:
            ablations: directions (or their text), or whole conditions, which carry their own layers, heads and mode.
            layers, heads: where the given directions are removed: a number (from the end if negative), several, or text such as
                "0-3,7"; everywhere by default.
            mode: `zero` or `mask`, for the given directions.

        Raises:
            ValueError: a direction, layer or head that the model does not have.
        """
        condition = self._condition(*ablations, layers=layers, heads=heads, mode=mode)
        before = self._active
        self._active = before + condition
        try:
            yield self
        finally:
            self._active = before

    def _condition(
        self, *ablations: Ablation | Iterable[Ablation], layers: Indices, heads: Indices, mode: Mode
    ) -> Condition:
        """`as_condition` on this model: negative layers and heads count from its end, and all must be there."""
        within = as_indices(layers, "layers", self.cfg.n_layers), as_indices(heads, "heads", self.cfg.n_heads)
        condition = as_condition(*ablations, layers=within[0], heads=within[1], mode=mode)
        condition.compile(self.cfg.n_layers, self.cfg.n_heads)
        return condition

    @property
    def active_condition(self) -> Condition:
        """What `ablating` removes at the moment."""
        return self._active

    def ablation_hooks(
        self,
        *ablations: Ablation | Iterable[Ablation],
        pairs: PairBatch,
        layers: Indices = None,
        heads: Indices = None,
        mode: Mode = "zero",
    ) -> FwdHooks:
        """The same edits as TransformerLens hooks on `hook_pattern` and `hook_attn_scores`, for `run_with_hooks(pairs, ...)`.

        They hold for these pairs, or others with the same parts at the same positions; a run of any others is an error. So is one
        that cannot tell its pairs: a residual stream without `parts`. Hooks look at the pattern, so this is the slower way.
        """
        condition = self._condition(*ablations, layers=layers, heads=heads, mode=mode)
        given = _OwnPairs(self.attention_input(pairs.attention_mask, pairs.parts), pairs.tokens)
        hooks: FwdHooks = []
        for layer, edits in enumerate(condition.compile(self.cfg.n_layers, self.cfg.n_heads)):
            if edits is None:
                continue
            if edits.mask.any():
                hooks.append((f"blocks.{layer}.attn.hook_attn_scores", _edit_hook(mask_scores, given, edits)))
            if edits.zero.any():
                hooks.append((f"blocks.{layer}.attn.hook_pattern", _edit_hook(zero_pattern, given, edits)))
        return hooks

    # TransformerLens's hook interface, with every selection checked.

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Turn `attn.hook_result`, each head's own write to the residual stream, on or off."""
        self.cfg.use_attn_result = use_attn_result
        for block in self.blocks:
            _switch(cast(BertBlock, block).attn, ("hook_result",), use_attn_result)
        self.setup()

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Turn the layers' `hook_q_input`, `hook_k_input` and `hook_v_input`, a copy of the input a head, on or off."""
        self.cfg.use_split_qkv_input = use_split_qkv_input
        for block in self.blocks:
            _switch(block, _SPLIT_INPUTS, use_split_qkv_input)
        self.setup()

    def run_with_cache(self, *args: Any, return_cache_object: bool = True, **kwargs: Any) -> Any:
        """Run and keep activations: (output, `EncoderCache`), or a plain dict with `return_cache_object=False`.

        Arguments are those of TransformerLens: `names_filter`, `device`, `remove_batch_dim`, `incl_bwd`, `pos_slice`.

        Raises:
            ValueError: `remove_batch_dim` with more than one pair, or a filter that matches no hook point.
        """
        if kwargs.get("remove_batch_dim") and args and isinstance(args[0], Tensor):
            _one_pair(args[0])  # before TransformerLens asserts it
        output, cache = super().run_with_cache(*args, **kwargs)
        if kwargs.get("remove_batch_dim"):
            _one_pair(output)
        if not return_cache_object:
            return output, cache
        return output, EncoderCache(cache, self, has_batch_dim=not kwargs.get("remove_batch_dim", False))

    def get_caching_hooks(
        self,
        names_filter: Any = None,
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
        cache: dict | None = None,
        pos_slice: Any = None,
    ) -> Any:
        """TransformerLens's caching hooks; a filter that matches no hook point is an error.

        `pos_slice` is of the positions alone: what has none (pooler and classifier) is kept whole.
        """
        self._check_filter(names_filter)
        kept: dict = {} if cache is None else cache
        names = [names_filter] if isinstance(names_filter, str) else names_filter
        wanted = names if callable(names) else lambda name: names is None or name in names
        fwd: FwdHooks = []
        bwd: FwdHooks = []
        for name in [name for name in self.hook_dict if wanted(name)]:
            own = None if name.startswith(_WITHOUT_POSITIONS) else pos_slice
            heads_last = own is not None and name.endswith(_SPLIT_INPUTS)  # TransformerLens would cut their heads
            found = super().get_caching_hooks(
                name, incl_bwd, device, remove_batch_dim, kept, None if heads_last else own
            )
            for hooks, added in ((fwd, found[1]), (bwd, found[2])):
                hooks += [(name, _cut(hook, Slice.unwrap(own)) if heads_last else hook) for _, hook in added]
        return kept, fwd, bwd

    def add_caching_hooks(self, names_filter: Any = None, *args: Any, **kwargs: Any) -> dict:
        """TransformerLens's `add_caching_hooks`; a filter that matches no hook point is an error."""
        self._check_filter(names_filter)
        return super().add_caching_hooks(names_filter, *args, **kwargs)

    def _check_filter(self, names_filter: Any) -> None:
        if not callable(names_filter):
            for name in [names_filter] if isinstance(names_filter, str) else names_filter or ():
                self._check_hook_name(name)
        if names_filter is not None and not (
            any(map(names_filter, self.hook_dict)) if callable(names_filter) else names_filter
        ):
            raise ValueError(
                "expected a names_filter that matches at least one hook point; it matched none: see model.hook_dict"
            )

    def _enable_hook(self, name: str | Callable, hook: Callable, dir: Any) -> None:
        if isinstance(name, str):
            self._check_hook_name(name)
        elif not any(name(hook_name) for hook_name in self.hook_dict):
            raise ValueError("expected a hook-name filter that matches at least one hook point; it matched none")
        super()._enable_hook(name, hook, dir)

    def add_hook(self, name: str | Callable[[str], bool], *args: Any, **kwargs: Any) -> None:
        """TransformerLens's `add_hook`; a name that matches no hook point is an error."""
        if isinstance(name, str):
            self._check_hook_name(name)
        elif not any(name(hook_name) for hook_name in self.hook_dict):
            raise ValueError("expected a hook-name filter that matches at least one hook point; it matched none")
        super().add_hook(name, *args, **kwargs)

    def _check_hook_name(self, name: str) -> None:
        if name in self.hook_dict:
            return
        leaf = name.rpartition(".")[2]
        if leaf == "hook_result":
            hint = "call model.set_use_attn_result(True) first"
        elif leaf in _SPLIT_INPUTS:
            hint = "call model.set_use_split_qkv_input(True) first"
        else:
            near = difflib.get_close_matches(name, self.hook_dict, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else "see model.hook_dict for all names"
        raise ValueError(f"expected the name of a hook point, got {name!r}: {hint}")


def _switch(module: nn.Module, names: Sequence[str], on: bool) -> None:
    for name in names:
        if on and not hasattr(module, name):
            setattr(module, name, HookPoint())
        elif not on and hasattr(module, name):
            delattr(module, name)


def _one_pair(tensor: Tensor) -> Tensor:
    if len(tensor) != 1:
        raise ValueError(f"expected one pair with remove_batch_dim=True, got {len(tensor)}: leave it out")
    return tensor


def _cut(save: Callable, pos_slice: Slice) -> Callable:
    """A caching hook that keeps some positions of `[pair, pos, head, d_model]`."""

    def hook_function(activation: Tensor, hook: HookPoint) -> None:
        save(pos_slice.apply(activation, dim=1), hook=hook)

    return hook_function


class _OwnPairs:
    """The pairs that hooks were made for, and whether it is them that run."""

    def __init__(self, given: AttentionInput, tokens: Tensor):
        self.given, self.tokens = given, tokens
        self._checked: Callable[[], AttentionInput | None] = lambda: None

    def check(self, running: AttentionInput) -> None:
        """Raise ValueError if other pairs run. Looked at once a run, since comparing waits for the device."""
        if self._checked() is running:
            return
        if running.parts is not None:
            ours, theirs = self.given.known_parts().codes, running.parts.codes
        elif running.tokens is not None:
            ours, theirs = self.tokens, running.tokens.to(self.tokens.device)
        else:
            raise ValueError(
                "expected parts=pairs.parts beside a residual stream, by which ablation hooks know the pairs that they were made "
                "for; got none"
            )
        if ours is not theirs and not torch.equal(ours, theirs):
            raise ValueError(
                f"expected the pairs that the ablation hooks were made for, {tuple(ours.shape)} [pair, pos]; got others, "
                f"{tuple(theirs.shape)}, whose parts lie elsewhere: make the hooks from the pairs that are run"
            )
        self._checked = weakref.ref(running)


def _edit_hook(edit: Callable, pairs: _OwnPairs, edits: LayerEdits) -> Callable:
    def hook_function(activation: Tensor, hook: HookPoint) -> Tensor:
        pairs.check(hook.running.given)
        return edit(activation, pairs.given, edits)

    return hook_function


def as_condition(
    *ablations: Ablation | Iterable[Ablation],
    layers: Indices = None,
    heads: Indices = None,
    mode: Mode = "zero",
) -> Condition:
    """One condition from directions, conditions and their texts, alone or in lists.

    Raises:
        ValueError: nothing was given, or layers, heads or a mode were given beside a condition that has its own.
    """
    flat: list[Ablation] = []
    for ablation in ablations:
        flat.extend([ablation] if isinstance(ablation, Condition | Direction | str) else ablation)
    if not flat:
        raise ValueError("expected at least one direction or condition to ablate, such as 'DOC->QUERY'; got none")
    condition = UNABLATED
    for ablation in flat:
        if isinstance(ablation, str) and ("(" in ablation or ablation.strip().lower() == "none"):
            ablation = Condition.parse(ablation)
        if isinstance(ablation, Condition):
            if layers is not None or heads is not None or mode != "zero":
                raise ValueError(
                    f"expected layers, heads and mode inside of the condition {str(ablation)!r}, which has its own; "
                    "they were given beside it"
                )
            condition = condition + ablation
        else:
            condition = condition + Condition.ablate(ablation, layers=layers, heads=heads, mode=mode)
    return condition
