"""What patching gives: the score of every pair under every patch, labelled, and its summaries."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64

from tl_crossenc.console.framed import Made
from tl_crossenc.patching.metrics import PoolContext, difference, pool_ndcg, pool_ranks, share_restored, undefined_pairs
from tl_crossenc.statistics.significance import bootstrap_interval, holm, paired_t
from tl_crossenc.statistics.ties import TIE_TOLERANCE

Mode = Literal["denoise", "noise"]
Measure = Literal["difference", "restored"]
MODES: tuple[Mode, ...] = ("denoise", "noise")
MEASURES: tuple[Measure, ...] = ("difference", "restored")


@dataclass(frozen=True)
class PatchResult(Made):
    """Scores of every pair under every patch of a site.

    Attributes:
        site: what was patched.
        by: into which pieces it was cut.
        mode: "denoise", the clean activation put into the corrupted run, or "noise", the reverse.
        axes: name -> labels of every axis of `scores` after `pair`; the first is `layer`.
        scores: `[pair, layer, ...]`; NaN where the pair has no such patch (no position of the part, or none so far right).
        clean, corrupted: `[pair]`, scores of the two runs.
        pairs: a label for each pair.
        dtype: the model's arithmetic; scores that differ by less than its rounding (`ties.TIE_TOLERANCE`) are equal.
        direction: the direction of a pattern that was patched; None for all of it.
        layers_run: layers run, a layer of one pair counted as 1 and one entered past its attention as 1/2.
        layers_plain: the same had every patch been a run of its own from the first layer on.
        scale: size of the terms of a score, see `ties.py`.
    """

    site: str
    by: str
    mode: Mode
    axes: Mapping[str, tuple[int | str, ...]]
    scores: Float64[np.ndarray, "pair layer *piece"]
    clean: Float64[np.ndarray, "pair"]
    corrupted: Float64[np.ndarray, "pair"]
    pairs: tuple[Hashable, ...]
    dtype: str
    direction: str | None = None
    layers_run: float = 0.0
    layers_plain: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        sizes = (len(self.pairs), *(len(labels) for labels in self.axes.values()))
        if self.scores.shape != sizes or self.clean.shape != sizes[:1] or self.corrupted.shape != sizes[:1]:
            raise ValueError(
                f"expected scores of shape {sizes} [pair, {', '.join(self.axes)}] beside one clean and one corrupted score "
                f"a pair, got {self.scores.shape}, {self.clean.shape} and {self.corrupted.shape}"
            )

    def __repr__(self) -> str:
        counts = {"pair": self.pairs, **self.axes}
        sizes = " x ".join(f"{len(labels)} {name}{'s' * (len(labels) != 1)}" for name, labels in counts.items())
        where = f" {self.direction}" if self.direction else ""
        undefined = f", {self.undefined} without a difference to restore" if self.undefined else ""
        return f"PatchResult({self.mode} {self.site}{where}: {sizes}{undefined})"

    @property
    def base(self) -> Float64[np.ndarray, "pair"]:
        """Scores of the run that was patched."""
        return self.corrupted if self.mode == "denoise" else self.clean

    @property
    def donor(self) -> Float64[np.ndarray, "pair"]:
        """Scores of the run that was patched from."""
        return self.clean if self.mode == "denoise" else self.corrupted

    @property
    def tolerance(self) -> float:
        """How far two scores may lie apart and still be equal, relative to max(scale, |score|)."""
        return TIE_TOLERANCE[self.dtype]

    @property
    def undefined(self) -> int:
        """The number of pairs whose two runs have the same score: their share restored is undefined, NaN."""
        return int(undefined_pairs(self.base, self.donor, self.tolerance, self.scale).sum())

    def difference(self) -> Float64[np.ndarray, "pair layer *piece"]:
        """Patched score - score of the run that was patched."""
        return difference(self.scores, self.base)

    def restored(self) -> Float64[np.ndarray, "pair layer *piece"]:
        """The share of the way to the donor's score: 0 none, 1 all; NaN for pairs whose two runs score the same."""
        return share_restored(self.scores, self.base, self.donor, self.tolerance, self.scale)

    def ranks(self, context: PoolContext) -> Float64[np.ndarray, "pair layer *piece"]:
        """The patched passages' ranks in their pools, from 1."""
        return pool_ranks(self.scores, context, self.tolerance, self.scale)

    def ndcg(self, context: PoolContext, *, cutoff: int = 10) -> Float64[np.ndarray, "pair layer *piece"]:
        """nDCG@cutoff of the patched passages' pools."""
        return pool_ndcg(self.scores, context, cutoff=cutoff, tolerance=self.tolerance, scale=self.scale)

    def values(self, measure: Measure = "restored") -> Float64[np.ndarray, "pair layer *piece"]:
        """`difference()` or `restored()`, by name."""
        measures: dict[str, Callable[[], np.ndarray]] = {"difference": self.difference, "restored": self.restored}
        if measure not in measures:
            raise ValueError(f"expected a measure among {', '.join(MEASURES)}, got {measure!r}")
        return measures[measure]()

    def mean(self, measure: Measure = "restored") -> Float64[np.ndarray, "layer *piece"]:
        """The mean over the pairs for which the measure is defined; NaN where there are none."""
        values = self.values(measure)
        defined = np.isfinite(values)
        n = defined.sum(0)
        return np.where(n > 0, np.where(defined, values, 0.0).sum(0) / np.maximum(n, 1), np.nan)

    @cached_property
    def _cells(self) -> list[tuple[tuple[int, ...], tuple[int | str, ...]]]:
        """(index, labels) of every patch."""
        index = product(*(range(len(labels)) for labels in self.axes.values()))
        return list(zip(index, product(*self.axes.values()), strict=True))

    def to_frame(self) -> pd.DataFrame:
        """A row a pair and patch: `pair`, the axes, `score`, `clean`, `corrupted`, `difference`, `restored`."""
        labels = pd.MultiIndex.from_product([range(len(self.pairs)), *self.axes.values()], names=["pair", *self.axes])
        frame = labels.to_frame(index=False)
        rows = frame["pair"].to_numpy()
        frame["pair"] = [self.pairs[i] for i in rows]
        frame["score"] = self.scores.ravel()
        frame["clean"], frame["corrupted"] = self.clean[rows], self.corrupted[rows]
        frame["difference"], frame["restored"] = self.difference().ravel(), self.restored().ravel()
        return self.told(frame)

    def summary(
        self, measure: Measure = "restored", *, seed: int = 0, n_resamples: int = 2000, level: float = 0.95
    ) -> pd.DataFrame:
        """A row a patch: the axes, `n_pairs` and `undefined` of them, `mean`, its bootstrap interval `low`..`high`, `p`, `p_holm`.

        Args:
            measure: "restored" or "difference".
            seed: of the bootstrap over pairs.
            n_resamples, level: of the bootstrap.

        `p` is that of the paired t-test of patched against unpatched scores; Holm corrects it over all patches that could be
        tested. Below 2 pairs there is neither test nor interval: NaN.
        """
        values, means = self.values(measure), self.mean(measure)
        rows = []
        for index, labels in self._cells:
            scores, cell = (np.moveaxis(array, 0, -1)[index] for array in (self.scores, values))
            there, defined = np.isfinite(scores), np.isfinite(cell)
            low = high = p = float("nan")
            if defined.sum() > 1:
                low, high = bootstrap_interval(cell[defined], seed=seed, n=n_resamples, level=level)
            if there.sum() > 1:
                p = paired_t(scores[there], self.base[there])
            counts = int(there.sum()), int((there & ~defined).sum())
            rows.append((*labels, *counts, float(means[index]), low, high, p))
        columns = [*self.axes, "n_pairs", "undefined", "mean", "low", "high", "p"]
        frame = pd.DataFrame(rows, columns=columns)
        tested = frame["p"].notna()
        frame["p_holm"] = np.nan
        frame.loc[tested, "p_holm"] = holm(frame.loc[tested, "p"].to_numpy())
        frame.attrs = {"measure": measure, "seed": seed, "n_resamples": n_resamples, "level": level}
        return self.told(frame)
