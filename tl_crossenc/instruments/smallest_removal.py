"""The smallest set of words whose removal turns something, such as the order of two passages.

**Search.** Of n words with a measure that is positive where the removal of a set turns it:

1. all sets of one word; then all of two, all of three, ... as long as those of a size fit into what is left of `most_runs`. The
   first size that has a set that turns it is the smallest there is; of that size the set that turns it furthest is taken.
2. Else, from the best of the largest size that was run whole, one word after the other that then brings the measure up most, for at
   most `most_runs` runs more; and once these do not allow another round, the rest in order of what each word did alone.
3. What was found that way is thinned out: a word that can be put back is, the one first that leaves the measure highest. So none
   can be put back alone; whether there is a smaller set is not known, unless it is of the size after those that were run whole.

Where all sizes up to n were run and none turns it, that is known, too. Sets are measured in chunks: memory does not grow with their
number. After Li, Monroe and Jurafsky 2016 (Understanding Neural Networks through Representation Erasure), who search for the
smallest set of words whose erasure changes a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb

import numpy as np
from jaxtyping import Float

CHUNK = 1024
"""Sets that are held at a time."""

Words = tuple[int, ...]
Measure = Callable[[Sequence[Words]], Float[np.ndarray, "set"]]
"""Sets of words -> how far the removal of each turns it: positive where it does."""


@dataclass(frozen=True)
class SmallestRemoval:
    """A set of words whose removal turns it, and how far it was searched for.

    Attributes:
        words: by number, in order; None where no set was found.
        measure: how far its removal turns it; of no set, how far the best of what was run came (0 or less), NaN without any words.
        n_words: out of how many.
        whole: up to how many words all sets were run.
        runs: sets that were run.
    """

    words: Words | None
    measure: float
    n_words: int
    whole: int
    runs: int

    @property
    def minimal(self) -> bool:
        """Whether it is proven: that no smaller set turns it or, where none was found, that none does."""
        return self.whole >= self.n_words if self.words is None else len(self.words) <= self.whole + 1


def smallest_removal(n_words: int, measure: Measure, *, most_runs: int = 1000) -> SmallestRemoval:
    """Search for the smallest set of words whose removal turns it, see the module.

    Args:
        n_words: how many there are.
        measure: called with sets by word number, at most `CHUNK` at a time.
        most_runs: sets that are run for the proof, those of one word in any case, and as many for the search after it.

    Raises:
        ValueError: `most_runs` below 1.
    """
    if most_runs < 1:
        raise ValueError(f"expected most_runs of at least 1, got {most_runs}")
    search = _Search(n_words, measure)
    size = 1
    while size <= n_words and (size == 1 or search.runs + comb(n_words, size) <= most_runs):
        turned = search.best_of(combinations(range(n_words), size))
        if turned:
            return search.found(search.best, size)
        size += 1
    whole = size - 1
    if whole >= n_words:
        return search.found(None, whole)
    words = search.grow(search.best, most_runs)
    return search.found(None if words is None else search.thin(words, whole + 1), whole)


class _Search:
    """What was run, and the best of it.

    Attributes:
        best: the best set of the last call of `best_of`.
        value: its measure.
        alone: the measure of each word.
        runs: sets that were run.
        nearest: the best measure of all that was run.
    """

    def __init__(self, n_words: int, measure: Measure):
        self.n_words, self._measure = n_words, measure
        self.best: Words = ()
        self.value = self.nearest = float("nan")
        self.alone: list[float] = []
        self.runs = 0

    def best_of(self, sets: Iterable[Words]) -> bool:
        """Run sets, keep the first best; whether it turns it."""
        self.value = -np.inf
        waiting = iter(sets)
        while chunk := list(islice(waiting, CHUNK)):
            values = self._measure(chunk)
            if len(self.alone) < self.n_words and len(chunk[0]) == 1:
                self.alone += values.tolist()
            at = int(np.argmax(values))
            self.runs += len(chunk)
            if values[at] > self.value:
                self.best, self.value = chunk[at], float(values[at])
        self.nearest = float(np.fmax(self.nearest, self.value))
        return self.value > 0

    def grow(self, words: Words, most_runs: int) -> Words | None:
        """Step 2: a set that turns it, or None."""
        end = self.runs + most_runs
        while len(words) < self.n_words and self.runs + self.n_words - len(words) <= end:
            if self.best_of(_with(words, word) for word in range(self.n_words) if word not in words):
                return self.best
            words = self.best
        left = sorted(set(range(self.n_words)) - set(words), key=lambda word: -self.alone[word])
        ordered = (tuple(sorted((*words, *left[: i + 1]))) for i in range(len(left)))
        while chunk := list(islice(ordered, CHUNK)):
            values = self._measure(chunk)
            self.runs += len(chunk)
            self.nearest = float(np.fmax(self.nearest, values.max()))
            if (values > 0).any():
                return chunk[int(np.argmax(values > 0))]
        return None

    def thin(self, words: Words, fewest: int) -> Words:
        """Step 3: the set without what can be put back, of at least `fewest` words."""
        while len(words) > fewest and self.best_of(tuple(w for w in words if w != back) for back in words):
            words = self.best
        return words

    def found(self, words: Words | None, whole: int) -> SmallestRemoval:
        """The result; the measure of a set that was found is run again, once, where it is not the last best."""
        if words is None:
            return SmallestRemoval(None, self.nearest, self.n_words, whole, self.runs)
        value = self.value if words == self.best else float(self._measure([words])[0])
        return SmallestRemoval(words, value, self.n_words, whole, self.runs)


def _with(words: Words, word: int) -> Words:
    return tuple(sorted((*words, word)))
