"""Attention in the open, with directions removed, and attention by sets of positions.

With rows r (attenders), columns c (attended), S = q k^T / sqrt(d_head) and A = softmax(S):

- `explicit_scores` / `explicit_pattern` build S and A, `[pair, head, attender pos, attended pos]`, for whoever looks at
  them or edits them; `fused_attention` gives what they give without building a pattern.
- `one_row_attention`: a single row needs neither keys nor values: S[0,c] = (W_K^T q) x[c] and sum_c A[0,c] v[c] = W_V sum_c
  A[0,c] x[c], so that for each position two vectors a head are read in place of two matrices.
- `column_masses`: attending to one-hot sets of positions Y as values gives sum_{c in Y} A[r,c] for each, in one fused call.

With `relative`, `[pair, head, row, pos]`, that is added to S; with `scale`, it stands in the place of 1/sqrt(d_head). A window is
the batch's own (`AttentionInput.within`). Rows are those from the first on; masked rows with nothing left are all zeros, not NaN.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tl_crossenc.inputs.parts import N_PARTS
from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.model.attention_input import AttentionInput

ZERO, MASK = 0, 1


class Reading(NamedTuple):
    """What attention is computed from in the layer that runs; q, k and v are `[pair, pos, head, d_head]`, q of the rows only.

    `pattern`, `[pair, head, row, pos]`, is there past a pattern that was looked at, `relative` and `scale` where the layer has
    them.
    """

    given: AttentionInput
    edits: LayerEdits | None
    q: Tensor
    k: Tensor
    v: Tensor
    pattern: Tensor | None = None
    relative: Tensor | None = None
    scale: float | None = None


def explicit_scores(
    q: Float[Tensor, "pair row head d_head"],
    k: Float[Tensor, "pair pos head d_head"],
    given: AttentionInput,
    edits: LayerEdits | None = None,
    *,
    relative: Float[Tensor, "pair_or_1 head row pos"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "pair head row pos"]:
    """Attention scores before the softmax; -inf at padding, outside of the window and at what `edits` masks."""
    scores = _scaled(q.transpose(1, 2) @ k.permute(0, 2, 3, 1), q.shape[-1], scale)
    bias = added_to_scores(given.bias_of(0, q.shape[1]), relative)
    if bias is not None:
        scores = scores + bias
    return scores if edits is None else mask_scores(scores, given, edits)


def _scaled(products: Tensor, d_head: int, scale: float | None) -> Tensor:
    return products / d_head**0.5 if scale is None else products * scale


def added_to_scores(bias: Tensor | None, relative: Tensor | None) -> Tensor | None:
    """What is added to the scores in all: which cells may be read, and what `relative` adds to each."""
    if relative is None:
        return bias
    return relative if bias is None else relative + bias


def explicit_pattern(
    scores: Float[Tensor, "pair head row pos"], given: AttentionInput, edits: LayerEdits | None = None
) -> Float[Tensor, "pair head row pos"]:
    """Attention weights: the softmax over columns, all zeros where nothing is left, then what `edits` zeroes."""
    dead = (scores == -torch.inf).all(-1, keepdim=True)
    pattern = scores.masked_fill(dead, 0.0).softmax(-1).masked_fill(dead, 0.0)
    if edits is None:
        return pattern
    return zero_pattern(pattern, given, edits)


def one_row_attention(
    q: Float[Tensor, "pair row head d_head"],
    resid: Float[Tensor, "pair pos d_model"],
    W_K: Float[Tensor, "head d_head d_model"],
    W_V: Float[Tensor, "head d_head d_model"],
    b_V: Float[Tensor, "head d_head"],
    given: AttentionInput,
    edits: LayerEdits | None = None,
    *,
    relative: Float[Tensor, "pair_or_1 head row pos"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "pair row head d_head"]:
    """z of the first row alone, from the residual stream that keys and values would be projected from.

    The keys' bias adds the same to all of the row's scores, which the softmax does not see; the values' bias counts for as much
    attention as is left after zeroing. Keys that differ from their projection, as with rotary positions, cannot be read so.
    """
    folded = (q[:, 0].transpose(0, 1) @ W_K).transpose(0, 1)
    scores = _scaled((folded @ resid.transpose(1, 2)).unsqueeze(2), q.shape[-1], scale)
    bias = added_to_scores(given.bias_of(0, 1), relative)
    if bias is not None:
        scores = scores + bias
    if edits is not None:
        scores = mask_scores(scores, given, edits)
    pattern = explicit_pattern(scores, given, edits).squeeze(2)
    read = (pattern @ resid).transpose(0, 1) @ W_V.transpose(1, 2)
    return (read.transpose(0, 1) + pattern.sum(-1, keepdim=True) * b_V).unsqueeze(1)


def mask_scores(
    scores: Float[Tensor, "pair head row pos"], given: AttentionInput, edits: LayerEdits
) -> Float[Tensor, "pair head row pos"]:
    """The scores with -inf at every direction that `edits` masks."""
    return scores.masked_fill(_cells(edits, MASK, scores, given), -torch.inf) if edits.mask.any() else scores


def zero_pattern(
    pattern: Float[Tensor, "pair head row pos"], given: AttentionInput, edits: LayerEdits
) -> Float[Tensor, "pair head row pos"]:
    """The pattern with 0 at every direction that `edits` zeroes."""
    return pattern.masked_fill(_cells(edits, ZERO, pattern, given), 0.0) if edits.zero.any() else pattern


def _cells(edits: LayerEdits, which: int, like: Tensor, given: AttentionInput) -> Bool[Tensor, "pair head row pos"]:
    """True at the cells of a pattern that lie in a direction that `edits` zeroes or masks."""
    codes = given.known_parts().codes.long()
    if codes.shape != (like.shape[0], like.shape[3]):
        raise ValueError(
            f"expected an input of the shape whose parts are given, {tuple(codes.shape)} [pair, pos]; "
            f"got a pattern over {(like.shape[0], like.shape[3])}: make the hooks from the pairs that are run"
        )
    grid = _grids(edits, like.device)[which]
    rows = codes[:, : like.shape[2]]
    return grid[:, rows[:, :, None], codes[:, None, :]].transpose(0, 1)


@lru_cache(maxsize=4096)
def _grids(edits: LayerEdits, device: torch.device) -> tuple[Tensor, Tensor]:
    """What `edits` zeroes and masks, `[head, attender part, attended part]`, with padding as a sixth part that it leaves alone.

    Kept, since a copy to a device waits for it.
    """
    grids = []
    for edited in (edits.zero, edits.mask):
        grid = torch.zeros(edited.shape[0], N_PARTS + 1, N_PARTS + 1, dtype=torch.bool)
        grid[:, :N_PARTS, :N_PARTS] = torch.from_numpy(edited)
        grids.append(grid.to(device))
    return grids[0], grids[1]


def column_masses(
    q: Float[Tensor, "pair row head d_head"],
    k: Float[Tensor, "pair pos head d_head"],
    given: AttentionInput,
    columns: Bool[Tensor, "pair pos set"],
    *,
    relative: Float[Tensor, "pair_or_1 head row pos"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "pair row head set"]:
    """The attention that each row gives to each set of positions, without building a pattern.

    The one-hot values are filled up with zeros to the width of the queries, since the fused kernels want equal sizes.

    Args:
        q, k: queries and keys.
        given: the batch.
        columns: True where a position is in a set; a position may be in many sets or in none.
        relative, scale: see the module.
    """
    d_head, n_sets = q.shape[-1], columns.shape[-1]
    if d_head < n_sets:
        q, k = (F.pad(tensor, (0, n_sets - d_head)) for tensor in (q, k))
    values = F.pad(columns.to(q.dtype), (0, q.shape[-1] - n_sets))[:, None].expand(-1, q.shape[2], -1, -1)
    bias = added_to_scores(given.bias_of(0, q.shape[1]), relative)
    masses = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), values, attn_mask=bias, scale=d_head**-0.5 if scale is None else scale
    )
    return masses[..., :n_sets].transpose(1, 2)
