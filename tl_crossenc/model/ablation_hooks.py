"""A condition's edits as hooks on `hook_attn_scores` and `hook_pattern`, and whether the pairs that run are those they are of."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.model.attention import mask_scores, zero_pattern
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.hook_points import FwdHooks, HookPoint


def hooks_of(layers: Sequence[LayerEdits | None], given: AttentionInput, tokens: Tensor) -> FwdHooks:
    """Hooks that make each layer's edits in a run of the pairs that `given` and `tokens`, `[pair, pos]`, are of.

    Run with other pairs they raise ValueError.
    """
    pairs = _OwnPairs(given, tokens)
    hooks: FwdHooks = []
    for layer, edits in enumerate(layers):
        if edits is None:
            continue
        if edits.mask.any():
            hooks.append((f"blocks.{layer}.attn.hook_attn_scores", _edit_hook(mask_scores, pairs, edits)))
        if edits.zero.any():
            hooks.append((f"blocks.{layer}.attn.hook_pattern", _edit_hook(zero_pattern, pairs, edits)))
    return hooks


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
