"""What a comparison of foreign scores with the known causes comes to, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tl_crossenc.doctor.causes import NO, PERHAPS, YES, Cause, ReadPairs
from tl_crossenc.doctor.foreign_scores import ForeignScores
from tl_crossenc.doctor.readings import OURS as AS_HERE
from tl_crossenc.doctor.relations import Relation
from tl_crossenc.doctor.terminal import number

CHANCE = 2.0**-10
"""A cause that scores of the same range would fit by chance more often than this is said to be perhaps no more than that."""


@dataclass(frozen=True)
class Comparison:
    """Foreign scores held against all causes.

    Attributes:
        foreign: the scores.
        causes: best first.
        relation: what the scores are of a cause, where none reproduces them.
        read: the readings, ours first.
        lengths: `[pair]`, tokens of the uncut pairs.
        limit: tokens that pairs are cut to here.
        n_known: how many causes there are, those included that these pairs do not tell from others.
    """

    foreign: ForeignScores
    causes: Sequence[Cause]
    relation: Relation | None
    read: Sequence[ReadPairs]
    lengths: np.ndarray
    limit: int
    n_known: int

    @property
    def best(self) -> Cause:
        """The first cause."""
        return self.causes[0]

    @property
    def may_be_chance(self) -> bool:
        """Whether, of the causes with no more changes than the best, one would fit scores drawn evenly from the range of these more
        often than `CHANCE`."""
        if np.ptp(self.foreign.values) == 0:
            return True
        share = np.minimum(2 * self.best.tolerance / np.ptp(self.foreign.values), 1)
        n_readings, n_outputs = len(self.read), self.n_known // max(len(self.read), 1)
        tried = (1, n_readings + n_outputs, self.n_known)[self.best.changes]
        return bool(np.log(share).sum() + np.log(tried) > np.log(CHANCE))

    @property
    def reproduced(self) -> str:
        """ "yes", "perhaps" (a cause fits, and may by chance, or only within half precision's noise) or "no"."""
        if self.best.reproduces == YES and self.may_be_chance:
            return PERHAPS
        return self.best.reproduces

    def verdict(self) -> str:
        """What the scores are, in one sentence or two."""
        best, n, relation = self.best, f"all {len(self.foreign):,} pairs", self.relation
        if best.reproduces == YES:
            found = [cause for cause in self.causes if cause.reproduces == YES]
            how = "Reproduced" if self.reproduced == YES else "Perhaps reproduced"
            exactly = f"to {number(best.max_abs)} (allowed: {number(float(best.tolerance.max()))}), on {n}"
            text = f"{how} by {best}, {exactly}."
            return text if len(found) == 1 else f"{text} These pairs do not tell it from: {_listed(found[1:])}."
        if relation is not None and relation.kind == "affine":
            return f"No known cause, but an affine function of one: {relation}, to {number(relation.max_abs)} on {n}."
        if best.reproduces == PERHAPS:
            return (
                f"Perhaps {best}: within the noise of that type on {n} (largest difference {number(best.max_abs)}), but the "
                "scores' digits do not show it."
            )
        nearest = f"nearest: {best}, off by up to {number(best.max_abs)}, within what is allowed on {best.within:,} of {n[4:]}"
        if relation is not None:
            return f"No known cause, but {relation}, an activation that is not among the known; {nearest}."
        return f"None of the {self.n_known} known causes reproduces these scores; {nearest}."

    def notes(self) -> list[str]:
        """What else is to be known, a sentence each."""
        foreign, best, found = self.foreign, self.best, []
        for reading in self.read:
            if reading.also and reading.name == best.reading and best.reproduces != NO:
                found.append(f"On these pairs that reading is the same as: {'; '.join(reading.also)}.")
        if foreign.repeated:
            text = f"{foreign.repeated:,} line(s) have a pair that was there before, and are not counted"
            if foreign.apart > 2 * float(foreign.exact_to.max()):
                text += (
                    f"; their scores are up to {number(foreign.apart)} apart: the other system does not give a pair one score "
                    "(dropout left on, or what else is in its batch)"
                )
            found.append(text + ".")
        unread = int(np.isnan(self.read[0].logits[:, 0]).sum())
        if unread:
            found.append(
                f"{unread:,} pair(s) have a query that leaves the passage no room in {self.limit:,} tokens: no score here, where "
                "only passages are cut."
            )
        if np.ptp(foreign.values) == 0:
            found.append(f"All {len(foreign):,} scores are equal ({foreign.values[0]:g}), which tells next to nothing.")
        elif best.reproduces != NO and self.may_be_chance:
            found.append(
                f"With {len(foreign):,} pair(s) of {foreign.decimals} decimal(s) a cause may fit by chance: send more pairs, or "
                "more digits."
            )
        if best.reproduces == NO:
            found += [*_in_common(foreign, self.lengths, best), *_as_small_as(best, self.causes)]
            if self.relation is None:
                found.append(
                    "Next: hidden states of the other system for the first pairs (--hidden FILE) show the first layer that differs."
                )
        return found


def _listed(causes: Sequence[Cause]) -> str:
    names = [str(cause) for cause in causes[:3]]
    more = f" and {len(causes) - 3} more" if len(causes) > 3 else ""
    return "; ".join(names) + more


def _in_common(foreign: ForeignScores, lengths: np.ndarray, nearest: Cause) -> list[str]:
    """What tells the pairs that the nearest cause does not give from those that it gives."""
    inside = np.abs(foreign.values - nearest.values) <= nearest.tolerance
    if inside.all() or 2 * inside.sum() < len(inside):
        return []
    lines = ", ".join(map(str, foreign.lines[~inside][:5].tolist())) + (", ..." if (~inside).sum() > 5 else "")
    text = f"It does give {int(inside.sum()):,} pairs; those that differ are in line {lines}"
    least, most = int(lengths[~inside].min()), int(lengths[inside].max())
    if least > most:
        text += f". They have {least:,} tokens or more, all others {most:,} or fewer: look at what is cut, and where"
    return [text + "."]


def _as_small_as(nearest: Cause, causes: Sequence[Cause]) -> list[str]:
    """Said where the nearest is off by no more than half precision moves scores, though it is not that."""
    ours = next(cause for cause in causes if cause.output == nearest.output and cause.reading == AS_HERE)
    moved = {
        cause.reading: float(np.nanmax(np.abs(cause.values - ours.values), initial=0.0))
        for cause in causes
        if cause.half and cause.output == nearest.output
    }
    if nearest.max_abs > max(moved.values(), default=0.0):
        return []
    sizes = ", ".join(f"{name}: {number(size)}" for name, size in moved.items())
    return [
        f"It is off by no more than half precision moves scores ({sizes}), but these are no numbers of those types: quantized "
        "weights, perhaps."
    ]
