"""Words of a pair removed, whole, from either text or from both: what a score is worth without them.

    delete       the text is the one without the word: cut out with the white space before it (at the text's beginning, after it),
                 and read anew; a space stays where two words would else run into one
    mask, pad    each of the word's tokens becomes that token, as in `removal`; positions stay

What truncation cut stays cut: no word comes in at the end for one that is left out. All sets of words, of both texts, are scored in
one batched pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float

from tl_crossenc.inputs.encoder import PairEncoder
from tl_crossenc.inputs.pair_words import PairWord, PairWords
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.words import word_spans
from tl_crossenc.instruments.removal import Removal, Removed, as_removal, model_scorer, removal_scores, remove
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

DELETE = "delete"
"""How words are removed unless another way is asked for."""
_PASSAGE = Removal(DELETE, "passage", None)


def word_removal(model: HookedCrossEncoder, pair: EncodedPairs, way: str | None = None) -> Removal:
    """The removal of words of both texts.

    Raises:
        ValueError: another way, or one that the model's vocabulary has no token for.
    """
    return as_removal(model, pair, DELETE if way is None else way).of_both()


def encoder_of(model: HookedCrossEncoder) -> PairEncoder:
    """What reads the model's texts.

    Raises:
        ValueError: nothing does.
    """
    if model.encoder is None:
        raise ValueError("expected a model with a tokenizer to read texts, got one made without: pass tokenizer=")
    return model.encoder


def without(text: str, words: Iterable[PairWord]) -> str:
    """A text with some of its words cut out.

    >>> words = [PairWord(Part.DOC, "", *span, range(1), 0) for span in word_spans("a mandolin: ab日cd")]
    >>> [without("a mandolin: ab日cd", [word]) for word in words[:4]]
    ['mandolin: ab日cd', 'a: ab日cd', 'a mandolin:日cd', 'a mandolin: ab cd']
    """
    for word in sorted(words, key=lambda word: -word.start):
        left, right = text[: word.start].rstrip(), text[word.stop :]
        if not left:
            right = right.lstrip()
        runs_on = (
            len(word_spans(left[-1:] + right[:1])) == 1 and bool(word_spans(left[-1:])) and bool(word_spans(right[:1]))
        )
        text = f"{left} {right}" if runs_on else left + right
    return text


def scores_without(
    model: HookedCrossEncoder,
    query: str,
    passage: str,
    found: PairWords,
    sets: Sequence[Sequence[PairWord]],
    way: str | None = None,
    *,
    max_length: int | None = None,
    token_budget: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Float[np.ndarray, "set"]:
    """The score of one pair without each set of its words; an empty set is the pair as it is.

    Args:
        model: the model, with what it ablates at the moment.
        query, passage: the texts.
        found: their words, at this `max_length`.
        sets: of words that the model reads.
        way: "delete" (the default), "mask" or "pad".
        max_length: tokens the pair is cut to, by default the model's own limit.
        token_budget: padded tokens a batch.
        progress: called with the number of sets newly scored; one that is asked for twice is scored once.

    Raises:
        ValueError: another way, or a score that is no finite number.
    """
    encoder = encoder_of(model)
    pair = model.encode_pairs(query, passage, max_length=max_length)
    removal = word_removal(model, pair, way)
    score = model_scorer(model, token_budget, progress)
    if removal.token is not None:
        wanted = [
            Removed(0, np.array(sorted(at for own in words for at in own.tokens), dtype=np.int64)) for words in sets
        ]
        return removal_scores(score, pair, wanted, removal)
    distinct = list(dict.fromkeys(frozenset(words) for words in sets))
    scores = score(_deleted(encoder, query, passage, found, distinct, max_length))
    place = {words: i for i, words in enumerate(distinct)}
    return scores[[place[frozenset(words)] for words in sets]]


def _deleted(
    encoder: PairEncoder,
    query: str,
    passage: str,
    found: PairWords,
    sets: Sequence[frozenset[PairWord]],
    max_length: int | None,
) -> EncodedPairs:
    """The pair of the texts without each set of words, and without what truncation cuts of the passage."""
    limit, left = encoder.length_limit(max_length), encoder.cuts_left
    passage, shift = _near(passage, found, left)
    texts = []
    for words in sets:
        own = [word for word in words if word.part == Part.QUERY]
        others = [
            word._replace(start=word.start - shift, stop=word.stop - shift) for word in words if word.part == Part.DOC
        ]
        texts.append((without(query, own), without(passage, others)))
    copies = encoder.encode_whole(*map(list, zip(*texts, strict=True)))
    whole = int((encoder.encode_whole([query], [passage]).parts == Part.DOC).sum())
    chosen = np.zeros(len(copies.tokens), bool)
    for i, words in enumerate(sets):
        places = copies.offsets[i] + np.flatnonzero(copies.parts[copies.offsets[i] : copies.offsets[i + 1]] == Part.DOC)
        lost = whole - found.read_tokens - sum(word.cut for word in words)
        lost = max(lost, int(copies.lengths[i]) - limit)  # pieces may be more where a word went
        chosen[places[:lost] if left else places[len(places) - lost :]] = lost > 0
    return remove(copies, chosen, _PASSAGE)


def _near(passage: str, found: PairWords, cuts_left: bool) -> tuple[str, int]:
    """The passage as far as it is read and a word beyond, and where that begins: what is cut may be long."""
    start, stop = found.read
    if found.read_tokens == found.passage_tokens:
        return passage, 0
    if cuts_left:
        begin = _space_before(passage, _space_before(passage, start))
        return passage[begin:], begin
    return passage[: next((at for at in range(stop, len(passage)) if passage[at].isspace()), len(passage))], 0


def _space_before(text: str, at: int) -> int:
    """The white space before the word, or part of one, that ends before `at`; 0 where there is none."""
    end = len(text[:at].rstrip())
    return next((i for i in range(end - 1, -1, -1) if text[i].isspace()), 0)
