"""A sample of foreign pairs, and whether a dear reading may give all scores, going by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from tl_crossenc.doctor.causes import ReadPairs, held_against
from tl_crossenc.doctor.foreign_scores import ForeignScores
from tl_crossenc.doctor.outputs import Output
from tl_crossenc.doctor.relations import FEWEST, may_relate

SIZE = 4
"""Pairs of a sample: that many scores do not fit a wrong cause by chance, if they have digits."""
LOOSER = 16.0
"""How many times more the logits of a sample may be off than those of all pairs, whose largest is larger."""
NEAR = 1e-3
"""How far sums, least and largest values may be off beyond their digits, so that a query's passages made them."""


def sample_of(foreign: ForeignScores, numbers: Int[np.ndarray, "pair"], *, related: bool) -> Int[np.ndarray, "chosen"]:
    """The pairs of a sample, in order: evenly spaced, or whole queries where scores may depend on a query's other passages.

    Args:
        foreign: the scores.
        numbers: `[pair]`, the number of each pair's query.
        related: whether it is to be as large as a relation needs.
    """
    size = FEWEST if related else SIZE
    if len(foreign) <= size:
        return np.arange(len(foreign))
    if not may_be_over_query(foreign, numbers):
        return np.linspace(0, len(foreign) - 1, size).round().astype(np.int64)
    sizes = np.bincount(numbers)
    smallest_first = np.argsort(sizes, kind="stable")
    enough = int(np.searchsorted(np.cumsum(sizes[smallest_first]), size)) + 1
    return np.flatnonzero(np.isin(numbers, smallest_first[:enough]))


def may_be_over_query(foreign: ForeignScores, numbers: Int[np.ndarray, "pair"]) -> bool:
    """Whether scores may be what a softmax over a query's passages gives (their sum is 1), or a min-max (from 0 to 1)."""
    n_queries = numbers.max(initial=0) + 1
    low, high = np.full(n_queries, np.inf), np.full(n_queries, -np.inf)
    np.minimum.at(low, numbers, foreign.values)
    np.maximum.at(high, numbers, foreign.values)
    room = NEAR + np.bincount(numbers, foreign.exact_to)
    share = np.abs(np.bincount(numbers, foreign.values) - 1) <= room
    ranged = (np.abs(low) <= room) & ((np.abs(high - 1) <= room) | (high <= room))
    return bool(share.all() or ranged.all())


def may_give(
    foreign: ForeignScores,
    numbers: Int[np.ndarray, "pair"],
    sample: Int[np.ndarray, "chosen"],
    ours: ReadPairs,
    reading: ReadPairs,
    outputs: Sequence[Output],
    slack: float,
    *,
    related: bool,
) -> bool:
    """Whether, on a sample, some output of a reading gives the scores, or with `related` a function of it.

    Args:
        foreign: all scores.
        numbers: `[pair]`, the number of each pair's query.
        sample: which pairs, from `sample_of`.
        ours, reading: both of the sample alone.
        outputs: ours first. Those over a query's passages are looked at where the sample has whole queries.
        slack: the tolerance of logits on all pairs.
        related: whether an affine, a rising or a falling function counts.
    """
    few, own = foreign.chosen(sample), numbers[sample]
    if (np.bincount(own, minlength=numbers.max() + 1)[own] < np.bincount(numbers)[own]).any():
        outputs = [output for output in outputs if not output.over_query]
    causes = held_against(few, ours, [reading], outputs, own, LOOSER * slack)
    return any(cause.within == len(few) or (related and may_relate(few, cause)) for cause in causes)
