"""How like are two representations of the same tokens, of any widths? Linear CKA, without the bias of few samples.

With K = X Xᵀ and L = Y Yᵀ the inner products of n samples, their diagonals set to 0, and 1 the vector of ones,

    HSIC(K, L) = [ tr(K L) + 1ᵀK1 · 1ᵀL1 / ((n − 1)(n − 2)) − 2 · 1ᵀK L 1 / (n − 2) ] / (n (n − 3))
    CKA(X, Y)  = HSIC(K, L) / sqrt(HSIC(K, K) · HSIC(L, L))

Kornblith et al., *Similarity of Neural Network Representations Revisited* (ICML 2019); the unbiased HSIC is that of Song et al.
(JMLR 2012), used for CKA by Nguyen et al. (ICLR 2021). 1 for representations that are one but for a rotation, a scale and a shift;
about 0, below as well, for unrelated ones. With the biased form few samples of many dimensions look alike whatever they are.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

LEAST = 4
"""Samples that the unbiased estimate needs."""


def linear_cka(x: Float[np.ndarray, "sample dim"], y: Float[np.ndarray, "sample2 dim2"]) -> float:
    """The debiased linear CKA; NaN for fewer than `LEAST` samples, or where one side does not vary.

    Raises:
        ValueError: not as many samples on both sides.
    """
    if len(x) != len(y):
        raise ValueError(f"expected as many samples on both sides, got {len(x)} and {len(y)}")
    if len(x) < LEAST:
        return math.nan
    ours, theirs = (_products(side) for side in (x, y))
    own = _hsic(ours, ours), _hsic(theirs, theirs)
    if any(value <= _rounding(side) for value, side in zip(own, (x, y), strict=True)):
        return math.nan
    return _hsic(ours, theirs) / math.sqrt(own[0] * own[1])


def _products(x: np.ndarray) -> np.ndarray:
    """Inner products of the centred samples, the diagonal 0; centring changes nothing but keeps digits."""
    centred = np.asarray(x, dtype=np.float64) - np.mean(x, axis=0, dtype=np.float64)
    found = centred @ centred.T
    np.fill_diagonal(found, 0.0)
    return found


def _rounding(x: np.ndarray) -> float:
    """What is left of HSIC where all samples are one but for float32's rounding."""
    return float(1e-14 * np.mean(np.square(x, dtype=np.float64).sum(1))) ** 2


def _hsic(a: np.ndarray, b: np.ndarray) -> float:
    n = len(a)
    rows, columns = a.sum(0), b.sum(0)
    whole = rows.sum() * columns.sum() / ((n - 1) * (n - 2))
    return float((np.vdot(a, b) + whole - 2 * rows @ columns / (n - 2)) / (n * (n - 3)))
