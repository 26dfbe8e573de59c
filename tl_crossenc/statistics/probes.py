"""Linear probes, by predictions for queries that they were not fitted on.

For every fold of queries a probe is fitted on the other queries' pairs and predicts the fold's. On the pairs it is fitted on, every
column is brought to mean 0 and standard deviation 1 (one without variance is left out), and the penalty is chosen on them, too.

**Ridge.** With the standardised X [pair, d], targets Y [pair, target] less their mean, X = U S V^T:

    w(a) = V S / (S² + a) U^T Y        fitted = H Y,  H = U S² / (S² + a) U^T + 1/n

of several penalties a the one with the smallest squared error on queries left out. For a query's rows B that error needs no fit of
its own: y_B − prediction without B = (I − H_BB)^-1 (y_B − fitted_B), exactly, for columns as they are (the block form of Allen's
PRESS, 1974). So one decomposition serves all penalties, all targets and every query left out; scikit-learn's `RidgeCV` leaves out
single pairs, which are not independent within a query.

**Logistic.** scikit-learn's `LogisticRegression`, its C of several by the log-loss on folds of the training queries.

A linear probe finds what is linearly decodable. It does not say that the model uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression

from tl_crossenc.statistics.folds import dealt, numbered
from tl_crossenc.statistics.ties import TIE_TOLERANCE

PENALTIES = tuple(10.0**power for power in range(6, -2, -1))
"""Of ridge, on columns of standard deviation 1; the largest first, which is taken where several do alike."""
STRENGTHS = tuple(10.0**power for power in range(-4, 1))
"""C of logistic regression, likewise: the strongest penalty first."""
INNER_FOLDS = 3
_STEPS = 5000

States = Float64[np.ndarray, "pair column"]
Targets = Float64[np.ndarray, "pair target"]
Weights = Float64[np.ndarray, "column target"]


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for pairs whose query was not fitted on.

    Attributes:
        predictions: `[pair, target]`.
        chosen: `[fold, target]`, the penalty, or C, that was chosen.
        scale: `[target]`, the size of the terms that a prediction is a sum of, for `ties.tie_groups`: the largest over pairs of
            the root of the sum of squared terms.
        constant: `[fold]`, columns left out as they do not vary.
    """

    predictions: Float64[np.ndarray, "pair target"]
    chosen: Float64[np.ndarray, "fold target"]
    scale: Float64[np.ndarray, "target"]
    constant: Int64[np.ndarray, "fold"]


def ridge_probe(
    X: ArrayLike,
    Y: ArrayLike,
    queries: Sequence[Hashable],
    folds: ArrayLike,
    *,
    penalties: Sequence[float] = PENALTIES,
    tolerance: float = TIE_TOLERANCE["float32"],
) -> OutOfFold:
    """Out-of-fold predictions of ridge regression; see the module.

    Args:
        X: `[pair, column]`.
        Y: `[pair, target]` or `[pair]`, numbers.
        queries: the query of each pair.
        folds: the fold of each pair, from `query_folds`.
        penalties: to choose from, all above 0.
        tolerance: columns that vary by no more than this share of their own size, or of the mean size of all, are constant
            (`ties.py`).

    Raises:
        ValueError: lengths that differ, numbers that are not finite, a query in two folds, a penalty that is not positive.
    """
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"expected penalties above 0, got {list(penalties)}")

    def fit(Z: States, targets: Targets, own: np.ndarray) -> tuple[Weights, np.ndarray]:
        return _ridge(Z, targets - targets.mean(0), own, penalties)

    return _out_of_fold(X, Y, queries, folds, tolerance, fit, lambda targets: targets.mean(0))


def logistic_probe(
    X: ArrayLike,
    labels: ArrayLike,
    queries: Sequence[Hashable],
    folds: ArrayLike,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    tolerance: float = TIE_TOLERANCE["float32"],
) -> OutOfFold:
    """Out-of-fold log-odds of logistic regression; see the module.

    Args:
        X, queries, folds, tolerance: as `ridge_probe` takes them.
        labels: `[pair, target]` or `[pair]`, 0 or 1.
        strengths: values of C to choose from.
        seed: of the folds of training queries.

    Raises:
        ValueError: as `ridge_probe`, or labels other than 0 and 1.
    """
    if not np.isin(np.asarray(labels), (0, 1)).all():
        raise ValueError("expected labels 0 and 1 for logistic regression; use ridge regression for other numbers")
    intercepts: list[float] = []

    def fit(Z: States, targets: Targets, own: np.ndarray) -> tuple[Weights, np.ndarray]:
        intercepts.clear()
        inner = dealt(own, INNER_FOLDS, seed)
        weights, chosen = [], []
        for column in targets.T:
            losses = [sum(_log_loss(Z, column, inner == f, C) for f in np.unique(inner)) for C in strengths]
            best = strengths[int(np.argmin(losses))]
            w, intercept = _logistic(Z, column, best)
            weights.append(w)
            chosen.append(best)
            intercepts.append(intercept)
        return np.stack(weights, 1), np.array(chosen)

    return _out_of_fold(X, labels, queries, folds, tolerance, fit, lambda targets: np.array(intercepts))


