"""Random projections of a batch, and conditions on one layer as the package and as the references take them."""

import torch
from tiny_models import N_HEADS, SIDES

from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.model.attention_input import AttentionInput


def given(batch, dtype=torch.float64):
    return AttentionInput(batch.attention_mask, batch.parts, dtype)


def projections(batch, d_head, seed=0, dtype=torch.float64, n_rows=None):
    generator = torch.Generator().manual_seed(seed)
    n, pos = batch.tokens.shape
    q, k, v = (torch.randn(n, pos, N_HEADS, d_head, generator=generator, dtype=dtype) for _ in range(3))
    return q[:, :n_rows], k, v


def compiled(text):
    return Condition.parse(text).compile(1, N_HEADS)[0]


def ablations(text):
    """The oracle's plain data, read from the condition's text without the package."""
    found = []
    for edit in [] if text == "none" else text.split(" + "):
        mode, rest = edit.rstrip(")").split("(")
        direction, _, heads = rest.partition("; heads=")
        attender, attended = direction.split("->")
        chosen = [int(head) for head in heads.split(",")] if heads else None
        found.append((mode, SIDES[attender], SIDES[attended], None, chosen))
    return found
