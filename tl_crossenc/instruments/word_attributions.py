"""What the words of one pair are worth to its score, by any attribution that `token_attributions` names.

    leave-one-out    s - s(the text without the word), see `word_removal`: exact for each word, and not additive: two words of which
                     one would do are worth nothing each, two that need each other count twice
    the others       the sum of the values of the word's tokens, as `word_sums` adds them

**Completeness.** Of leave-one-out it is told what the effects of a text's words add up to, and beside it what the score loses when
all of them are removed at once; the difference is no error but says how far the words' effects are from adding up. Integrated
gradients do add up, to s - s' with both texts emptied, but for the error of their quadrature; pieces that belong to no word (marks)
have their share in it (`others`). The rest has no such sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.console.shown import quoted
from tl_crossenc.inputs.pair_words import PairWord, PairWords, pair_words
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.instruments.removal import TEXTS, Removal, model_scorer
from tl_crossenc.instruments.token_attributions import (
    GRADIENTS,
    LEAVE_ONE_OUT,
    Attributing,
    attribution_cost,
    check_attributions,
    token_attributions,
)
from tl_crossenc.instruments.word_removal import encoder_of, scores_without, word_removal
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded

REMOVING = (LEAVE_ONE_OUT, GRADIENTS)
"""The attributions that depend on what stands for a word that is not there."""
TEXT_OF = {part: text for text, part in TEXTS.items()}


class Completeness(NamedTuple):
    """What values add up to, beside what they are to explain.

    Attributes:
        text: whose words: "query", "passage" or "both".
        total: the sum of their values; of gradients, with that of the pieces between them.
        difference: the score less the score without them.
    """

    text: str
    total: float
    difference: float

    @property
    def error(self) -> float:
        """The sum less the difference."""
        return self.total - self.difference


@dataclass(frozen=True)
class WordAttributions(Framed):
    """Values of the words of one pair.

    Attributes:
        attribution: by which method.
        way: what stood for what was not there, "delete", "mask" or "pad"; "" where the method removes nothing.
        words: that the model reads, the query's first.
        values: `[word]`, in the unit of the score (of bits, attention and random numbers, in their own).
        others: the sum over the pieces that belong to no word; 0 for leave-one-out, which leaves out words.
        completeness: what the values add up to, where that is to be something.
    """

    attribution: str
    way: str
    words: tuple[PairWord, ...]
    values: Float[np.ndarray, "word"]
    others: float
    completeness: tuple[Completeness, ...]

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Words by their part and their text."""
        return {"word": {"part": [word.part.name for word in self.words], "word": [word.text for word in self.words]}}


@recorded
def word_attributions(
    model: HookedCrossEncoder,
    query: str,
    passage: str,
    attribution: str = LEAVE_ONE_OUT,
    *,
    found: PairWords | None = None,
    way: str | None = None,
    max_length: int | None = None,
    statistics: LayerStatistics | None = None,
    token_budget: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> WordAttributions:
    """A value for every word of one pair that the model reads.

    Args:
        model: the model, with what it ablates at the moment.
        query, passage: one text each.
        attribution: of `ATTRIBUTIONS`.
        found: their words at this `max_length`, where they are known (`inputs.pair_words`).
        way: what stands for a word that is not there, of leave-one-out and gradients: "delete" (the default; gradients then begin
            at the padding token), "mask" or "pad".
        max_length: tokens the pair is cut to, by default the model's own limit.
        statistics: the layers' distribution over other pairs, for bottlenecks.
        token_budget: padded tokens a batch.
        progress: called with layer runs newly done, as `word_cost` counts them.

    Raises:
        ValueError: another attribution or way, a way for a method that removes nothing, no word that is read, or see
            `token_attributions`.
    """
    pair = model.encode_pairs(query, passage, max_length=max_length)
    removal = check_words(model, pair, attribution, way)
    found = found or words_of(model, query, passage, max_length=max_length)
    read = read_words(found)
    if not read:
        raise ValueError("expected words in the query or in the passage, got none that the model reads")
    if attribution == LEAVE_ONE_OUT:
        sets, layers = _sets(read), model.cfg.n_layers
        advance = None if progress is None else lambda done: progress(done * layers)
        scores = scores_without(
            model,
            query,
            passage,
            found,
            sets,
            removal.way,
            max_length=max_length,
            token_budget=token_budget,
            progress=advance,
        )
        return _left_out(read, sets, scores, removal)
    given = Attributing(removal, token_budget=token_budget)
    tokens = token_attributions(model, pair, attribution, given, statistics=statistics, progress=progress)
    values = np.array([tokens[word.tokens.start : word.tokens.stop].sum() for word in read])
    total = float(np.nansum(tokens))
    complete: tuple[Completeness, ...] = ()
    if attribution == GRADIENTS:
        score = model_scorer(model, token_budget)
        emptied = given.baseline().of(model, pair)
        complete = (Completeness(removal.text, total, float(score(pair)[0] - score(emptied)[0])),)
    used = given.baseline().token if attribution == GRADIENTS else ""
    return WordAttributions(attribution, used, read, values, total - float(values.sum()), complete)


def check_words(model: HookedCrossEncoder, pair: EncodedPairs, attribution: str, way: str | None) -> Removal:
    """What stands for words that are not there.

    Raises:
        ValueError: another attribution or way, or a way for a method that removes nothing.
    """
    (name,) = check_attributions([attribution])
    if way is not None and name not in REMOVING:
        raise ValueError(
            f"expected no removal beside {name}, which removes nothing, got {quoted(way)}: leave it out, or take "
            f"{' or '.join(REMOVING)}"
        )
    return word_removal(model, pair, way)


def words_of(model: HookedCrossEncoder, query: str, passage: str, *, max_length: int | None = None) -> PairWords:
    """The words of a pair as the model reads it.

    Raises:
        ValueError: a model without a tokenizer, or see `PairEncoder.encode`.
    """
    return pair_words(encoder_of(model), query, passage, max_length=max_length)


def read_words(found: PairWords) -> tuple[PairWord, ...]:
    """Those that the model reads, in part at least."""
    return tuple(word for word in found.words if word.tokens)


def word_cost(model: HookedCrossEncoder, pair: EncodedPairs, found: PairWords, attribution: str) -> int:
    """Layer runs, as `progress` counts them."""
    if attribution == LEAVE_ONE_OUT:
        return model.cfg.n_layers * len({frozenset(words) for words in _sets(read_words(found))})
    return attribution_cost(model, pair, attribution, Attributing(word_removal(model, pair)))


def _sets(words: tuple[PairWord, ...]) -> list[tuple[PairWord, ...]]:
    """None, each alone, and all of each text that has some, then of both."""
    texts = [own for part in (Part.QUERY, Part.DOC) if (own := tuple(word for word in words if word.part == part))]
    return [(), *((word,) for word in words), *texts, *([words] if len(texts) > 1 else [])]


def _left_out(
    words: tuple[PairWord, ...],
    sets: list[tuple[PairWord, ...]],
    scores: Float[np.ndarray, "set"],
    removal: Removal,
) -> WordAttributions:
    values = scores[0] - scores[1 : len(words) + 1]
    complete = []
    for own, less in zip(sets[len(words) + 1 :], scores[len(words) + 1 :], strict=True):
        parts = {word.part for word in own}
        text = TEXT_OF[own[0].part] if len(parts) == 1 else removal.text
        total = sum(value for value, word in zip(values, words, strict=True) if word.part in parts)
        complete.append(Completeness(text, float(total), float(scores[0] - less)))
    return WordAttributions(LEAVE_ONE_OUT, removal.way, words, values, 0.0, tuple(complete))
