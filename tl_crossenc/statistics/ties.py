"""Which scores of a query count as equal.

Scores that ought to be equal differ in the last bits with the batch's shape and the kernel: that is no ranking. How large such
noise is follows from the arithmetic and from the size of the terms that a score is a sum of, and not from the score: where terms
cancel, a score near 0 carries the noise of the terms. So two neighbours in the sorted scores are tied when their gap is at most

    tolerance · max(scale, largest |score|)

with `scale` the size of the terms: `HookedCrossEncoder.score_scale` for a model's scores. A model whose classifier is multiplied
by a number gets the same ties. Scores alone say no more than their own largest, so that where no scale is given they are the scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

# The tolerance has to exceed that noise, and stay below any difference that the model could mean.
#   float64   machine epsilon 2.2e-16; 1e-12 is some 4,500 of them: what dozens of layers of long sums leave.
#   float32   machine epsilon 1.2e-7; 1e-5 is some 84, and the difference at which two implementations of one
#             model count as equal. The scores of 40 passages over a range of 10 lie .25 apart on average.
#   bfloat16  machine epsilon 7.8e-3 (8 bits of significand); 2e-2 is about 2.6. The arithmetic did not tell
#             closer passages apart, whatever the bits say. It costs ties: the tie rate reports them.
TIE_TOLERANCE: Mapping[str, float] = MappingProxyType({"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2})


def tie_groups(
    scores: ArrayLike, tolerance: float = TIE_TOLERANCE["float32"], scale: float = 0.0
) -> list[Int64[np.ndarray, "tied"]]:
    """Group the passages of one query by score, best group first.

    Args:
        scores: `[passage]`, higher is better.
        tolerance: neighbours in the sorted scores are tied when their gap is at most
            `tolerance * max(scale, max|score|)`; 0 ties only what is equal.
        scale: size of the terms that the scores are sums of.

    Returns:
        Index arrays that partition `range(passage)`; inside a group by score, then in the order given.

    Raises:
        ValueError: scores not one-dimensional, NaN or infinite scores, or a negative tolerance or scale.
    """
    values = finite_scores(scores)
    for name, given in (("tolerance", tolerance), ("scale", scale)):
        if not (np.isfinite(given) and given >= 0):
            raise ValueError(f"expected a finite {name} >= 0 but got {given}; 0 ties only equal scores")
    if values.size == 0:
        return []
    order = np.argsort(-values, kind="stable")
    with np.errstate(over="ignore"):  # a gap that overflows is infinite, hence no tie
        gaps = values[order[:-1]] - values[order[1:]]
    return np.split(order, np.flatnonzero(gaps > tolerance * max(scale, float(np.abs(values).max()))) + 1)


def finite_scores(scores: ArrayLike) -> Float64[np.ndarray, "passage"]:
    """Scores as float64.

    Raises:
        ValueError: scores not one-dimensional, or NaN or infinite ones.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected scores of shape [passage] but got {values.shape}; give a list of numbers")
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(
            f"expected finite scores but {bad} of {values.size} are NaN or infinite; "
            "score these pairs again in float32, or check the edit and the checkpoint that made them"
        )
    return values
