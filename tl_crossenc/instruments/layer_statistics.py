"""How a layer's output stream is distributed: mean and variance of every feature over the real tokens of many pairs, mergeable.

Of each part's tokens the count n, the mean and M2 = sum (x - mean)^2 are kept, float64, and no activation is. Shards merge exactly
(Chan, Golub & LeVeque 1979; for one token more it is Welford's update):

    n = sum n_i      mean = sum n_i mean_i / n      M2 = sum M2_i + sum n_i (mean_i - mean)^2

A position means nothing across pairs, so there is one number a feature, over all real tokens; or one a part and feature, as the
parts merge by the same rule. The model's own scores of the pairs are kept likewise: their spread is a unit for changes of a score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import run_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded, token_digest
from tl_crossenc.inputs.parts import N_PARTS, REAL_PARTS
from tl_crossenc.interventions.indices import Indices, within
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import made_by
from tl_crossenc.model.resumed_run import check_unhooked

By = Literal["all", "part"]
"""Whose tokens share a mean and a standard deviation: all real ones of a layer, or those of a part."""
MIN_SIGMA = 0.01
"""The smallest standard deviation, as a share of the layer's own."""
ROUNDING = 1e-12
"""A variance below this share of the mean square is rounding: float64 sums of float32 activations leave about so much."""


class Spread(NamedTuple):
    """What noise of a layer is drawn by.

    Attributes:
        mean, sigma: `[group, d_model]`, the groups being all tokens as one, or the five parts.
        floored: how many of `sigma` are the smallest allowed, what was measured being less.
    """

    mean: Float[np.ndarray, "group d_model"]
    sigma: Float[np.ndarray, "group d_model"]
    floored: int


