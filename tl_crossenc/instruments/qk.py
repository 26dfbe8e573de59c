"""QK circuits: what a head's query and key weights favour, before any text is read and on the mean of each part.

With A_h = W_Q W_K^T of a head (Vast et al. 2025, section 3; they write A_h = K_h^T Q_h), the attention score of an attender
E_i on an attended E_j is, with the biases,

    (E_i W_Q + b_Q) . (E_j W_K + b_K) / sqrt(d_head)

and E_i^T A_h E_j ("plain") without biases and division. Our orientation is attender^T A_h attended everywhere.

- Spectrum: A_h = sum_k sigma_k u_k v_k^T, by `FactoredMatrix.svd` at rank d_head. The paper's sum_k sigma_k u_k . v_k is the
  trace of A_h = sum(W_Q * W_K). It mixes a head's size with its alignment, so beside it stands
  alignment = trace / sum_k sigma_k in [-1, 1]: 1 for a symmetric positive semidefinite A_h (a head that seeks its own
  direction), -1 for the negative of one, 0 for a skew one.
- Contrasts: with q and d the means over QUERY and DOC tokens of what attention reads (the layer's input, in pre-LN past its norm),
  the paper's q^T A d - d^T A d: whether a mean QUERY token attends to a mean DOC token more than a mean DOC token does. It compares
  two rows, which the softmax normalizes apart; `other_contrast`, d^T A q - d^T A d, compares two columns of one row (a DOC token's
  choice between QUERY and DOC), which is what the transposed reading of the paper's formula says. b_Q cancels in the first, b_K in
  the second.
- Rotary positions: A_h is W_Q R(o) W_K^T at the offset o = attended position - attender position. At offset 0 R turns nothing and
  all is as above. Over the offsets that occur, the mean W_Q E[R] W_K^T takes its place (`qk_offsets`): its product with two
  tokens is their mean score. Each of the four products of q and d has the mean rotation of its own two parts, so that no bias
  cancels in a contrast.
- Relative positions (DeBERTa): A_h is the content term alone; what positions add is no part of it.

Limits. Where singular values coincide (or are 0) u_k and v_k are not unique: sums over a whole group of equal values are
defined, its members are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix
from transformer_lens.hook_points import HookPoint

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.inputs.parts import Part
from tl_crossenc.model.hook_points import FwdHooks
from tl_crossenc.model.hooked_encoder import HookedEncoder
from tl_crossenc.model.made_by import recorded

Weighting = Literal["token", "pair"]
WEIGHTINGS: tuple[Weighting, ...] = ("token", "pair")
MATCHED_PARTS: tuple[Part, ...] = (Part.QUERY, Part.DOC)
"""The axis `part` of everything here: 0 is QUERY, 1 is DOC."""
QUERY, DOC = 0, 1


@dataclass(frozen=True)
class Spectrum(Framed):
    """The singular values of every head's A_h and how far their vectors are aligned.

    Attributes:
        sigma: `[layer, head, k]` singular values, descending.
        overlap: `[layer, head, k]` u_k . v_k, in [-1, 1].
        trace: `[layer, head]` the trace of A_h, from the weights and not from the decomposition.
    """

    sigma: Float[np.ndarray, "layer head k"]
    overlap: Float[np.ndarray, "layer head k"]
    trace: Float[np.ndarray, "layer head"]

    @property
    def sum_sigma(self) -> Float[np.ndarray, "layer head"]:
        """sum_k sigma_k, the nuclear norm."""
        return self.sigma.sum(-1)

    @property
    def alignment(self) -> Float[np.ndarray, "layer head"]:
        """trace / sum_k sigma_k, in [-1, 1]; NaN for a head whose A_h is 0."""
        return divide(self.trace, self.sum_sigma)

    @property
    def cumulative(self) -> Float[np.ndarray, "layer head k"]:
        """sum_{k <= K} sigma_k u_k . v_k for each number K of directions kept."""
        return np.cumsum(self.sigma * self.overlap, -1)

    @property
    def cumulative_alignment(self) -> Float[np.ndarray, "layer head k"]:
        """The same, divided by sum_{k <= K} sigma_k."""
        return divide(self.cumulative, np.cumsum(self.sigma, -1))


@recorded
def spectrum(
    W_Q: Float[Tensor, "layer head d_model d_head"], W_K: Float[Tensor, "layer head d_model d_head"]
) -> Spectrum:
    """The spectrum of W_Q W_K^T of every head, computed in float64 on the CPU."""
    W_Q, W_K = (weight.detach().to("cpu", torch.float64) for weight in (W_Q, W_K))
    U, S, V = FactoredMatrix(W_Q, W_K.transpose(-2, -1)).svd()
    return Spectrum(S.numpy(), (U * V).sum(-2).numpy(), (W_Q * W_K).sum((-2, -1)).numpy())


@dataclass(frozen=True)
class PartMoments(Framed):
    """Weighted mean and spread of what attention reads in each layer over QUERY and over DOC tokens. Sums of two are exact merges.

    Attributes:
        weight: `[part]` the weights' sum.
        tokens: `[part]` the number of tokens.
        mean: `[layer, part, d_model]`.
        square: `[layer, part]` the weighted sum of squared distances from the mean (the trace of the scatter matrix).
    """

    weight: Float[np.ndarray, "part"]
    tokens: np.ndarray
    mean: Float[np.ndarray, "layer part d_model"]
    square: Float[np.ndarray, "layer part"]

    MAIN = "mean"

    def axes(self) -> Mapping[str, Labels]:
        """Parts by their names."""
        return {"part": tuple(part.name for part in MATCHED_PARTS)}

    @classmethod
    def empty(cls, n_layers: int, d_model: int) -> PartMoments:
        """Of no tokens."""
        n = len(MATCHED_PARTS)
        return cls(np.zeros(n), np.zeros(n, np.int64), np.zeros((n_layers, n, d_model)), np.zeros((n_layers, n)))

    def __add__(self, other: PartMoments) -> PartMoments:
        """Both together (Chan, Golub and LeVeque 1979)."""
        weight = self.weight + other.weight
        share = divide(other.weight, weight, empty=0.0)
        step = other.mean - self.mean
        mean = self.mean + step * share[:, None]
        square = self.square + other.square + (step**2).sum(-1) * self.weight * share
        return PartMoments(weight, self.tokens + other.tokens, mean, square)

    @property
    def spread(self) -> Float[np.ndarray, "layer part"]:
        """The residual spread: the root mean squared distance of a token from its part's mean; NaN without tokens."""
        return np.sqrt(divide(self.square, np.broadcast_to(self.weight, self.square.shape)))


