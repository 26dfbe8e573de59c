"""Activation patching: one piece of one run put into the other, and what that does to the score.

**Method.** Two aligned inputs, clean and corrupted, differ in what is asked about. With a(x) an activation of input x and s the
score, denoising takes s of the corrupted run in which one piece of a is replaced by that of a(clean): where the score comes back,
the piece is sufficient. Noising is the reverse: where the score falls, it is necessary. Meng et al., *Locating and Editing Factual
Associations in GPT* (NeurIPS 2022); Zhang & Nanda, *Towards Best Practices of Activation Patching* (ICLR 2024).

**What is not computed.** The residual stream below the patched layer is the base run's, so a patch of layer l starts there. Heads
do not read each other, so one pass of attention with all heads' q (or k, v, pattern) patched gives what each alone would read; the
layers are then run from the residual stream after attention on. A map of L layers x H heads thus runs H L^2 / 2 layers a
pair in place of H L^2 (a layer entered past its attention counted as half; softmaxes done again have no matrix of weights
to apply and are not counted), beside the two runs that it starts from. A patch that changes no number (equal activations; in
the last layer, rows that nothing reads) is not run at all: its score is the base's, exactly; and one that leaves the
donor's residual stream as a whole has the donor's score.

**Pieces and sites**: `sites.py`. Directions that the model is ablating (`model.ablating`) are ablated in every run.

>>> from tl_crossenc.patching.counterfactuals import align_passages
>>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
>>> pairs = align_passages(model, "tune a guitar", "guitar by the window", "piano by the window")
>>> heads = activation_patch(model, pairs.clean, pairs.corrupted, "z")
>>> heads
PatchResult(denoise z: 1 pair x 4 layers x 4 heads)
>>> heads.restored()[0].round(2).tolist()  # [layer, head]: head 1.2 matches, head 3.1 moves what it found to CLS
[[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
import torch

from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch
from tl_crossenc.inputs.parts import Part
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.interventions.indices import Indices, within
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.model.resumed_run import finish, layers_above, select_pairs
from tl_crossenc.patching.result import PatchResult
from tl_crossenc.patching.runs import (
    Twin,
    TwinRun,
    changed_streams,
    pair_batches,
)
from tl_crossenc.patching.sides import Sides, check_aligned
from tl_crossenc.patching.sites import Pieces, choose_pieces

__all__ = ["PatchResult", "activation_patch", "check_aligned"]

Progress = Callable[[int, int], object]
NEEDED = {
    "resid_pre": ("resid_pre",),
    "resid_mid": ("resid_mid",),
    "resid_post": ("resid_post",),
    "attn_out": ("attn_out", "resid_mid"),
    "mlp_out": ("mlp_out", "resid_post"),
    "z": ("z", "resid_mid"),
    "q": ("q", "k", "v", "z", "resid_mid"),
    "k": ("q", "k", "v", "z", "resid_mid"),
    "v": ("q", "k", "v", "z", "resid_mid"),
    "pattern": ("pattern", "v", "z", "resid_mid"),
}
"""Site -> the activations of its layer that a patch of it needs; nothing else is held."""

BASE, DONOR, PATCHED = 0, 1, 2
"""Where a score is taken from: from one of the two runs, where the patch leaves exactly that one's activations, or its own."""


