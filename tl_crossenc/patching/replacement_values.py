"""What takes the place of an activation: nothing, means by part, or another pair's; `replacement.py` has the formula."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded, token_digest
from tl_crossenc.inputs.parts import N_PARTS, REAL_PARTS
from tl_crossenc.interventions.targets import Target, TargetLike, as_targets, check_targets
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.taps import RunningBatch, visiting

MAX_DONORS = 64


@runtime_checkable
class Values(Protocol):
    """Where replacements come from."""

    def check(self, targets: Iterable[Target]) -> None:
        """Raise ValueError where it has no values for one of the targets."""

    def values(self, target: Target, batch: RunningBatch) -> Tensor:
        """What takes the place of the target's activations, broadcastable to `[pair, pos, d]`."""


class Zeros:
    """Nothing: activations are set to 0."""

    def check(self, targets: Iterable[Target]) -> None:
        """Every target can be set to 0."""

    def values(self, target: Target, batch: RunningBatch) -> Tensor:
        """0."""
        return torch.zeros((), dtype=batch.known_given().dtype, device=batch.known_given().attention_mask.device)


ZERO = Zeros()


@dataclass(frozen=True)
class ReplacementMeans:
    """Mean activations over reference pairs, by part.

    Attributes:
        means: target -> `[part, d]`, float64.
        counts: `[part]`, the positions averaged.
    """

    means: dict[Target, Float[Tensor, "part d"]]
    counts: Int[Tensor, "part"]

    @classmethod
    def fit(
        cls,
        model: HookedCrossEncoder,
        pairs: EncodedPairs | PairBatch,
        targets: TargetLike | Iterable[TargetLike],
        *,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
        progress: Callable[[int], object] | None = None,
    ) -> ReplacementMeans:
        """Average the targets' activations over `pairs`; sums are kept, no activation is.

        Args:
            model: the model, with whatever it ablates at the moment.
            pairs: the reference pairs.
            targets: what will be replaced.
            token_budget: padded tokens a batch.
            progress: called with the number of pairs done after each batch.

        Raises:
            ValueError: targets that the model does not have, or reference pairs without a part that has to be averaged.
        """
        pairs, wanted = as_encoded(pairs), as_targets(targets)
        check_targets(wanted, model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_mlp)
        counts = torch.from_numpy(np.bincount(pairs.parts, minlength=N_PARTS)[:N_PARTS])
        missing = [part.name for part in REAL_PARTS if counts[part] == 0 and any(part in t.rows for t in wanted)]
        if missing:
            raise ValueError(f"expected reference pairs with positions of every part, got none of {', '.join(missing)}")
        sums: dict[Target, Tensor] = {}

        def add(target: Target, activation: Tensor, batch: RunningBatch) -> None:
            one_hot = batch.known_given().known_parts().one_hot[:, : activation.shape[1]].double()
            total = torch.einsum("brp,brd->pd", one_hot, activation.double())
            sums[target] = sums[target] + total if target in sums else total

        with visiting(model, wanted, add), torch.no_grad():
            for indices in length_batches(pairs.lengths, token_budget, in_order=model.hooked):
                model(pairs.batch(indices))
                if progress is not None:
                    progress(len(indices))
        divisor = counts.clamp(min=1)[:, None]
        return cls({target: total / divisor.to(total.device) for target, total in sums.items()}, counts)

    def check(self, targets: Iterable[Target]) -> None:
        """Raise ValueError where a target was not averaged."""
        _require(targets, self.means)

    def values(self, target: Target, batch: RunningBatch) -> Float[Tensor, "pair pos d"]:
        """The mean of each position's part; 0 at padding."""
        given = batch.known_given()
        table = torch.cat([self.means[target], self.means[target].new_zeros(1, self.means[target].shape[1])])
        return table.to(given.attention_mask.device, given.dtype)[given.known_parts().codes.long()]


