"""The information bottleneck: for a pair and a layer, the fewest bits of each token that the score can be had from.

For every element of the stream after the layer a mask lambda = sigmoid(alpha) lets the stream through and puts noise of the layer's
own distribution in place of the rest (`noise_mask`). The alphas of one pair minimize, by Adam, with K = tokens x d_model,

    task + beta / K sum of KL        bits of a token = sum of its KL / ln 2

where the task is a mean over copies of the noise, drawn anew each step:

    keep        ((s(Z) - s(x)) / sd)^2, sd the standard deviation of the model's scores over the pairs that the layer's distribution
                was estimated on: 1 is as bad as giving every pair the mean score
    relevant    cross-entropy of the relevant label (of one logit: softplus(-s))

`relevant` is the published task. It rewards a score above the model's own, and so explains a score that the model never gave;
`keep` does not. Either way look at the score under the mask, which stands beside the bits.

Schulz et al. 2020, *Restricting the Flow: Information Bottlenecks for Attribution*: the per-sample bottleneck, whose settings are
the defaults here but for beta. Jiang et al. 2021, *How Does BERT Rerank Passages?*, use it for a reranker.

**Limits.** A bound by one way of adding noise, after a few steps of an optimizer that has not converged: bits compare tokens and
layers of one setting, and are no constants of the model. Elements are masked one by one, so that what two of them both say is
counted twice.

>>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
>>> others = model.encode_pairs("how to bake bread", ["bread in the oven", "an old piano", "how to sing"])
>>> pairs = model.encode_pairs("tune a guitar", ["a guitar garden"])
>>> found = fit_bottlenecks(model, pairs, LayerStatistics.fit(model, others), layers=[1, 3])
>>> found.bits.shape, int(found.bits[1].argmax())  # [layer, token]; after the last layer CLS has it all
((2, 9), 0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import run_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.inputs.parts import N_PARTS
from tl_crossenc.instruments.fitting import Fitting
from tl_crossenc.instruments.layer_statistics import LayerStatistics, digests_of
from tl_crossenc.instruments.masked_runs import MaskedRuns
from tl_crossenc.instruments.noise_mask import PairNoise
from tl_crossenc.interventions.indices import Indices, within
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.model.resumed_run import check_unhooked


@dataclass(frozen=True)
class Bottlenecks(Framed):
    """Masks of some pairs at some layers, and what passes them.

    Attributes:
        pairs: the pairs.
        layers: which.
        bits: `[layer, token]`, of every real token, end to end as in `pairs`.
        scores: `[pair]`, the model's own.
        masked: `[layer, pair]`, the mean score under the final mask over `fitting.copies` new copies of the noise.
        masked_sd: the standard deviation over these copies (denominator n - 1; 0 for one).
        floored: `[layer]`, features whose standard deviation is the smallest allowed.
        score_sd: the unit of `keep`.
        fitting: how it was done.
    """

    pairs: EncodedPairs = field(repr=False)
    layers: tuple[int, ...]
    bits: Float[np.ndarray, "layer token"]
    scores: Float[np.ndarray, "pair"]
    masked: Float[np.ndarray, "layer pair"]
    masked_sd: Float[np.ndarray, "layer pair"]
    floored: tuple[int, ...]
    score_sd: float
    fitting: Fitting

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Layers and tokens by their names."""
        return {"layer": self.layers, "token": self.pairs.token_labels()}

    def of(self, pair: int) -> Float[np.ndarray, "layer pos"]:
        """The bits of one pair's tokens."""
        return self.bits[:, self.pairs.offsets[pair] : self.pairs.offsets[pair + 1]]

    def by_part(self) -> Float[np.ndarray, "layer pair part"]:
        """The bits of each part, all its tokens together; 0 for a part without tokens."""
        owner = np.repeat(np.arange(len(self.pairs)), self.pairs.lengths)
        found = np.zeros((len(self.layers), len(self.pairs), N_PARTS))
        for row, bits in zip(found, self.bits, strict=True):
            np.add.at(row, (owner, self.pairs.parts), bits)
        return found