@recorded
def activation_patch(
    model: HookedCrossEncoder,
    clean: EncodedPairs | PairBatch,
    corrupted: EncodedPairs | PairBatch,
    site: str,
    *,
    by: str | None = None,
    mode: str = "denoise",
    direction: Direction | str | None = None,
    layers: Indices = None,
    heads: Indices = None,
    parts: Iterable[Part | str] | None = None,
    positions: Indices = None,
    labels: Sequence[Hashable] | None = None,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Progress | None = None,
) -> PatchResult:
    """Patch every piece of a site, one at a time, in every pair.

    Args:
        model: the model.
        clean, corrupted: aligned pairs, from `model.encode_pairs` or `model.to_pairs`: pair by pair as many tokens, with the
            same parts.
        site: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, k, v or pattern.
        by: "part", "position" or "all" for the first five; "head" or "head_part" for the rest. None: the first choice.
        mode: "denoise" puts clean activations into the corrupted run, "noise" corrupted ones into the clean run.
        direction: for `pattern` by head, the only direction patched.
        layers, heads, parts, positions: only these; None for all.
        labels: a name for each pair; numbers from 0 otherwise.
        token_budget: padded tokens run at a time; memory grows with it.
        progress: called after each layer of a batch with the numbers of patches (times pairs) done and to do.

    Raises:
        ValueError: pairs that are not aligned, a choice that there is not, or hooks on the model.
    """
    sides = Sides.of(model, clean, corrupted, mode, labels)
    n_pairs, lengths = len(sides.base), sides.base.lengths
    pieces = choose_pieces(
        site,
        by,
        n_heads=model.cfg.n_heads,
        lengths=lengths.tolist(),
        direction=direction,
        heads=heads,
        parts=parts,
        positions=positions,
    )
    chosen = within(layers, model.cfg.n_layers, "layer")
    n_heads, n_slots = max(len(pieces.heads), 1), len(pieces.slots)
    scores = np.full((n_pairs, len(chosen), n_heads * n_slots), np.nan)
    ends = np.full((2, n_pairs), np.nan)
    plain = run = 2.0 * model.cfg.n_layers * n_pairs
    total, done = scores.size, 0
    with torch.no_grad():
        for pairs in pair_batches(lengths, token_budget):
            twin = TwinRun(model, sides.base.batch(pairs), sides.donor.batch(pairs))
            present = pieces.present(twin.codes).repeat(n_heads, 1).cpu().numpy()  # [head x slot, pair]
            plain += float(present.sum()) * model.cfg.n_layers * len(chosen)
            found = {}
            for layer in range(model.cfg.n_layers):
                if layer not in chosen:
                    twin.step()
                    continue
                kept = twin.step(NEEDED[site])
                found[layer] = _patch_layer(twin, layer, pieces, kept, token_budget)
                run += found[layer][2]
                done += len(pairs) * n_heads * n_slots
                if progress is not None:
                    progress(done, total)
            ends[:, pairs] = torch.stack(twin.scores()).to("cpu", torch.float64).numpy()
            for layer, (patched, source, _) in found.items():
                values = np.select([source == BASE, source == DONOR], [ends[0, pairs], ends[1, pairs]], patched)
                scores[pairs, chosen.index(layer)] = np.where(present, values, np.nan).T
    return sides.result(
        model,
        ends,
        site=site,
        by=pieces.by,
        axes={"layer": chosen, **pieces.axes},
        scores=scores.reshape(n_pairs, len(chosen), *pieces.shape),
        direction=None if pieces.direction is None else str(pieces.direction),
        layers_run=run,
        layers_plain=plain,
    )


def _patch_layer(
    twin: TwinRun, layer: int, pieces: Pieces, kept: dict[str, Twin], token_budget: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """(scores, where each is taken from), both `[head x slot, pair]`, and the layers run."""
    model, stage = twin.model, pieces.site.stage
    top = layer == model.cfg.n_layers - 1
    make, changed, whole = changed_streams(twin, layer, pieces, kept, only_cls=top)
    source = torch.where(changed, PATCHED, BASE)
    source[changed & whole] = DONOR
    items = (source == PATCHED).nonzero()
    scores = torch.zeros(source.shape, dtype=torch.float64)
    given = twin.given
    at_once = max(token_budget // twin.codes.shape[1], 1)
    for chunk in items.split(at_once):
        patch, pair = chunk.unbind(1)
        after = finish(model, layer, stage, make(patch, pair), select_pairs(given, pair), twin.edits)
        scores[patch.cpu(), pair.cpu()] = after.to("cpu", torch.float64)
    return scores.numpy(), source.cpu().numpy(), len(items) * layers_above(model.cfg.n_layers, layer, stage)
