"""TransformerLens's hook interface with every name and filter checked: what matches no hook point is an error, never nothing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import nn
from transformer_lens import HookedRootModule

from tl_crossenc.model.block import Block
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.hook_points import HookPoint

SPLIT_INPUTS = ("hook_q_input", "hook_k_input", "hook_v_input")


class CheckedHooks(HookedRootModule):
    """TransformerLens's root module over layers whose optional hook points are switched on and off."""

    cfg: CrossEncoderConfig
    blocks: nn.ModuleList

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Turn `attn.hook_result`, each head's own write to the residual stream, on or off."""
        self.cfg.use_attn_result = use_attn_result
        for block in self.blocks:
            _switch(cast(Block, block).attn, ("hook_result",), use_attn_result)
        self.setup()

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Turn the layers' `hook_q_input`, `hook_k_input` and `hook_v_input`, a copy of the input a head, on or off."""
        self.cfg.use_split_qkv_input = use_split_qkv_input
        for block in self.blocks:
            _switch(block, SPLIT_INPUTS, use_split_qkv_input)
        self.setup()

    def _enable_hook(self, name: str | Callable, hook: Callable, dir: Any) -> None:
        self._check_chosen(name)
        super()._enable_hook(name, hook, dir)

    def add_hook(self, name: str | Callable[[str], bool], *args: Any, **kwargs: Any) -> None:
        """TransformerLens's `add_hook`; a name that matches no hook point is an error."""
        self._check_chosen(name)
        super().add_hook(name, *args, **kwargs)

    def _check_chosen(self, name: str | Callable) -> None:
        if isinstance(name, str):
            self._check_hook_name(name)
        elif not any(name(hook_name) for hook_name in self.hook_dict):
            raise ValueError("expected a hook-name filter that matches at least one hook point; it matched none")

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

    def _check_hook_name(self, name: str) -> None:
        if name in self.hook_dict:
            return
        leaf = name.rpartition(".")[2]
        if leaf == "hook_result":
            hint = "call model.set_use_attn_result(True) first"
        elif leaf in SPLIT_INPUTS:
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
