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

Positions. With rotary positions A is W_Q R(j - i) W_K^T: the rotation is in all four terms, and the first, of the two means, is
no constant but a function of the distance. DeBERTa's score has terms of position besides: all together, as the model computes them
with its biases, are a fifth term, `position`; the five sum to s, and W_Q W_K^T gives the first four. What is constant in a row
differs there, so `row_r2` takes all but the interaction in the place of (attended). A layer with a window counts the token pairs
that it has.

Limits. A head whose scores are exactly 0 has NaN everywhere; one whose scores are rounding error has shares of rounding error, so
read them beside `mean_square`. Biases, which the paper leaves out, add terms in one token only: they would count as eps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.instruments.qk import MATCHED_PARTS, divide, visit_reads
from tl_crossenc.instruments.qk_grids import ORIENTATIONS, pairs_of_tokens, term_grids
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.hooked_encoder import HookedEncoder
from tl_crossenc.model.made_by import recorded

TERMS = ("constant", "attender", "attended", "interaction")
"""The axis `term`."""
POSITION = "position"
"""A fifth term, of models with relative positions."""
INTERACTION = 3
TERM_DIRECTIONS = tuple(Direction(MATCHED_PARTS[row], MATCHED_PARTS[column]) for row, column in ORIENTATIONS)
"""The axis `direction`: QUERY->DOC, DOC->QUERY."""


SUMS = ("count", "sums", "products", "row_products", "match_count", "match_sums")
"""The fields of `TermMoments` that add up."""


def term_names(relative: bool) -> tuple[str, ...]:
    """The axis `term` of a model without or with relative positions."""
    return (*TERMS, POSITION) if relative else TERMS


def _by_layer(count: np.ndarray) -> Float[np.ndarray, "direction layer_or_1 1"]:
    return count[:, :, None] if count.ndim > 1 else count[:, None, None]


@dataclass(frozen=True)
class TermMoments(Framed):
    """Sums over token pairs, whence all shares. Sums of two are exact merges.

    Attributes:
        count: `[direction]` token pairs; `[direction, layer]` where layers have windows.
        sums: `[direction, layer, head, term]`.
        products: `[direction, layer, head, term, term]` sums of products of two terms.
        row_products: `[direction, layer, head, 2, 2]` the same of attended and interaction, centred in each row.
        match_count: as `count`, token pairs of the same word piece.
        match_sums: `[direction, layer, head]` sums of the interaction over those.
        constant_varies: whether the term of the two means is not constant, as with rotary positions.
    """

    count: Float[np.ndarray, "direction *layer"]
    sums: Float[np.ndarray, "direction layer head term"]
    products: Float[np.ndarray, "direction layer head term term"]
    row_products: Float[np.ndarray, "direction layer head 2 2"]
    match_count: Float[np.ndarray, "direction *layer"]
    match_sums: Float[np.ndarray, "direction layer head"]

    constant_varies: bool = False

    MAIN = "sums"

    def axes(self) -> Mapping[str, Labels]:
        """Directions and terms by their names."""
        return {"direction": tuple(map(str, TERM_DIRECTIONS)), "term": self.names}

    @classmethod
    def empty(
        cls,
        n_layers: int,
        n_heads: int,
        *,
        n_terms: int = len(TERMS),
        windows: bool = False,
        constant_varies: bool = False,
    ) -> TermMoments:
        """Of no token pairs."""
        d = len(ORIENTATIONS)
        lead, counts = (d, n_layers, n_heads), (d, n_layers) if windows else (d,)
        shapes = (counts, (*lead, n_terms), (*lead, n_terms, n_terms), (*lead, 2, 2), counts, lead)
        zeros: dict[str, Any] = {name: np.zeros(shape) for name, shape in zip(SUMS, shapes, strict=True)}
        return cls(**zeros, constant_varies=constant_varies)

    @classmethod
    def of(cls, cfg: CrossEncoderConfig) -> TermMoments:
        """Of no token pairs, for what a model has: windows, rotary or relative positions."""
        return cls.empty(
            cfg.n_layers,
            cfg.n_heads,
            n_terms=len(term_names(cfg.relative is not None)),
            windows=any(window is not None for window in cfg.windows or ()),
            constant_varies=cfg.rotary_bases is not None,
        )

    def __add__(self, other: TermMoments) -> TermMoments:
        added: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in SUMS}
        return TermMoments(**added, constant_varies=self.constant_varies)

    @property
    def names(self) -> tuple[str, ...]:
        """The axis `term`."""
        return term_names(self.sums.shape[-1] > len(TERMS))

    @property
    def token_pairs(self) -> Float[np.ndarray, "direction layer_or_1 1"]:
        """`count`, to be divided by."""
        return _by_layer(self.count)

    @property
    def mean_square(self) -> Float[np.ndarray, "direction layer head"]:
        """E[s^2]; NaN without token pairs, as everything here."""
        return divide(self.products.sum((-2, -1)), self.token_pairs)

    @property
    def variance(self) -> Float[np.ndarray, "direction layer head"]:
        """var(s) over token pairs."""
        return self._covariance.sum((-2, -1)).clip(min=0)

    @property
    def _covariance(self) -> np.ndarray:
        mean = divide(self.sums, self.token_pairs[..., None])
        covariance = divide(self.products, self.token_pairs[..., None, None]) - mean[..., :, None] * mean[..., None, :]
        if not self.constant_varies:
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
        return divide(self.products[..., 1:3, 1:3].sum((-2, -1)), self.token_pairs)

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
        matches = _by_layer(self.match_count)
        on = divide(self.match_sums, matches)
        off = divide(self.sums[..., INTERACTION] - self.match_sums, self.token_pairs - matches)
        return divide(on - off, np.sqrt(self._covariance[..., INTERACTION, INTERACTION].clip(0)))


