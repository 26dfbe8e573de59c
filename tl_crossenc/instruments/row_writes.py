"""What every component writes in a run to the rows that the head reads, and what that is worth; see `direct_attribution`.

The order of a layer is the layer's own: `Block.carry_back` says what its writes and the stream before it are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.head import POOLED
from tl_crossenc.model.held_run import BEFORE, HeldRun
from tl_crossenc.model.hook_points import is_hooked

_WRITES = ("attn.hook_z", "hook_mlp_out")
_WRITES_EDITED = ("hook_resid_pre", "hook_attn_out", "attn.hook_result")

Rows = dict[str, Tensor]


def held_points(model: HookedCrossEncoder) -> list[str]:
    """The hook points whose activations are added up to a score, or say what a write is worth."""
    blocks = [model.block(layer) for layer in range(model.cfg.n_layers)]
    by_layer = [block.name_of(leaf) for block in blocks for leaf in (*_WRITES, *block.HELD)]
    return [*model.embed.HELD, *by_layer, *model.head.HELD]


def edited_points(model: HookedCrossEncoder) -> list[str]:
    """The hook points between the writes, and past them, that somebody's hook may change."""
    blocks = [model.block(layer) for layer in range(model.cfg.n_layers)]
    between = [block.name_of(leaf) for block in blocks for leaf in (*_WRITES_EDITED, *block.EDITABLE)]
    names = [*model.embed.EDITABLE, "hook_full_embed", *between, *model.head.EDITABLE]
    return [name for name in names if name in model.hook_dict and is_hooked(model.hook_dict[name])]


def rows_read(
    model: HookedCrossEncoder, batch: PairBatch, names: Iterable[str], edited: Iterable[str] = ()
) -> tuple[Rows, Tensor]:
    """What the named hook points hold at the rows that the head reads, and the scores `[pair]`.

    Rows are those of all pairs end to end, `[row, ...]`, one a pair where the head reads CLS alone; points past the pooling
    hold `[pair, ...]`. Of `edited` points there is also what they held before their hooks.
    """
    rows: Rows = {}
    first = model.head.reads_only_first_row

    def of_rows(name: str, activation: Tensor) -> Tensor:
        if not name.startswith(POOLED):
            activation = activation[:, 0] if first else activation.flatten(0, 1)
        return activation.detach().clone()

    def keep(activation: Tensor, hook: object) -> None:
        name = str(getattr(hook, "name", ""))
        rows[name] = of_rows(name, activation)

    def looking(name: str) -> Callable:
        def look(module: object, args: tuple) -> None:
            rows[BEFORE + name] = of_rows(name, args[0])

        return look

    points = list(edited)
    handles = [model.hook_dict[name].register_forward_pre_hook(looking(name), prepend=True) for name in points]
    try:
        with torch.no_grad():
            scores = model.run_with_hooks(batch, fwd_hooks=[(name, keep) for name in dict.fromkeys([*names, *points])])
    finally:
        for handle in handles:
            handle.remove()
    return rows, scores


def contributions(model: HookedCrossEncoder, rows: Rows, way: str, attention_mask: Tensor) -> Rows:
    """Every component's contributions of one batch, `[pair, ...]`; from the score back to the embeddings."""
    held = HeldRun(rows)
    head = model.head.carry_back(held, way, attention_mask)
    g = head.resid.flatten(0, 1)
    parts: dict[str, list[Tensor]] = {"head": [], "attn_bias": [], "mlp": [], "ln_bias": [], "edit": []}
    W_O, b_O = model.W_O.double(), model.b_O.double()
    for layer in reversed(range(model.cfg.n_layers)):
        block = model.block(layer)
        worth = block.carry_back(held, g)
        parts["mlp"].append((worth.mlp_out * held[block.name_of("hook_mlp_out")]).sum(-1))
        for name, part in _heads(held, block.name_of, worth.attn_out, W_O[layer], b_O[layer], worth.edit).items():
            parts[name].append(part)
        parts["ln_bias"].append(worth.bias)
        g = worth.resid_pre
        parts["edit"][-1] = parts["edit"][-1] + held.edit(g, block.stream_name("pre"))
    edit = held.edit(g, "hook_full_embed")
    shares = model.embed.carry_back(held, g)
    parts["ln_bias"].append(shares.bias)
    parts["edit"].append(edit + shares.edit)
    by_row = {**{name: torch.stack(values[::-1], 1) for name, values in parts.items()}, "embed": shares.embed}
    n_rows = head.resid.shape[1]
    if n_rows > 1:
        by_row = {name: part.unflatten(0, (-1, n_rows)).sum(1) for name, part in by_row.items()}
    return {**by_row, "readout": head.constant}


def _heads(
    held: HeldRun, name_of: Callable[[str], str], g: Tensor, W_O: Tensor, b_O: Tensor, edit: Tensor
) -> dict[str, Tensor]:
    """What a layer's heads and b_O add, what they write being worth `g`; `edit` has what was put in their place besides."""
    head = torch.einsum("bhe,hed,bd->bh", held[name_of("attn.hook_z")], W_O, g)
    if name_of("attn.hook_result") in held:
        head = torch.einsum("bhd,bd->bh", held[name_of("attn.hook_result")], g)
    bias, replaced = g @ b_O, held.changed(name_of("hook_attn_out"))
    if replaced is not None:
        head, bias = head.masked_fill(replaced[:, None], 0.0), bias.masked_fill(replaced, 0.0)
        edit = edit + (g * held[name_of("hook_attn_out")]).sum(-1) * replaced
    return {"head": head, "attn_bias": bias, "edit": edit}
