"""Hook points whose hooks may edit in place: what a hook gets is nobody else's.

TransformerLens's hooks either return what takes the activation's place or write into the activation itself. The second is an
edit of that one activation only where its tensor is not read under another name: by another branch of a shared run, by a cache,
by the caller, by the weights. So a tensor is copied where it is handed to a hook and is read elsewhere too; where there is no
hook, nothing is copied.

- `SharedHookPoint`: its activation is read elsewhere in any run.
- Of several hooks on a point, each after the first gets a copy: an earlier one may have kept what it got.
- A backward hook gets a copy, since autograd hands one gradient to all the terms of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from transformer_lens import hook_points as tl

FwdHooks = list[tuple[str | Callable, Callable]]
"""Hooks, each with the name of its point or a filter of names."""


def is_hooked(*points: tl.HookPoint) -> bool:
    """Whether any hook, forward or backward, is on one of the points."""
    return any(
        point._forward_hooks or point._backward_hooks or point._forward_pre_hooks or point._backward_pre_hooks
        for point in points
    )


def has_hooks(module: nn.Module, *, but: Collection[tl.HookPoint] = ()) -> bool:
    """Whether any hook is on a point of a module, `but` for some."""
    points = (point for point in module.modules() if isinstance(point, tl.HookPoint))
    return is_hooked(*(point for point in points if point not in but))


_Function = TypeVar("_Function", bound=Callable)


def place_free(hook: _Function) -> _Function:
    """Mark a hook of the package's own that treats every pair alike wherever it is in the batch."""
    hook.place_free = True  # type: ignore[attr-defined]
    return hook


def sees_places(module: nn.Module) -> bool:
    """Whether a hook is on the module that is not known to be `place_free`."""
    if isinstance(module, tl.HookPoint):
        own = [handle.user_hook for handle in (*module.fwd_hooks, *module.bwd_hooks)]
        if len(own) < len(module._forward_hooks) + len(module._backward_hooks):
            return True  # torch's own
    else:
        own = list(module._forward_hooks.values())
    return not all(hasattr(hook, "place_free") for hook in (*own, *module._forward_pre_hooks.values()))


class HookPoint(tl.HookPoint):
    """TransformerLens's hook point; an edit in place is an edit of what the hook got, and of nothing else.

    Attributes:
        running: what is known where the point is called, while its hooks run; None where nothing is told.
    """

    running: Any = None

    def add_hook(self, hook: Callable, dir: Any = "fwd", *args: Any, **kwargs: Any) -> tl.LensHandle:
        """TransformerLens's `add_hook`."""
        own = _OwnTensor(self, hook, always=dir == "bwd")
        handle = super().add_hook(own, dir, *args, **kwargs)
        own.key, handle.user_hook = handle.hook.id, hook
        return handle


@contextmanager
def telling(points: Collection[HookPoint], running: Any) -> Iterator[None]:
    """Let the hooks of some points know what is running, inside of the `with` block."""
    try:
        for point in points:
            point.running = running
        yield
    finally:
        for point in points:
            point.running = None


class SharedHookPoint(HookPoint):
    """A point whose activation is read elsewhere too: whoever hooks it gets a copy."""

    def forward(self, x: Tensor) -> Tensor:
        """The activation."""
        return x.clone() if is_hooked(self) else x


class _OwnTensor:
    """A hook that is called with a tensor of its own; what it writes into it counts as if it had returned it."""

    def __init__(self, point: HookPoint, hook: Callable, always: bool):
        self.point, self.hook, self.always = point, hook, always
        self.key: int | None = None

    def __call__(self, tensor: Any, *, hook: Any) -> Any:
        first = next(iter(self.point._forward_hooks), None) == self.key
        if not isinstance(tensor, Tensor) or (first and not self.always):
            return self.hook(tensor, hook=hook)
        own = tensor.clone()
        found = self.hook(own, hook=hook)
        return own if found is None else found

    def __repr__(self) -> str:
        return repr(self.hook)
