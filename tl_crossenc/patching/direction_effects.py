"""What removing each direction in each head would do to each score, to first order, from one forward and one backward pass.

**Formula.** With s the score, z[r, h] what head h reads at position r, A its pattern and v its values, zeroing the weights of the
direction X->Y (mode `zero`) takes sum_{c in Y} A[r, c] v[c] off z[r, h] for r in X, and changes the score by about

    e(X->Y, h)  =  - sum_{r in X}  ds/dz[r, h] . sum_{c in Y} A[r, c] v[c],

the first term of its Taylor series: attribution patching (Nanda 2023; Syed, Rager & Conmy 2023) with nothing as the donor. A
head's 25 effects sum to that of removing the head. No pattern is built.

**Limits.** Those of `attribution`: exact where the score is linear in what is removed. The mode `mask`, which hands a row's weight
to the other columns, has other effects.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.inputs.parts import N_PARTS, REAL_PARTS
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.runs import capturing

READ = ("q", "k", "v", "z")


def direction_effects(
    model: HookedCrossEncoder,
    pairs: EncodedPairs | PairBatch,
    *,
    token_budget: int = DEFAULT_TOKEN_BUDGET // 2,
    advance: Callable[[int], object] = lambda layer_runs: None,
) -> Float64[np.ndarray, "pair layer head attender attended"]:
    """The estimated change of every score by the removal of every direction between two parts in every head.

    Args:
        model: the model; what it ablates at the moment stays removed, and has no effect.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        token_budget: padded tokens a batch; the pass holds the activations of all layers.
        advance: called after each batch with layers run forward and backward, a layer of one pair counting 1.

    Raises:
        ValueError: hooks on the model.
    """
    if model.hooked:
        raise ValueError(
            "expected a model without hooks to read effects of, but some are on it: call model.reset_hooks()"
        )
    given, cfg = as_encoded(pairs), model.cfg
    effects = np.zeros((len(given), cfg.n_layers, cfg.n_heads, N_PARTS, N_PARTS))
    for indices in length_batches(given.lengths, token_budget):
        effects[indices] = _of_batch(model, given.batch(indices).to(model.device))
        advance(2 * cfg.n_layers * len(indices))
    return effects


def _of_batch(model: HookedCrossEncoder, batch: PairBatch) -> np.ndarray:
    given = model.attention_input(batch.attention_mask, batch.parts)
    edits = model.active_condition.compile(model.cfg.n_layers, model.cfg.n_heads)
    kept: list[dict[str, Tensor]] = [{} for _ in range(model.cfg.n_layers)]
    with torch.no_grad():
        resid = model.run_embed(batch.tokens, batch.token_type_ids)
    with torch.enable_grad():
        resid.requires_grad_()
        for layer in range(model.cfg.n_layers):
            alone = layer == model.cfg.n_layers - 1
            with ExitStack() as stack:
                stack.enter_context(capturing(model, layer, READ, kept[layer]))
                resid = model.run_layer(layer, resid, given, edits[layer], only_cls=alone)
        scores = model.score_of(model.read_out(resid, given.attention_mask))
        gradients = torch.autograd.grad(scores.sum(), [layer["z"] for layer in kept])
    parts = batch.parts.codes
    found = np.zeros((len(batch), model.cfg.n_layers, model.cfg.n_heads, N_PARTS, N_PARTS))
    with torch.no_grad():
        for layer, (sides, gradient) in enumerate(zip(kept, gradients, strict=True)):
            q, k, v = (sides[name].detach() for name in READ[:3])
            rows = torch.stack([parts == int(part) for part in REAL_PARTS], -1)[:, : gradient.shape[1]]
            for attended in REAL_PARTS:
                columns = (parts == int(attended))[:, :, None, None]
                read = model.block(layer).attn.attend(q, k, v * columns, given, edits[layer])
                change = (read * gradient).sum(-1).double()  # [pair, row, head]
                summed = torch.einsum("prh,prx->phx", change, rows.double())
                found[:, layer, :, [int(part) for part in REAL_PARTS], int(attended)] = (
                    -summed.permute(2, 0, 1).cpu().numpy()
                )
    return found
