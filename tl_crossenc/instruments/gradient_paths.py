"""The straight paths of integrated gradients: their ends, and the integral on them (`integrated_gradients.py` has the formula)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.instruments.attributed_difference import Attributed, Edits
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.block import Stage
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.hook_points import FwdHooks
from tl_crossenc.model.resumed_run import select_pairs


def path_integral(
    onward: Callable[[Tensor, AttentionInput], Tensor],
    end: Float[Tensor, "pair pos d_model"],
    start: Float[Tensor, "pair pos d_model"],
    given: AttentionInput,
    nodes: int,
    token_budget: int,
) -> Float[Tensor, "pair pos d_model"]:
    """(end - start) times the mean gradient of `onward` on the straight line from `start` to `end`; several nodes a pass."""
    at, weights = np.polynomial.legendre.leggauss(nodes)
    at, weights = 0.5 * (1 + at), 0.5 * weights
    n, width = end.shape[:2]
    together = max(token_budget // (n * max(width, 1)), 1)
    step, total = end - start, torch.zeros_like(end)
    for first in range(0, nodes, together):
        times = torch.from_numpy(at[first : first + together]).to(end)
        shares = torch.from_numpy(weights[first : first + together]).to(end)
        copies = (
            given if len(times) == 1 else select_pairs(given, torch.arange(n, device=end.device).repeat(len(times)))
        )
        points = (start + times[:, None, None, None] * step).flatten(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(onward(points, copies).sum(), points)
        total += torch.einsum("t,tnpd->npd", shares, gradient.unflatten(0, (len(times), n)))
    return total * step


def streams_and_score(
    model: HookedCrossEncoder,
    batch: PairBatch,
    given: AttentionInput,
    edits: Edits,
    layers: Sequence[int],
    stage: Stage,
    attributed: Attributed,
) -> tuple[list[Tensor], np.ndarray]:
    """The stream `[pair, pos, d_model]` at the stage of each layer, and what is attributed, `[pair]`."""
    kept: dict[int, Tensor] = {}
    resid = model.run_embed(batch.tokens, batch.token_type_ids)
    for layer in range(model.cfg.n_layers):
        hooks: FwdHooks = []
        if layer in layers and stage == "pre":
            kept[layer] = resid
        elif layer in layers:
            hooks = [(model.block(layer).stream_name(stage), _keeper(kept, layer))]
        with model.hooks(fwd_hooks=hooks):
            resid = model.run_layer(layer, resid, given, edits[layer])
    kept[model.cfg.n_layers] = resid
    logits = model.read_out(resid, given.attention_mask)
    return [kept[layer] for layer in layers], attributed(logits).to("cpu", torch.float64).numpy()


def _keeper(kept: dict[int, Tensor], layer: int) -> Callable:
    def keep(activation: Tensor, hook: object) -> None:
        kept[layer] = activation

    return keep
