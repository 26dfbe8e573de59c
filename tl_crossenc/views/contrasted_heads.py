"""Two passages of one query: the heads that look across more in one than in the other, and the token pairs that one has alone.

`explain.py` has the formulas of `mass`, `even` and `beyond`. Positions of two passages are not each other's, so token pairs are
compared by their texts: of a head and a direction, the weight of (attender's text, attended's text) is the largest weight of all
cells with these texts, 0 in a passage that has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.parts import Part
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.hook_points import FwdHooks
from tl_crossenc.views.attention_across import ACROSS, seen_positions

KEYS = ["direction", "layer", "head"]
MEASURES = ["mass", "even", "beyond"]
LINKS = [*KEYS, "attender", "attended", "weight_a", "weight_b", "difference", "times_even"]


def contrasted_heads(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Tables `heads` of two explanations side by side, those that differ most in `beyond` first in each direction.

    A passage without tokens has no row: nothing crosses, and it counts as 0.
    """
    both = a.merge(b, "outer", on=[*KEYS, "reaches_score"], suffixes=("_a", "_b")).fillna(0.0)
    both["difference"] = both["beyond_a"] - both["beyond_b"]
    names = [f"{attender.name}->{attended.name}" for attender, attended in ACROSS]
    both["order"], both["size"] = both["direction"].map(names.index), -both["difference"].abs()
    both = both.sort_values(["order", "size", "layer", "head"], kind="stable", ignore_index=True)
    columns = [f"{measure}_{side}" for measure in MEASURES for side in "ab"]
    return both[[*KEYS, *columns, "difference", "reaches_score"]]


def contrasted_links(
    model: HookedCrossEncoder, encoded: EncodedPairs, tokens: Sequence[Sequence[str]], most: int
) -> pd.DataFrame:
    """Token pairs by text, the `most` of each head and direction that A has more of and as many that B has more of.

    Args:
        model: the model, as it runs now.
        encoded: the two pairs.
        tokens: of each pair, as they are shown.
        most: how many are kept each way.

    Returns:
        A row a (direction, head, attender's text, attended's text): `direction`, `layer`, `head`, `attender`, `attended`,
        `weight_a`, `weight_b`, `difference`, `times_even` (the larger weight in units of even attention over what its attender
        sees). A's first, the largest difference first.
    """
    batch = encoded.batch().to(model.device)
    codes = batch.parts.codes.cpu().numpy()
    names = sorted({*tokens[0], *tokens[1]})
    numbers = {name: i for i, name in enumerate(names)}
    texts = [np.array([numbers[name] for name in own]) for own in tokens]
    rows: list[tuple] = []

    def look(pattern: Tensor, hook: HookPoint) -> None:
        layer = hook.layer()
        seen = seen_positions(model, batch, layer)[..., -1]
        for attender, attended in ACROSS:
            sides = [
                _by_text(pattern[i], codes[i], attender, attended, texts[i], seen[i], len(names)) for i in range(2)
            ]
            keys = np.union1d(sides[0][0], sides[1][0])
            weights, times = (_aligned(keys, [(own, found[k]) for own, *found in sides]) for k in range(2))
            difference = weights[0] - weights[1]
            for head, own in enumerate(difference):
                for sign in (1, -1):
                    for at in np.argsort(-sign * own, kind="stable")[:most]:
                        if sign * own[at] <= 0:
                            break
                        who = tuple(names[code] for code in divmod(int(keys[at]), len(names)))
                        two = float(weights[0, head, at]), float(weights[1, head, at])
                        larger = float(times[int(two[1] > two[0]), head, at])
                        rows.append(
                            (f"{attender.name}->{attended.name}", layer, head, *who, *two, float(own[at]), larger)
                        )

    hooks: FwdHooks = [(f"blocks.{layer}.attn.hook_pattern", look) for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        model.run_with_hooks(batch, fwd_hooks=hooks)
    return pd.DataFrame(rows, columns=LINKS)


def _by_text(
    pattern: Float[Tensor, "head pos pos"],
    parts: Int[np.ndarray, "pos"],
    attender: Part,
    attended: Part,
    texts: Int[np.ndarray, "_"],
    seen: Int[np.ndarray, "pos"],
    n_names: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one pair: the numbers of the pairs of texts there are, in order, and `[head, number]` their weights, also times even."""
    rows, columns = np.flatnonzero(parts == attender), np.flatnonzero(parts == attended)
    if not len(rows) or not len(columns):
        nothing = np.zeros((pattern.shape[0], 0))
        return np.zeros(0, np.int64), nothing, nothing
    cells = pattern[:, torch.from_numpy(rows)[:, None], torch.from_numpy(columns)].detach().double().cpu().numpy()
    flat = cells.reshape(len(cells), -1)
    keys = (texts[rows][:, None] * n_names + texts[columns]).ravel()
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    evens = np.repeat(seen[rows], len(columns))
    most, beside = (np.maximum.reduceat(x[:, order], starts, axis=1) for x in (flat, flat * evens))
    return found, most, beside


def _aligned(
    keys: Int[np.ndarray, "key"], sides: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Float[np.ndarray, "side head key"]:
    """Each side's numbers at its own keys among all, 0 elsewhere."""
    found = np.zeros((len(sides), sides[0][1].shape[0], len(keys)))
    for side, (own, values) in zip(found, sides, strict=True):
        side[:, np.searchsorted(keys, own)] = values
    return found
