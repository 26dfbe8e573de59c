"""How much of a word piece's rarity can be read off its token embedding, and from how few directions.

With N passages of which df_t have the piece t

    idf_t = log(1 + (N - df_t + .5) / (df_t + .5))        as BM25 has it

and the token embeddings W_E = U S V^T, idf is regressed on the first k columns of U (with an intercept, by least squares) on some
pieces and predicted for the others, in folds of a seeded split:

    R² = 1 - sum (idf_t - predicted_t)² / sum (idf_t - mean)²        over pieces that were not fitted on

The space that k columns span is what is asked, so that neither the sign of a singular vector nor a rotation among them counts.
Lu, Chen & Eickhoff 2025 (arXiv 2502.04645) take the first column alone. Beside it stands the same with the length of the row alone:
frequent pieces have short embeddings in many models, whatever a model does with rarity.

What counts. Pieces that no passage has are neither fitted nor predicted ([unused] rows and special tokens among them): nothing is
known of their idf. In the decomposition all rows of W_E are, or those pieces' alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.parts import Part
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.idf_editing import singular_directions
from tl_crossenc.model.made_by import recorded

NORM = "norm"
"""Names the length of the row among the features."""
FOLDS = 5
_RIDGE = 1e-10
"""Of the mean square of the columns: keeps one without variance solvable, and changes no R² that is shown."""
_SMALLEST = 1e-6
"""Singular values below this share of the largest are rounding."""


@dataclass(frozen=True)
class PieceFrequencies(Framed):
    """In how many passages each word piece is.

    Attributes:
        df: by token id.
        passages: N.
    """

    df: Int[np.ndarray, "piece"]
    passages: int

    __repr__ = short_repr

    @property
    def idf(self) -> Float[np.ndarray, "piece"]:
        """See the module; of a piece that no passage has what the formula gives for df = 0."""
        return np.log1p((self.passages - self.df + 0.5) / (self.df + 0.5))


@recorded
def piece_frequencies(model: HookedCrossEncoder, passages: Sequence[str]) -> PieceFrequencies:
    """Frequencies over distinct passages, as the model reads them behind an empty query, cut where it cuts them.

    Raises:
        ValueError: no passages.
    """
    texts = list(dict.fromkeys(passages))
    if not texts:
        raise ValueError("expected passages to count word pieces in, got none")
    pairs = model.encode_pairs("", texts)
    df = np.zeros(model.cfg.d_vocab, dtype=np.int64)
    for start, stop in zip(pairs.offsets, pairs.offsets[1:], strict=False):
        own = pairs.tokens[start:stop][pairs.parts[start:stop] == Part.DOC]
        df[np.unique(own)] += 1
    return PieceFrequencies(df, len(texts))


@dataclass(frozen=True)
class IdfInEmbeddings(Framed):
    """Idf of pieces, and what their embeddings say of it.

    Attributes:
        pieces: token ids of those that some passage has.
        idf: theirs.
        features: "1", "2", "4", ... first singular directions, and `NORM`.
        predictions: of pieces that were not fitted on.
        correlation: Pearson's of the first left singular vector with idf, the vector's sign such that the sum of its right one is
            not negative; NaN where it does not vary.
        left_out: rows of W_E that no passage has.
        decomposed: rows of W_E in the decomposition.
    """

    pieces: Int[np.ndarray, "piece"]
    idf: Float[np.ndarray, "piece"]
    features: tuple[str, ...]
    predictions: Float[np.ndarray, "feature piece"]
    correlation: float
    left_out: int
    decomposed: int

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Features by their names, pieces by their ids."""
        return {"feature": self.features, "piece": self.pieces}

    @property
    def r2(self) -> dict[str, float]:
        """Feature -> R² on held-out pieces; below 0 where the mean predicts better."""
        errors, total = ((self.idf - self.predictions) ** 2).sum(1), ((self.idf - self.idf.mean()) ** 2).sum()
        return dict(zip(self.features, (1 - errors / total).tolist(), strict=True))


