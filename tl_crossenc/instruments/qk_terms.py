"""The paper's decomposition of the attention score between query and passage tokens, held against real scores.

Vast et al. 2025, eq. 1-2, write tokens as E_i = q + x_i + a_i (query) and E_j = d + y_j + b_j (passage), and suppose
E_i^T A E_j = q^T A d + x_i^T A y_j + eps with eps near 0. What a token's own part is cannot be told from its residual a_i, so
here x_i stands for x_i + a_i = E_i - q, which gives eps its best chance. Then exactly, for i in the attender part with mean m
and j in the attended part with mean n,

    s_ij = E_i^T A E_j = m^T A n  +  x_i^T A n  +  m^T A y_j  +  x_i^T A y_j
                         constant    attender     attended     interaction

and eps_ij = attender + attended. All are divided by sqrt(d_head), as the softmax sees them; biases are left out, as in the paper.
Every (i, j) with both tokens in the same pair counts once; only sums of terms and of their products are kept.

Reading. `shares`: E[term s] / E[s^2], shares of the mean square of s, which sum to 1 (one may be negative);
`variance_shares`: the same of the variance, cov(term, s) / var(s). `epsilon_ratio` = RMS(eps) / RMS(s). `two_term_r2` =
1 - E[eps^2] / var(s), the R^2 of the paper's right-hand side as it stands (negative: worse than the mean of s). A row's softmax
ignores what is constant in the row (constant and attender), so `row_r2` = 1 - sum (attended)^2 / sum s^2, both centred in each row
over the attended part, says how well the interaction alone gives the differences that the softmax sees. `match_lift`: how much
larger the interaction is where both tokens are the same word piece than elsewhere, in its standard deviations.

Limits. A head whose scores are exactly 0 has NaN everywhere; one whose scores are rounding error has shares of rounding error, so
read them beside `mean_square`. Biases, which the paper leaves out, add terms in one token only: they would count as eps.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.instruments.qk import DOC, MATCHED_PARTS, QUERY, divide, visit_residuals
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.hooked_encoder import HookedEncoder

TERMS = ("constant", "attender", "attended", "interaction")
"""The axis `term`."""
ORIENTATIONS = ((QUERY, DOC), (DOC, QUERY))
TERM_DIRECTIONS = tuple(Direction(MATCHED_PARTS[row], MATCHED_PARTS[column]) for row, column in ORIENTATIONS)
"""The axis `direction`: QUERY->DOC, DOC->QUERY."""


@dataclass(frozen=True)
class TermMoments:
    """Sums over token pairs, whence all shares. Sums of two are exact merges.

    Attributes:
        count: `[direction]` token pairs.
        sums: `[direction, layer, head, term]`.
        products: `[direction, layer, head, term, term]` sums of products of two terms.
        row_products: `[direction, layer, head, 2, 2]` the same of attended and interaction, centred in each row.
        match_count: `[direction]` token pairs of the same word piece.
        match_sums: `[direction, layer, head]` sums of the interaction over those.
    """

    count: Float[np.ndarray, "direction"]
    sums: Float[np.ndarray, "direction layer head term"]
    products: Float[np.ndarray, "direction layer head term term"]
    row_products: Float[np.ndarray, "direction layer head 2 2"]
    match_count: Float[np.ndarray, "direction"]
    match_sums: Float[np.ndarray, "direction layer head"]

    @classmethod
    def empty(cls, n_layers: int, n_heads: int) -> TermMoments:
        """Of no token pairs."""
        d, n = len(ORIENTATIONS), len(TERMS)
        lead = (d, n_layers, n_heads)
        shapes = ((d,), (*lead, n), (*lead, n, n), (*lead, 2, 2), (d,), lead)
        return cls(*(np.zeros(shape) for shape in shapes))

    def __add__(self, other: TermMoments) -> TermMoments:
        return TermMoments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def _n(self) -> np.ndarray:
        return self.count[:, None, None]

    @property
    def mean_square(self) -> Float[np.ndarray, "direction layer head"]:
        """E[s^2]; NaN without token pairs, as everything here."""
        return divide(self.products.sum((-2, -1)), self._n)

    @property
    def variance(self) -> Float[np.ndarray, "direction layer head"]:
        """var(s) over token pairs."""
        return self._covariance.sum((-2, -1)).clip(min=0)

    @property
    def _covariance(self) -> np.ndarray:
        mean = divide(self.sums, self._n[..., None])
        covariance = divide(self.products, self._n[..., None, None]) - mean[..., :, None] * mean[..., None, :]
        covariance[..., 0, :] = 0.0  # the constant has none, and rounding should not give it some
        covariance[..., :, 0] = 0.0
        return covariance

    @property
    def square_ratios(self) -> Float[np.ndarray, "direction layer head term"]:
        """E[term^2] / E[s^2]; these need not sum to 1, since terms may reinforce or cancel each other."""
        squares = np.diagonal(self.products, axis1=-2, axis2=-1)
        return divide(squares, self.products.sum((-2, -1))[..., None])

    @property
    def shares(self) -> Float[np.ndarray, "direction layer head term"]:
        """E[term s] / E[s^2]; they sum to 1."""
        return divide(self.products.sum(-1), self.products.sum((-2, -1))[..., None])

    @property
    def variance_shares(self) -> Float[np.ndarray, "direction layer head term"]:
        """cov(term, s) / var(s); they sum to 1, the constant's is 0."""
        covariance = self._covariance
        return divide(covariance.sum(-1), covariance.sum((-2, -1))[..., None])

    @property
    def _epsilon_square(self) -> np.ndarray:
        return divide(self.products[..., 1:3, 1:3].sum((-2, -1)), self._n)

    @property
    def epsilon_ratio(self) -> Float[np.ndarray, "direction layer head"]:
        """RMS(eps) / RMS(s), the paper's eps being near 0 if this is."""
        return np.sqrt(divide(self._epsilon_square, self.mean_square))

    @property
    def two_term_r2(self) -> Float[np.ndarray, "direction layer head"]:
        """R^2 of constant + interaction as the paper writes it, nothing fitted."""
        return 1 - divide(self._epsilon_square, self.variance)

    @property
    def row_r2(self) -> Float[np.ndarray, "direction layer head"]:
        """R^2 of the interaction for the differences of scores inside of a row; NaN where rows are constant."""
        return 1 - divide(self.row_products[..., 0, 0], self.row_products.sum((-2, -1)))

    @property
    def match_lift(self) -> Float[np.ndarray, "direction layer head"]:
        """(mean interaction on equal word pieces - mean elsewhere) / its standard deviation; NaN without either kind."""
        matches = self.match_count[:, None, None]
        on = divide(self.match_sums, matches)
        off = divide(self.sums[..., 3] - self.match_sums, self._n - matches)
        return divide(on - off, np.sqrt(self._covariance[..., 3, 3].clip(0)))


