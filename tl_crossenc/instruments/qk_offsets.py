"""How far apart the tokens of query and passage are, and what rotary positions make of A_h over those distances.

With R(o) the rotation at the offset o = attended position - attender position (`model.rotary`) and w_o the share of the token pairs
that lie o apart, the mean over offsets of the score of two tokens, whatever they are, is

    sum_o w_o x^T W_Q R(o) W_K^T y = x^T W_Q E[R] W_K^T y,      E[R] = sum_o w_o R(o).

In a layer with a window only the offsets that it has count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.instruments.qk import DOC, MATCHED_PARTS, QUERY, Spectrum, spectrum
from tl_crossenc.model.hooked_encoder import HookedEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.model.rotary import Rotary


@dataclass(frozen=True)
class OffsetCounts(Framed):
    """How many token pairs lie how far apart, by the parts of both. Sums of two are exact merges.

    Attributes:
        counts: `[attender part, attended part, offset]`, the offsets from -(n - 1) to n - 1.
    """

    counts: Float[np.ndarray, "part part offset"]

    def axes(self) -> Mapping[str, Labels]:
        """Parts by their names (`part_0` is the attender's), and the offsets."""
        names = tuple(part.name for part in MATCHED_PARTS)
        return {"part_0": names, "part_1": names, "offset": self.offsets}

    @classmethod
    def empty(cls, n: int) -> OffsetCounts:
        """Of no pairs, for a model of `n` positions."""
        return cls(np.zeros((len(MATCHED_PARTS), len(MATCHED_PARTS), 2 * n - 1)))

    def __add__(self, other: OffsetCounts) -> OffsetCounts:
        return OffsetCounts(self.counts + other.counts)

    @property
    def offsets(self) -> np.ndarray:
        """The axis `offset`."""
        reach = self.counts.shape[2] // 2
        return np.arange(-reach, reach + 1)

    def mean_rotation(self, rotary: Rotary, window: int | None = None) -> Float[np.ndarray, "part part d_head d_head"]:
        """E[R] of each pair of parts; NaN where no offset occurs."""
        weights = self.counts.copy()
        if window is not None:
            weights[..., np.abs(self.offsets) > window] = 0
        with np.errstate(invalid="ignore"):
            weights /= weights.sum(-1, keepdims=True)
        angles = self.offsets[:, None] * rotary.frequencies(torch.float64).numpy()
        half = rotary.d_head // 2
        mean = np.zeros((*weights.shape[:2], rotary.d_head, rotary.d_head))
        planes = np.arange(half)
        cos, sin = weights @ np.cos(angles), weights @ np.sin(angles)
        mean[..., planes, planes] = mean[..., planes + half, planes + half] = cos
        mean[..., planes, planes + half], mean[..., planes + half, planes] = -sin, sin
        return mean


@recorded
def offset_counts(pairs: EncodedPairs, n: int, *, weighting: str = "token") -> OffsetCounts:
    """The offsets of all token pairs of QUERY and DOC.

    Args:
        pairs: encoded pairs.
        n: the positions of the model.
        weighting: "token": every token pair counts 1; "pair": those of a pair of texts and of two parts count 1 together.
    """
    found = OffsetCounts.empty(n).counts
    for start, stop in zip(pairs.offsets[:-1], pairs.offsets[1:], strict=True):
        parts, length = pairs.parts[start:stop], int(stop - start)
        sides = [(parts == part).astype(np.float64) for part in MATCHED_PARTS]
        for x, y in product(range(len(MATCHED_PARTS)), repeat=2):
            counts = np.rint(
                np.convolve(sides[y], sides[x][::-1])
            )  # at o + length - 1: how many i have i in x, i + o in y
            total = counts.sum()
            if total:
                found[x, y, n - length : n + length - 1] += counts if weighting == "token" else counts / total
    return OffsetCounts(found)


def mean_rotations(model: HookedEncoder, counts: OffsetCounts) -> Float[np.ndarray, "layer part part d_head d_head"]:
    """E[R] of every layer, over the offsets that it has."""
    layers = [model.block(layer).attn for layer in range(model.cfg.n_layers)]
    return np.stack([counts.mean_rotation(at.rotary, at.window) for at in layers if at.rotary is not None])


def spectrum_over_offsets(
    model: HookedEncoder, rotation: Float[np.ndarray, "layer part part d_head d_head"]
) -> Spectrum:
    """The spectrum of W_Q E[R] W_K^T of every head, R being that of QUERY->DOC; NaN in layers where no offset occurs."""
    turn = torch.from_numpy(rotation[:, QUERY, DOC])
    there = turn.isfinite().flatten(1).all(1)
    W_Q = model.W_Q.detach().to("cpu", torch.float64) @ torch.where(there[:, None, None], turn, 0.0)[:, None]
    found = spectrum(W_Q, model.W_K)
    lacking = ~there.numpy()
    for values in (found.sigma, found.overlap, found.trace):
        values[lacking] = np.nan
    return found