@recorded
def idf_in_embeddings(
    W_E: Float[Tensor, "piece d_embed"],
    frequencies: PieceFrequencies,
    *,
    sizes: Sequence[int] | None = None,
    seen_rows: bool = False,
    n_folds: int = FOLDS,
    seed: int = 0,
) -> IdfInEmbeddings:
    """Predict idf from the first singular directions of token embeddings, and from their lengths.

    Args:
        W_E: of a model.
        frequencies: by the same ids.
        sizes: k; 1, 2, 4, ... and all directions by default. One that is not below half of the pieces fitted on is left out.
        seen_rows: decompose the rows of pieces that some passage has, in place of all ([unused] ones in).
        n_folds: of the pieces.
        seed: of the folds.

    Raises:
        ValueError: other ids on the two sides, fewer than two folds, a size below 1, too few pieces, pieces of one idf, or weights
            that are no numbers or all 0.
    """
    if len(W_E) != len(frequencies.df):
        raise ValueError(
            f"expected the frequency of each of {len(W_E)} rows of W_E, got {len(frequencies.df)}: count with the same model"
        )
    if n_folds < 2 or (sizes is not None and (not len(sizes) or min(sizes) < 1)):
        raise ValueError(f"expected at least 2 folds and sizes from 1 on, got {n_folds} and {sizes}")
    pieces = np.flatnonzero(frequencies.df)
    idf = frequencies.idf[pieces]
    if len(pieces) < 2 * n_folds or np.ptp(idf) == 0:
        raise ValueError(
            f"expected at least {2 * n_folds} word pieces, not all equally rare, got {len(pieces)} from {frequencies.passages} "
            "passages: take more passages"
        )
    wide = W_E.detach().double()
    rows = wide[torch.from_numpy(pieces).to(wide.device)]
    values, vectors = singular_directions(rows if seen_rows else wide)
    known = int((values > _SMALLEST * values[0]).sum())
    if not known:
        raise ValueError("expected token embeddings that are not all 0: check the checkpoint's weights")
    most = min(known, (len(pieces) - -(-len(pieces) // n_folds)) // 2 - 1)
    asked = sizes if sizes is not None else [*(1 << i for i in range(known.bit_length())), known]
    used = sorted({size for size in asked if size <= most})
    columns = (rows @ vectors[:, :most] / values[:most]).cpu().numpy()
    lengths = rows.norm(dim=1).cpu().numpy()
    fold = np.random.default_rng([seed, len(pieces)]).permutation(len(pieces)) % n_folds
    by_size = _held_out(columns, idf, fold, used)
    u, varies = columns[:, 0], bool(np.ptp(columns[:, 0]) > 1e-12 * np.abs(columns[:, 0]).max())
    return IdfInEmbeddings(
        pieces,
        idf,
        (*map(str, used), NORM),
        np.concatenate([by_size, _held_out(lengths[:, None], idf, fold, [1])]),
        float(np.corrcoef(u, idf)[0, 1]) if varies else float("nan"),
        len(W_E) - len(pieces),
        len(pieces) if seen_rows else len(W_E),
    )


def _held_out(
    columns: Float[np.ndarray, "piece k"], target: Float[np.ndarray, "piece"], fold: np.ndarray, sizes: Sequence[int]
) -> Float[np.ndarray, "size piece"]:
    """Least squares on the first columns, fold by fold; the leading parts of one Cholesky factor serve all sizes."""
    found = np.zeros((len(sizes), len(target)))
    for number in np.unique(fold):
        own = fold == number
        centre, level = columns[~own].mean(0), target[~own].mean()
        fitted = columns[~own] - centre
        square = fitted.T @ fitted
        square[np.diag_indices(len(square))] += _RIDGE * max(
            float(np.trace(square)) / len(square), np.finfo(float).tiny
        )
        factor, moments = np.linalg.cholesky(square), fitted.T @ (target[~own] - level)
        for i, size in enumerate(sizes):
            lower = factor[:size, :size]
            weights = np.linalg.solve(lower.T, np.linalg.solve(lower, moments[:size]))
            found[i, own] = level + (columns[own, :size] - centre[:size]) @ weights
    return found
