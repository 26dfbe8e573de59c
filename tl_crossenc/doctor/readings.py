"""Readings: the ways in which a system may turn a pair of texts into what the model is fed, ours the first of them.

A reading differs from ours in one thing: where and what it cuts, the order of the texts, token types, case, accents, how the
texts are joined, or padding that is attended to (`unmasked`). What it gives is each pair's tokens and types, or nothing where it
cannot read the pair (a query that leaves no room for a passage where only passages are cut).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tl_crossenc.inputs.encoder import BLOCK, TYPES, PairEncoder
from tl_crossenc.inputs.parts import Part, parts_of_sequence

LIMITS = (128, 256, 512)
"""Tokens to which pairs are cut by many systems."""

OURS = "as here"

Tokens = tuple[np.ndarray, np.ndarray]
"""A pair's token ids and token types."""


@dataclass(frozen=True)
class Reading:
    """A way to read pairs.

    Attributes:
        name: what it does otherwise than ours, `OURS` for ours.
        same: why it reads pairs as ours does where it does.
        read: gives each pair's tokens and types, None where it cannot.
        sampled: whether it is dear, so that all pairs are run only where a sample of them speaks for it.
    """

    name: str
    same: str
    read: Callable[[Sequence[str], Sequence[str]], list[Tokens | None]]
    sampled: bool = False


def all_readings(encoder: PairEncoder, longest: int) -> list[Reading]:
    """The known readings, ours first.

    Args:
        encoder: what reads texts here.
        longest: the tokens of the longest of the pairs, uncut: limits from there on are one.
    """
    ours = encoder.max_length
    shorter = f"no pair has more than {{}} tokens (the longest has {longest:,})"
    found = [Reading(OURS, "", Way(encoder))]
    limits = sorted({ours, encoder.n_positions, *LIMITS})
    for limit in limits:
        if not encoder.n_special < limit <= encoder.n_positions:
            continue
        if limit != ours:
            same = shorter.format(f"{min(limit, ours):,}")
            found.append(Reading(f"the passage cut at {limit:,} tokens", same, Way(encoder, limit=limit)))
        same = "where a pair is cut, its passage alone is longer than all that is left"
        if longest <= min(limit, ours):
            same = shorter.format(f"{min(limit, ours):,}")
        longer = Way(encoder, limit=limit, cut="longest_first")
        found.append(Reading(f"longest_first at {limit:,} tokens", same, longer))
    if encoder.types_fed:
        found.append(
            Reading(
                "token types all 0", "the tokenizer gives type 0 alone", Way(encoder, types=lambda parts: 0 * parts)
            )
        )
    elif encoder.use_types:
        found.append(Reading("token types fed", "", Way(encoder, types=lambda parts: (parts >= Part.DOC).astype(int))))
    found += [
        Reading("passage before query", "queries and passages are equal", Way(encoder, swapped=True)),
        Reading("lower case", "the tokenizer lowers case, or there is none to lower", Way(encoder, text=str.lower)),
        Reading("no accents", "the tokenizer strips them, or there are none", Way(encoder, text=without_accents)),
        Reading(
            "lower case and no accents",
            "the tokenizer does both, or there is nothing to do",
            Way(encoder, text=lambda text: without_accents(text.lower())),
        ),
        Reading("texts joined by a separator", "", Way(encoder, joint=f" {encoder.tokenizer.sep_token} ")),
        Reading("texts joined by a space", "", Way(encoder, joint=" ")),
    ]
    return found


def without_accents(text: str) -> str:
    """The text without combining marks, as BERT's uncased tokenizers strip them.

    >>> without_accents("Crème brûlée")
    'Creme brulee'
    """
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


@dataclass(frozen=True)
class Way:
    """How pairs are read, by what is done otherwise than here.

    Attributes:
        encoder: what reads texts here.
        limit: tokens that pairs are cut to; None for the encoder's own.
        cut: "only_second" or "longest_first".
        types: makes token types of parts; None for the encoder's own.
        swapped: whether the passage comes first.
        text: what is done to every text.
        joint: what joins query and passage into one text; None where they are two.
    """

    encoder: PairEncoder
    limit: int | None = None
    cut: str = "only_second"
    types: Callable[[np.ndarray], np.ndarray] | None = None
    swapped: bool = False
    text: Callable[[str], str] | None = None
    joint: str | None = None

    def __call__(self, queries: Sequence[str], passages: Sequence[str]) -> list[Tokens | None]:
        """Each pair's tokens and types; None of a pair whose query leaves its passage no room where only passages are cut."""
        if self.text is not None:
            queries, passages = list(map(self.text, queries)), list(map(self.text, passages))
        first, second = (passages, queries) if self.swapped else (queries, passages)
        cut = "longest_first" if self.swapped or self.joint is not None else self.cut
        limit = self.encoder.max_length if self.limit is None else self.limit
        found: list[Tokens | None] = [None] * len(queries)
        readable = list(range(len(queries)))
        if cut == "only_second":
            room = [limit - self.encoder.n_special - n for n in query_lengths(self.encoder, queries)]
            readable = [i for i in readable if room[i] >= int(bool(passages[i].strip()))]
        for start in range(0, len(readable), BLOCK):
            chosen = readable[start : start + BLOCK]
            texts: tuple[Any, ...] = ([first[i] for i in chosen], [second[i] for i in chosen])
            if self.joint is not None:
                texts = ([f"{query}{self.joint}{passage}" for query, passage in zip(*texts, strict=True)],)
            encoded = self.encoder.tokenizer(
                *texts,
                truncation=cut,
                max_length=limit,
                padding=False,
                return_token_type_ids=self.encoder.types_fed,
                return_attention_mask=False,
            )
            for k, i in enumerate(chosen):
                ids = np.asarray(encoded["input_ids"][k], dtype=np.int32)
                types = np.asarray(encoded[TYPES][k] if self.encoder.types_fed else np.zeros(len(ids)), dtype=np.int8)
                if self.types is not None:
                    types = np.asarray(self.types(np.asarray(parts_of_sequence(encoded.sequence_ids(k)))), np.int8)
                found[i] = ids, types
        return found


def query_lengths(encoder: PairEncoder, queries: Sequence[str]) -> list[int]:
    """Tokens of each query, without special ones."""
    distinct = list(dict.fromkeys(queries))
    lengths: dict[str, int] = {}
    for start in range(0, len(distinct), BLOCK):
        block = distinct[start : start + BLOCK]
        encoded = encoder.tokenizer(block, add_special_tokens=False, verbose=False)
        lengths |= {text: len(ids) for text, ids in zip(block, encoded["input_ids"], strict=True)}
    return [lengths[query] for query in queries]


def uncut_lengths(encoder: PairEncoder, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
    """`[pair]`, tokens of each pair before anything is cut, special ones included."""
    lengths = [query_lengths(encoder, texts) for texts in (queries, passages)]
    return np.asarray(lengths).sum(0) + encoder.n_special
