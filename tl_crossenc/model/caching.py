"""Activations kept while a model runs, as TransformerLens keeps them; what it would cut wrongly or assert is cut or said here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformer_lens.utilities import Slice

from tl_crossenc.model.activation_cache import EncoderCache
from tl_crossenc.model.checked_hooks import SPLIT_INPUTS, CheckedHooks
from tl_crossenc.model.head import POOLED
from tl_crossenc.model.hook_points import FwdHooks, HookPoint


class Caching(CheckedHooks):
    """A hooked model whose activations are kept by name."""

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
            own = None if name.startswith(POOLED) else pos_slice
            heads_last = own is not None and name.endswith(SPLIT_INPUTS)  # TransformerLens would cut their heads
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


def _one_pair(tensor: Tensor) -> Tensor:
    if len(tensor) != 1:
        raise ValueError(f"expected one pair with remove_batch_dim=True, got {len(tensor)}: leave it out")
    return tensor


def _cut(save: Callable, pos_slice: Slice) -> Callable:
    """A caching hook that keeps some positions of `[pair, pos, head, d_model]`."""

    def hook_function(activation: Tensor, hook: HookPoint) -> None:
        save(pos_slice.apply(activation, dim=1), hook=hook)

    return hook_function
