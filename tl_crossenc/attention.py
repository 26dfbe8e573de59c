"""Attention in two ways that agree, with directions removed in either.

With rows r (attenders), columns c (attended), S = q k^T / sqrt(d_head) and A = softmax(S):

- `explicit_scores` / `explicit_pattern` build S and A, `[pair, head, attender pos, attended pos]`, for whoever looks at
  them or edits them.
- `fused_attention` never builds a pattern. An edit of the attender parts X only depends on the attended position's part, so:
  `zero` of X->Y: rows of X attend to the values with Y's rows set to 0 (sum_c A[r,c] v[c] loses exactly the terms of Y);
  `mask` of X->Y: rows of X attend with Y's columns at -inf, one bias per column, shared by all rows of X.
  Each set of attender parts with the same edit costs one more fused call over the span of its rows and the heads edited.
- `part_masses`: attending to one-hot parts as values gives sum_{c in Y} A[r,c] for every part Y, in one fused call;
  `column_masses` does so for any sets of positions Y.

Masked rows with nothing left are all zeros, not NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tl_crossenc.conditions import LayerEdits
from tl_crossenc.parts import N_PARTS, PartMasks


@dataclass(frozen=True)
class AttentionInput:
    """What attention has to know of a batch besides its activations.

    Attributes:
        attention_mask: `[pair, pos]`, True at real tokens.
        parts: the positions' parts; None when they are not known, and then no direction can be removed.
        dtype: of the activations, and so of the bias.
    """

    attention_mask: Bool[Tensor, "pair pos"]
    parts: PartMasks | None
    dtype: torch.dtype

    @cached_property
    def padded(self) -> bool:
        """Whether any pair is shorter than the batch is wide. Without padding the kernels need no mask at all."""
        return not bool(self.attention_mask.all())

    @cached_property
    def bias(self) -> Float[Tensor, "pair 1 1 pos"] | None:
        """Added to the scores: 0 at real tokens, -inf at padding; None without padding."""
        return _bias(self.attention_mask[:, None, None, :], self.dtype) if self.padded else None

    def known_parts(self) -> PartMasks:
        """The parts.

        Raises:
            ValueError: they are not known.
        """
        if self.parts is None:
            raise ValueError(
                "removing a direction needs to know which position has which part: pass the pairs from "
                "model.to_pairs(query, passages), or parts=PartMasks(...) beside raw tokens"
            )
        return self.parts


@dataclass(frozen=True)
class RowGroup:
    """Attender parts that lose the same attended parts in the same heads.

    Attributes:
        heads: the heads edited, or None for all.
        attenders: the parts whose rows are edited.
        zero: attended parts whose weights are zeroed after the softmax.
        mask: attended parts whose scores are -inf before it.
    """

    heads: tuple[int, ...] | None
    attenders: tuple[int, ...]
    zero: tuple[int, ...]
    mask: tuple[int, ...]

    @property
    def silent(self) -> bool:
        """Whether nothing is left to read, so that the rows are plain zeros."""
        return len({*self.zero, *self.mask}) == N_PARTS


def edited_span(given: AttentionInput, edits: LayerEdits) -> tuple[int, int]:
    """The half-open range of positions outside of which no row of the batch is edited."""
    return given.known_parts().span({attender for group in row_groups(edits) for attender in group.attenders})


@lru_cache(maxsize=4096)
def row_groups(edits: LayerEdits) -> tuple[RowGroup, ...]:
    """The edits of a layer as groups of rows and heads that are edited alike."""
    n_heads = edits.zero.shape[0]
    heads_of: dict[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for head in range(n_heads):
        attenders_of: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for attender in range(N_PARTS):
            mask = tuple(edits.mask[head, attender].nonzero()[0].tolist())
            zero = tuple(part for part in edits.zero[head, attender].nonzero()[0].tolist() if part not in mask)
            if zero or mask:
                attenders_of.setdefault((zero, mask), []).append(attender)
        for (zero, mask), attenders in attenders_of.items():
            heads_of.setdefault((tuple(attenders), zero, mask), []).append(head)
    return tuple(
        RowGroup(None if len(heads) == n_heads else tuple(heads), attenders, zero, mask)
        for (attenders, zero, mask), heads in heads_of.items()
    )


def fused_attention(
    q: Float[Tensor, "pair row head d_head"],
    k: Float[Tensor, "pair pos head d_head"],
    v: Float[Tensor, "pair pos head d_head"],
    given: AttentionInput,
    edits: LayerEdits | None = None,
    first_row: int = 0,
) -> Float[Tensor, "pair row head d_head"]:
    """z, what each row reads, by `scaled_dot_product_attention`; `row` are positions from `first_row` on, usually all."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    groups = row_groups(edits) if edits is not None else ()
    if groups:
        given.known_parts()  # even where an edit removes all there is, as the explicit path asks for them
    everywhere = [group for group in groups if group.heads is None and len(group.attenders) == N_PARTS]
    if everywhere:
        return _edited_rows(q, k, v, given, everywhere[0]).transpose(1, 2)
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=given.bias)
    if groups and torch.is_grad_enabled():
        z = z.clone()  # the kernel keeps its own output for the backward pass
    for group in groups:
        span = given.known_parts().span(group.attenders)
        low, high = max(span[0] - first_row, 0), min(span[1] - first_row, q.shape[2])
        if low >= high:
            continue
        heads = slice(None) if group.heads is None else torch.tensor(group.heads, device=q.device)
        edited = _edited_rows(q[:, heads, low:high], k[:, heads], v[:, heads], given, group)
        rows = _is_among(given.known_parts().codes[:, None, low + first_row : high + first_row, None], group.attenders)
        z[:, heads, low:high] = torch.where(rows, edited, z[:, heads, low:high])
    return z.transpose(1, 2)


