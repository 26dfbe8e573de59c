"""Which heads attend across between the query and the passage of one pair, and the heaviest token pairs of each.

`explain` has the formulas.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch
from tl_crossenc.inputs.parts import Part
from tl_crossenc.model.attention_input import columns_seen
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.hook_points import FwdHooks

ACROSS = ((Part.QUERY, Part.DOC), (Part.DOC, Part.QUERY))
"""(attender, attended)."""


def attention_across(
    model: HookedCrossEncoder, pair: EncodedPairs, tokens: tuple[str, ...], links: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `heads` and `links` of an `Explanation`; no pattern outlives its layer."""
    batch = pair.batch().to(model.device)
    places = {part: np.flatnonzero(batch.parts[part][0].cpu().numpy()) for part in (Part.QUERY, Part.DOC)}
    masses: list[tuple] = []
    joined: list[tuple] = []

    def look(pattern: Tensor, hook: HookPoint) -> None:
        layer = hook.layer()
        reaches = layer < model.cfg.n_layers - 1 or not model.head.reads_only_first_row
        seen = seen_positions(model, batch, layer)[0]
        weights = pattern[0].detach().double().cpu().numpy()
        for attender, attended in ACROSS:
            rows, columns = places[attender], places[attended]
            if not len(rows) or not len(columns):
                continue
            name = f"{attender.name}->{attended.name}"
            for head, block in enumerate(weights[:, rows[:, None], columns]):
                beyond = (block - 1 / seen[rows, -1:]).clip(min=0).sum(1).mean()
                even, mass = (seen[rows, attended] / seen[rows, -1]).mean(), float(block.sum(1).mean())
                masses.append((name, layer, head, mass, float(even), float(beyond), reaches))
                for flat in np.argsort(-block, axis=None, kind="stable")[:links]:
                    r, c = np.unravel_index(flat, block.shape)
                    i, j = int(rows[r]), int(columns[c])
                    sides = i, j, tokens[i], tokens[j]
                    joined.append((name, layer, head, float(block[r, c]), *sides, int(seen[i, -1])))

    hooks: FwdHooks = [(f"blocks.{layer}.attn.hook_pattern", look) for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        model.run_with_hooks(batch, fwd_hooks=hooks)
    heads = pd.DataFrame(masses, columns=["direction", "layer", "head", "mass", "even", "beyond", "reaches_score"])
    heads["order"] = heads["direction"].map({f"{a.name}->{b.name}": i for i, (a, b) in enumerate(ACROSS)})
    heads = heads.sort_values(["order", "beyond"], ascending=[True, False], kind="stable", ignore_index=True)
    columns = ["direction", "layer", "head", "weight", "attender_pos", "attended_pos", "attender", "attended", "seen"]
    return heads.drop(columns="order"), pd.DataFrame(joined, columns=columns)


def seen_positions(model: HookedCrossEncoder, batch: PairBatch, layer: int) -> Int[np.ndarray, "pair row 6"]:
    """How many positions of each part, and of all, each position sees in a layer."""
    given = model.attention_input(batch.attention_mask, batch.parts)
    sets = torch.cat([batch.parts.one_hot, batch.attention_mask[..., None]], -1)
    counts = columns_seen(given, model.block(layer).attn.window, sets).cpu().numpy()
    return np.broadcast_to(counts, (*batch.tokens.shape, counts.shape[-1]))
