"""The terms of the attention scores between query and passage tokens, token pair by token pair, in one layer; see `qk_terms`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.instruments.qk import DOC, MATCHED_PARTS, QUERY
from tl_crossenc.model.hooked_encoder import HookedEncoder

ORIENTATIONS = ((QUERY, DOC), (DOC, QUERY))
"""(attender, attended) of the axis `direction`."""


def pairs_of_tokens(
    batch: PairBatch, row: int, column: int, window: int | None = None
) -> tuple[Bool[Tensor, "pair row column"], Bool[Tensor, "pair row column"]]:
    """Over the spans of both parts: which token pairs count, and which of them are of the same word piece.

    With a window, only those count that lie at most so far apart.
    """
    (low, high), (left, right) = (batch.parts.span([MATCHED_PARTS[part]]) for part in (row, column))
    rows, columns = (batch.parts[MATCHED_PARTS[part]] for part in (row, column))
    kept = rows[:, low:high, None] & columns[:, None, left:right]
    if window is not None:
        at = torch.arange(rows.shape[1], device=rows.device)
        kept = kept & ((at[low:high, None] - at[left:right]).abs() <= window)
    tokens: Int[Tensor, "pair pos"] = batch.tokens
    return kept, kept & (tokens[:, low:high, None] == tokens[:, None, left:right])


@dataclass(frozen=True)
class _Projected:
    """A part's tokens, `[pair, head, pos, d_head]`, and its mean, `[head, d_head]`, as attenders (q) and as attended (k).

    With rotary positions all are turned, and so there is a mean at each position, `[1, head, pos, d_head]`.
    """

    q: Tensor
    k: Tensor
    mean_q: Tensor
    mean_k: Tensor


def term_grids(
    model: HookedEncoder, layer: int, read: Float[Tensor, "pair pos d_model"], batch: PairBatch, means: Tensor
) -> list[Float[Tensor, "pair term head row column"]]:
    """For each of `ORIENTATIONS` the terms, scaled as the softmax sees them, over the spans of both parts.

    Args:
        model: the model.
        layer: the layer.
        read: what its attention reads.
        batch: the pairs.
        means: `[layer, part, d_model]`, what the terms are told apart by.
    """
    attn = model.block(layer).attn
    relative = scale = None
    if model.cfg.relative is not None:
        q, k = (torch.einsum("bpd,hde->bphe", read, W) + b for W, b in ((attn.W_Q, attn.b_Q), (attn.W_K, attn.b_K)))
        relative, scale = attn.terms(q, k)
    projected = [_project(model, layer, read, batch, part, means, scale) for part in range(len(MATCHED_PARTS))]
    found = []
    for row, column in ORIENTATIONS:
        terms = _content(projected[row], projected[column])
        if relative is not None:
            (low, high), (left, right) = (batch.parts.span([MATCHED_PARTS[part]]) for part in (row, column))
            terms.append(relative[:, :, low:high, left:right].double().expand_as(terms[0]))
        found.append(torch.stack(terms, 1))
    return found


def _project(
    model: HookedEncoder, layer: int, read: Tensor, batch: PairBatch, part: int, means: Tensor, scale: float | None
) -> _Projected:
    low, high = batch.parts.span([MATCHED_PARTS[part]])
    centred = read[:, low:high].double() - means[layer, part]
    kind = torch.float64 if model.dtype == torch.float64 else torch.float32
    W_Q = model.W_Q[layer] / model.cfg.d_head**0.5 if scale is None else model.W_Q[layer] * scale
    W_K = model.W_K[layer]
    q, k = (torch.einsum("bpd,hde->bhpe", centred.to(kind), weight.to(kind)).double() for weight in (W_Q, W_K))
    mean_q, mean_k = (torch.einsum("d,hde->he", means[layer, part], weight.double()) for weight in (W_Q, W_K))
    rotary = model.block(layer).attn.rotary
    if rotary is None:
        return _Projected(q, k, mean_q, mean_k)
    everywhere = (mean[None, :, None].expand(1, -1, high - low, -1) for mean in (mean_q, mean_k))
    turned = (rotary.rotate(x.transpose(1, 2), low).transpose(1, 2) for x in (q, k, *everywhere))
    return _Projected(*turned)


def _content(rows: _Projected, columns: _Projected) -> list[Tensor]:
    """constant, attender, attended, interaction."""
    interaction = rows.q @ columns.k.transpose(-2, -1)
    if rows.mean_q.ndim > 2:
        sides = ((rows.mean_q, columns.mean_k), (rows.q, columns.mean_k), (rows.mean_q, columns.k))
        return [*((q @ k.transpose(-2, -1)).expand_as(interaction) for q, k in sides), interaction]
    constant = (rows.mean_q * columns.mean_k).sum(-1)[:, None, None].expand_as(interaction)
    attender = torch.einsum("bhne,he->bhn", rows.q, columns.mean_k)[..., None].expand_as(interaction)
    attended = torch.einsum("he,bhme->bhm", rows.mean_q, columns.k)[..., None, :].expand_as(interaction)
    return [constant, attender, attended, interaction]
