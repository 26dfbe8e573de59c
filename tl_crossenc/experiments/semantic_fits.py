"""The regressions of semantic BM25: which features a system has of a pair, what it learns on some pairs and says of others."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.interventions.heads import format_heads
from tl_crossenc.statistics.folds import numbered
from tl_crossenc.statistics.ties import TIE_TOLERANCE

BM25, TUNED, SOFT_TF, SEMANTIC, WITH_SEP2 = (
    "BM25", "BM25, tuned", "soft-TF", "semantic BM25", "semantic BM25, SEP2 in"
)  # fmt: skip
SYSTEMS = (BM25, TUNED, SOFT_TF, SEMANTIC, WITH_SEP2)
PAIRS_A_FEATURE = 5
"""Pairs fitted on for each feature, at least: fewer heads are taken where there are fewer pairs."""


@dataclass(frozen=True)
class Fields:
    """What regressions are given of the pairs.

    Attributes:
        scores: the model's, which are to be predicted.
        queries: of each pair.
        idf: summed over its query tokens.
        plain: soft-TF summed over them, of every head, layer by layer; first of DOC alone, then with SEP2.
        weighted: the same of idf times soft-TF.
        bm25: by (k1, b), the first of them the usual one.
        shape: (layers, heads).
    """

    scores: Float64[np.ndarray, "pair"]
    queries: Sequence[Hashable]
    idf: Float64[np.ndarray, "pair"]
    plain: Float64[np.ndarray, "counted pair head"]
    weighted: Float64[np.ndarray, "counted pair head"]
    bm25: dict[tuple[float, float], Float64[np.ndarray, "pair"]]
    shape: tuple[int, int]

    __repr__ = short_repr


@dataclass(frozen=True)
class Predicted:
    """What a system says of pairs that it did not learn on.

    Attributes:
        values: of all pairs, each by the fold that it is in.
        chosen: of each fold, what was chosen on the others: heads as `3.1,4.0`, or k1 and b.
        heads: of each fold, the heads chosen, numbered layer by layer.
    """

    values: Float64[np.ndarray, "pair"]
    chosen: tuple[str, ...]
    heads: tuple[tuple[int, ...], ...]

    __repr__ = short_repr


def predict(
    system: str, fields: Fields, folds: Int64[np.ndarray, "pair"], n_heads: int, heads: Sequence[int] | None = None
) -> Predicted:
    """Fit a system on all folds but one and predict that one, fold by fold. Nothing is chosen, scaled or fitted on the fold itself.

    Args:
        system: of `SYSTEMS`.
        fields: of the pairs.
        folds: of each pair.
        n_heads: to choose at most, those whose feature goes best with the score within queries; none that does not vary there.
        heads: to take in their place, numbered layer by layer.
    """
    values, chosen, taken = np.zeros(len(folds)), [], []
    for fold in range(int(folds.max()) + 1):
        learn = folds != fold
        columns, name, own = _features(system, fields, learn, n_heads, heads)
        values[~learn] = fields.scores[learn].mean()
        if columns.shape[1]:
            fitted = make_pipeline(StandardScaler(), LinearRegression()).fit(columns[learn], fields.scores[learn])
            values[~learn] = fitted.predict(columns[~learn])
        chosen.append(name)
        taken.append(own)
    return Predicted(values, tuple(chosen), tuple(taken))


def _features(
    system: str, fields: Fields, learn: np.ndarray, n_heads: int, heads: Sequence[int] | None
) -> tuple[np.ndarray, str, tuple[int, ...]]:
    """(`[pair, feature]`, what was chosen in words, the heads)."""
    if system in (BM25, TUNED):
        grid = fields.bm25 if system == TUNED else dict([next(iter(fields.bm25.items()))])
        k1, b = max(grid, key=lambda setting: _correlation(grid[setting][learn], fields.scores[learn]))
        return grid[k1, b][:, None], f"k1 {k1:g}, b {b:g}", ()
    counted = int(system == WITH_SEP2)
    plain, weighted = fields.plain[counted], fields.weighted[counted]
    used = plain if system == SOFT_TF else weighted
    per_head = 1 if system == SOFT_TF else 2
    if heads is None:
        most = max((int(learn.sum()) // PAIRS_A_FEATURE - 1) // per_head, 1)
        learnt = [query for query, known in zip(fields.queries, learn, strict=True) if known]
        strengths = np.abs(within_queries(used[learn], fields.scores[learn], learnt))
        heads = [head for head in np.argsort(-strengths, kind="stable").tolist() if strengths[head] > 0]
        heads = heads[: min(n_heads, most)]
    own = list(heads)
    named = format_heads(divmod(head, fields.shape[1]) for head in own)
    if system == SOFT_TF:
        return plain[:, own], named, tuple(own)
    return np.column_stack([fields.idf, plain[:, own], weighted[:, own]]), named, tuple(own)


def within_queries(
    features: Float64[np.ndarray, "pair feature"], scores: Float64[np.ndarray, "pair"], queries: Sequence[Hashable]
) -> Float64[np.ndarray, "feature"]:
    """Pearson's correlation of each feature with the score, both less their mean over the query; 0 where all is rounding."""
    codes = numbered(queries)
    order = np.argsort(codes, kind="stable")
    n = np.bincount(codes)
    starts = np.concatenate([[0], np.cumsum(n)[:-1]])
    sides = []
    for values in (features, scores[:, None]):
        means = np.add.reduceat(values[order], starts, axis=0) / n[:, None]
        left = values - means[codes]
        rounding = TIE_TOLERANCE["float32"] * np.abs(values).max(0, initial=0.0)
        sides.append(np.where(np.abs(left).max(0) <= rounding, 0.0, left))
    x, y = sides
    sizes = np.sqrt((x**2).sum(0) * (y**2).sum(0))
    return np.where(sizes > 0, (x * y).sum(0) / np.where(sizes > 0, sizes, 1.0), 0.0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where a side does not vary."""
    x, y = a - a.mean(), b - b.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else 0.0
