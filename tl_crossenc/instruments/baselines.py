"""Baselines: what an attribution's path begins at, a pair with a text's tokens replaced one for one.

The frame, the positions, the token types and the attention mask stay as they are: every replaced token is attended to. A baseline's
text form round-trips and labels results:

    query:pad       an empty query: Zhan et al. 2020's, every query token replaced by the padding token
    passage:pad     an empty passage
    both:mask       both texts, by the mask token
    query:unk       by the token for what the vocabulary does not know
    query:the       by another piece of the vocabulary, as it is written there

There is no neutral token: models are trained on none of these, so that every one is an option, and is said.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tl_crossenc.console.shown import quoted
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.parts import Part
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

_PARTS: dict[str, tuple[Part, ...]] = {
    "query": (Part.QUERY,),
    "passage": (Part.DOC,),
    "both": (Part.QUERY, Part.DOC),
}
SPECIAL = ("pad", "mask", "unk")
"""Tokens by their role; any other text is a piece of the vocabulary."""


@dataclass(frozen=True)
class Baseline:
    """A pair with a text's tokens replaced.

    Attributes:
        text: whose tokens, "query", "passage" or "both".
        token: by what: "pad", "mask", "unk", or a piece of the vocabulary.
    """

    text: str
    token: str = "pad"

    def __post_init__(self) -> None:
        if self.text not in _PARTS or not isinstance(self.token, str) or not self.token:
            raise ValueError(
                f"expected a baseline that replaces query, passage or both by pad, mask, unk or a piece of the vocabulary, such as "
                f"query:pad, got {quoted(self.text)} and {quoted(self.token)}"
            )

    def __str__(self) -> str:
        return f"{self.text}:{self.token}"

    @classmethod
    def parse(cls, text: str) -> Baseline:
        """The baseline written `query:pad`, or `query`, where the padding token is meant.

        Raises:
            ValueError: the text is not of that form.

        >>> str(Baseline.parse("passage"))
        'passage:pad'
        """
        side, colon, token = text.strip().partition(":")
        return cls(side.strip().lower(), token.strip() if colon else "pad")

    def token_id(self, model: HookedCrossEncoder, pairs: EncodedPairs) -> int:
        """The id that takes the place of every token; of a model without a tokenizer, the padding token is the pairs' own.

        Raises:
            ValueError: the vocabulary has no such token.
        """
        tokenizer = model.tokenizer
        if tokenizer is None:
            if self.token == "pad":
                return pairs.pad_token_id
            raise ValueError(f"expected a model with a tokenizer to find {quoted(self.token)}; of this one, choose pad")
        if self.token in SPECIAL:
            found = getattr(tokenizer, f"{self.token}_token_id", None)
            if found is None:
                there = [role for role in SPECIAL if getattr(tokenizer, f"{role}_token_id", None) is not None]
                raise ValueError(
                    f"expected a vocabulary with a {self.token} token, but this one has none: choose {', '.join(there)} or a piece "
                    "of the vocabulary"
                )
            return int(found)
        vocabulary = tokenizer.get_vocab()
        if self.token not in vocabulary:
            raise ValueError(
                f"expected pad, mask, unk or a piece of the vocabulary, got {quoted(self.token)}, which is none: write it as the "
                "vocabulary does"
            )
        return int(vocabulary[self.token])

    def of(self, model: HookedCrossEncoder, pairs: EncodedPairs) -> EncodedPairs:
        """The pairs with the text's tokens replaced.

        Raises:
            ValueError: the vocabulary has no such token.
        """
        replaced = np.isin(pairs.parts, [int(part) for part in _PARTS[self.text]])
        token = self.token_id(model, pairs)
        return replace(pairs, tokens=np.where(replaced, token, pairs.tokens).astype(pairs.tokens.dtype))


BaselineLike = Baseline | str


def as_baseline(baseline: BaselineLike) -> Baseline:
    """A baseline from itself or its text.

    Raises:
        ValueError: the text is none.
        TypeError: neither a baseline nor text.
    """
    if isinstance(baseline, Baseline):
        return baseline
    if not isinstance(baseline, str):
        raise TypeError(f"expected a baseline as text, such as query:pad, got {type(baseline).__name__}")
    return Baseline.parse(baseline)


def same_pairs(pairs: EncodedPairs, baselines: EncodedPairs) -> np.ndarray:
    """`[pair]`, whether a baseline is the pair itself, as where the replaced text has no token."""
    differ = pairs.tokens != baselines.tokens
    return np.array([not differ[a:b].any() for a, b in zip(pairs.offsets[:-1], pairs.offsets[1:], strict=True)], bool)
