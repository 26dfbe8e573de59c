"""Clean and corrupted pairs, aligned token by token and part by part: what patching exchanges activations between.

Position p of a clean pair and position p of its corrupted twin have the same part and token type, so that an activation of the one
can be put in the place of the other's. By convention the clean side is the one that ought to score higher. Made from

- two passages of one query (`align_passages`), which must have equally many tokens, or are filled up with a neutral word;
- any two pairs of texts of equal token length (`align_pairs`);
- a query and a passage, after a retrieval axiom (`diagnostics`).

>>> from tl_crossenc.model.cross_encoder import HookedCrossEncoder
>>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
>>> pairs = align_passages(model, "tune a guitar", "guitar by the window", "piano by the window")
>>> pairs
AlignedPairs(1 pair of 10 tokens, 1 differs)
>>> pairs.positions(0).tolist(), pairs.labels[0]["corrupted"]
([5], 'piano by the window')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from tl_crossenc.console.framed import Made
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.parts import REAL_PARTS, Part
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

NEUTRAL = "a"
"""The word that says nothing, as in Chen et al. 2024."""


@dataclass(frozen=True)
class AlignedPairs(Made):
    """Clean pairs and their corrupted twins.

    Attributes:
        clean, corrupted: encoded pairs, `clean`'s i-th aligned with `corrupted`'s i-th.
        labels: of each pair, what it is: at least `query`, `clean` and `corrupted` (the texts).

    Raises:
        ValueError: the sides are not aligned; the message says where.
    """

    clean: EncodedPairs
    corrupted: EncodedPairs
    labels: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if not len(self.clean) == len(self.corrupted) == len(self.labels):
            raise ValueError(
                "expected as many clean pairs as corrupted ones and labels, got "
                f"{len(self.clean)}, {len(self.corrupted)} and {len(self.labels)}"
            )
        faults = misalignments(self.clean, self.corrupted)
        if faults:
            more = f" (and {len(faults) - 1} more pairs)" if len(faults) > 1 else ""
            raise ValueError(f"expected clean and corrupted pairs aligned token by token, but {faults[0]}{more}")

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        lengths = self.clean.lengths
        size = "no" if not len(self) else f"{lengths.min()}" + (f" to {lengths.max()}" if np.ptp(lengths) else "")
        different = int(self.differs.sum())
        pairs = "1 pair" if len(self) == 1 else f"{len(self)} pairs"
        return f"AlignedPairs({pairs} of {size} tokens, {different} {'differs' if different == 1 else 'differ'})"

    @cached_property
    def differs(self) -> Bool[np.ndarray, "token"]:
        """One entry a token, as in `clean.tokens`: whether the two sides have different tokens there."""
        return self.clean.tokens != self.corrupted.tokens

    def positions(self, pair: int) -> Int[np.ndarray, "position"]:
        """The positions of one pair at which the sides differ."""
        start, end = self.clean.offsets[pair : pair + 2]
        return np.flatnonzero(self.differs[start:end])

    @property
    def swapped(self) -> AlignedPairs:
        """Clean and corrupted exchanged, in the labels too."""
        labels = [{**label, "clean": label["corrupted"], "corrupted": label["clean"]} for label in self.labels]
        return AlignedPairs(self.corrupted, self.clean, tuple(labels))

    @classmethod
    def concatenate(cls, several: Sequence[AlignedPairs]) -> AlignedPairs:
        """All pairs of several, in their order.

        Raises:
            ValueError: nothing to concatenate.
        """
        if not several:
            raise ValueError("expected at least one set of aligned pairs to concatenate, got none")
        labels = tuple(label for pairs in several for label in pairs.labels)
        return cls(_joined([p.clean for p in several]), _joined([p.corrupted for p in several]), labels)

    def to_frame(self) -> pd.DataFrame:
        """The labels, a row a pair, with `n_tokens` and `n_different`."""
        frame = pd.DataFrame([dict(label) for label in self.labels])
        frame["n_tokens"] = self.clean.lengths
        frame["n_different"] = [len(self.positions(pair)) for pair in range(len(self))]
        return self.told(frame)


def misalignments(clean: EncodedPairs, corrupted: EncodedPairs) -> list[str]:
    """What keeps each pair from being aligned with its twin, a text a faulty pair; nothing where all are aligned."""
    faults = []
    for pair in range(min(len(clean), len(corrupted))):
        one, two = (slice(side.offsets[pair], side.offsets[pair + 1]) for side in (clean, corrupted))
        parts = clean.parts[one], corrupted.parts[two]
        if len(parts[0]) != len(parts[1]):
            counts = [{part: int((side == part).sum()) for part in REAL_PARTS} for side in parts]
            where = ", ".join(
                f"{part.name} {counts[0][part]} and {counts[1][part]}"
                for part in REAL_PARTS
                if counts[0][part] != counts[1][part]
            )
            faults.append(f"pair {pair} has {len(parts[0])} and {len(parts[1])} tokens ({where})")
            continue
        for name, values in (("part", parts), ("type", (clean.token_type_ids[one], corrupted.token_type_ids[two]))):
            unequal = np.flatnonzero(values[0] != values[1])
            if len(unequal):
                first = int(unequal[0])
                shown = [Part(int(v[first])).name if name == "part" else str(int(v[first])) for v in values]
                faults.append(f"pair {pair} has the {name}s {shown[0]} and {shown[1]} at position {first}")
                break
    return faults


def align_pairs(
    model: HookedCrossEncoder,
    clean: Sequence[tuple[str, str]],
    corrupted: Sequence[tuple[str, str]],
    labels: Sequence[Mapping[str, Any]] | None = None,
) -> AlignedPairs:
    """Any (query, passage) pairs and twins of equal token lengths.

    Args:
        clean, corrupted: (query, passage), aligned by index. The query may be the side that differs.
        labels: more to say of each pair.

    Raises:
        ValueError: no pairs, lengths that differ (saying which), texts that are cut or that make the same tokens.
    """
    pairs = encode_sides(model, clean, corrupted, labels)
    cut = np.flatnonzero(pairs.clean.truncated | pairs.corrupted.truncated)
    if len(cut):
        raise ValueError(
            f"expected texts that fit into the model's {model.encoder.max_length if model.encoder else 0} tokens, but pair "
            f"{int(cut[0])} is cut, and what differs may be lost with it: shorten the passages"
        )
    return pairs


def encode_sides(
    model: HookedCrossEncoder,
    clean: Sequence[tuple[str, str]],
    corrupted: Sequence[tuple[str, str]],
    labels: Sequence[Mapping[str, Any]] | None = None,
) -> AlignedPairs:
    """Both sides encoded, aligned and different; whether a text was cut is left to the caller to judge."""
    if not clean or len(clean) != len(corrupted) or (labels is not None and len(labels) != len(clean)):
        raise ValueError(
            "expected at least one clean pair, and as many corrupted pairs (and labels), got "
            f"{len(clean)} and {len(corrupted)}" + ("" if labels is None else f" ({len(labels)})")
        )
    sides = [model.encode_pairs([q for q, _ in side], [p for _, p in side]) for side in (clean, corrupted)]
    named = [
        {"query": one[0], "clean": one[1], "corrupted": two[1]}
        | ({} if one[0] == two[0] else {"corrupted_query": two[0]})
        | dict(labels[pair] if labels else {})
        for pair, (one, two) in enumerate(zip(clean, corrupted, strict=True))
    ]
    pairs = AlignedPairs(sides[0], sides[1], tuple(named))
    same = [pair for pair in range(len(pairs)) if not len(pairs.positions(pair))]
    if same:
        why = ": it was cut away" if sides[0].truncated[same[0]] else ""
        raise ValueError(
            f"expected clean and corrupted texts that differ, but pair {same[0]} has the same tokens on both sides{why}"
        )
    return pairs


def align_passages(
    model: HookedCrossEncoder,
    query: str,
    clean: str | Sequence[str],
    corrupted: str | Sequence[str],
    *,
    pad_to: int | Literal["longest"] | None = None,
    neutral: str = NEUTRAL,
) -> AlignedPairs:
    """Two passages of one query, or several such twins.

    Args:
        query: the query.
        clean, corrupted: passages, aligned by index.
        pad_to: fill every passage up with `neutral` to so many tokens, or each to its longer twin ("longest"). Without it the
            lengths must be equal.
        neutral: a word of one token.

    Raises:
        ValueError: lengths that differ (saying which), more tokens than `pad_to`, texts that are cut or equal.
    """
    sides = [[texts] if isinstance(texts, str) else list(texts) for texts in (clean, corrupted)]
    if pad_to is not None and len(sides[0]) == len(sides[1]):
        counts = [passage_tokens(model, query, texts) for texts in sides]
        require_one_token(model, query, neutral)
        for pair in range(len(sides[0])):
            longest = int(max(counts[0][pair], counts[1][pair]))
            target = longest if pad_to == "longest" else pad_to
            if longest > target:
                raise ValueError(f"expected passages of at most pad_to={target} tokens, but pair {pair} has {longest}")
            for texts, count in zip(sides, counts, strict=True):
                texts[pair] = " ".join([texts[pair], *[neutral] * (target - int(count[pair]))])
    one, two = ([(query, text) for text in side] for side in sides)
    return align_pairs(model, one, two)


def passage_tokens(model: HookedCrossEncoder, query: str, texts: Sequence[str]) -> Int[np.ndarray, "text"]:
    """How many tokens of each passage the model reads beside the query."""
    encoded = model.encode_pairs(query, list(texts))
    is_doc = np.concatenate([[0], np.cumsum(encoded.parts == int(Part.DOC))])
    return np.diff(is_doc[encoded.offsets])


def require_one_token(model: HookedCrossEncoder, query: str, word: str) -> None:
    """A ValueError where the filler word is not one token."""
    count = int(passage_tokens(model, query, [word])[0])
    if count != 1:
        raise ValueError(f"expected a neutral word of one token, but {word!r} has {count}: choose another")


def _joined(several: Sequence[EncodedPairs]) -> EncodedPairs:
    shifts = np.cumsum([0, *(len(pairs.tokens) for pairs in several)])
    offsets = [pairs.offsets[1:] + shift for pairs, shift in zip(several, shifts, strict=False)]
    tokens, types, parts = (
        np.concatenate([getattr(pairs, name) for pairs in several]) for name in ("tokens", "token_type_ids", "parts")
    )
    truncated = np.concatenate([pairs.truncated for pairs in several])
    return EncodedPairs(
        tokens, types, parts, np.concatenate([[0], *offsets]).astype(np.int64), truncated, several[0].pad_token_id
    )