def check_weighting(weighting: str) -> None:
    """Whether it is one of `WEIGHTINGS`.

    Raises:
        ValueError: it is not.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"expected a weighting among {', '.join(WEIGHTINGS)}, got {weighting!r}")


@recorded
def part_moments(
    model: HookedEncoder,
    pairs: EncodedPairs | PairBatch,
    *,
    weighting: Weighting | str = "token",
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> PartMoments:
    """q, d and their spread in what every layer's attention reads, with what `model.ablating` removes at the moment.

    Args:
        model: the model.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        weighting: "token": every token weighs the same, so long passages weigh more; "pair": every pair weighs the same,
            its tokens sharing its weight (a pair without tokens of the part has none there).
        token_budget: padded tokens a batch.

    Raises:
        ValueError: an unknown weighting.
    """
    check_weighting(weighting)
    pairs = as_encoded(pairs)
    cfg = model.cfg
    total = PartMoments.empty(cfg.n_layers, cfg.d_model)
    with torch.no_grad():
        for indices in length_batches(pairs.lengths, token_budget, in_order=model.hooked):
            batch = pairs.batch(indices).to(model.device)
            rows = [batch.parts[part] for part in MATCHED_PARTS]
            lengths = [row.sum(1, keepdim=True).expand_as(row)[row].double() for row in rows]
            weights = [torch.ones_like(length) if weighting == "token" else 1 / length for length in lengths]
            sums = [float(weight.sum()) for weight in weights]
            mean = np.zeros_like(total.mean)
            square = np.zeros_like(total.square)

            def measure(layer: int, read: Tensor, rows=rows, weights=weights, mean=mean, square=square) -> None:
                for part, (row, weight) in enumerate(zip(rows, weights, strict=True)):
                    if len(weight):
                        vectors = read[row].double()
                        centre = weight @ vectors / weight.sum()
                        mean[layer, part] = centre.cpu().numpy()
                        square[layer, part] = float(weight @ (vectors - centre).square().sum(1))

            visit_reads(model, batch, measure)
            counts = np.array([len(weight) for weight in weights])
            total = total + PartMoments(np.array(sums), counts, mean, square)
    return total


def visit_reads(model: HookedEncoder, batch: PairBatch, visit: Callable[[int, Tensor], None]) -> None:
    """Call `visit(layer, read)` with what attention reads in each layer, `[pair, pos, d_model]`; the last layer is not run."""

    def hook_of(layer: int) -> Callable:
        def hook_function(resid: Tensor, hook: HookPoint) -> None:
            visit(layer, model.block(layer).read(resid))

        return hook_function

    last = model.cfg.n_layers - 1
    hooks: FwdHooks = [(f"blocks.{layer}.hook_resid_pre", hook_of(layer)) for layer in range(last)]
    visit(last, model.block(last).read(model.run_with_hooks(batch, stop_at_layer=last, fwd_hooks=hooks)))


@dataclass(frozen=True)
class MeanScores(Framed):
    """What the weights make of the part means; `[layer, head, attender part, attended part]` and `[layer, head]`.

    Attributes:
        plain: x^T A y for x, y among q, d.
        biased: (x W_Q + b_Q) . (y W_K + b_K).
        contrast, contrast_biased: q^T A d - d^T A d, without and with biases; b_Q is in neither (but with rotary positions).
        other_contrast, other_contrast_biased: d^T A q - d^T A d; b_K is in neither (but with rotary positions).
        scale: divide by it for the units that the softmax sees: sqrt(d_head), or what the model has instead.
    """

    plain: Float[np.ndarray, "layer head attender attended"]
    biased: Float[np.ndarray, "layer head attender attended"]
    contrast: Float[np.ndarray, "layer head"]
    contrast_biased: Float[np.ndarray, "layer head"]
    other_contrast: Float[np.ndarray, "layer head"]
    other_contrast_biased: Float[np.ndarray, "layer head"]
    scale: float

    def axes(self) -> Mapping[str, Labels]:
        """Parts by their names."""
        return dict.fromkeys(("attender", "attended"), tuple(part.name for part in MATCHED_PARTS))


@recorded
def mean_scores(
    model: HookedEncoder,
    mean: Float[np.ndarray, "layer part d_model"],
    rotation: Float[np.ndarray, "layer part part d_head d_head"] | None = None,
) -> MeanScores:
    """The four products {q, d} x {q, d} of every head and the contrasts, in float64.

    Args:
        model: its W_Q, W_K, b_Q and b_K are read.
        mean: q and d of each layer, from `part_moments(...).mean`.
        rotation: of a model with rotary positions, the mean rotation from attender part to attended part (`qk_offsets`).

    Raises:
        ValueError: `mean` does not have the model's layers and width.
    """
    cfg = model.cfg
    if mean.shape != (cfg.n_layers, len(MATCHED_PARTS), cfg.d_model):
        raise ValueError(f"expected means of shape {(cfg.n_layers, len(MATCHED_PARTS), cfg.d_model)}, got {mean.shape}")
    W_Q, W_K, b_Q, b_K = (
        w.detach().to("cpu", torch.float64).numpy() for w in (model.W_Q, model.W_K, model.b_Q, model.b_K)
    )
    attender = np.einsum("lpd,lhde->lhpe", mean, W_Q)
    attended = np.einsum("lpd,lhde->lhpe", mean, W_K)
    biased_attender, biased_attended = attender + b_Q[:, :, None], attended + b_K[:, :, None]
    scale = _scale(model)
    if rotation is not None:
        plain, biased = (
            np.einsum("lhxe,lxyef,lhyf->lhxy", q, rotation, k)
            for q, k in ((attender, attended), (biased_attender, biased_attended))
        )
        own, own_biased, other, other_biased = (
            s[:, :, x, y] - s[:, :, DOC, DOC] for x, y in ((QUERY, DOC), (DOC, QUERY)) for s in (plain, biased)
        )
        return MeanScores(plain, biased, own, own_biased, other, other_biased, scale)
    rows = attender[:, :, QUERY] - attender[:, :, DOC]
    columns = attended[:, :, QUERY] - attended[:, :, DOC]
    return MeanScores(
        attender @ attended.swapaxes(-2, -1),
        biased_attender @ biased_attended.swapaxes(-2, -1),
        (rows * attended[:, :, DOC]).sum(-1),
        (rows * biased_attended[:, :, DOC]).sum(-1),
        (attender[:, :, DOC] * columns).sum(-1),
        (biased_attender[:, :, DOC] * columns).sum(-1),
        scale,
    )


def _scale(model: HookedEncoder) -> float:
    nothing = torch.zeros(1, 1, model.cfg.n_heads, model.cfg.d_head, dtype=model.dtype, device=model.device)
    with torch.no_grad():
        scale = model.block(0).attn.terms(nothing, nothing)[1]
    return float(model.cfg.d_head) ** 0.5 if scale is None else 1 / scale


def divide(above: np.ndarray, below: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """`above / below`, with `empty` where `below` is 0."""
    below = np.broadcast_to(below, above.shape)
    return np.divide(above, below, out=np.full(above.shape, empty), where=below != 0)
