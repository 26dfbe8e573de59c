"""Negatives as long as the relevant passages, so that a difference in attention is none in length.

Attention to a passage grows with its length, whatever it says: a row that attends evenly gives a passage its share of the tokens.
Random passages that differ in length from a query's relevant ones would differ in attention for that alone.

**The match.** The lengths of the query's relevant passages, in random order and again from the start where more are wanted, are the
lengths wanted. Each takes in turn the candidate whose length is nearest, of those that are left; the earlier of two that are as
near. Candidates are some `CANDIDATES` for each negative wanted, from a random sample of at most `SAMPLE` passages of the
collection, all queries' together: what a collection of millions costs is that sample read.

**Length** is in characters of the normalized text, since a pool is drawn before any tokenizer is known. On judged passages of TREC
DL 2019 and 2020 characters follow BERT's word pieces a little better than words do (r = .94 and .95, words .93 and .93), and they
mean something in scripts that put no spaces between words.

**The balance** is told for every pool, matched or not, over the queries that have both kinds: means over queries of a query's mean
length, and their difference in standard deviations of a passage's length, d / sqrt((var relevant + var negative) / 2), of which .1
is commonly taken as balanced (Austin, Statistics in Medicine 2009).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

CANDIDATES = 64
SAMPLE = 10_000
NEAR = 0.1
"""A query is called matched where its negatives' mean length is within this share of its relevant passages'."""


def wanted_lengths(relevant: Sequence[int], count: int, rng: np.random.Generator) -> Int[np.ndarray, "wanted"]:
    """`count` lengths: those of the relevant passages in random order, from the start again after the last."""
    return np.resize(np.asarray(relevant)[rng.permutation(len(relevant))], count)


def nearest(wanted: Sequence[int] | np.ndarray, lengths: Sequence[int] | np.ndarray) -> list[int]:
    """For each length wanted, in turn, the index of the nearest of `lengths` that is left; fewer where they run out."""
    left = np.asarray(lengths, dtype=np.float64).copy()
    chosen: list[int] = []
    for length in np.asarray(wanted)[: len(left)]:
        index = int(np.argmin(np.abs(left - length)))
        chosen.append(index)
        left[index] = np.inf
    return chosen


def length_balance(lengths: Mapping[str, tuple[Sequence[int], Sequence[int]]]) -> dict[str, Any] | None:
    """How the lengths of relevant passages and easy negatives compare.

    Args:
        lengths: query id → (lengths of its relevant passages, lengths of its negatives); queries that lack one are left out.

    Returns:
        `unit`; `queries` with both; `relevant` and `easy_negatives`, means over queries of a query's mean length;
        `standardized_difference` (easy negatives − relevant; None where no length varies but they differ); `queries_near`, those
        whose negatives' mean length is within `NEAR` of their relevant passages'. None where no query has both.
    """
    both = [sides for sides in lengths.values() if sides[0] and sides[1]]
    if not both:
        return None
    relevant, negative = (np.array([np.mean(sides[i]) for sides in both]) for i in (0, 1))
    spread = float(np.sqrt(np.mean([np.var(np.concatenate([sides[i] for sides in both])) for i in (0, 1)])))
    difference = float((negative - relevant).mean())
    standardized = difference / spread if spread else None if difference else 0.0
    return {
        "unit": "characters",
        "queries": len(both),
        "relevant": round(float(relevant.mean()), 2),
        "easy_negatives": round(float(negative.mean()), 2),
        "standardized_difference": standardized if standardized is None else round(standardized, 4),
        "queries_near": int((np.abs(negative - relevant) <= NEAR * relevant).sum()),
    }