@recorded
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
    total = TermMoments.of(cfg)
    means = torch.from_numpy(mean).to(model.device)
    windows = cfg.windows or (None,) * cfg.n_layers
    with torch.no_grad():
        for indices in length_batches(pairs.lengths, token_budget, in_order=model.hooked):
            batch = pairs.batch(indices).to(model.device)
            found = TermMoments.of(cfg)
            counted = {w: [pairs_of_tokens(batch, *sides, w) for sides in ORIENTATIONS] for w in dict.fromkeys(windows)}

            def measure(layer: int, read: Tensor, batch=batch, found=found, counted=counted) -> None:
                for d, terms in enumerate(term_grids(model, layer, read, batch, means)):
                    _fill(found, d, layer, terms, *counted[windows[layer]][d])

            visit_reads(model, batch, measure)
            total = total + found
    return total


def _fill(into: TermMoments, d: int, layer: int, terms: Tensor, kept: Tensor, equal: Tensor) -> None:
    """Fill in the sums over one batch's token pairs of one direction and layer."""
    keep, at = kept[:, None].double(), (d, layer)
    interaction, n_terms = terms[:, INTERACTION], terms.shape[1]
    terms = terms * keep[:, None]
    flat = terms.permute(2, 1, 0, 3, 4).flatten(2)
    into.sums[at] = flat.sum(-1).cpu().numpy()
    into.products[at] = (flat @ flat.transpose(-2, -1)).cpu().numpy()
    if into.constant_varies or n_terms > len(TERMS):
        varying = torch.stack([terms.sum(1) - terms[:, INTERACTION], terms[:, INTERACTION]], 1)
    else:
        varying = terms[:, 2:]
    lengths = keep.sum(-1, keepdim=True).clamp(min=1)[:, None]
    centred = ((varying - varying.sum(-1, keepdim=True) / lengths) * keep[:, None]).permute(2, 1, 0, 3, 4).flatten(2)
    into.row_products[at] = (centred @ centred.transpose(-2, -1)).cpu().numpy()
    into.match_sums[at] = (interaction * equal[:, None]).sum((0, 2, 3)).cpu().numpy()
    cell = at if into.count.ndim > 1 else d
    into.count[cell], into.match_count[cell] = float(kept.sum()), float(equal.sum())
