"""Tokens of a text removed from a pair, by rank or by choice: what faithfulness is measured with.

There are three ways, and a model is trained on none of them:

    mask      the token becomes the mask token; positions, token types, frame and attention stay
    pad       it becomes the padding token, which is attended to all the same; positions stay (where a family counts positions
              without the padding token, too: Hugging Face would move what follows)
    delete    it is gone, the pair is shorter and what follows moves up (Jiang et al. 2020)

A vocabulary without a mask token (Llama's, say) has pad and delete alone. With all of DOC deleted the passages of a query are one
and the same input. With all of it masked or padded they are only where they are equally long: what is left tells the length.

**Ranks.** Most important first, by value from high to low: an attribution is signed, and a token that lowers the score comes last.
Values that differ by less than `TIED` of the pair's largest are one value, and tied tokens are in a random order that the seed and
the pair's own tokens give. Least important first is that order backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tl_crossenc.console.shown import quoted
from tl_crossenc.inputs.batching import run_batches
from tl_crossenc.inputs.pairs import EncodedPairs, token_digest
from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments.baselines import Baseline
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

WAYS = ("mask", "pad", "delete")
TEXTS: dict[str, Part] = {"passage": Part.DOC, "query": Part.QUERY}
BOTH = "both"
"""Of both texts at once, where a pair is explained; what ranks tokens is of one text."""
TIED = 1e-6
"""Of a pair's largest absolute value: about what float32 leaves of equal ones."""
TOGETHER = 1024
"""Pairs with tokens removed that are held at a time."""

Scorer = Callable[[EncodedPairs], Float[np.ndarray, "pair"]]
"""Scores of pairs, float64."""


class Removal(NamedTuple):
    """How tokens of which text are removed.

    Attributes:
        way: "mask", "pad" or "delete".
        text: "passage" or "query", or "both" (`of_both`).
        token: what takes a token's place; None where nothing does.
    """

    way: str
    text: str
    token: int | None

    @property
    def part(self) -> Part:
        """Whose tokens, where they are one text's.

        Raises:
            ValueError: those of both.
        """
        if self.text == BOTH:
            raise ValueError("expected a removal of one text, passage or query, to rank tokens of, got one of both")
        return TEXTS[self.text]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Whose tokens."""
        return tuple(TEXTS.values()) if self.text == BOTH else (self.part,)

    def of_both(self) -> Removal:
        """The same of both texts."""
        return self._replace(text=BOTH)


class Removed(NamedTuple):
    """One pair with some of its tokens to be removed.

    Attributes:
        pair: which.
        tokens: their places among the tokens of all pairs.
    """

    pair: int
    tokens: Int[np.ndarray, "_"]


def removal_ways(model: HookedCrossEncoder) -> tuple[str, ...]:
    """The ways that the model's vocabulary has a token for; a model without a tokenizer has the padding of its pairs."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        return ("pad", "delete")
    return tuple(way for way in WAYS if way == "delete" or getattr(tokenizer, f"{way}_token_id", None) is not None)


def as_removal(
    model: HookedCrossEncoder, pairs: EncodedPairs, way: str | None = None, text: str = "passage"
) -> Removal:
    """The removal of a way, by default the first that the model has.

    Raises:
        ValueError: another way or text, or a way that the vocabulary has no token for.
    """
    if text not in TEXTS or way not in (None, *WAYS):
        raise ValueError(
            f"expected tokens of passage or query removed by {', '.join(WAYS)}, got {quoted(str(text))} and {quoted(str(way))}"
        )
    there = removal_ways(model)
    chosen = there[0] if way is None else way
    if chosen not in there:
        raise ValueError(
            f"expected a removal by {' or '.join(there)}, got {chosen}: the model's vocabulary has no {chosen} token"
        )
    return Removal(chosen, text, None if chosen == "delete" else Baseline(text, chosen).token_id(model, pairs))


def remove(pairs: EncodedPairs, chosen: Bool[np.ndarray, "token"], removal: Removal) -> EncodedPairs:
    """The pairs without the chosen tokens.

    Raises:
        ValueError: a chosen token that is not the text's.
    """
    if (chosen & ~np.isin(pairs.parts, removal.parts)).any():
        raise ValueError(f"expected tokens of the {removal.text} to remove, got others among them")
    if removal.token is not None:
        return replace(pairs, tokens=np.where(chosen, removal.token, pairs.tokens).astype(pairs.tokens.dtype))
    kept = np.add.accumulate(np.concatenate([[0], ~chosen]), dtype=np.int64)
    columns = {name: getattr(pairs, name)[~chosen] for name in ("tokens", "token_type_ids", "parts")}
    return replace(pairs, **columns, offsets=kept[pairs.offsets])


