"""Texts with slots: what two aligned passages share, and where they differ by equally many tokens.

A text is a list of segments, each shared text or a slot (clean, corrupted). `SlotWriter` fills the shorter side of a slot up with
filler until the model's tokenizer gives both sides the same number of tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.inputs.words import occurrences, word_spans, words
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.counterfactuals import NEUTRAL, passage_tokens, require_one_token

Segment = str | tuple[str, str]
"""Text that both sides share, or a slot: (clean, corrupted) of the same token length."""

STOPWORDS = frozenset(
    """
    a about an and are as at be by can did do does for from had has have how i if in into is it its many much my no not of on or
    our s so such t than that the their them then there these they this to was we were what when where which who why will with
    you your
    """.split()  # noqa: SIM905
)
"""Words that are no query terms."""


def content_terms(query: str) -> list[str]:
    """The distinct words of a query that are not `STOPWORDS`, in order.

    Raises:
        ValueError: there are none.
    """
    terms = [word for word in dict.fromkeys(words(query)) if word not in STOPWORDS]
    if not terms:
        raise ValueError(f"expected a query with at least one content term, got {query!r}: only stop words")
    return terms


def idf_of(texts: Iterable[str]) -> dict[str, float]:
    """word -> ln((N + 1) / (n + 1)) where n of the N distinct texts have the word; a word that none has is left out."""
    distinct = set(texts)
    counts = Counter(word for text in distinct for word in set(words(text)))
    return {word: math.log((len(distinct) + 1) / (count + 1)) for word, count in sorted(counts.items())}


class SlotWriter:
    """Writes a passage with slots, filled up to equal token lengths."""

    def __init__(self, model: HookedCrossEncoder, query: str, passage: str, filler: str, neutral: str, seed: int):
        self.model, self.query, self.passage, self.filler, self.neutral = model, query, passage, filler, neutral
        self.rng = np.random.default_rng(seed)
        if filler == "neutral":
            require_one_token(model, query, neutral)

    def term(self, term: str | None, *, in_passage: bool) -> str:
        """The query term named, or the first content term (that the passage has); a ValueError where there is none."""
        terms = content_terms(self.query)
        if term is None:
            term = next((t for t in terms if not in_passage or self.spans(t)), None)
            if term is None:
                raise ValueError(
                    f"expected a query term ({', '.join(terms)}) in the passage to replace, got none there"
                )
            return term
        if not occurrences(term, self.query):
            raise ValueError(f"expected a term of the query ({', '.join(terms)}), got {term!r}")
        if in_passage:
            self.occurrence(term)
        return term.lower()

    def spans(self, term: str) -> list[tuple[int, int]]:
        """Where the passage has the term as a whole word, in any case, as character ranges."""
        return occurrences(term, self.passage)

    def occurrence(self, term: str) -> tuple[int, int]:
        """The last of its spans; a ValueError where there is none."""
        spans = self.spans(term)
        if not spans:
            raise ValueError(f"expected {term!r} in the passage to replace it, but it is not there")
        return spans[-1]

    def count(self, text: str) -> int:
        """Tokens of a text inside of a passage, after a space."""
        if not text:
            return 0
        before, both = passage_tokens(self.model, self.query, [NEUTRAL, f"{NEUTRAL} {text}"]).tolist()
        return int(both - before)

    def fill(self, n_tokens: int) -> str:
        """Filler of so many tokens."""
        if self.filler == "random":
            return " ".join(self.random_words(n_tokens))
        if self.filler == "neutral":
            return " ".join([self.neutral] * n_tokens)
        mask = getattr(self.model.tokenizer, "mask_token", None)
        if mask is None:
            raise ValueError("expected a tokenizer with a mask token for masked filler, got one without: use neutral")
        return " ".join([mask] * n_tokens)

    def random_words(self, n: int) -> list[str]:
        """Words of one token each, of neither query nor passage."""
        known = whole_words(self.model, exclude=[*words(self.query), *words(self.passage), *STOPWORDS])
        if not known:
            raise ValueError(
                "expected a vocabulary with whole words for random filler, got none: use neutral or masked"
            )
        return [known[i] for i in self.rng.integers(len(known), size=n)]

    def own(self, span: tuple[int, int]) -> str:
        """What the passage has there."""
        return self.passage[slice(*span)]

    def slot(self, clean: str, corrupted: str) -> tuple[str, str]:
        """The two sides of a slot, the shorter one filled up."""
        short = self.count(clean) - self.count(corrupted)
        sides = (clean, self.fill(max(-short, 0))), (corrupted, self.fill(max(short, 0)))
        one, two = (" ".join(part for part in side if part) for side in sides)
        return one, two

    def appended(self, slots: Sequence[Segment]) -> list[Segment]:
        """The passage with the slots after it."""
        segments: list[Segment] = [self.passage]
        for slot in slots:
            segments += [" ", slot]
        return segments

    def replaced(self, slots: Sequence[tuple[tuple[int, int], Segment]]) -> list[Segment]:
        """The passage with slots in the place of spans, which are in order."""
        segments: list[Segment] = []
        end = 0
        for (start, stop), slot in slots:
            segments += [self.passage[end:start], *self._space(start), slot, *self._space(stop)]
            end = stop
        return [*segments, self.passage[end:]]

    def _space(self, at: int) -> list[Segment]:
        """A space where the passage has none between words, as in Chinese: filler would run together with them."""
        beside = self.passage[max(at - 1, 0) : at + 1]
        return [" "] if len(beside) == 2 and all(word_spans(character) for character in beside) else []

    def require_room(self, segments: Sequence[Segment]) -> None:
        """A ValueError where the model would cut into a slot: all up to the last slot's end must fit."""
        last = max(i for i, segment in enumerate(segments) if not isinstance(segment, str))
        texts = [side_text(segments[: last + 1], side) for side in (0, 1)]
        if self.model.encode_pairs(self.query, texts).truncated.any():
            raise ValueError(
                f"expected a passage that leaves room for what differs, but it would be cut away: shorten {self.passage[:40]!r}"
            )