def term_moments(
    model: HookedEncoder,
    pairs: EncodedPairs | PairBatch,
    mean: Float[np.ndarray, "layer part d_model"],
    *,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> TermMoments:
    """The moments of the four terms over all query-passage token pairs, with `model.ablating`'s ablations.

    Args:
        model: the model.
        pairs: encoded pairs; the work grows with query length times passage length.
        mean: q and d of each layer, from `part_moments(...).mean`.
        token_budget: padded tokens a batch.
    """
    pairs = as_encoded(pairs)
    cfg = model.cfg
    total = TermMoments.empty(cfg.n_layers, cfg.n_heads)
    means = torch.from_numpy(mean).to(model.device)
    with torch.no_grad():
        for indices in length_batches(pairs.lengths, token_budget, in_order=model.hooked):
            batch = pairs.batch(indices).to(model.device)
            found = TermMoments.empty(cfg.n_layers, cfg.n_heads)
            counted = [_pairs_of_tokens(batch, *sides) for sides in ORIENTATIONS]
            for d, (kept, equal) in enumerate(counted):
                found.count[d], found.match_count[d] = float(kept.sum()), float(equal.sum())

            def measure(layer: int, resid: Tensor, batch=batch, found=found, counted=counted) -> None:
                projected = [_project(model, layer, resid, batch, part, means) for part in range(len(MATCHED_PARTS))]
                for d, (row, column) in enumerate(ORIENTATIONS):
                    _fill_terms(found, (d, layer), projected[row], projected[column], *counted[d])

            visit_residuals(model, batch, measure)
            total = total + found
    return total


@dataclass(frozen=True)
class _Projected:
    """A part's tokens, `[pair, head, pos, d_head]`, and its mean, `[head, d_head]`, as attenders (q) and as attended (k)."""

    q: Tensor
    k: Tensor
    mean_q: Tensor
    mean_k: Tensor


def _project(model: HookedEncoder, layer: int, resid: Tensor, batch: PairBatch, part: int, means: Tensor) -> _Projected:
    low, high = batch.parts.span([MATCHED_PARTS[part]])
    centred = resid[:, low:high].double() - means[layer, part]
    kind = torch.float64 if model.dtype == torch.float64 else torch.float32
    W_Q, W_K = model.W_Q[layer] / model.cfg.d_head**0.5, model.W_K[layer]
    q, k = (torch.einsum("bpd,hde->bhpe", centred.to(kind), weight.to(kind)).double() for weight in (W_Q, W_K))
    mean_q, mean_k = (torch.einsum("d,hde->he", means[layer, part], weight.double()) for weight in (W_Q, W_K))
    return _Projected(q, k, mean_q, mean_k)


def _pairs_of_tokens(
    batch: PairBatch, row: int, column: int
) -> tuple[Bool[Tensor, "pair row column"], Bool[Tensor, "pair row column"]]:
    """Over the spans of both parts: which token pairs count, and which of them are of the same word piece."""
    (low, high), (left, right) = (batch.parts.span([MATCHED_PARTS[part]]) for part in (row, column))
    rows, columns = (batch.parts[MATCHED_PARTS[part]] for part in (row, column))
    kept = rows[:, low:high, None] & columns[:, None, left:right]
    tokens: Int[Tensor, "pair pos"] = batch.tokens
    return kept, kept & (tokens[:, low:high, None] == tokens[:, None, left:right])


def _fill_terms(
    into: TermMoments, at: tuple[int, int], rows: _Projected, columns: _Projected, kept: Tensor, equal: Tensor
) -> None:
    """Fill in the sums over one batch's token pairs of one direction and layer."""
    keep = kept[:, None].double()
    interaction = rows.q @ columns.k.transpose(-2, -1)
    constant = (rows.mean_q * columns.mean_k).sum(-1)[:, None, None].expand_as(interaction)
    attender = torch.einsum("bhne,he->bhn", rows.q, columns.mean_k)[..., None].expand_as(interaction)
    attended = torch.einsum("he,bhme->bhm", rows.mean_q, columns.k)[..., None, :].expand_as(interaction)
    terms = torch.stack([constant, attender, attended, interaction], 1) * keep[:, None]
    flat = terms.permute(2, 1, 0, 3, 4).flatten(2)
    into.sums[at] = flat.sum(-1).cpu().numpy()
    into.products[at] = (flat @ flat.transpose(-2, -1)).cpu().numpy()
    varying = terms[:, 2:]
    lengths = keep.sum(-1, keepdim=True).clamp(min=1)[:, None]
    centred = ((varying - varying.sum(-1, keepdim=True) / lengths) * keep[:, None]).permute(2, 1, 0, 3, 4).flatten(2)
    into.row_products[at] = (centred @ centred.transpose(-2, -1)).cpu().numpy()
    into.match_sums[at] = (interaction * equal[:, None]).sum((0, 2, 3)).cpu().numpy()