def _out_of_fold(
    X: ArrayLike,
    Y: ArrayLike,
    queries: Sequence[Hashable],
    folds: ArrayLike,
    tolerance: float,
    fit: Callable[[States, Targets, np.ndarray], tuple[Weights, np.ndarray]],
    intercept: Callable[[Targets], np.ndarray],
) -> OutOfFold:
    """Standardise, fit and predict fold by fold; `fit` gives weights `[column, target]` and what it chose."""
    states, targets = np.asarray(X, dtype=np.float64), np.asarray(Y, dtype=np.float64)
    targets = targets[:, None] if targets.ndim == 1 else targets
    codes, fold = numbered(queries), np.asarray(folds)
    lengths = len(states), len(targets), len(codes), len(fold)
    if states.ndim != 2 or len(set(lengths)) > 1 or not lengths[0]:
        raise ValueError(
            f"expected a row, targets, a query and a fold of every pair, got {', '.join(map(str, lengths))}"
        )
    if not (np.isfinite(states).all() and np.isfinite(targets).all()):
        raise ValueError("expected finite states and targets; leave out pairs whose set of tokens is empty")
    names = np.unique(fold)
    together = np.unique(np.stack([codes, fold]), axis=1)
    if together.shape[1] > codes.max() + 1 or max(np.bincount(together[1])) > codes.max() - 1:
        raise ValueError(
            "expected each query in one fold, and two queries or more outside of each fold: see query_folds"
        )
    predictions, scale = np.zeros_like(targets), np.zeros(targets.shape[1])
    chosen, constant = np.zeros((len(names), targets.shape[1])), np.zeros(len(names), np.int64)
    for i, name in enumerate(names):
        asked = fold == name
        mean, deviation = _moments(states[~asked], tolerance)
        varies = deviation > 0
        constant[i] = int((~varies).sum())
        Z = (states[~asked][:, varies] - mean[varies]) / deviation[varies]
        weights, chosen[i] = fit(Z, targets[~asked], codes[~asked])
        level = intercept(targets[~asked])
        predictions[asked] = (states[asked][:, varies] - mean[varies]) / deviation[varies] @ weights + level
        sizes = (states[asked][:, varies] / deviation[varies]) ** 2 @ weights**2
        scale = np.maximum(scale, np.sqrt(sizes.max(0, initial=0.0)) + np.abs(level))
    return OutOfFold(predictions, chosen, scale, constant)


def _moments(states: States, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every column, 0 where what varies is rounding."""
    size = np.maximum(np.abs(states).max(0), np.abs(states).mean())
    deviation = states.std(0)
    return states.mean(0), np.where(deviation > tolerance * size, deviation, 0.0)


def _ridge(
    Z: States, centred: Targets, own: np.ndarray, penalties: Sequence[float]
) -> tuple[Weights, Float64[np.ndarray, "target"]]:
    """Weights `[column, target]` at the penalty that each target's left-out queries choose."""
    n, d = Z.shape
    if n <= d:
        squares, U = np.linalg.eigh(Z @ Z.T)
        squares = np.maximum(squares, 0.0)
        to_columns = Z.T @ U
    else:
        squares, V = np.linalg.eigh(Z.T @ Z)
        kept = squares > squares.max(initial=0.0) * 1e-12
        squares, V = squares[kept], V[:, kept]
        U, to_columns = Z @ V / np.sqrt(squares), V * np.sqrt(squares)
    seen = U.T @ centred  # [direction, target]
    alphas = np.asarray(penalties)[:, None]
    kept_shares = squares / (squares + alphas)  # [penalty, direction]
    left = centred - U @ (kept_shares[:, :, None] * seen)  # [penalty, pair, target]
    errors = np.zeros((len(penalties), centred.shape[1]))
    for query in np.unique(own):
        rows = own == query
        block = (U[rows] * kept_shares[:, None]) @ U[rows].T + 1 / n  # [penalty, own pair, own pair]
        errors += (np.linalg.solve(np.eye(block.shape[1]) - block, left[:, rows]) ** 2).sum(1)
    best = np.argmin(errors, axis=0)
    shrunk = seen / (squares[:, None] + np.asarray(penalties)[best])
    return to_columns @ shrunk, np.asarray(penalties)[best]


def _logistic(Z: States, labels: np.ndarray, C: float) -> tuple[np.ndarray, float]:
    """Weights and intercept; of labels that are all the same no weights, and log-odds that stay finite."""
    n, ones = len(labels), float(labels.sum())
    if ones in (0, n) or not Z.shape[1]:
        return np.zeros(Z.shape[1]), float(np.log((ones + 0.5) / (n - ones + 0.5)))
    found = LogisticRegression(C=C, max_iter=_STEPS).fit(Z, labels.astype(int))
    return found.coef_[0], float(found.intercept_[0])


def _log_loss(Z: States, labels: np.ndarray, asked: np.ndarray, C: float) -> float:
    w, intercept = _logistic(Z[~asked], labels[~asked], C)
    signs = np.where(labels[asked] > 0, 1.0, -1.0)
    return float(np.logaddexp(0, -signs * (Z[asked] @ w + intercept)).sum())
