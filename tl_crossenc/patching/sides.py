"""The two sides of patching: aligned pairs, of which the one's run is patched (base) and the other's is patched from (donor)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.inputs.parts import Part
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.resumed_run import check_unhooked
from tl_crossenc.patching.result import MODES, Mode, PatchResult


@dataclass(frozen=True)
class Sides:
    """What is patched with what.

    Attributes:
        base: the pairs whose runs are patched.
        donor: the pairs whose runs are patched from, aligned with `base`.
        mode: "denoise" where the donor is the clean side, "noise" where it is the corrupted one.
        labels: a name for each pair.
    """

    base: EncodedPairs
    donor: EncodedPairs
    mode: Mode
    labels: tuple[Hashable, ...]

    @classmethod
    def of(
        cls,
        model: HookedCrossEncoder,
        clean: EncodedPairs | PairBatch,
        corrupted: EncodedPairs | PairBatch,
        mode: str,
        labels: Sequence[Hashable] | None,
    ) -> Sides:
        """Those of a call of a patching function, checked.

        Raises:
            ValueError: pairs that are not aligned, hooks on the model, another mode, or not one label a pair.
        """
        clean, corrupted = as_encoded(clean), as_encoded(corrupted)
        check_aligned(clean, corrupted)
        check_unhooked(model)
        way, names = check_mode(mode), check_labels(labels, len(clean))
        base, donor = (corrupted, clean) if way == "denoise" else (clean, corrupted)
        return cls(base, donor, way, names)

    def result(self, model: HookedCrossEncoder, ends: Float64[np.ndarray, "2 pair"], **measured: Any) -> PatchResult:
        """What was measured as a result, `ends` being the scores of the base's and of the donor's runs."""
        corrupted, clean = ends if self.mode == "denoise" else ends[::-1]
        return PatchResult(
            mode=self.mode,
            clean=clean,
            corrupted=corrupted,
            pairs=self.labels,
            dtype=str(model.dtype).removeprefix("torch."),
            scale=model.score_scale,
            **measured,
        )


def check_aligned(clean: EncodedPairs, corrupted: EncodedPairs) -> None:
    """Whether the pairs of the two sides match position by position: as many tokens, with the same parts.

    Raises:
        ValueError: they do not; it says in which pair and where.
    """
    if len(clean) != len(corrupted) or not len(clean):
        raise ValueError(
            f"expected as many clean as corrupted pairs, at least one, got {len(clean)} and {len(corrupted)}"
        )
    unequal = np.flatnonzero(clean.lengths != corrupted.lengths)
    if unequal.size:
        i = int(unequal[0])
        raise ValueError(
            f"expected clean and corrupted pairs of equal length, but pair {i} has {clean.lengths[i]} and "
            f"{corrupted.lengths[i]} tokens ({unequal.size} such pairs): replace words by as many word pieces"
        )
    apart = np.flatnonzero(clean.parts != corrupted.parts)
    if apart.size:
        i = int(np.searchsorted(clean.offsets, apart[0], side="right")) - 1
        names = (Part(int(side.parts[apart[0]])).name for side in (clean, corrupted))
        raise ValueError(
            f"expected the same parts in clean and corrupted pairs, but position {apart[0] - clean.offsets[i]} of pair {i} "
            f"is {' and '.join(names)}: give both queries as many word pieces"
        )


def check_mode(mode: str) -> Mode:
    """The mode.

    Raises:
        ValueError: neither "denoise" nor "noise".
    """
    for known in MODES:
        if mode == known:
            return known
    raise ValueError(f"expected a mode among {', '.join(MODES)}, got {mode!r}")


def check_labels(labels: Sequence[Hashable] | None, n_pairs: int) -> tuple[Hashable, ...]:
    """A label a pair, numbers from 0 by default.

    Raises:
        ValueError: not one a pair.
    """
    names = tuple(range(n_pairs)) if labels is None else tuple(labels)
    if len(names) != n_pairs:
        raise ValueError(f"expected a label for each of {n_pairs} pairs, got {len(names)}")
    return names
