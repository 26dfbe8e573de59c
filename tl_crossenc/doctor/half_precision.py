"""Half precision: how far it moves scores, and whether scores were computed with it.

Rounding depends on the kernels, so that no run in half precision gives another's scores exactly. Two things remain. A number of
float16 has 11 significant bits, one of bfloat16 8, and a logit that is printed with more digits than that shows it: it lies on
the type's grid. And the rounding of the weights is the same everywhere, so that two runs in half precision err alike.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import pearsonr

from tl_crossenc.model.cross_encoder import HookedCrossEncoder

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
BITS_FOR_SURE = 10.0
"""So much less likely than 2^-10 scores of another type would all lie on the grid."""
ALIKE, UNLIKE = 1e-3, 0.1
"""The p-values below which two runs err alike, and from which on they do not."""
FEWEST = 8
"""Pairs on which that is asked."""
NOISE = 4.0
"""How many times farther than one run in half precision lies from the exact one another may lie."""


def in_half(model: HookedCrossEncoder, dtype: torch.dtype) -> HookedCrossEncoder:
    """A copy of the model in another type, as long as nothing is ablated or hooked the same model."""
    return copy.deepcopy(model).to(dtype)


def on_grid(values: Float[np.ndarray, "pair"], exact_to: Float[np.ndarray, "pair"], dtype: torch.dtype) -> bool | None:
    """Whether numbers are numbers of a type, as far as their digits tell; None where they have too few digits."""
    given = torch.from_numpy(np.asarray(values, dtype=np.float64))
    gap = (given - given.to(dtype).double()).abs().numpy()
    info = torch.finfo(dtype)
    exponents = np.floor(np.log2(np.maximum(np.abs(values), info.tiny)))
    spacing = np.exp2(exponents) * info.eps
    if not (gap <= exact_to * (1 + 1e-9) + 1e-3 * spacing).all():
        return False
    bits = np.log2(np.maximum(spacing / np.maximum(2 * exact_to, 2e-3 * spacing), 1)).sum()
    return True if bits >= BITS_FOR_SURE else None


def err_alike(theirs: Float[np.ndarray, "pair"], ours: Float[np.ndarray, "pair"]) -> bool | None:
    """Whether two series of errors go together, by Pearson's one-sided test; None where that is open, or there are too few."""
    if len(theirs) < FEWEST:
        return None
    if np.ptp(theirs) == 0 or np.ptp(ours) == 0:
        return False
    chance = float(pearsonr(theirs, ours, alternative="greater").pvalue)
    return True if chance < ALIKE else None if chance < UNLIKE else False
