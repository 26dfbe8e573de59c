"""What every component writes to CLS in a run, and what that is worth, carried back from the score; see `direct_attribution`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.hook_points import is_hooked

_EMBEDDINGS = ("embed.hook_embed", "embed.hook_pos_embed", "embed.hook_token_type_embed")
_HEAD = ("pooler.hook_pre", "pooler.hook_pooler_out", "classifier.hook_logits")
_STREAM = (
    *("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "ln1.hook_scale", "ln1.hook_normalized", "attn.hook_result"),
    *("hook_resid_post", "ln2.hook_scale", "ln2.hook_normalized", "hook_normalized_resid_post"),
)
BEFORE = "before "
"""Put before a hook point's name: what it holds before its hooks."""

Rows = dict[str, Tensor]


def writes(n_layers: int) -> list[str]:
    """The hook points whose activations are added up to a score."""
    points = ("attn.hook_z", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")
    by_layer = [f"blocks.{layer}.{point}" for layer in range(n_layers) for point in points]
    return [*_EMBEDDINGS, *by_layer, "pooler.hook_pre"]


def edited_points(model: HookedCrossEncoder) -> list[str]:
    """The hook points between the writes, and past them, that somebody's hook may change."""
    between = [f"blocks.{layer}.{point}" for layer in range(model.cfg.n_layers) for point in _STREAM]
    names = ["embed.ln.hook_scale", "embed.ln.hook_normalized", "hook_full_embed", *between, *_HEAD]
    return [name for name in names if name in model.hook_dict and is_hooked(model.hook_dict[name])]


def cls_rows(
    model: HookedCrossEncoder, batch: PairBatch, names: Iterable[str], edited: Iterable[str] = ()
) -> tuple[Rows, Tensor]:
    """What the named hook points hold at CLS, `[pair, ...]`, and the scores `[pair]`; of `edited` ones also before their hooks."""
    rows: Rows = {}

    def at_cls(name: str, activation: Tensor) -> Tensor:
        return (activation if name in _HEAD else activation[:, 0]).detach().clone()

    def keep(activation: Tensor, hook: object) -> None:
        name = str(getattr(hook, "name", ""))
        rows[name] = at_cls(name, activation)

    def looking(name: str) -> Callable:
        def look(module: object, args: tuple) -> None:
            rows[BEFORE + name] = at_cls(name, args[0])

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


def contributions(model: HookedCrossEncoder, rows: Rows, tanh: str) -> Rows:
    """Every component's contributions of one batch; from the score back to the embeddings."""
    stack, embed, eps = model.stack, model.embed, model.cfg.eps
    kept = {name: row.double() for name, row in rows.items()}
    u = kept["pooler.hook_pre"]
    w = model.score_of(model.classifier.weight.detach().double().T)
    slope = _slope(u, tanh)
    readout = (w * slope) @ model.pooler.bias.detach().double()
    readout = readout + model.score_of(model.classifier.bias.detach().double()[None])
    readout = readout + _edit(kept, w * slope, "pooler.hook_pre") + _edit(kept, w, "pooler.hook_pooler_out")
    if BEFORE + "classifier.hook_logits" in kept:
        before, after = (model.score_of(kept[which + "classifier.hook_logits"]) for which in (BEFORE, ""))
        readout = readout + after - before
    g = (w * slope) @ model.pooler.weight.detach().double()
    parts: dict[str, list[Tensor]] = {"head": [], "attn_bias": [], "mlp": [], "ln_bias": [], "edit": []}
    W_O, b_O = model.W_O.double(), model.b_O.double()
    for layer in reversed(range(model.cfg.n_layers)):
        at = f"blocks.{layer}."
        edit = _edit(kept, g, f"{at}hook_normalized_resid_post")
        ln_bias = g @ stack.ln2_bias[layer].detach().double()
        g, inside = _back(kept, g, f"{at}ln2", kept[f"{at}hook_resid_post"], stack.ln2_weight[layer], eps)
        edit = edit + inside + _edit(kept, g, f"{at}hook_resid_post")
        parts["mlp"].append((g * kept[f"{at}hook_mlp_out"]).sum(-1))
        ln_bias = ln_bias + g @ stack.ln1_bias[layer].detach().double()
        g, inside = _back(kept, g, f"{at}ln1", kept[f"{at}hook_resid_mid"], stack.ln1_weight[layer], eps)
        edit = edit + inside + _edit(kept, g, f"{at}hook_resid_mid")
        head = torch.einsum("bhe,hed,bd->bh", kept[f"{at}attn.hook_z"], W_O[layer], g)
        if f"{at}attn.hook_result" in kept:
            head = torch.einsum("bhd,bd->bh", kept[f"{at}attn.hook_result"], g)
        bias, replaced = g @ b_O[layer], _changed(kept, f"{at}hook_attn_out")
        if replaced is not None:
            head, bias = head.masked_fill(replaced[:, None], 0.0), bias.masked_fill(replaced, 0.0)
            edit = edit + (g * kept[f"{at}hook_attn_out"]).sum(-1) * replaced
        parts["head"].append(head)
        parts["attn_bias"].append(bias)
        parts["ln_bias"].append(ln_bias)
        parts["edit"].append(edit + _edit(kept, g, f"{at}hook_resid_pre"))
    edit = _edit(kept, g, "hook_full_embed")
    parts["ln_bias"].append(g @ embed.ln_bias.detach().double())
    embeddings = sum((kept[name] for name in _EMBEDDINGS), torch.zeros((), dtype=torch.float64, device=g.device))
    g, inside = _back(kept, g, "embed.ln", embeddings, embed.ln_weight, eps)
    parts["edit"].append(edit + inside)
    return {
        **{name: torch.stack(values[::-1], 1) for name, values in parts.items()},
        "embed": (g * embeddings).sum(-1),
        "readout": readout,
    }


def _slope(u: Tensor, tanh: str) -> Tensor:
    """s of tanh(u) = s u + r."""
    if tanh == "tangent":
        return 1 - u.tanh().square()
    tiny = u.abs() < 1e-9
    return torch.where(tiny, torch.ones_like(u), u.tanh() / u.masked_fill(tiny, 1.0))


def _back(kept: Rows, g: Tensor, name: str, before: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """What is worth g after a LayerNorm, before it, and what hooks inside of it added, `[pair]`.

    Centring is its own transpose; the scale is that of `before`, or what hooks left of it.
    """
    scale = kept.get(f"{name}.hook_scale")
    if scale is None:
        scale = (before.var(-1, correction=0, keepdim=True) + eps).sqrt()
    weighted = g * weight.detach().double()
    return (weighted - weighted.mean(-1, keepdim=True)) / scale, _edit(kept, weighted, f"{name}.hook_normalized")


def _edit(kept: Rows, g: Tensor, name: str) -> Tensor:
    """What the hooks of a point added, `[pair]`; 0 where there are none."""
    if BEFORE + name not in kept:
        return torch.zeros(len(g) if g.ndim > 1 else 1, dtype=torch.float64, device=g.device)
    return (g * (kept[name] - kept[BEFORE + name])).sum(-1)


def _changed(kept: Rows, name: str) -> Tensor | None:
    """Of which pairs the hooks of a point changed what it holds; None where there are none."""
    if BEFORE + name not in kept:
        return None
    return (kept[name] != kept[BEFORE + name]).any(-1)
