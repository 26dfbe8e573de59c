"""Attribution patching: all patches of many sites at once, to first order, from one forward and one backward pass.

**Formula.** With s the score, a(x) an activation and A its cells that a patch replaces, replacing them in the base run by those of
the donor run changes the score by about

    sum over A of  (a(donor) - a(base)) . ds/da (base),

the first term of its Taylor series at the base run. Nanda, *Attribution Patching: Activation Patching At Industrial Scale* (2023);
Syed, Rager & Conmy, *Attribution Patching Outperforms Automated Circuit Discovery* (2023).

**Limits.** It is exact where the score is linear between the two activations. LayerNorms, saturated softmaxes (the gradient of
scores that are all on one token is 0) and whole residual streams are far from that: `agreement` says how far on the pairs at hand.

Gradients are taken at activations only; no weight gets one.

>>> from tl_crossenc.patching.counterfactuals import align_passages
>>> from tl_crossenc.patching.activation import activation_patch
>>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
>>> pairs = align_passages(model, "tune a guitar", "guitar by the window", "piano by the window")
>>> estimated = attribution_patch(model, pairs.clean, pairs.corrupted, {"z": "head"})["z"]
>>> agreement(estimated, activation_patch(model, pairs.clean, pairs.corrupted, "z")).pearson > 0.9
True
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch
from tl_crossenc.interventions.indices import Indices, within
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.patching.activation import Progress
from tl_crossenc.patching.result import PatchResult
from tl_crossenc.patching.runs import capturing
from tl_crossenc.patching.sides import Sides
from tl_crossenc.patching.sites import SITES, Pieces, choose_pieces

DEFAULT_SITES: Mapping[str, str] = {"z": "head", "resid_pre": "part", "attn_out": "part", "mlp_out": "part"}
"""Site -> the pieces it is cut into."""


@recorded
def attribution_patch(
    model: HookedCrossEncoder,
    clean: EncodedPairs | PairBatch,
    corrupted: EncodedPairs | PairBatch,
    sites: Mapping[str, str] | Iterable[str] = DEFAULT_SITES,
    *,
    mode: str = "denoise",
    layers: Indices = None,
    labels: Sequence[Hashable] | None = None,
    token_budget: int = DEFAULT_TOKEN_BUDGET // 2,
    progress: Progress | None = None,
) -> dict[str, PatchResult]:
    """Estimate what patching every piece of the sites would do, one piece at a time, in every pair.

    Args:
        model: the model; directions that it is ablating stay ablated.
        clean, corrupted: aligned pairs, from `model.encode_pairs` or `model.to_pairs`: pair by pair as many tokens, with the
            same parts.
        sites: names of sites, cut into their first choice of pieces, or site -> pieces, as `activation_patch`'s `site` and `by`.
        mode: "denoise": gradients at the corrupted run; "noise": at the clean run.
        layers: only these; None for all.
        labels: a name for each pair; numbers from 0 otherwise.
        token_budget: padded tokens a batch; both passes hold the activations of all layers.
        progress: called after each batch with the numbers of pairs done and to do.

    Returns:
        Site -> result shaped and labelled as that of `activation_patch`, its scores the base's + the estimated change.
        `layers_run` counts forward and backward layers of both runs, for all sites together.

    Raises:
        ValueError: pairs that are not aligned, a choice that there is not, or hooks on the model.
    """
    sides = Sides.of(model, clean, corrupted, mode, labels)
    n_pairs, lengths, n_layers = len(sides.base), sides.base.lengths, model.cfg.n_layers
    asked = dict(sites) if isinstance(sites, Mapping) else dict.fromkeys([sites] if isinstance(sites, str) else sites)
    if not asked:
        raise ValueError(f"expected at least one site among {', '.join(SITES)}, got none")
    pieces = {
        site: choose_pieces(site, by, n_heads=model.cfg.n_heads, lengths=lengths.tolist()) for site, by in asked.items()
    }
    chosen = within(layers, n_layers, "layer")
    estimates = {site: np.full((n_pairs, len(chosen), *piece.shape), np.nan) for site, piece in pieces.items()}
    ends = np.full((2, n_pairs), np.nan)
    done = 0
    for pairs in length_batches(lengths, token_budget):
        batch = sides.base.batch(pairs).to(model.device)
        with torch.no_grad():
            there, scores = _run(model, sides.donor.batch(pairs), list(asked), chosen)
        ends[1, pairs] = scores.to("cpu", torch.float64).numpy()
        with torch.enable_grad():
            here, scores = _run(model, batch, list(asked), chosen)
            gradients = torch.autograd.grad(scores.sum(), list(here.values()))
        ends[0, pairs] = scores.detach().to("cpu", torch.float64).numpy()
        for (key, activation), gradient in zip(here.items(), gradients, strict=True):
            site, layer = key
            change = (there[key] - activation.detach()) * gradient
            estimates[site][pairs, chosen.index(layer)] = _by_piece(pieces[site], change, batch)
        done += len(pairs)
        if progress is not None:
            progress(done, n_pairs)
    return {
        site: sides.result(
            model,
            ends,
            site=site,
            by=piece.by,
            axes={"layer": chosen, **piece.axes},
            scores=estimates[site] + ends[0].reshape(-1, *[1] * (estimates[site].ndim - 1)),
            layers_run=3.0 * n_layers * n_pairs,
            layers_plain=float(np.isfinite(estimates[site]).sum() * n_layers) + 2.0 * n_layers * n_pairs,
        )
        for site, piece in pieces.items()
    }


def _run(
    model: HookedCrossEncoder, batch: PairBatch, sites: Sequence[str], layers: Sequence[int]
) -> tuple[dict[tuple[str, int], Tensor], Tensor]:
    """The activations at every site of every layer, and the scores `[pair]`."""
    given = model.attention_input(batch.attention_mask, batch.parts)
    edits = model.active_condition.compile(model.cfg.n_layers, model.cfg.n_heads)
    with torch.no_grad():
        resid = model.run_embed(batch.tokens, batch.token_type_ids)
    resid.requires_grad_(torch.is_grad_enabled())
    kept: dict[tuple[str, int], Tensor] = {}
    for layer in range(model.cfg.n_layers):
        wanted: dict[str, Tensor] = {}
        alone = layer == model.cfg.n_layers - 1
        with capturing(model, layer, sites if layer in layers else (), wanted):
            resid = model.run_layer(layer, resid, given, edits[layer], only_cls=alone)
        kept.update({(site, layer): wanted[site] for site in wanted})
    return kept, model.score_of(model.read_out(resid, given.attention_mask))


def _by_piece(pieces: Pieces, change: Tensor, batch: PairBatch) -> np.ndarray:
    """Contributions of an activation's cells summed over each piece, `[pair, ...]`; NaN where a pair has no such piece."""
    codes = batch.parts.codes
    change = change.to(torch.float64)
    if pieces.site.kind == "pattern":
        masks = pieces.cells(codes).to(torch.float64)[:, :, : change.shape[2]]
        sums = torch.einsum("nhrc,snrc->nhs", change[:, list(pieces.heads)], masks)
    else:
        masks = pieces.rows(codes).to(torch.float64)[:, :, : change.shape[1]]
        cells = change.sum(-1)  # [pair, pos] or [pair, pos, head]
        cells = cells.unsqueeze(-1) if pieces.site.kind == "stream" else cells[..., list(pieces.heads)]
        sums = torch.einsum("nph,snp->nhs", cells, masks)
    sums = torch.where(pieces.present(codes).T[:, None], sums, torch.nan)
    return sums.reshape(len(batch), *pieces.shape).cpu().numpy()


class Agreement(NamedTuple):
    """How well estimates follow exact patching, over all pairs and patches that both have."""

    pearson: float
    spearman: float
    n: int


def agreement(estimated: PatchResult, exact: PatchResult) -> Agreement:
    """The correlation of estimated with exact differences of score; NaN where either does not vary.

    Raises:
        ValueError: results of different sites, pieces, modes or pairs.
    """
    for name in ("site", "by", "mode", "direction", "axes", "pairs"):
        ours, theirs = getattr(estimated, name), getattr(exact, name)
        if ours != theirs:
            raise ValueError(f"expected two results of the same {name}, got {ours} and {theirs}")
    a, b = estimated.difference().ravel(), exact.difference().ravel()
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    return Agreement(_correlation(a, b), _correlation(rankdata(a), rankdata(b)), int(both.sum()))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean() if a.size else a, b - b.mean() if b.size else b
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 0 else float("nan")