def repeated(pairs: EncodedPairs, index: Int[np.ndarray, "copy"]) -> EncodedPairs:
    """Some of the pairs, one as often as its number is there."""
    lengths = pairs.lengths[index]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    places = np.arange(offsets[-1]) + np.repeat(pairs.offsets[:-1][index] - offsets[:-1], lengths)
    columns: dict[str, Any] = {name: getattr(pairs, name)[places] for name in ("tokens", "token_type_ids", "parts")}
    return replace(pairs, **columns, offsets=offsets, truncated=pairs.truncated[index])


def removal_scores(
    score: Scorer, pairs: EncodedPairs, wanted: Sequence[Removed], removal: Removal
) -> Float[np.ndarray, "wanted"]:
    """The score of each pair without the tokens; the same removal asked for twice is run once."""
    keys = [(pair, np.sort(tokens).tobytes()) for pair, tokens in wanted]
    place = {key: i for i, key in reversed(list(enumerate(keys)))}
    first = sorted(place.values())
    found: dict[tuple[int, bytes], float] = {}
    for start in range(0, len(first), TOGETHER):
        some = [wanted[i] for i in first[start : start + TOGETHER]]
        owners = np.array([own.pair for own in some], np.int64)
        copies = repeated(pairs, owners)
        chosen = np.zeros(len(copies.tokens), bool)
        for own, at in zip(some, copies.offsets, strict=False):
            chosen[at + own.tokens - pairs.offsets[own.pair]] = True
        scores = score(remove(copies, chosen, removal))
        found |= {keys[i]: float(value) for i, value in zip(first[start : start + TOGETHER], scores, strict=True)}
    return np.array([found[key] for key in keys], np.float64)


def model_scorer(
    model: HookedCrossEncoder, token_budget: int | None = None, progress: Callable[[int], object] | None = None
) -> Scorer:
    """The model's scores, with what it ablates at the moment; `progress` is called with the pairs done after each batch."""
    budget = model.token_budget(token_budget)

    def score(pairs: EncodedPairs) -> Float[np.ndarray, "pair"]:
        found = np.zeros(len(pairs))

        def run(indices: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return model(pairs.batch(indices).to(model.device)).double().cpu().numpy()

        for indices, scores in run_batches(pairs.lengths, budget, run):
            found[indices] = scores
            if progress is not None:
                progress(len(indices))
        if not np.isfinite(found).all():
            raise ValueError(
                "expected finite scores, but some are NaN or infinite: check the checkpoint's weights, or use dtype float32"
            )
        return found

    return score


def text_tokens(pairs: EncodedPairs, *parts: Part) -> list[Int[np.ndarray, "_"]]:
    """The places of each pair's tokens of some parts among the tokens of all pairs."""
    return [start + np.flatnonzero(np.isin(pairs.parts[start:stop], parts)) for start, stop in pairwise(pairs.offsets)]


def removal_orders(
    pairs: EncodedPairs, values: Float[np.ndarray, "token"], part: Part, seed: int = 0
) -> list[Int[np.ndarray, "_"]]:
    """For each pair the places of the part's tokens, most important first; see the module for ties.

    Raises:
        ValueError: not one value a token, or one of the part that is no finite number.
    """
    if np.shape(values) != pairs.tokens.shape or not np.isfinite(values[pairs.parts == part]).all():
        raise ValueError(
            f"expected a finite value for each of the {part.name} tokens, got shape {np.shape(values)} or NaN"
        )
    orders = []
    for i, own in enumerate(text_tokens(pairs, part)):
        here = values[own]
        largest = np.abs(here).max(initial=0.0)
        rounded = np.round(here / (largest * TIED)) if largest > 0 else here
        orders.append(own[np.lexsort((pair_generator(pairs, i, seed, 0).permutation(len(own)), -rounded))])
    return orders


def pair_generator(pairs: EncodedPairs, pair: int, seed: int, *purpose: int) -> np.random.Generator:
    """Of a pair's random draws, by the seed, what they are for, and its tokens: the same in any batch.

    Raises:
        ValueError: a seed below 0.
    """
    if seed < 0:
        raise ValueError(f"expected a seed of at least 0, got {seed}")
    digest = token_digest(pairs.tokens[pairs.offsets[pair] : pairs.offsets[pair + 1]])
    return np.random.default_rng([seed, *purpose, int.from_bytes(digest[:16], "little")])
