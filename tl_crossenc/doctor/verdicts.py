"""What a comparison of foreign scores with the known causes comes to, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tl_crossenc.doctor.causes import NO, PERHAPS, YES, Cause, ReadPairs
from tl_crossenc.doctor.foreign_scores import ForeignScores
from tl_crossenc.doctor.readings import OURS as AS_HERE
from tl_crossenc.doctor.relations import Relation

CHANCE = 2.0**-10
"""A cause that scores of the same range would fit by chance more often than this is said to be perhaps no more than that."""


def number(value: float) -> str:
    """A difference as it is shown: two digits.

    >>> number(3.21e-07)
    '3.2e-07'
    """
    return f"{value:.1e}"


def verdict_on(foreign: ForeignScores, causes: Sequence[Cause], relation: Relation | None, n_known: int) -> str:
    """What foreign scores are, in one sentence or two."""
    best, n = causes[0], len(foreign)
    if best.reproduces == YES:
        found = [cause for cause in causes if cause.reproduces == YES]
        exactly = f"to {number(best.max_abs)} (allowed: {number(float(best.tolerance.max()))}), on all {n:,} pairs"
        text = f"Reproduced by {best}, {exactly}."
        return text if len(found) == 1 else f"{text} These pairs do not tell it from {_or(found[1:])}."
    if relation is not None and relation.kind == "affine":
        return f"No known cause, but an affine function of one: {relation}, to {number(relation.max_abs)} on all {n:,} pairs."
    if best.reproduces == PERHAPS:
        return (
            f"Perhaps {best}: within the noise of that type on all {n:,} pairs (largest difference {number(best.max_abs)}), but the "
            "scores' digits do not show it."
        )
    nearest = f"nearest: {best}, off by up to {number(best.max_abs)}, and within what is allowed on {best.within:,} of {n:,} pairs"
    if relation is not None:
        return f"No known cause, but {relation}: an activation that is not among the known ones; {nearest}."
    return f"None of the {n_known} known causes reproduces these scores; {nearest}."


def _or(causes: Sequence[Cause]) -> str:
    names = [str(cause) for cause in causes[:3]]
    more = f" or {len(causes) - 3} more" if len(causes) > 3 else ""
    return "; ".join(names) + more


def notes_on(
    foreign: ForeignScores,
    limit: int,
    lengths: np.ndarray,
    causes: Sequence[Cause],
    read: Sequence[ReadPairs],
    n_known: int,
) -> list[str]:
    """What else is to be known of a comparison, a sentence each.

    Args:
        foreign: the scores.
        limit: tokens that pairs are cut to here.
        lengths: `[pair]`, tokens of the uncut pairs.
        causes: best first.
        read: the readings, ours first.
        n_known: how many causes there are, those that these pairs do not tell apart included.
    """
    best, found = causes[0], []
    for reading in read:
        if reading.also and reading.name == best.reading and best.reproduces != NO:
            found.append(f"On these pairs it is the same as: {'; '.join(reading.also)}.")
    if foreign.repeated:
        text = f"{foreign.repeated:,} pairs were there again and were counted once"
        if foreign.apart > 2 * float(foreign.exact_to.max()):
            text += (
                f", with scores up to {number(foreign.apart)} apart: the other system does not give a pair one score (dropout left on, "
                "or what else is in its batch)"
            )
        found.append(text + ".")
    unread = int(np.isnan(read[0].logits[:, 0]).sum())
    if unread:
        found.append(
            f"{unread:,} pairs have a query that leaves its passage no room in {limit:,} tokens: they have no score "
            "here, where only passages are cut."
        )
    if np.ptp(foreign.values) == 0:
        found.append(f"All {len(foreign):,} scores are equal ({foreign.values[0]:g}), which tells next to nothing.")
    elif best.reproduces != NO and _by_chance(foreign, best) * n_known > CHANCE:
        found.append(
            f"With {len(foreign):,} pairs of {foreign.decimals} decimals a cause may fit by chance: send more pairs, or more digits."
        )
    if best.reproduces == NO:
        found += _in_common(foreign, lengths, best)
        found += _as_small_as(best, causes)
    return found


def _by_chance(foreign: ForeignScores, cause: Cause) -> float:
    """How likely scores drawn evenly from the range of these would all lie within the tolerance."""
    share = np.minimum(2 * cause.tolerance / np.ptp(foreign.values), 1)
    return float(np.exp(np.log(share).sum()))


def _in_common(foreign: ForeignScores, lengths: np.ndarray, nearest: Cause) -> list[str]:
    """What tells the pairs that the nearest cause does not give from those that it gives."""
    inside = np.abs(foreign.values - nearest.values) <= nearest.tolerance
    if inside.all() or 2 * inside.sum() < len(inside):
        return []
    lines = ", ".join(map(str, foreign.lines[~inside][:5].tolist())) + (", ..." if (~inside).sum() > 5 else "")
    text = f"It does give {int(inside.sum()):,} pairs; those that differ are in line {lines}"
    least, most = int(lengths[~inside].min()), int(lengths[inside].max())
    if least > most:
        text += f". They are those of {least:,} tokens or more, and the others have {most:,} or fewer: look at what is cut, and where"
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
        f"It is off by no more than rounding moves scores here ({sizes}), but these are no numbers of those types: quantized weights, "
        "other kernels, or half precision that was averaged or activated since."
    ]
