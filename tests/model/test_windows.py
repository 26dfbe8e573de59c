"""Attention within a window, with something added to each score and another scale, against a row-by-row reference."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from attention_cases import ablations, compiled, given, projections
from tiny_models import N_HEADS, SIDES, tiny_rows, to_batch

from tl_crossenc.model import fused_attention as fused_module
from tl_crossenc.model.attention import (
    column_masses,
    explicit_pattern,
    explicit_scores,
    mask_scores,
    one_row_attention,
)
from tl_crossenc.model.attention_input import columns_seen
from tl_crossenc.model.fused_attention import fused_attention

PADDED = ((3, 13), (6, 3), (1, 2), (2, 0))  # 19, 12, 6 and 5 positions
WHOLE = ((3, 13), (5, 11))  # 19 positions both
WINDOWS = (0, 2, 7, None)
CONDITIONS = (
    "none",
    "zero(ALL->ALL)",
    "mask(ALL->ALL)",
    "zero(ALL->DOC)",
    "mask(ALL->DOC)",  # a window of 2 leaves the passage's middle nothing
    "mask(DOC->DOC) + zero(DOC->SEP1)",
    "zero(DOC->DOC)",
    "zero(DOC->QUERY) + mask(DOC->SEP1)",
    "mask(DOC->QUERY; heads=1)",
    "zero(CLS->DOC) + mask(CLS->QUERY) + mask(SEP1->SEP1; heads=2) + mask(CLS->CLS; heads=0)",
    "mask(DOC->QUERY) + zero(DOC->SEP1) + zero(SEP2->QUERY; heads=0,2) + zero(QUERY->SEP2; heads=1)",
)


def added(batch, pairs, seed=5):
    """What is added to the scores, `[pair or 1, head, row, pos]`; None for no pairs."""
    n_pairs, n = batch.tokens.shape
    shape = (1 if pairs == "shared" else n_pairs, N_HEADS, n, n)
    generator = torch.Generator().manual_seed(seed)
    return None if pairs is None else 2 * torch.randn(shape, generator=generator, dtype=torch.float64)


def reference(q, k, v, rows, text, window, relative, scale):
    """(pattern, z) of every pair without its padding, one row at a time."""
    results = []
    for pair, (tokens, _, parts) in enumerate(rows):
        n = len(tokens)
        pattern, z = np.zeros((N_HEADS, n, n)), np.zeros((n, N_HEADS, v.shape[-1]))
        for head in range(N_HEADS):
            for row in range(n):
                near = [c for c in range(n) if window is None or -window <= row - c <= window]
                scores = [scale * float(q[pair, row, head] @ k[pair, c, head]) for c in near]
                if relative is not None:
                    own = relative[min(pair, len(relative) - 1), head, row]
                    scores = [score + float(own[c]) for score, c in zip(scores, near, strict=True)]
                weights = oracles.attention_row(scores, [parts[c] for c in near], parts[row], ablations(text), 0, head)
                pattern[head, row, near] = weights
                z[row, head] = sum(w * v[pair, c, head].numpy() for w, c in zip(weights, near, strict=True))
        results.append((pattern, z))
    return results


@pytest.mark.parametrize("text", CONDITIONS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    ("sizes", "pairs", "scale"),
    [(PADDED, None, None), (PADDED, "own", 0.21), (PADDED, "shared", None), (WHOLE, None, 0.21), (WHOLE, "own", None)],
)
def test_all_ways_equal_the_reference(text, window, sizes, pairs, scale, monkeypatch):
    """In the open and fused, rows edited at once or again, all rows and those from the fourth on."""
    rows = tiny_rows(sizes)
    batch = to_batch(rows)
    q, k, v = projections(batch, d_head=7)
    relative, edits, known = added(batch, pairs), compiled(text), given(batch).within(window)
    more = {"relative": relative, "scale": scale}
    expected = reference(q, k, v, rows, text, window, relative, 7**-0.5 if scale is None else scale)
    pattern = explicit_pattern(explicit_scores(q, k, known, edits, **more), known, edits)
    found = [(pattern @ v.transpose(1, 2)).transpose(1, 2)]
    low, high = 3, 11
    some = {**more, "relative": None if relative is None else relative[:, :, low:high]}
    part = []
    for most, few in ((0.0, 1.0), (0.5, 0.5), (2.0, 0.5)):
        monkeypatch.setattr(fused_module, "MOST_ROWS", most)
        monkeypatch.setattr(fused_module, "FEW_COLUMNS", few)
        found.append(fused_attention(q, k, v, known, edits, **more))
        part.append(fused_attention(q[:, low:high], k, v, known, edits, first_row=low, **some))
    assert pattern.isfinite().all()
    assert all(z.isfinite().all() for z in (*found, *part))
    for pair, (expected_pattern, expected_z) in enumerate(expected):
        n = len(expected_z)
        np.testing.assert_allclose(pattern[pair, :, :n, :n], expected_pattern, rtol=0, atol=1e-12)
        assert not pattern[pair, :, :n, n:].any()
        for z in found:
            np.testing.assert_allclose(z[pair, :n], expected_z, rtol=0, atol=1e-12)
        for z in part:
            np.testing.assert_allclose(z[pair, : max(n - low, 0)], expected_z[low:high], rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [0, 3, None])
@pytest.mark.parametrize("pairs", [None, "own"])
def test_masses_equal_the_reference(window, pairs):
    rows = tiny_rows(PADDED)
    batch = to_batch(rows)
    q, k, v = projections(batch, d_head=4)  # less than the number of sets
    known, relative = given(batch).within(window), added(batch, pairs)
    sets = torch.rand(*batch.tokens.shape, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    by_set = column_masses(q, k, known, sets, relative=relative, scale=0.3)
    parts = known.known_parts().one_hot
    by_part = column_masses(q, k, known, parts, relative=relative, scale=0.3)
    for pair, (pattern, _) in enumerate(reference(q, k, v, rows, "none", window, relative, 0.3)):
        n = pattern.shape[1]
        expected = np.einsum("hrc,cs->rhs", pattern, sets[pair, :n].double().numpy())
        np.testing.assert_allclose(by_set[pair, :n], expected, rtol=0, atol=1e-12)
        one_hot = np.eye(5)[rows[pair][2]]
        np.testing.assert_allclose(by_part[pair, :n], np.einsum("hrc,cs->rhs", pattern, one_hot), rtol=0, atol=1e-12)
    first = None if relative is None else relative[:, :, :1]
    alone = column_masses(q[:, :1], k, known, parts, relative=first, scale=0.3)
    torch.testing.assert_close(alone, by_part[:, :1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("text", ["none", "zero(CLS->QUERY)", "mask(CLS->CLS) + mask(CLS->QUERY)", "mask(CLS->ALL)"])
@pytest.mark.parametrize("window", [0, 2, None])
@pytest.mark.parametrize("pairs", [None, "own"])
def test_the_first_row_without_keys_and_values_equals_the_reference(text, window, pairs):
    rows = tiny_rows(PADDED)
    batch = to_batch(rows)
    generator = torch.Generator().manual_seed(3)
    resid = torch.randn(*batch.tokens.shape, 23, generator=generator, dtype=torch.float64)
    W_Q, W_K, W_V = (torch.randn(N_HEADS, 7, 23, generator=generator, dtype=torch.float64) / 5 for _ in range(3))
    b_V = torch.randn(N_HEADS, 7, generator=generator, dtype=torch.float64)
    q, k, v = (torch.einsum("pcd,hed->pche", resid, weight) for weight in (W_Q, W_K, W_V))
    known, relative = given(batch).within(window), added(batch, pairs)
    first = None if relative is None else relative[:, :, :1]
    z = one_row_attention(q[:, :1], resid, W_K, W_V, b_V, known, compiled(text), relative=first, scale=0.4)
    for pair, (_, expected) in enumerate(reference(q, k, v + b_V, rows, text, window, relative, 0.4)):
        np.testing.assert_allclose(z[pair, 0], expected[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("text", CONDITIONS[5:])
@pytest.mark.parametrize("sizes", [PADDED, WHOLE], ids=["padded", "whole"])
@pytest.mark.parametrize("pairs", [None, "own"])
@pytest.mark.parametrize("most", [0.0, 2.0], ids=["at once", "again"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_rows_are_as_if_nothing_were_edited(text, sizes, pairs, most, dtype, monkeypatch):
    """To the bit."""
    monkeypatch.setattr(fused_module, "MOST_ROWS", most)
    batch = to_batch(tiny_rows(sizes))
    q, k, v = projections(batch, d_head=7, dtype=dtype)
    edits, known, relative = compiled(text), given(batch, dtype).within(4), added(batch, pairs)
    more = {"relative": None if relative is None else relative.to(dtype), "scale": 0.3}
    z, plain = (fused_attention(q, k, v, known, some, **more) for some in (edits, None))
    edited = torch.from_numpy((edits.zero | edits.mask).any(2))  # [head, attender part]
    changed = False
    for head in range(N_HEADS):
        others = ~edited[head][batch.parts.codes.long().clamp(max=4)] & batch.attention_mask
        assert torch.equal(z[:, :, head][others], plain[:, :, head][others])
        changed |= not torch.equal(z[:, :, head], plain[:, :, head])
    assert changed


@pytest.mark.parametrize("text", [*CONDITIONS[:3], *CONDITIONS[4:8], *CONDITIONS[9:]])
@pytest.mark.parametrize("sizes", [PADDED, WHOLE], ids=["padded", "whole"])
def test_what_lies_outside_of_the_window_or_at_padding_is_never_read(text, sizes):
    batch = to_batch(tiny_rows(sizes))
    q, k, v = projections(batch, d_head=7)
    known, edits, n = given(batch).within(3), compiled(text), batch.tokens.shape[1]
    z, pattern = fused_attention(q, k, v, known, edits), explicit_pattern(explicit_scores(q, k, known, edits), known)
    for at in (0, 5, n - 1):
        there = torch.arange(n) == at
        others = [torch.where(there[None, :, None, None], 50 + tensor, tensor) for tensor in (k, v)]
        moved = fused_attention(q, *others, known, edits)
        deaf = batch.attention_mask & (~batch.attention_mask[:, at : at + 1] | ((torch.arange(n) - at).abs() > 3))
        assert torch.equal(z[deaf], moved[deaf])
        assert not pattern[..., at].transpose(1, 2)[deaf].any()


@pytest.mark.parametrize("text", CONDITIONS)
@pytest.mark.parametrize("window", [2, None])
def test_gradients_are_those_of_attention_in_the_open(text, window):
    """Of queries, keys, values and of what is added to the scores."""
    batch = to_batch(tiny_rows(PADDED))
    edits, known = compiled(text), given(batch).within(window)
    weights = torch.randn(*batch.tokens.shape, N_HEADS, 7, dtype=torch.float64) * batch.attention_mask[..., None, None]
    gradients = []
    for fused in (True, False):
        inputs = [tensor.requires_grad_() for tensor in (*projections(batch, d_head=7), added(batch, "own"))]
        q, k, v, relative = inputs
        if fused:
            z = fused_attention(q, k, v, known, edits, relative=relative, scale=0.3)
        else:
            pattern = explicit_pattern(explicit_scores(q, k, known, edits, relative=relative, scale=0.3), known, edits)
            z = (pattern @ v.transpose(1, 2)).transpose(1, 2)
        zero = 0 * sum(tensor.sum() for tensor in inputs)  # keeps every input in the graph where all is ablated
        gradients.append(torch.autograd.grad((z * weights).sum() + zero, inputs))
    for left, right in zip(*gradients, strict=True):
        assert left.isfinite().all()
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
    alone = added(batch, "own").requires_grad_()
    z = fused_attention(*projections(batch, d_head=7), known, edits, relative=alone, scale=0.3)
    if z.requires_grad:
        (found,) = torch.autograd.grad((z * weights).sum(), alone)
        torch.testing.assert_close(found, gradients[1][3], rtol=0, atol=1e-12)
    else:
        assert "ALL->ALL" in text


def test_a_window_is_made_once_and_only_where_it_leaves_something_out():
    batch = to_batch(tiny_rows(PADDED))  # 19 positions
    known = given(batch)
    assert known.within(None) is known
    assert known.within(18) is known
    assert known.within(500) is known
    narrow = known.within(17)
    assert narrow is not known
    assert narrow is known.within(17)
    assert narrow.bias is known.within(17).bias
    assert narrow.within(17) is narrow
    assert narrow.within(None) is narrow
    assert narrow.within(3).window == 3
    assert known.within(0).within(5).window == 0
    assert replace(narrow, dtype=torch.float32).bias.dtype == torch.float32
    with pytest.raises(ValueError, match="expected a window of 0 positions or more to either side, got -1"):
        known.within(-1)


@pytest.mark.parametrize("window", [0, 2, 17])
def test_the_bias_is_a_band_shared_by_pairs_without_padding(window):
    whole, padded = (to_batch(tiny_rows(sizes)) for sizes in (WHOLE, PADDED))
    n = 19
    band = np.array([[0.0 if abs(r - c) <= window else -np.inf for c in range(n)] for r in range(n)])
    assert given(whole).within(window).bias.shape == (1, 1, n, n)
    np.testing.assert_array_equal(given(whole).within(window).bias[0, 0], band)
    known = given(padded).within(window)
    assert known.bias.shape == (4, 1, n, n)
    for pair, length in enumerate((19, 12, 6, 5)):
        expected = band.copy()
        expected[:, length:] = -np.inf
        np.testing.assert_array_equal(known.bias[pair, 0, :length], expected[:length])
        assert not known.bias[pair, 0, length:, :length].any()
        assert (known.bias[pair, 0, length:, length:] == -torch.inf).all()


def test_an_edit_as_a_hook_keeps_the_window():
    """Masked scores are those of the batch's own edit, whatever the window of the batch that the hook was made from."""
    batch = to_batch(tiny_rows(PADDED))
    q, k, _ = projections(batch, d_head=7)
    known, edits = given(batch).within(2), compiled("mask(DOC->QUERY) + mask(ALL->SEP1; heads=1)")
    expected = explicit_scores(q, k, known, edits)
    assert torch.equal(mask_scores(explicit_scores(q, k, known), given(batch), edits), expected)


@pytest.mark.parametrize("window", [0, 1, 3, 17, 18, 40, None])
@pytest.mark.parametrize("direction", ["DOC->QUERY", "CLS->DOC", "DOC->DOC", "ALL->SEP2", "SEP1->ALL", "ALL->ALL"])
def test_the_cells_that_exist_are_those_that_a_count_finds(window, direction):
    rows = tiny_rows(PADDED)
    known, (attender, attended) = given(to_batch(rows)), (SIDES[side] for side in direction.split("->"))
    X, Y = (known.known_parts().one_hot[..., list(side)].any(-1) for side in (attender, attended))
    exist, every = (columns_seen(known, far, Y[..., None])[..., 0].mul(X).sum(1) for far in (window, None))
    for pair, (_, _, parts) in enumerate(rows):
        cells = [(r, c) for r, x in enumerate(parts) for c, y in enumerate(parts) if x in attender and y in attended]
        assert every[pair] == len(cells)
        assert exist[pair] == sum(window is None or abs(r - c) <= window for r, c in cells)
