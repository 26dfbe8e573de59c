"""Fused and explicit attention on random projections: equal to each other and to a row-by-row reference; part masses."""

import math
from functools import lru_cache

import numpy as np
import oracles
import pytest
import torch
from attention_cases import ablations, compiled, given, projections
from tiny_models import N_HEADS, SIZES, explicit, port, run_oracle, tiny_hf, tiny_rows, to_batch

from tl_crossenc.inputs.parts import PartMasks
from tl_crossenc.model import fused_attention as fused_module
from tl_crossenc.model.attention import column_masses, explicit_pattern, explicit_scores, one_row_attention
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.fused_attention import fused_attention, row_groups

CONDITIONS = (
    "none",
    "zero(DOC->QUERY)",
    "mask(DOC->QUERY; heads=1)",
    "zero(ALL->ALL)",
    "mask(ALL->ALL)",
    "zero(ALL->DOC)",
    "mask(ALL->CLS; heads=0,2)",
    "zero(CLS->DOC) + mask(CLS->QUERY) + mask(SEP1->SEP1; heads=2)",
    "zero(DOC->QUERY; heads=0) + mask(DOC->QUERY; heads=0,1) + zero(QUERY->ALL; heads=2)",
    "mask(DOC->CLS) + mask(DOC->QUERY) + mask(DOC->SEP1) + zero(DOC->DOC) + zero(DOC->SEP2)",
    "mask(QUERY->QUERY) + mask(QUERY->CLS) + mask(QUERY->SEP1) + mask(QUERY->SEP2)",
)


def reference(q, k, v, rows, text):
    """(pattern, z) of every pair without its padding, one row at a time."""
    q, k, v = (tensor.numpy() for tensor in (q, k, v))
    results = []
    for pair, (tokens, _, parts) in enumerate(rows):
        n, n_rows, d_head = len(tokens), min(len(tokens), q.shape[1]), q.shape[-1]
        pattern, z = np.zeros((N_HEADS, n_rows, n)), np.zeros((n_rows, N_HEADS, d_head))
        for head in range(N_HEADS):
            for row in range(n_rows):
                scores = [float(q[pair, row, head] @ k[pair, c, head]) / math.sqrt(d_head) for c in range(n)]
                pattern[head, row] = oracles.attention_row(scores, parts, parts[row], ablations(text), 0, head)
                for c in range(n):
                    z[row, head] += pattern[head, row, c] * v[pair, c, head]
        results.append((pattern, z))
    return results


