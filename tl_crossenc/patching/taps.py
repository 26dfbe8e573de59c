"""Taps: what is called at chosen targets of a running model, and what it knows of the batch that runs.

Hooks see an activation, not the pairs that it comes from. A tap also listens to the embeddings (for the tokens) and to the
layers (for the parts, the padding and the ablations), so that an edit can depend on the part of a position whatever ran the
model: `score`, `run_with_cache`, `run_conditions` or a plain call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_crossenc.inputs.parts import Part
from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.interventions.targets import Target
from tl_crossenc.model.attention import Reading
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.fused_attention import fused_attention
from tl_crossenc.model.hook_points import HookPoint, place_free
from tl_crossenc.model.hooked_encoder import HookedEncoder

T = TypeVar("T")


class RunningBatch:
    """What is known of the batch in a model at the moment. A run that starts from a residual stream has no tokens."""

    def __init__(self) -> None:
        self.tokens: Tensor | None = None
        self.given: AttentionInput | None = None
        self._notes: dict[Hashable, Any] = {}

    def start(self, tokens: Tensor | None) -> None:
        """A new batch."""
        self.tokens, self.given = tokens, None
        self._notes.clear()

    def meet(self, given: AttentionInput) -> None:
        """A layer runs. One that runs for others than the layer before it is of a batch that did not begin with its tokens."""
        if self.given is not None and self.given is not given:
            self.start(None)
        self.given = given

    def known_given(self) -> AttentionInput:
        """Mask and parts."""
        if self.given is None:
            raise ValueError("expected a layer of the model to run before its activations are looked at; none did")
        return self.given

    def known_tokens(self) -> Int[Tensor, "pair pos"]:
        """The tokens."""
        if self.tokens is None:
            raise ValueError(
                "expected a run from the tokens on, by which another pair is drawn for each; got one with start_at_layer"
            )
        return self.tokens

    def rows_of(self, parts: Sequence[Part]) -> Bool[Tensor, "pair pos"]:
        """True at the positions of these parts; never at padding."""
        codes = self.known_given().known_parts().codes
        return torch.isin(codes, torch.tensor([int(part) for part in parts], dtype=codes.dtype, device=codes.device))

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made once a batch."""
        if key not in self._notes:
            self._notes[key] = make()
        return self._notes[key]

    def read(self, target: Target, running: Reading) -> Float[Tensor, "pair row d_head"]:
        """What every row of a direction's head reads from its attended parts, under the ablations of the moment."""
        head = slice(target.head, (target.head or 0) + 1)
        q, k, v = (tensor[:, :, head] for tensor in (running.q, running.k, running.v))
        attended = target.direction.attendeds if target.direction is not None else ()
        v = v * self.rows_of(attended)[:, :, None, None]
        if running.pattern is not None:
            return (running.pattern[:, head] @ v.transpose(1, 2))[:, 0]
        edits = running.edits and LayerEdits(running.edits.zero[head], running.edits.mask[head])
        relative = None if running.relative is None else running.relative[:, head]
        return fused_attention(q, k, v, running.given, edits, relative=relative, scale=running.scale)[:, :, 0]


Visit = Callable[[Target, Tensor, RunningBatch], Tensor | None]
"""(target, its activation `[pair, row, d]`, batch) -> what takes its place, or None."""


@contextmanager
def visiting(model: HookedEncoder, targets: Iterable[Target], visit: Visit) -> Iterator[None]:
    """Call `visit` at every target of every run inside of the `with` block; hooks are gone after it."""
    wanted, batch = tuple(targets), RunningBatch()
    with ExitStack() as stack:
        handles = [
            model.register_forward_pre_hook(place_free(lambda module, args: batch.start(None))),
            model.embed.register_forward_pre_hook(place_free(lambda module, args: batch.start(args[0]))),
        ]
        for layer in sorted({target.layer for target in wanted}):
            handles.append(model.blocks[layer].register_forward_pre_hook(_listen(batch), with_kwargs=True))
        for handle in handles:
            stack.callback(handle.remove)
        stack.enter_context(model.hooks(fwd_hooks=list(_hooks(wanted, batch, visit))))
        yield


def _listen(batch: RunningBatch) -> Callable:
    @place_free
    def listen(module: object, args: tuple, kwargs: dict) -> None:
        batch.meet({**dict(zip(("resid", "given"), args, strict=False)), **kwargs}["given"])

    return listen


def _hooks(targets: Sequence[Target], batch: RunningBatch, visit: Visit) -> Iterator[tuple[str, Callable]]:
    at: dict[str, list[Target]] = {}
    for target in targets:
        at.setdefault(target.hook_name, []).append(target)
    for name, own in at.items():
        if name.endswith("hook_z"):
            yield name, _visit_z(own, batch, visit)
        else:
            yield name, _visit_neurons(own, batch, visit) if own[0].neurons else _visit_whole(own[0], batch, visit)


def _visit_whole(target: Target, batch: RunningBatch, visit: Visit) -> Callable:
    @place_free
    def hook_function(activation: Tensor, hook: object) -> Tensor | None:
        return visit(target, activation, batch)

    return hook_function


def _visit_neurons(targets: Sequence[Target], batch: RunningBatch, visit: Visit) -> Callable:
    @place_free
    def hook_function(post: Tensor, hook: object) -> Tensor | None:
        after = post
        for target in targets:
            chosen = batch.remember(target, partial(torch.tensor, target.neurons, device=post.device))
            new = visit(target, post[:, :, chosen], batch)
            if new is not None:
                after = after.clone() if after is post else after
                after[:, :, chosen] = new
        return None if after is post else after

    return hook_function


def _visit_z(targets: Sequence[Target], batch: RunningBatch, visit: Visit) -> Callable:
    @place_free
    def hook_function(z: Tensor, hook: HookPoint) -> Tensor | None:
        after = z
        for target in targets:
            head = target.head
            before = z[:, :, head] if target.direction is None else batch.read(target, hook.running)
            new = visit(target, before, batch)
            if new is not None:
                after = after.clone() if after is z else after
                after[:, :, head] = after[:, :, head] + (new - before) if target.direction is not None else new
        return None if after is z else after

    return hook_function