def side_text(segments: Sequence[Segment], side: int) -> str:
    """The clean (0) or corrupted (1) text."""
    return "".join(segment if isinstance(segment, str) else segment[side] for segment in segments)


def whole_words(model: HookedCrossEncoder, exclude: Iterable[str] = ()) -> list[str]:
    """The vocabulary's lower-case words of three letters or more, sorted, without `exclude`."""
    left_out = set(exclude)
    return sorted(w for w in _vocabulary(model) if w.isalpha() and w.islower() and len(w) > 2 and w not in left_out)


def _vocabulary(model: HookedCrossEncoder) -> dict[str, int]:
    """word -> the piece that is all of it inside of a text."""
    return {} if model.tokenizer is None else Pieces(model.tokenizer).whole_words()


def closest_words(model: HookedCrossEncoder, term: str, n: int = 1, *, exclude: Iterable[str] = ()) -> list[str]:
    """The words of the vocabulary whose embeddings are most similar to the term's (by cosine, its tokens averaged), closest first.

    Raises:
        ValueError: the vocabulary has fewer whole words.
    """
    encoded = model.encode_pairs(term, [f"{NEUTRAL} {term}"])  # as it is read inside of a text, after a space
    read = encoded.tokens[encoded.parts == int(Part.DOC)]
    ids = torch.from_numpy(read[int(passage_tokens(model, term, [NEUTRAL])[0]) :].astype(np.int64))
    known = whole_words(model, exclude={term.lower(), *exclude, *STOPWORDS})
    if len(known) < n:
        raise ValueError(
            f"expected a vocabulary of at least {n} whole words, got {len(known)}: name the close word yourself"
        )
    vocabulary = _vocabulary(model)
    embeddings = model.W_E.to("cpu", torch.float64)
    candidates = embeddings[[vocabulary[w] for w in known]]
    similarity = torch.cosine_similarity(candidates, embeddings[ids].mean(0, keepdim=True))
    return [known[i] for i in similarity.argsort(descending=True, stable=True)[:n].tolist()]
