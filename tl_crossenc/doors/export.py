"""Attention patterns as bertviz and circuitsvis take them: of the model as it runs, or under a condition."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from tl_crossenc.inputs.parts import Part
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.interventions.indices import Indices, within
from tl_crossenc.model.ablations import as_condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

TOOLS = ("bertviz", "circuitsvis")


def export_attention(
    model: HookedCrossEncoder,
    query: str,
    passage: str,
    *,
    to: str = "bertviz",
    layer: int | None = None,
    head: Indices = None,
    condition: Condition | Direction | str | None = None,
) -> dict[str, Any]:
    """The attention of one pair, as arguments by name of what shows it.

    Args:
        model: the model; what it ablates at the moment stays ablated.
        query, passage: one text each.
        to: "bertviz", for `bertviz.head_view(**found)` and `model_view`; or "circuitsvis", for
            `circuitsvis.attention.attention_patterns(**found)`.
        layer: only this one, from 0, or from the end if negative. circuitsvis shows one layer, and needs it.
        head: only this one, or several, such as "0-3"; None for all.
        condition: what is ablated besides, such as "DOC->QUERY".

    Returns:
        For bertviz `attention`, a tuple with a tensor `[1, head, pos, pos]` a layer, `tokens`, and `sentence_b_start`, the position
        of the passage's first token (None of an empty passage). For circuitsvis `tokens` and `attention` `[head, pos, pos]`. Rows
        are attenders. float32, on the CPU.

    Raises:
        TypeError: not one text each.
        ValueError: another tool, no such layer or head, or no layer for circuitsvis.
    """
    if to not in TOOLS:
        raise ValueError(f"expected to={' or '.join(map(repr, TOOLS))}, got {to!r}")
    for name, text in (("query", query), ("passage", passage)):
        if not isinstance(text, str):
            raise TypeError(f"expected the {name} as one text, got {type(text).__name__}: export pairs one by one")
    if to == "circuitsvis" and layer is None:
        raise ValueError("expected a layer for circuitsvis, which shows one: pass layer=0, or another")
    layers = within(None if layer is None else [layer], model.cfg.n_layers, "layer")
    heads = list(within(head, model.cfg.n_heads, "head"))
    names = [model.block(own).name_of("attn.hook_pattern") for own in layers]
    pairs = model.to_pairs(query, passage)
    with nullcontext() if condition is None else model.ablating(as_condition(condition)), torch.no_grad():
        _, cache = model.run_with_cache(pairs, names_filter=names)
    patterns: tuple[Tensor, ...] = tuple(cache[name][:, heads].detach().to("cpu", torch.float32) for name in names)
    tokens = model.to_str_tokens(query, passage)
    if to == "circuitsvis":
        return {"tokens": tokens, "attention": patterns[0][0]}
    passage_at = pairs.parts[Part.DOC][0].nonzero()
    start = int(passage_at[0]) if len(passage_at) else None
    return {"attention": patterns, "tokens": tokens, "sentence_b_start": start}