@pytest.mark.parametrize("text", CONDITIONS)
@pytest.mark.parametrize("n_rows", [None, 1, 3])
@pytest.mark.parametrize("sizes", [SIZES, SIZES[:1], SIZES[3:]], ids=["padded", "one pair", "empty passage"])
def test_both_paths_equal_the_reference(text, n_rows, sizes):
    rows = tiny_rows(sizes)
    batch = to_batch(rows)
    q, k, v = projections(batch, d_head=7, n_rows=n_rows)
    edits, known = compiled(text), given(batch)
    fused = fused_attention(q, k, v, known, edits)
    pattern = explicit_pattern(explicit_scores(q, k, known, edits), known, edits)
    opened = (pattern @ v.transpose(1, 2)).transpose(1, 2)
    assert fused.isfinite().all()
    assert pattern.isfinite().all()
    assert fused.shape == q.shape
    for pair, (expected_pattern, expected_z) in enumerate(reference(q, k, v, rows, text)):
        n_real, n = expected_pattern.shape[1:]
        np.testing.assert_allclose(pattern[pair, :, :n_real, :n], expected_pattern, rtol=0, atol=1e-12)
        assert not pattern[pair, :, :, n:].any()
        np.testing.assert_allclose(opened[pair, :n_real], expected_z, rtol=0, atol=1e-12)
        np.testing.assert_allclose(fused[pair, :n_real], expected_z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("text", CONDITIONS[1:])
def test_rows_of_padding_are_left_alone(text):
    """Padding is none of the five parts, and no direction is removed from its rows."""
    batch = to_batch(tiny_rows(SIZES))
    q, k, _ = projections(batch, d_head=7)
    known, edits = given(batch), compiled(text)
    plain = explicit_pattern(explicit_scores(q, k, known), known)
    edited = explicit_pattern(explicit_scores(q, k, known, edits), known, edits)
    padding = ~batch.attention_mask
    assert padding.any()
    assert torch.equal(edited.transpose(1, 2)[padding], plain.transpose(1, 2)[padding])


MOST_ROWS = (
    "zero(DOC->QUERY)",
    "mask(DOC->QUERY)",
    "zero(DOC->CLS) + zero(DOC->SEP2)",  # columns apart from each other
    "zero(DOC->QUERY) + zero(DOC->SEP1)",  # columns side by side
    "zero(DOC->QUERY) + mask(DOC->QUERY) + mask(DOC->SEP1)",  # in both modes at once
    "zero(QUERY->SEP1) + zero(QUERY->DOC) + zero(QUERY->SEP2)",
    "zero(QUERY->DOC) + zero(SEP1->DOC) + zero(DOC->DOC) + zero(SEP2->DOC)",  # all rows but one
    "mask(CLS->QUERY) + mask(QUERY->QUERY) + mask(SEP1->QUERY) + mask(SEP2->QUERY)",
    "mask(DOC->QUERY) + zero(DOC->SEP1) + zero(SEP2->QUERY; heads=0,2) + zero(QUERY->SEP2; heads=1)",
    "zero(QUERY->SEP1) + zero(DOC->SEP1) + mask(CLS->DOC)",
    "zero(DOC->DOC) + mask(QUERY->QUERY)",
    "mask(DOC->DOC) + mask(DOC->CLS) + mask(DOC->QUERY) + mask(DOC->SEP1)",
    "zero(DOC->QUERY) + mask(QUERY->DOC) + zero(CLS->SEP2) + zero(SEP2->CLS)",
)


UNEVEN = tiny_rows(((3, 41), (7, 23), (5, 37), (1, 2), (2, 0)))


@lru_cache
def uneven_reference(text):
    """What `UNEVEN` attends to under a condition, whichever way it is computed; from the projections of seed 0."""
    return reference(*projections(to_batch(UNEVEN), d_head=7), UNEVEN, text)


@pytest.mark.parametrize("columns", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("most", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("text", MOST_ROWS)
def test_rows_edited_at_once_or_again_equal_the_reference(text, most, columns, monkeypatch):
    """Wherever the bounds between the two ways are drawn."""
    monkeypatch.setattr(fused_module, "MOST_ROWS", most)
    monkeypatch.setattr(fused_module, "FEW_COLUMNS", columns)
    batch = to_batch(UNEVEN)
    q, k, v = projections(batch, d_head=7)
    z = fused_attention(q, k, v, given(batch), compiled(text))
    assert z.isfinite().all()
    for pair, (_, expected) in enumerate(uneven_reference(text)):
        np.testing.assert_allclose(z[pair, : len(expected)], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("low", "high"), [(1, 5), (4, 99)])
@pytest.mark.parametrize("most", [0.0, 2.0], ids=["at once", "again"])
@pytest.mark.parametrize("text", MOST_ROWS)
def test_some_rows_alone_equal_those_of_the_reference(text, most, low, high, monkeypatch):
    """Rows that do not begin with the first are the same as among all, in either way of editing them."""
    monkeypatch.setattr(fused_module, "MOST_ROWS", most)
    monkeypatch.setattr(fused_module, "FEW_COLUMNS", 1.0)
    rows = tiny_rows(((3, 13), (6, 3), (1, 2)))
    batch = to_batch(rows)
    q, k, v = projections(batch, d_head=7)
    z = fused_attention(q[:, low:high], k, v, given(batch), compiled(text), first_row=low)
    for pair, (_, whole) in enumerate(reference(q, k, v, rows, text)):
        expected = whole[low:high]
        np.testing.assert_allclose(z[pair, : len(expected)], expected, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def block():
    """The middle layer of a tiny port."""
    return port(tiny_hf()).blocks[1]


@pytest.mark.parametrize("text", [*MOST_ROWS, *CONDITIONS[1:]])
def test_rerunning_the_edited_rows_of_a_layer_gives_the_layer_with_its_edits(block, text):
    batch = to_batch(tiny_rows(((3, 17), (7, 5), (1, 1))))
    resid = torch.randn(3, batch.tokens.shape[1], 21, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    known, edits = given(batch), compiled(text)
    with torch.no_grad():
        whole, unedited = block(resid, known, edits), block(resid, known)
        found = block.rerun_rows(resid, unedited, known, edits, block.attn.project(resid))
    real = batch.attention_mask
    torch.testing.assert_close(found[real], whole[real], rtol=0, atol=1e-12)
    assert (whole - unedited)[real].abs().max() > 1e-4


@pytest.mark.parametrize("text", MOST_ROWS)
@pytest.mark.parametrize("sizes", [((3, 41), (7, 23), (5, 37)), ((3, 41),)], ids=["padded", "one pair"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_rows_are_as_if_nothing_were_edited(text, sizes, dtype):
    """To the bit, padded or not."""
    batch = to_batch(tiny_rows(sizes))
    q, k, v = projections(batch, d_head=7, dtype=dtype)
    edits = compiled(text)
    z, plain = (fused_attention(q, k, v, given(batch, dtype), some) for some in (edits, None))
    edited = torch.from_numpy((edits.zero | edits.mask).any(2))  # [head, attender part]
    for head in range(N_HEADS):
        others = ~edited[head][batch.parts.codes.long().clamp(max=4)] & batch.attention_mask
        assert others.any()
        assert torch.equal(z[:, :, head][others], plain[:, :, head][others])


@pytest.mark.parametrize("text", MOST_ROWS)
@pytest.mark.parametrize("most", [0.0, 2.0])
def test_nothing_of_what_is_removed_is_left(text, most, monkeypatch):
    """Values are read only along directions that are kept: not even the rounding of a removed one shows."""
    monkeypatch.setattr(fused_module, "MOST_ROWS", most)
    batch = to_batch(tiny_rows(((3, 41), (7, 23), (5, 37))))
    q, k, v = projections(batch, d_head=7, dtype=torch.float32)
    edits = compiled(text)
    kept = ~torch.from_numpy(edits.zero | edits.mask)  # [head, attender part, attended part]
    codes = batch.parts.codes
    for part in range(5):
        other = torch.where((codes == part)[:, :, None, None], 1e4 * v, v)
        z, moved = (fused_attention(q, k, some, given(batch, torch.float32), edits) for some in (v, other))
        for head in range(N_HEADS):
            deaf = ~kept[head, :, part][codes.long().clamp(max=4)] & batch.attention_mask
            assert torch.equal(z[:, :, head][deaf], moved[:, :, head][deaf])


@pytest.mark.parametrize("text", MOST_ROWS)
def test_a_sink_costs_no_precision(text):
    """Float32, with nearly all attention on one part, whether it is removed or left, against float64 of the same numbers."""
    rows = tiny_rows(((3, 41), (7, 23), (5, 37)))
    batch = to_batch(rows)
    q, k, v = projections(batch, d_head=7, dtype=torch.float32)
    q[..., 0] = 9.0
    for part in range(5):
        k[..., 0] = torch.where(batch.parts.codes == part, 9.0, 0.0)[..., None]
        z = fused_attention(q, k, v, given(batch, torch.float32), compiled(text))
        for pair, (_, expected) in enumerate(reference(q.double(), k.double(), v.double(), rows, text)):
            np.testing.assert_allclose(z[pair, : len(expected)], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("text", CONDITIONS)
@pytest.mark.parametrize("sizes", [SIZES, SIZES[:1], SIZES[3:]], ids=["padded", "one pair", "empty passage"])
def test_a_row_without_keys_and_values_equals_the_reference(text, sizes):
    rows = tiny_rows(sizes)
    batch = to_batch(rows)
    generator = torch.Generator().manual_seed(3)
    d_head, d_model = 7, 23
    resid = torch.randn(*batch.tokens.shape, d_model, generator=generator, dtype=torch.float64)
    W_Q, W_K, W_V = (torch.randn(N_HEADS, d_head, d_model, generator=generator, dtype=torch.float64) for _ in range(3))
    b_Q, b_K, b_V = (torch.randn(N_HEADS, d_head, generator=generator, dtype=torch.float64) for _ in range(3))
    q, k, v = (
        torch.einsum("pcd,hed->pche", resid, weight) / 5 + bias for weight, bias in ((W_Q, b_Q), (W_K, b_K), (W_V, b_V))
    )
    z = one_row_attention(q[:, :1], resid, W_K / 5, W_V / 5, b_V, given(batch), compiled(text))
    assert z.shape == (len(rows), 1, N_HEADS, d_head)
    for pair, (_, expected) in enumerate(reference(q[:, :1], k, v, rows, text)):
        np.testing.assert_allclose(z[pair], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("text", CONDITIONS)
def test_both_paths_agree_in_float32(rows, batch, text):
    q, k, v = projections(batch, d_head=7, dtype=torch.float32)
    edits, known, real = compiled(text), given(batch, torch.float32), batch.attention_mask
    fused = fused_attention(q, k, v, known, edits)
    pattern = explicit_pattern(explicit_scores(q, k, known, edits), known, edits)
    torch.testing.assert_close(fused[real], (pattern @ v.transpose(1, 2)).transpose(1, 2)[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("text", CONDITIONS)
def test_gradients_of_both_paths_agree(batch, text):
    edits, known, real = compiled(text), given(batch), batch.attention_mask
    weights = torch.randn(*batch.tokens.shape, N_HEADS, 7, dtype=torch.float64) * real[:, :, None, None]
    gradients = []
    for fused in (True, False):
        q, k, v = (tensor.requires_grad_() for tensor in projections(batch, d_head=7))
        if fused:
            z = fused_attention(q, k, v, known, edits)
        else:
            pattern = explicit_pattern(explicit_scores(q, k, known, edits), known, edits)
            z = (pattern @ v.transpose(1, 2)).transpose(1, 2)
        zero = 0 * (q.sum() + k.sum() + v.sum())  # keeps every input in the graph where all is ablated
        gradients.append(torch.autograd.grad((z * weights).sum() + zero, (q, k, v)))
    for left, right in zip(*gradients, strict=True):
        assert left.isfinite().all()
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


def test_attention_that_nothing_edits_is_not_touched(batch):
    """To the bit: the same kernel on the same tensors."""
    q, k, v = projections(batch, d_head=7)
    plain = fused_attention(q, k, v, given(batch), None)
    assert torch.equal(fused_attention(q, k, v, given(batch), compiled("zero(DOC->QUERY; heads=none)")), plain)
    edited = fused_attention(q, k, v, given(batch), compiled("zero(DOC->QUERY; heads=1)"))
    doc = batch.parts.codes == 3
    assert torch.equal(edited[~doc], plain[~doc])
    assert torch.equal(edited[:, :, [0, 2]], plain[:, :, [0, 2]])
    assert not torch.equal(edited[doc][:, 1], plain[doc][:, 1])


def test_inputs_are_left_alone(batch):
    q, k, v = projections(batch, d_head=7)
    before = [tensor.clone() for tensor in (q, k, v)]
    for text in CONDITIONS:
        with torch.no_grad():
            fused_attention(q, k, v, given(batch), compiled(text))
    assert all(torch.equal(*tensors) for tensors in zip((q, k, v), before, strict=True))


def test_rows_edited_alike_are_one_group():
    (group,) = row_groups(compiled("zero(DOC->QUERY) + zero(SEP2->QUERY)"))
    assert (group.heads, group.attenders, group.zero, group.mask) == (None, (3, 4), (1,), ())
    (group,) = row_groups(compiled("mask(CLS->ALL; heads=0,2)"))
    assert (group.heads, group.attenders, group.mask, group.silent) == ((0, 2), (0,), (0, 1, 2, 3, 4), True)
    (group,) = row_groups(compiled("mask(CLS->DOC) + zero(CLS->DOC)"))  # what is masked has no weight left to zero
    assert (group.zero, group.mask, group.silent) == ((), (3,), False)
    assert len(row_groups(compiled("zero(DOC->QUERY; heads=0) + zero(QUERY->DOC; heads=1)"))) == 2


# Part masses.


@pytest.mark.parametrize("d_head", [1, 3, 4, 5, 7, 11])
@pytest.mark.parametrize("sizes", [SIZES, SIZES[:1]], ids=["padded", "one pair"])
@pytest.mark.parametrize("n_rows", [None, 2])
def test_part_masses_are_sums_of_pattern_columns(d_head, sizes, n_rows):
    rows = tiny_rows(sizes)
    batch = to_batch(rows)
    q, k, v = projections(batch, d_head, seed=d_head, n_rows=n_rows)
    masses = column_masses(q, k, given(batch), batch.parts.one_hot)
    assert masses.shape == (len(rows), q.shape[1], N_HEADS, 5)
    for pair, (pattern, _) in enumerate(reference(q, k, v, rows, "none")):
        expected = np.zeros((pattern.shape[1], N_HEADS, 5))
        for column, part in enumerate(rows[pair][2]):
            expected[:, :, part] += pattern[:, :, column].T
        np.testing.assert_allclose(masses[pair, : pattern.shape[1]], expected, rtol=0, atol=1e-12)


def test_part_masses_of_a_model_equal_the_references():
    hf, rows = tiny_hf(hidden_size=12, seed=6), tiny_rows()  # d_head 4, less than the number of parts
    model, batch = port(hf), to_batch(rows)
    _, cache = model.run_with_cache(batch)
    for pair, trace in enumerate(run_oracle(hf, rows)):
        n = len(rows[pair][0])
        for layer, expected in enumerate(trace.masses(rows[pair][2])):
            masses = column_masses(cache["q", layer], cache["k", layer], given(batch), batch.parts.one_hot)
            np.testing.assert_allclose(masses[pair, :n], expected, rtol=0, atol=1e-11)
            np.testing.assert_allclose(masses[pair, :n].sum(-1), 1, rtol=0, atol=1e-12)


# Parts that are missing or of another shape.


def test_removing_a_direction_needs_parts(batch):
    q, k, v = projections(batch, d_head=7)
    unknown = AttentionInput(batch.attention_mask, None, torch.float64)
    fused_attention(q, k, v, unknown)
    with pytest.raises(ValueError, match="which position has which part"):
        fused_attention(q, k, v, unknown, compiled("zero(DOC->QUERY)"))
    with pytest.raises(ValueError, match="which position has which part"):
        column_masses(q, k, unknown, unknown.known_parts().one_hot)
    other = AttentionInput(batch.attention_mask, PartMasks(batch.parts.codes[:, :-1]), torch.float64)
    scores = explicit_scores(q, k, given(batch))
    with pytest.raises(ValueError, match="make the hooks from the pairs that are run"):
        explicit_pattern(scores, other, compiled("zero(DOC->QUERY)"))


def test_a_pair_of_nothing_but_padding_is_finite(batch, model):
    """Its output means nothing, but it may not turn its neighbours into NaN or stop them."""
    mask = batch.attention_mask.clone()
    mask[1] = False
    beside = {"token_type_ids": batch.token_type_ids, "attention_mask": mask}
    whole = model(batch, return_type="logits")
    for hooks in ([], explicit()):
        with model.hooks(fwd_hooks=hooks):
            logits = model(batch.tokens, **beside)
        assert logits.isfinite().all()
        torch.testing.assert_close(logits[[0, 2, 3]], whole[[0, 2, 3]], rtol=0, atol=1e-12)
