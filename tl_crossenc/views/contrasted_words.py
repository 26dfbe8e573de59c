"""Two passages of one query, by words: what each adds to either score, and the fewest without which the order turns.

**Effects.** What a word adds to a score is the score less that of the text without the word (`word_removal`). A word of the
query adds to both scores, a word of a passage to its own alone. A word that more than one of the three texts has is also taken out
of all of them at once, everywhere that it stands, in any case (`shared`): what it adds by being said on both sides is no sum of
what its places add alone.

**Removal.** Of the passage that outranks the other the smallest set of words without which it scores less; of the other the
smallest without which it scores more (`smallest_removal` has the search and what is proven). Scores that are tied
(`statistics.ties`) turn nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_crossenc.inputs.pair_words import PairWord, PairWords
from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments.smallest_removal import SmallestRemoval, Words, smallest_removal
from tl_crossenc.instruments.word_attributions import read_words
from tl_crossenc.instruments.word_removal import scores_without
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.statistics.ties import TIE_TOLERANCE

SIDES = ("A", "B")
QUERY = "query"
EFFECTS = ["to_a", "to_b", "difference"]


class Pair(NamedTuple):
    """One passage with the query, and their words."""

    query: str
    passage: str
    found: PairWords

    @property
    def words(self) -> tuple[PairWord, ...]:
        """Those that are read, the query's first."""
        return read_words(self.found)

    def of(self, part: Part) -> tuple[PairWord, ...]:
        """The words of one text."""
        return tuple(word for word in self.words if word.part == part)


class Scoring(NamedTuple):
    """How scores without words are made."""

    model: HookedCrossEncoder
    way: str
    max_length: int
    token_budget: int | None
    progress: Callable[[int], object] | None

    def without(self, pair: Pair, sets: Sequence[Sequence[PairWord]]) -> Float[np.ndarray, "set"]:
        """See `scores_without`."""
        return scores_without(
            self.model,
            *pair,
            sets,
            self.way,
            max_length=self.max_length,
            token_budget=self.token_budget,
            progress=self.progress,
        )


class Ties(NamedTuple):
    """When two scores count as equal, see `statistics.ties`: a tolerance, and the size of the terms that scores are sums of."""

    tolerance: float
    scale: float

    @classmethod
    def of(cls, model: HookedCrossEncoder) -> Ties:
        """Those of a model's scores."""
        return cls(TIE_TOLERANCE[str(model.dtype).removeprefix("torch.")], model.score_scale)

    def gap(self, scores: Float[np.ndarray, "*pair"], other: float) -> Float[np.ndarray, "*pair"]:
        """The largest difference of each from the other at which they are tied."""
        return self.tolerance * np.maximum(np.maximum(np.abs(scores), abs(other)), self.scale)


def word_effects(scoring: Scoring, pairs: Sequence[Pair]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `words` and `shared` of a `Contrast`, one batched pass a passage."""
    a, b = pairs
    names = [_types(own) for own in (a.of(Part.QUERY), a.of(Part.DOC), b.of(Part.DOC))]
    common = [name for name in dict.fromkeys(n for own in names for n in own) if sum(name in own for own in names) > 1]
    effects, everywhere = [], []
    for pair in pairs:
        sets = [(), *((word,) for word in pair.words)]
        sets += [tuple(word for word in pair.words if _type(word) == name) for name in common]
        scores = scoring.without(pair, sets)
        lost = scores[0] - scores[1:]
        effects.append(lost[: len(pair.words)])
        everywhere.append(lost[len(pair.words) :])
    n_query = len(a.of(Part.QUERY))
    none = [np.zeros(len(pair.words) - n_query) for pair in pairs]
    rows = [
        (QUERY, a.of(Part.QUERY), effects[0][:n_query], effects[1][:n_query]),
        (SIDES[0], a.of(Part.DOC), effects[0][n_query:], none[0]),
        (SIDES[1], b.of(Part.DOC), none[1], effects[1][n_query:]),
    ]
    words = pd.DataFrame(
        [
            (text, word.text, word.start, word.stop, to_a, to_b, to_a - to_b)
            for text, own, *both in rows
            for word, to_a, to_b in zip(own, *both, strict=True)
        ],
        columns=["text", "word", "start", "stop", *EFFECTS],
    )
    where = [
        ", ".join(text for text, own in zip((QUERY, *SIDES), names, strict=True) if name in own) for name in common
    ]
    shared = pd.DataFrame({"word": common, "texts": where, "to_a": everywhere[0], "to_b": everywhere[1]})
    shared["difference"] = shared["to_a"] - shared["to_b"]
    return words, shared


def turning_words(
    scoring: Scoring, pairs: Sequence[Pair], scores: Sequence[float], most_runs: int, *, tied: bool
) -> tuple[dict[str, SmallestRemoval], pd.DataFrame]:
    """Of A and of B the smallest removal that turns their order, and both as the table `removal` of a `Contrast`; none if tied."""
    higher, ties = int(scores[1] > scores[0]), Ties.of(scoring.model)
    found, rows = {}, []
    for side, pair in enumerate([] if tied else pairs):
        own, other, sign = pair.of(Part.DOC), scores[1 - side], -1.0 if side == higher else 1.0

        def turned(sets: Sequence[Words], pair=pair, own=own, other=other, sign=sign) -> np.ndarray:
            without = scoring.without(pair, [[own[i] for i in words] for words in sets])
            return sign * (without - other) - ties.gap(without, other)

        best = smallest_removal(len(own), turned, most_runs=most_runs)
        score = float("nan")
        if best.words is not None:
            score = float(scoring.without(pair, [[own[i] for i in best.words]])[0])
        text = ", ".join(own[i].text for i in best.words or ())
        size = pd.NA if best.words is None else len(best.words)
        found[SIDES[side]] = best
        rows.append((SIDES[side], size, text, score, other, best.minimal, best.whole, len(own), best.runs))
    columns = ["text", "size", "words", "score", "other", "minimal", "whole", "n_words", "runs"]
    return found, pd.DataFrame(rows, columns=columns).astype({"size": "Int64"})


def _type(word: PairWord) -> str:
    return word.text.casefold()


def _types(words: Sequence[PairWord]) -> dict[str, None]:
    return dict.fromkeys(map(_type, words))