@dataclass(frozen=True)
class ReplacementSamples:
    """Activations of reference pairs, to be drawn from.

    Attributes:
        activations: target -> `[token, d]`, the drawn-from pairs end to end.
        starts, counts: `[donor, part]`, where a pair's part begins and how long it is.
        digests: what identifies each pair's tokens.
        seed: of the draws.
        allow_self: whether a pair may be drawn for itself.
    """

    activations: dict[Target, Float[Tensor, "token d"]]
    starts: Int[Tensor, "donor part"]
    counts: Int[Tensor, "donor part"]
    digests: tuple[bytes, ...]
    seed: int
    allow_self: bool

    @classmethod
    def fit(
        cls,
        model: HookedCrossEncoder,
        pairs: EncodedPairs | PairBatch,
        targets: TargetLike | Iterable[TargetLike],
        *,
        seed: int = 0,
        max_donors: int = MAX_DONORS,
        allow_self: bool = False,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
        progress: Callable[[int], object] | None = None,
    ) -> ReplacementSamples:
        """Keep the targets' activations on up to `max_donors` pairs of `pairs`, drawn with `seed`.

        Pairs without a query or without a passage are left out. Memory: tokens of the drawn pairs x width of the targets.

        Raises:
            ValueError: targets that the model does not have, or no pair to draw from.
        """
        pairs, wanted = as_encoded(pairs), as_targets(targets)
        check_targets(wanted, model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_mlp)
        counts = np.stack([np.add.reduceat(pairs.parts == part, pairs.offsets[:-1]) for part in REAL_PARTS], 1)
        donors = np.flatnonzero((counts > 0).all(1)) if len(pairs) else np.zeros(0, np.int64)
        if not len(donors) or max_donors < 1:
            raise ValueError("expected at least one pair with a query and a passage to draw from, got none")
        if len(donors) > max_donors:
            donors = np.sort(np.random.default_rng(seed).choice(donors, max_donors, replace=False))
        lengths = pairs.lengths[donors]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        kept: dict[Target, Tensor] = {}
        at = np.zeros(0, np.int64)

        def keep(target: Target, activation: Tensor, batch: RunningBatch) -> None:
            if target not in kept:
                kept[target] = activation.new_zeros(int(offsets[-1]), activation.shape[2])
            for row, donor in enumerate(at):
                kept[target][offsets[donor] : offsets[donor + 1]] = activation[row, : lengths[donor]]

        with visiting(model, wanted, keep), torch.no_grad():
            for at in length_batches(lengths, token_budget):
                model(pairs.batch(donors[at]))
                if progress is not None:
                    progress(len(at))
        inside = np.cumsum(counts[donors], 1) - counts[donors]  # parts follow each other in the order of REAL_PARTS
        tokens = [pairs.tokens[pairs.offsets[donor] : pairs.offsets[donor + 1]] for donor in donors]
        return cls(
            kept,
            torch.from_numpy(offsets[:-1, None] + inside),
            torch.from_numpy(counts[donors]),
            tuple(token_digest(row) for row in tokens),
            seed,
            allow_self,
        )

    def check(self, targets: Iterable[Target]) -> None:
        """Raise ValueError where a target's activations were not kept."""
        _require(targets, self.activations)

    def values(self, target: Target, batch: RunningBatch) -> Float[Tensor, "pair pos d"]:
        """The drawn pair's activations at the positions that stand for the batch's; arbitrary at padding."""
        source = batch.remember(id(self), lambda: self._sources(batch))
        return self.activations[target].to(source.device)[source]

    def donors(self, batch: RunningBatch) -> list[int]:
        """Which of the kept pairs is drawn for each pair of the batch."""
        tokens, real = batch.known_tokens().cpu().numpy(), batch.known_given().attention_mask.cpu().numpy()
        return [self._donor(token_digest(row[mask])) for row, mask in zip(tokens, real, strict=True)]

    def _sources(self, batch: RunningBatch) -> Int[Tensor, "pair pos"]:
        parts = batch.known_given().known_parts()
        donors = torch.tensor(self.donors(batch))
        codes = parts.codes.cpu().long().clamp(max=N_PARTS - 1)
        one_hot = parts.one_hot.cpu().long()
        place = (one_hot.cumsum(1) * one_hot).sum(-1).sub(1).clamp(min=0)  # j of the j-th position of its part
        starts, counts = self.starts[donors].gather(1, codes), self.counts[donors].gather(1, codes)
        return (starts + place % counts).to(parts.codes.device)

    def _donor(self, digest: bytes) -> int:
        others = [i for i, own in enumerate(self.digests) if self.allow_self or own != digest]
        if not others:
            raise ValueError("expected another pair to draw from, got only the pair itself: fit on more pairs")
        draw = hashlib.sha256(self.seed.to_bytes(8, "little", signed=True) + digest).digest()
        return others[int.from_bytes(draw[:8], "little") % len(others)]


def _require(targets: Iterable[Target], known: Iterable[Target]) -> None:
    missing = [str(target) for target in targets if target not in set(known)]
    if missing:
        raise ValueError(
            f"expected values fitted for the targets that they replace, got none for {', '.join(missing[:5])}: "
            "name them in fit(...) too"
        )