def _edited_rows(q: Tensor, k: Tensor, v: Tensor, given: AttentionInput, group: RowGroup) -> Tensor:
    """z of rows that all lose what `group` loses; tensors are `[pair, head, pos, d_head]`."""
    if group.silent:
        return torch.zeros_like(q)
    columns = given.known_parts().codes
    if group.zero:
        v = v * ~_is_among(columns[:, None, :, None], group.zero)
    if not group.mask:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=given.bias)
    kept = given.attention_mask & ~_is_among(columns, group.mask)
    alive = kept.any(-1, keepdim=True)
    bias = _bias((kept | ~alive)[:, None, None, :], given.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias) * alive[:, None, None, :]


def _is_among(codes: Tensor, parts: tuple[int, ...]) -> Tensor:
    """True where a position's part is one of `parts`."""
    among = codes == parts[0]
    for part in parts[1:]:
        among = among | (codes == part)
    return among


def _bias(kept: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(kept.shape, dtype=dtype, device=kept.device).masked_fill(~kept, -torch.inf)


def explicit_scores(
    q: Float[Tensor, "pair row head d_head"],
    k: Float[Tensor, "pair pos head d_head"],
    given: AttentionInput,
    edits: LayerEdits | None = None,
) -> Float[Tensor, "pair head row pos"]:
    """Attention scores before the softmax; -inf at padding and at what `edits` masks."""
    scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) / q.shape[-1] ** 0.5
    if given.bias is not None:
        scores = scores + given.bias
    return scores if edits is None else mask_scores(scores, given, edits)


def explicit_pattern(
    scores: Float[Tensor, "pair head row pos"], given: AttentionInput, edits: LayerEdits | None = None
) -> Float[Tensor, "pair head row pos"]:
    """Attention weights: the softmax over columns, all zeros where nothing is left, then what `edits` zeroes."""
    dead = (scores == -torch.inf).all(-1, keepdim=True)
    pattern = scores.masked_fill(dead, 0.0).softmax(-1).masked_fill(dead, 0.0)
    if edits is None:
        return pattern
    return zero_pattern(pattern, given, edits)


def mask_scores(
    scores: Float[Tensor, "pair head row pos"], given: AttentionInput, edits: LayerEdits
) -> Float[Tensor, "pair head row pos"]:
    """The scores with -inf at every direction that `edits` masks."""
    return scores.masked_fill(_cells(edits.mask, scores, given), -torch.inf) if edits.mask.any() else scores


def zero_pattern(
    pattern: Float[Tensor, "pair head row pos"], given: AttentionInput, edits: LayerEdits
) -> Float[Tensor, "pair head row pos"]:
    """The pattern with 0 at every direction that `edits` zeroes."""
    return pattern.masked_fill(_cells(edits.zero, pattern, given), 0.0) if edits.zero.any() else pattern


def _cells(grid, like: Tensor, given: AttentionInput) -> Bool[Tensor, "pair head row pos"]:
    """True at the cells of a pattern that lie in a direction of `grid`, `[head, attender part, attended part]`."""
    codes = given.known_parts().codes.long()
    if codes.shape != (like.shape[0], like.shape[3]):
        raise ValueError(
            f"expected an input of the shape whose parts are given, {tuple(codes.shape)} [pair, pos]; "
            f"got a pattern over {(like.shape[0], like.shape[3])}: make the hooks from the pairs that are run"
        )
    padded = torch.zeros(grid.shape[0], N_PARTS + 1, N_PARTS + 1, dtype=torch.bool, device=like.device)
    padded[:, :N_PARTS, :N_PARTS] = torch.from_numpy(grid).to(like.device)
    rows = codes[:, : like.shape[2]]
    return padded[:, rows[:, :, None], codes[:, None, :]].transpose(0, 1)


def part_masses(
    q: Float[Tensor, "pair row head d_head"],
    k: Float[Tensor, "pair pos head d_head"],
    given: AttentionInput,
) -> Float[Tensor, "pair row head part"]:
    """The attention that each row gives to each of the five parts, without building a pattern."""
    return column_masses(q, k, given, given.known_parts().one_hot)


def column_masses(
    q: Float[Tensor, "pair row head d_head"],
    k: Float[Tensor, "pair pos head d_head"],
    given: AttentionInput,
    columns: Bool[Tensor, "pair pos set"],
) -> Float[Tensor, "pair row head set"]:
    """The attention that each row gives to each set of positions, without building a pattern.

    The one-hot values are filled up with zeros to the width of the queries, since the fused kernels want equal sizes.

    Args:
        q, k: queries and keys.
        given: the batch.
        columns: True where a position is in a set; a position may be in many sets or in none.
    """
    d_head, n_sets = q.shape[-1], columns.shape[-1]
    if d_head < n_sets:
        q, k = (F.pad(tensor, (0, n_sets - d_head)) for tensor in (q, k))
    values = F.pad(columns.to(q.dtype), (0, q.shape[-1] - n_sets))[:, None].expand(-1, q.shape[2], -1, -1)
    masses = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), values, attn_mask=given.bias, scale=d_head**-0.5
    )
    return masses[..., :n_sets].transpose(1, 2)
