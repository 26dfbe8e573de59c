"""Attention by the fused kernel, with directions removed and no pattern built.

`attention` computes the same in the open. An edit of the attender parts X only depends on the attended position's part, so that
rows with the same edit, a `RowGroup`, are edited together, in one of two ways:

- Again: the rows attend once more, to the values with Y's set to 0 (`zero` of X->Y: sum_c A[r,c] v[c] loses exactly the terms of Y)
  or with a bias of -inf on Y's columns (`mask`). Cheap where the rows are few or the heads are.
- At once: where most rows are edited, in all heads, one call with a bias a cell, -inf on Y's columns in the rows of X. That
  is `mask`; `zero` is that times the share of the softmax's denominator that is not Y's, for which Y's scores are computed
  alone.

Neither ever reads the values that are removed, so that no rounding of theirs is left; and rows that no group edits come from the
kernel as if there were no edit, to the bit.

What `relative` adds to the scores, and which cells a window leaves, go into each call's bias; a row of which window and mask leave
nothing is all zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.inputs.parts import N_PARTS, PartMasks
from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.model.attention import added_to_scores
from tl_crossenc.model.attention_input import AttentionInput, additive_bias

MOST_ROWS = 0.5
"""The share of the rows from which on they are edited at once."""
FEW_COLUMNS = 0.5
"""The share of the columns up to which computing their scores alone is cheaper than attending again."""


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
    *,
    relative: Float[Tensor, "pair_or_1 head row pos"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "pair row head d_head"]:
    """z, what each row reads, by `scaled_dot_product_attention`; `row` are positions from `first_row` on, usually all.

    Args:
        q, k, v: queries, keys and values.
        given: the batch, within the layer's window.
        edits: what is removed.
        first_row: the position of the first row.
        relative: added to the rows' scores before the softmax.
        scale: of the queries' products with keys, in place of 1/sqrt(d_head).
    """
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    groups = row_groups(edits) if edits is not None else ()
    if not groups:
        bias = added_to_scores(given.bias_of(first_row, first_row + q.shape[2]), relative)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale).transpose(1, 2)
    parts = given.known_parts()
    everywhere = [group for group in groups if group.heads is None and len(group.attenders) == N_PARTS]
    if everywhere:
        return _attend_again(q, k, v, given, everywhere[0], first_row, relative, scale).transpose(1, 2)
    inputs = (q, k, v) if relative is None else (q, k, v, relative)
    differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    at_once = () if differentiated else _edited_at_once(q, parts, groups, first_row)
    if at_once:
        z = _attend_by_cell(q, k, v, given, at_once, first_row, relative, scale)
    else:
        bias = added_to_scores(given.bias_of(first_row, first_row + q.shape[2]), relative)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        del bias  # as large as a pattern where there is `relative`
    if differentiated:
        z = z.clone()  # the kernel keeps its own output for the backward pass
    for group in groups:
        low, high = _rows_of(group, parts, first_row, q.shape[2])
        if group in at_once or low >= high:
            continue
        heads = slice(None) if group.heads is None else torch.tensor(group.heads, device=q.device)
        added = None if relative is None else relative[:, heads, low:high]
        edited = _attend_again(
            q[:, heads, low:high], k[:, heads], v[:, heads], given, group, first_row + low, added, scale
        )
        rows = _is_among(parts.codes[:, None, low + first_row : high + first_row, None], group.attenders)
        z[:, heads, low:high] = torch.where(rows, edited, z[:, heads, low:high])
    return z.transpose(1, 2)


def _rows_of(group: RowGroup, parts: PartMasks, first_row: int, n_rows: int) -> tuple[int, int]:
    """The half-open range of rows, counted from `first_row`, outside of which no pair has one that `group` edits."""
    low, high = parts.span(group.attenders)
    return max(low - first_row, 0), min(high - first_row, n_rows)


def _attend_again(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    given: AttentionInput,
    group: RowGroup,
    first_row: int,
    relative: Tensor | None,
    scale: float | None,
) -> Tensor:
    """z of rows that all lose what `group` loses; tensors are `[pair, head, pos, d_head]`."""
    if group.silent:
        return torch.zeros_like(q)
    columns, last_row = given.known_parts().codes, first_row + q.shape[2]
    if group.zero:
        v = v * ~_is_among(columns[:, None, :, None], group.zero)
    if not group.mask:
        bias = added_to_scores(given.bias_of(first_row, last_row), relative)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    kept = given.readable(first_row, last_row) & ~_is_among(columns, group.mask)[:, None]
    alive = kept.any(-1, keepdim=True)
    bias = added_to_scores(additive_bias(kept | ~alive, given.dtype)[:, None], relative)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale) * alive[:, None]


def _edited_at_once(q: Tensor, parts: PartMasks, groups: Sequence[RowGroup], first_row: int) -> tuple[RowGroup, ...]:
    """The groups that `_attend_by_cell` is to edit: where it can, those for which attending again would cost more.

    PyTorch has no public function that gives the softmax's denominator, so that its kernel is called by name: the one for the
    CPU, which `scaled_dot_product_attention` would run. Its denominator has no gradient.
    """
    kernel = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    precise = q.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    if kernel is None or q.device.type != "cpu" or not precise:
        return ()
    few_columns = FEW_COLUMNS * parts.codes.shape[1]
    found = []
    for group in groups:
        low, high = _rows_of(group, parts, first_row, q.shape[2])
        n_columns = sum(stop - start for start, stop in _ranges(parts, group.zero))
        if (
            group.heads is None
            and not group.silent
            and high - low >= max(MOST_ROWS * q.shape[2], 1)
            and n_columns <= few_columns
        ):
            found.append(group)
    return tuple(found)


def _attend_by_cell(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    given: AttentionInput,
    groups: Sequence[RowGroup],
    first_row: int,
    relative: Tensor | None,
    scale: float | None,
) -> Tensor:
    """z with the edits of `groups`, which edit all heads, by one call; tensors are `[pair, head, pos, d_head]`."""
    parts, n_rows = given.known_parts(), q.shape[2]
    row_codes, column_codes = parts.codes[:, first_row : first_row + n_rows, None], parts.codes[:, None, :]
    readable = given.readable(first_row, first_row + n_rows)
    kept = readable.expand(-1, n_rows, -1)
    for group in groups:
        lost = _is_among(column_codes, (*group.zero, *group.mask))
        kept = kept & ~(_is_among(row_codes, group.attenders) & lost)
    alive = kept.any(-1, keepdim=True)
    bias = added_to_scores(additive_bias(kept | ~alive, given.dtype)[:, None], relative)
    z, log_kept = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias, scale=scale)
    del bias
    if not alive.all():
        z.mul_(alive[:, None])
    for group in groups:
        low, high = _rows_of(group, parts, first_row, n_rows)
        ranges = _ranges(parts, group.zero)
        if not ranges:
            continue
        columns = _columns(k, ranges, 2)
        among = _is_among(_columns(parts.codes, ranges, 1), group.zero)[:, None]
        if given.window is not None:
            among = among & _columns(readable[:, low:high], ranges, 2)
        scores = (q[:, :, low:high] @ columns.transpose(2, 3)).mul_(q.shape[-1] ** -0.5 if scale is None else scale)
        if relative is not None:
            scores += _columns(relative[:, :, low:high], ranges, 3)
        weights = scores.sub_(log_kept[:, :, low:high, None]).exp_()  # in units of what is kept; inf leaves nothing
        left = 1 / (1 + weights.masked_fill_(~among[:, None], 0.0).sum(-1))
        rows = _is_among(row_codes[:, None, low:high, 0], group.attenders)
        z[:, :, low:high] *= torch.where(rows, left, 1.0)[..., None]
    return z


def _ranges(parts: PartMasks, chosen: Iterable[int]) -> list[tuple[int, int]]:
    """The disjoint half-open ranges of positions outside of which no pair of the batch has one of the chosen parts."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(parts.spans[part] for part in chosen):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        elif low < high:
            found.append((low, high))
    return found


def _columns(tensor: Tensor, ranges: Sequence[tuple[int, int]], axis: int) -> Tensor:
    """The tensor at some ranges of its axis of positions, one after the other."""
    return torch.cat([tensor.narrow(axis, start, stop - start) for start, stop in ranges], axis)


def _is_among(codes: Tensor, parts: tuple[int, ...]) -> Tensor:
    """True where a position's part is one of `parts`."""
    among = codes == parts[0]
    for part in parts[1:]:
        among = among | (codes == part)
    return among
