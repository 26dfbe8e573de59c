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

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import run_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.inputs.parts import N_PARTS
from tl_crossenc.instruments.layer_statistics import MIN_SIGMA, By, LayerStatistics, digests_of
from tl_crossenc.instruments.noise_mask import PairNoise, information, masked
from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.interventions.indices import Indices, within
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.resumed_run import check_unhooked, finish_logits, select_pairs

Objective = Literal["keep", "relevant"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True)
class Fitting:
    """How masks are fitted.

    Attributes:
        objective: "keep" or "relevant".
        beta: what a nat an element costs.
        steps: of Adam.
        lr: its learning rate.
        alpha0: where every alpha begins; 5 lets .993 through.
        copies: of the noise, in every step and for the score under the final mask.
        by: whose tokens share mean and standard deviation, "all" or those of a "part".
        min_sigma: the smallest standard deviation, see `LayerStatistics.spread`.
        seed: of the noise.

    Raises:
        ValueError: a value that there is not.
    """

    objective: Objective = "keep"
    beta: float = 10.0
    steps: int = 10
    lr: float = 1.0
    alpha0: float = 5.0
    copies: int = 10
    by: By = "all"
    min_sigma: float = MIN_SIGMA
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES or self.by not in get_args(By):
            raise ValueError(
                f"expected the objective {' or '.join(OBJECTIVES)} by 'all' or 'part', got {self.objective!r} by {self.by!r}"
            )
        numbers = (self.beta, self.lr, self.alpha0, self.min_sigma)
        if not all(map(math.isfinite, numbers)) or self.beta < 0 or self.lr <= 0 or self.min_sigma <= 0:
            raise ValueError(
                f"expected beta of at least 0, lr and min_sigma above 0 and a finite alpha0, got {self.beta}, {self.lr}, "
                f"{self.min_sigma} and {self.alpha0}"
            )
        if self.steps < 0 or self.copies < 1:
            raise ValueError(
                f"expected steps of at least 0 and copies of at least 1, got {self.steps} and {self.copies}"
            )

    @property
    def fields(self) -> dict[str, str | int | float]:
        """All of it by name, as a stored result's key has it."""
        return asdict(self) | {name: float(getattr(self, name)) for name in ("beta", "lr", "alpha0", "min_sigma")}

    def layer_runs(self, n_layers: int, layers: Sequence[int]) -> int:
        """Layers run for one pair: once to the end, and from each layer on forth and back each step; a step's mask counts one."""
        above = sum((2 * self.steps + 1) * self.copies * (n_layers - 1 - layer) for layer in layers)
        return n_layers + above + (self.steps + 1) * len(layers)


@dataclass(frozen=True)
class Bottlenecks:
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
        ValueError: statistics that hold one of the pairs or lack a layer, no pairs, hooks on the model, scores that do not vary
            over the pool (for "keep"), or a score that is no finite number.
    """
    pairs, fitting, n_layers = as_encoded(pairs), fitting or Fitting(), model.cfg.n_layers
    check_unhooked(model)
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
        above = _Above(model, pairs.batch(indices).to(model.device), fitting, statistics.score_sd)
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


class _Above:
    """One batch of pairs: its run to the end, and runs of masked copies of it from a layer on."""

    def __init__(self, model: HookedCrossEncoder, batch: PairBatch, fitting: Fitting, score_sd: float) -> None:
        self.model, self.batch, self.fitting, self.score_sd = model, batch, fitting, score_sd
        self.edits: tuple[LayerEdits | None, ...] = model.active_condition.compile(
            model.cfg.n_layers, model.cfg.n_heads
        )
        self.given = model.attention_input(batch.attention_mask, batch.parts)
        self.copied = select_pairs(self.given, torch.arange(len(batch)).repeat_interleave(fitting.copies))
        self.precise = torch.promote_types(model.dtype, torch.float32)

    def streams(self, layers: Sequence[int]) -> list[Tensor]:
        """The streams after the layers, of one run to the end, whose scores are kept."""
        model, last, held = self.model, self.model.cfg.n_layers - 1, {}
        with torch.no_grad():
            resid = model.run_embed(self.batch.tokens, self.batch.token_type_ids)
            for layer in range(last + 1):
                alone = layer == last and layer not in layers
                resid = model.run_layer(layer, resid, self.given, self.edits[layer], only_cls=alone)
                if layer in layers:
                    held[layer] = resid
            self.scores = model.score_of(model.read_out(resid, self.given.attention_mask)).to(self.precise)
        return [held[layer] for layer in layers]

    def fit(
        self, layer: int, stream: Tensor, mean: Tensor, sigma: Tensor, noise: PairNoise
    ) -> tuple[Float[Tensor, "pair pos"], Float[Tensor, "pair copy"]]:
        """(bits of the final mask, scores under it), float64; bits at padding mean nothing."""
        stream, fitting = stream.to(self.precise), self.fitting
        group = self.batch.parts.codes.long().clamp(max=len(mean) - 1)
        mean, sigma = (table.to(self.precise)[group] for table in (mean, sigma))
        r = (stream - mean) / sigma
        real = self.batch.attention_mask
        elements = real.sum(1) * stream.shape[2]
        alpha = torch.full_like(stream, fitting.alpha0, requires_grad=True)
        adam = torch.optim.Adam([alpha], lr=fitting.lr)
        for _ in range(fitting.steps):
            with torch.enable_grad():
                task = self._task(*self._run(layer, alpha, stream, mean, sigma, noise.draw()))
                cost = (information(alpha, r).sum(2) * real).sum(1) / elements
                (alpha.grad,) = torch.autograd.grad((task + fitting.beta * cost).sum(), [alpha])
            adam.step()
        with torch.no_grad():
            _, scores = self._run(layer, alpha, stream, mean, sigma, noise.draw())
            bits = information(alpha.double(), r.double()).sum(2) / math.log(2)
        return bits, scores.double()

    def _run(
        self, layer: int, alpha: Tensor, stream: Tensor, mean: Tensor, sigma: Tensor, noise: Tensor
    ) -> tuple[Float[Tensor, "pair copy label"], Float[Tensor, "pair copy"]]:
        """Logits and scores of copies of the masked stream after a layer."""
        model, last = self.model, self.model.cfg.n_layers - 1
        rows = 1 if layer == last and model.reads_only_first_row else None
        alpha, stream, mean, sigma = (tensor[:, :rows] for tensor in (alpha, stream, mean, sigma))
        copies = masked(alpha, stream, mean, sigma, noise[:, :, :rows].to(stream.device, self.precise))
        resid = copies.flatten(0, 1).to(model.dtype)
        logits = finish_logits(model, layer + 1, "pre", resid, self.copied, self.edits)
        scores = model.score_of(logits).to(self.precise)
        return logits.to(self.precise).unflatten(0, (-1, self.fitting.copies)), scores.unflatten(
            0, (-1, self.fitting.copies)
        )

    def _task(self, logits: Tensor, scores: Tensor) -> Float[Tensor, "pair"]:
        """The task's loss, mean over copies."""
        rule = str(self.model.cfg.score)
        if self.fitting.objective == "keep":
            loss = ((scores - self.scores[:, None]) / self.score_sd) ** 2
        elif rule.startswith("index:") and logits.shape[2] > 1:
            loss = -F.log_softmax(logits, 2)[..., int(rule.removeprefix("index:"))]
        else:  # of two labels the cross-entropy, too: the score is their difference
            loss = F.softplus(-scores)
        return loss.mean(1)