@dataclass(frozen=True)
class LayerStatistics(Framed):
    """The stream after some layers, over the tokens of some pairs.

    Attributes:
        layers: which.
        count: `[part]`, the tokens.
        mean, m2: `[layer, part, d_model]`; 0 for a part without tokens.
        scores: count, mean and M2 of the model's own scores of the pairs.
        digests: what tells the pairs, see `token_digest`.
    """

    layers: tuple[int, ...]
    count: Int[np.ndarray, "part"]
    mean: Float[np.ndarray, "layer part d_model"]
    m2: Float[np.ndarray, "layer part d_model"]
    scores: tuple[int, float, float]
    digests: frozenset[bytes]

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Layers and parts by their names."""
        return {"layer": self.layers, "part": tuple(part.name for part in REAL_PARTS)}

    MAIN = "mean"

    @classmethod
    def fit(
        cls,
        model: HookedCrossEncoder,
        pairs: EncodedPairs | PairBatch,
        layers: Indices = None,
        *,
        token_budget: int | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> LayerStatistics:
        """Run the pairs once, with what the model ablates at the moment.

        Args:
            model: the model.
            pairs: from `model.encode_pairs` or `model.to_pairs`.
            layers: only these; None for all.
            token_budget: padded tokens a batch, by default what suits the device.
            progress: called with the number of pairs done after each batch.

        Raises:
            ValueError: no pairs, a layer that the model does not have, hooks on the model, or activations that are not finite.
        """
        pairs, n_layers = as_encoded(pairs), model.cfg.n_layers
        check_unhooked(model)
        chosen = within(layers, n_layers, "layer")
        if not len(pairs):
            raise ValueError("expected at least one pair to estimate a layer's distribution on, got none")
        edits = model.active_condition.compile(n_layers, model.cfg.n_heads)

        digests = digests_of(pairs)

        def run(indices: np.ndarray) -> LayerStatistics:
            batch = pairs.batch(indices).to(model.device)
            given = model.attention_input(batch.attention_mask, batch.parts)
            resid, means, squares = model.run_embed(batch.tokens, batch.token_type_ids), [], []
            for layer in range(n_layers):
                alone = layer == n_layers - 1 and layer not in chosen
                resid = model.run_layer(layer, resid, given, edits[layer], only_cls=alone)
                if layer in chosen:
                    mean, m2 = _moments(resid, batch)
                    means.append(mean)
                    squares.append(m2)
            scores = model.score_of(model.read_out(resid, given.attention_mask)).double().cpu().numpy()
            with np.errstate(invalid="ignore"):  # what is not finite is told below
                spread = float(((scores - scores.mean()) ** 2).sum())
            return cls(
                tuple(chosen),
                batch.parts.lengths.sum(0).cpu().numpy(),
                np.stack(means),
                np.stack(squares),
                (len(scores), float(scores.mean()), spread),
                frozenset(digests[index] for index in indices),
            )

        shards: list[LayerStatistics] = []
        with torch.no_grad():
            for indices, shard in run_batches(pairs.lengths, model.token_budget(token_budget), run):
                shards = [cls.join([*shards, shard])]
                if progress is not None:
                    progress(len(indices))
        (found,) = shards
        if not (np.isfinite(found.m2).all() and np.isfinite(found.scores).all()):
            raise ValueError(
                "expected finite activations, but some are NaN or infinite: check the checkpoint's weights, or use dtype float32"
            )
        return replace(
            found, made=made_by(model, function="instruments.layer_statistics.fit", token_budget=token_budget)
        )

    @classmethod
    def join(cls, shards: Iterable[LayerStatistics]) -> LayerStatistics:
        """All of them merged; equal to having run their pairs together.

        Raises:
            ValueError: nothing to join, other layers or another width.
        """
        found = list(shards)
        kinds = sorted({(part.layers, part.mean.shape[-1]) for part in found})
        if len(kinds) != 1:
            raise ValueError(f"expected statistics of the same layers and width to join, got {kinds}")
        counts = np.stack([part.count for part in found])[:, None, :, None]
        means, squares = (np.stack([getattr(part, name) for part in found]) for name in ("mean", "m2"))
        count, mean, m2 = _merged(counts, means, squares)
        scores = _merged(*np.array([part.scores for part in found], dtype=np.float64).T[..., None])
        n, centre, spread = (float(total[0]) for total in scores)
        digests = frozenset().union(*(part.digests for part in found))
        return cls(found[0].layers, count[0, :, 0], mean, m2, (int(n), centre, spread), digests)

    def spread(self, layer: int, by: By = "all", min_sigma: float = MIN_SIGMA) -> Spread:
        """Mean and standard deviation of every feature after a layer, with denominator n - 1.

        One below `min_sigma` times the layer's own (the root mean square over features and groups) is raised to that, since some
        feature may not vary at all; where none does, to `min_sigma` itself.

        Raises:
            ValueError: a layer that was not run, another `by`, or a group of fewer than two tokens.
        """
        if layer not in self.layers or by not in ("all", "part"):
            raise ValueError(
                f"expected a layer among {', '.join(map(str, self.layers))} and by 'all' or 'part', got {layer} and {by!r}"
            )
        at, count = self.layers.index(layer), self.count[:, None]
        mean, m2 = self.mean[at], self.m2[at]
        if by == "all":
            count, mean, m2 = (found[None] for found in _merged(count, mean, m2))
        few = [part.name for part in REAL_PARTS if by == "part" and count[part, 0] < 2]
        if few or count.min() < 2:
            raise ValueError(
                f"expected at least two tokens {'of every part ' if few else ''}to estimate a standard deviation on, got fewer"
                + (f" of {', '.join(few)}" if few else "")
                + ": take more pairs"
            )
        variance = m2 / (count - 1)
        sigma = np.sqrt(np.where(variance > ROUNDING * mean**2, variance, 0.0))
        whole = float(np.sqrt((sigma**2).mean()))
        least = min_sigma * (whole if whole > 0 else 1.0)
        return Spread(mean, np.maximum(sigma, least), int((sigma < least).sum()))

    @property
    def score_sd(self) -> float:
        """The standard deviation of the model's scores of the pairs; NaN for fewer than two."""
        n, _, m2 = self.scores
        return float(np.sqrt(m2 / (n - 1))) if n > 1 else float("nan")

    def require_of(self, model: HookedCrossEncoder) -> None:
        """Raise ValueError where the statistics cannot be of the model as it is now: of other sizes or, where they say what made
        them, of another model or of other ablations.
        """
        about = made_by(model)
        own, here = (
            {name: made.get(name) for name in ("model", "revision", "condition")} for made in (self.made, about)
        )
        sizes = (max(self.layers), self.mean.shape[-1])
        if sizes[0] >= model.cfg.n_layers or sizes[1] != model.cfg.d_model:
            raise ValueError(
                f"expected statistics of this model, of {model.cfg.n_layers} layers and width {model.cfg.d_model}, got some of a "
                f"layer {sizes[0]} and width {sizes[1]}: estimate them with it"
            )
        if self.made and own != here:
            told = [f"{name} {own[name]} in place of {here[name]}" for name in own if own[name] != here[name]]
            raise ValueError(
                f"expected statistics of the model as it is now, got those of {', '.join(told)}: estimate them anew"
            )

    def require_apart(self, pairs: EncodedPairs) -> None:
        """Raise ValueError where one of the pairs is among those that the statistics are of, told by their tokens."""
        inside = [i for i, digest in enumerate(digests_of(pairs)) if digest in self.digests]
        if inside:
            raise ValueError(
                f"expected statistics of other pairs than those that are explained, but {len(inside)} of {len(pairs)} are among "
                f"them (the first is pair {inside[0]}): estimate them on a pool without these"
            )


def digests_of(pairs: EncodedPairs) -> list[bytes]:
    """What tells each pair, see `token_digest`."""
    return [token_digest(pairs.tokens[start:stop]) for start, stop in pairwise(pairs.offsets)]


def _moments(resid: Float[Tensor, "pair pos d_model"], batch: PairBatch) -> tuple[np.ndarray, np.ndarray]:
    """(mean, M2) of each part's tokens, `[part, d_model]`."""
    one_hot, x = batch.parts.one_hot.double(), resid.double()
    count = one_hot.sum((0, 1)).clamp(min=1)[:, None]
    mean = torch.einsum("npk,npd->kd", one_hot, x) / count
    apart = x - mean[batch.parts.codes.long().clamp(max=N_PARTS - 1)]
    return mean.cpu().numpy(), torch.einsum("npk,npd->kd", one_hot, apart**2).cpu().numpy()


def _merged(count: np.ndarray, mean: np.ndarray, m2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(count, mean, M2) of all entries along the first axis together."""
    total = count.sum(0)
    with np.errstate(invalid="ignore"):
        centre = (count * mean).sum(0) / np.maximum(total, 1)
        return total, centre, (m2 + count * (mean - centre) ** 2).sum(0)
