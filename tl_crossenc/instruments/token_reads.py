"""What the rows that the head reads take from each token: attention, and what it is worth to the score.

With A the pattern of a head of layer l, v its values, W_O its output and r a row that the head reads (CLS, or every row where it
reads their mean), g_r[l] being what a write of layer l at row r is worth (`direct_attribution`):

    attention[j] = mean over layers, heads and read rows of A[r, j]
    direct[j]    = sum over layers, heads and read rows of A[r, j] (v_j W_O) . g_r[l]

The second splits the heads' direct contributions by the token that they read from: it adds up to them over all tokens, and leaves
out what embeddings, MLPs and biases write themselves.

**Limits.** One step: what a token gave to others, which the row reads there, is theirs. Raw attention past layer 0 is to positions
that hold what was moved to them, and says nothing of the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.console.framed import Framed
from tl_crossenc.inputs.batching import run_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.instruments.row_writes import held_points, rows_read
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.held_run import HeldRun
from tl_crossenc.model.hook_points import FwdHooks
from tl_crossenc.model.made_by import recorded
from tl_crossenc.model.resumed_run import check_unhooked


@dataclass(frozen=True)
class TokenReads(Framed):
    """What is read of each token, of all pairs end to end.

    Attributes:
        attention: 0 to 1; adds up to 1 over a pair where nothing is ablated.
        direct: in the unit of the score.
    """

    attention: Float[np.ndarray, "token"]
    direct: Float[np.ndarray, "token"]


@recorded
def token_reads(
    model: HookedCrossEncoder,
    pairs: EncodedPairs | PairBatch,
    *,
    token_budget: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> TokenReads:
    """Attention to each token and its worth, with what the model ablates at the moment; tanh and its like by their secant.

    Args:
        model: the model, without hooks.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        token_budget: padded tokens a batch; patterns of all layers are held.
        progress: called with the pairs done after each batch.

    Raises:
        ValueError: no pairs, hooks on the model, or attention that is no finite number.
    """
    pairs = as_encoded(pairs)
    check_unhooked(model)
    if not len(pairs):
        raise ValueError("expected at least one pair, got none")
    found = TokenReads(np.zeros(len(pairs.tokens)), np.zeros(len(pairs.tokens)))

    def run(indices: np.ndarray) -> None:
        batch = pairs.batch(indices).to(model.device)
        real = batch.attention_mask.cpu().numpy()
        at = (pairs.offsets[indices][:, None] + np.arange(real.shape[1]))[real]
        for values, of_batch in zip((found.attention, found.direct), _batch_reads(model, batch), strict=True):
            values[at] = of_batch.cpu().numpy()[real]

    for indices, _ in run_batches(pairs.lengths, model.token_budget(token_budget), run):
        if progress is not None:
            progress(len(indices))
    if not all(np.isfinite(values).all() for values in (found.attention, found.direct)):
        raise ValueError(
            "expected finite attention, but some is NaN or infinite: check the checkpoint's weights, or use dtype float32"
        )
    return found


def _batch_reads(model: HookedCrossEncoder, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """(attention, direct) `[pair, pos]`, float64."""
    rows, _ = rows_read(model, batch, held_points(model))
    n_rows = 1 if model.head.reads_only_first_row else batch.tokens.shape[1]
    patterns, values = _read_points(model, batch, n_rows)
    shares = batch.attention_mask[:, :n_rows].double()
    shares = shares / shares.sum(1, keepdim=True)
    attention = torch.stack([torch.einsum("phrj,pr->pj", p, shares) / p.shape[1] for p in patterns]).mean(0)
    held = HeldRun(rows)
    g = model.head.carry_back(held, "secant", batch.attention_mask).resid.flatten(0, 1)
    W_O, direct = model.W_O.double(), torch.zeros_like(attention)
    for layer in reversed(range(model.cfg.n_layers)):
        worth = model.block(layer).carry_back(held, g)
        # of padding 0: the head reads none of it
        read = torch.einsum("xd,hed->xhe", worth.attn_out, W_O[layer]).unflatten(0, (-1, n_rows))
        weighted = torch.einsum("phrj,prhe->pjhe", patterns[layer], read)
        direct += (weighted * values[layer]).sum((-1, -2))
        g = worth.resid_pre
    return attention, direct


def _read_points(model: HookedCrossEncoder, batch: PairBatch, n_rows: int) -> tuple[list[Tensor], list[Tensor]]:
    """By layer the read rows of the pattern `[pair, head, row, pos]` and the values `[pair, pos, head, d_head]`, float64."""
    patterns: list[Tensor] = []
    values: list[Tensor] = []

    def pattern(found: Tensor, hook: object) -> None:
        patterns.append(found[:, :, :n_rows].double())

    def value(found: Tensor, hook: object) -> None:
        values.append(found.double())

    hooks: FwdHooks = []
    for layer in range(model.cfg.n_layers):
        block = model.block(layer)
        hooks += [(block.name_of("attn.hook_pattern"), pattern), (block.name_of("attn.hook_v"), value)]
    with torch.no_grad():
        model.run_with_hooks(batch, fwd_hooks=hooks)
    return patterns, values