@recorded
def fit_bottlenecks(
    model: HookedCrossEncoder,
    pairs: EncodedPairs | PairBatch,
    statistics: LayerStatistics,
    fitting: Fitting | None = None,
    *,
    layers: Indices = None,
    token_budget: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Bottlenecks:
    """Fit a mask for every pair at every layer. What it gives for a pair does not depend on the others, to rounding.

    Args:
        model: the model; what it ablates at the moment stays ablated. No weight gets a gradient.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        statistics: of the layers, over other pairs than these.
        fitting: `Fitting()` where None.
        layers: after which the mask is put, each alone; None for all that the statistics have.
        token_budget: padded tokens a batch, copies of the noise counted; by default what suits the device.
        progress: called with the number of layer runs newly done (`Fitting.layer_runs`).

    Raises:
        ValueError: statistics of another model or of other ablations, that hold one of the pairs or lack a layer; no pairs, hooks
            on the model, scores that do not vary over the pool (for "keep"), or a score that is no finite number.
    """
    pairs, fitting, n_layers = as_encoded(pairs), fitting or Fitting(), model.cfg.n_layers
    check_unhooked(model)
    statistics.require_of(model)
    chosen = statistics.layers if layers is None else within(layers, n_layers, "layer")
    if not len(pairs):
        raise ValueError("expected at least one pair to fit a mask for, got none")
    statistics.require_apart(pairs)
    if fitting.objective == "keep" and not statistics.score_sd > 0:
        raise ValueError(
            "expected scores that vary over the pairs of the statistics, whose spread is the unit of 'keep', got a standard "
            f"deviation of {statistics.score_sd}: take more pairs, or objective='relevant'"
        )
    spreads = [statistics.spread(layer, fitting.by, fitting.min_sigma) for layer in chosen]
    n_tokens = len(pairs.tokens)
    found = Bottlenecks(
        pairs,
        tuple(chosen),
        np.zeros((len(chosen), n_tokens)),
        np.zeros(len(pairs)),
        np.zeros((len(chosen), len(pairs))),
        np.zeros((len(chosen), len(pairs))),
        tuple(spread.floored for spread in spreads),
        statistics.score_sd,
        fitting,
    )
    digests = digests_of(pairs)

    def run(indices: np.ndarray) -> None:
        above = MaskedRuns(model, pairs.batch(indices).to(model.device), fitting, statistics.score_sd)
        streams = above.streams(chosen)
        found.scores[indices] = above.scores.double().cpu().numpy()
        for row, (layer, spread) in enumerate(zip(chosen, spreads, strict=True)):
            mean, sigma = (torch.from_numpy(part).to(model.device) for part in (spread.mean, spread.sigma))
            drawn = [digests[i] for i in indices], pairs.lengths[indices].tolist()
            noise = PairNoise(*drawn, model.cfg.d_model, fitting.copies, layer, fitting.seed)
            bits, scores = above.fit(layer, streams[row], mean, sigma, noise)
            real = above.batch.attention_mask.cpu().numpy()
            for i, own, mask in zip(indices, bits.cpu().numpy(), real, strict=True):
                found.bits[row, pairs.offsets[i] : pairs.offsets[i + 1]] = own[mask]
            found.masked[row, indices] = scores.mean(1).cpu().numpy()
            found.masked_sd[row, indices] = scores.std(1).cpu().numpy() if fitting.copies > 1 else 0.0

    budget = model.token_budget(token_budget)
    for indices, _ in run_batches(pairs.lengths * fitting.copies, budget, run):
        if progress is not None:
            progress(fitting.layer_runs(n_layers, chosen) * len(indices))
    numbers = (found.bits, found.scores, found.masked)
    if not all(np.isfinite(values).all() for values in numbers):
        raise ValueError(
            "expected finite bits and scores, but some are NaN or infinite: check the checkpoint's weights, or use dtype float32"
        )
    return found
