"""What `model.explain` found about one pair, and what of it is worth showing.

`explain.py` says what the numbers mean.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Int

from tl_crossenc.console.shown import shown
from tl_crossenc.inputs.parts import Part
from tl_crossenc.views.tabled import Tabled

TABLES = ("contributions", "heads", "links", "words", "completeness", "lengths", "cut")
NAMES = {
    "head": "head",
    "attn_bias": "attention bias",
    "mlp": "MLP",
    "embed": "embeddings",
    "ln_bias": "LayerNorm bias",
    "edit": "edit by hooks",
    "remainder": "remainder",
}
STANDS_OUT = 2.0
"""A token pair is shown if its weight is at least so many times that of even attention."""
BELOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
NOTHING = 1e-5
"""A component is shown if it is more than this share of the largest, a head if more than this of its attention goes beyond even."""


@dataclass(frozen=True)
class ExplainedPair(Tabled):
    """One pair, its score, and where it comes from.

    Attributes:
        query, passage: the texts.
        model: the model's name.
        condition: what was ablated, "" for nothing.
        score: the model's score.
        tokens: the word pieces.
        parts: `[pos]`, the part of each.
        truncated: whether the passage lost tokens.
        contributions: a row a component: `component`, `layer`, `head`, `contribution`, largest in absolute value first; they sum
            to the score.
        heads: a row a (direction, head): `direction`, `layer`, `head`, `mass`, `even`, `beyond`, `reaches_score`; the largest
            `beyond` of each direction first.
        links: the heaviest token pairs of each row of `heads`: `direction`, `layer`, `head`, `weight`, `attender_pos`,
            `attended_pos`, `attender`, `attended`, `seen` (how many positions the attender sees in that layer).
        words: a row a word that the model reads, in order, the query's first: `text` (query or passage), `word`, `value`, `start`
            and `stop` (its characters), `position` (of its first token), `pieces`.
        completeness: what the values of words add up to: `text` (query, passage or both), `sum`, `others` (what of it belongs to no
            word), `difference` (the score less the score without), `error` (sum less difference).
        lengths: a row a length that the pair is scored at: `max_length`, `tokens`, `cut` (tokens of the passage), `score`,
            `activated`, `explained`.
        cut: a row a word of the passage that truncation cut: `word`, `start`, `stop`, `cut` and `read` (tokens of it).
        read: the characters of the passage that the model reads, half open.
        attribution: by which method words have their values, "" for none.
        way: what stood for what was not there, "" where the method removes nothing.
        made: how it was made, as plain values; on every frame as `attrs`.
        top: how many components, heads a direction, and words a text, are shown.
        activated: the score as sentence-transformers' CrossEncoder gives it; None where it cannot be told from the score.
        activation: the function that it is through, as torch calls it.
        types_fed: whether token types were fed.
        readout: what `readout` is called, by what the model's head has.
    """

    tables: ClassVar[tuple[str, ...]] = TABLES
    query: str
    passage: str
    model: str
    condition: str
    score: float
    tokens: tuple[str, ...]
    parts: Int[np.ndarray, "pos"]
    truncated: bool
    contributions: pd.DataFrame = field(repr=False)
    heads: pd.DataFrame = field(repr=False)
    links: pd.DataFrame = field(repr=False)
    words: pd.DataFrame = field(repr=False)
    completeness: pd.DataFrame = field(repr=False)
    lengths: pd.DataFrame = field(repr=False)
    cut: pd.DataFrame = field(repr=False)
    read: tuple[int, int]
    attribution: str = ""
    way: str = ""
    made: dict[str, Any] = field(default_factory=dict, repr=False)
    top: int = 5
    activated: float | None = None
    activation: str = ""
    types_fed: bool = True
    readout: str = "pooler and classifier bias"

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, as JSON has them: tables as lists of rows, None for what is not there."""
        about: dict[str, Any] = {
            "query": self.query,
            "passage": self.passage,
            "score": self.score,
            "activated": self.activated,
            "activation": self.activation,
            "condition": self.condition,
            "tokens": list(self.tokens),
            "parts": [Part(code).name for code in self.parts.tolist()],
            "truncated": self.truncated,
            "read": list(self.read),
            "attribution": self.attribution,
            "removal": self.way,
        }
        return about | self.records()

    # What is shown, for both ways.

    @property
    def top_contributions(self) -> list[tuple[str, float]]:
        """(name, score units) of the `top` largest contributions that are not nothing; then all others in one."""
        sizes = self.contributions["contribution"].abs()
        count = min(self.top, int((sizes > NOTHING * sizes.max()).sum()))
        shown = self.contributions.head(count)
        rows = [(component_name(row, self.readout), float(row["contribution"])) for _, row in shown.iterrows()]
        rest = self.contributions["contribution"].iloc[count:]
        return rows if rest.empty else [*rows, (f"{len(rest)} others", float(rest.sum()))]

    def top_words(self, text: str) -> list[tuple[str, float]]:
        """(word, value) of the `top` largest in absolute value of a text, "query" or "passage"; words as in `names`."""
        own = self.words[self.words["text"] == text]
        counts = Counter(own["word"].str.lower())
        best = own.sort_values("value", key=np.abs, ascending=False, kind="stable").head(self.top)
        return [
            (_numbered(row["word"], row["position"], counts[row["word"].lower()]), float(row["value"]))
            for row in best.to_dict("records")
        ]

    @property
    def cut_tokens(self) -> int:
        """How many tokens of the passage the model does not read."""
        return int(self.lengths.loc[self.lengths["explained"], "cut"].iloc[0])

    @property
    def cut_text(self) -> str:
        """The characters of the passage that the model does not read."""
        start, stop = self.read
        return (
            self.passage[stop:] if self.cut_tokens and start == 0 else self.passage[:start] if self.cut_tokens else ""
        )

    def top_heads(self, direction: str) -> list[tuple[str, float, float, list[tuple[int, int, float]]]]:
        """(head, mass, beyond, token pairs) of the `top` heads that attend most beyond even in a direction, at least one.

        Only heads that can reach the score and, but for the first, do attend beyond even.

        A token pair is (attender position, attended position, weight); pairs that do not stand out of even attention are left out.

        Raises:
            ValueError: no such direction.
        """
        heads = self.heads_that_reach(direction)
        above = int((heads["beyond"] > NOTHING).sum())
        keys = ["direction", "layer", "head"]
        rows = []
        for _, row in heads.head(min(self.top, max(above, 1))).iterrows():
            own = self.links[(self.links[keys] == row[keys]).all(axis=1)]
            own = own[own["weight"] * own["seen"] >= STANDS_OUT]
            pairs = zip(own["attender_pos"], own["attended_pos"], own["weight"], strict=True)
            links = [(int(attender), int(attended), float(weight)) for attender, attended, weight in pairs]
            rows.append((f"{row['layer']}.{row['head']}", float(row["mass"]), float(row["beyond"]), links))
        return rows

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The word pieces as they are shown: one that its text has more than once has its position below, `the₇`."""
        counts = Counter(zip(self.tokens, self.parts.tolist(), strict=True))
        return tuple(
            _numbered(token, p, counts[token, part])
            for p, (token, part) in enumerate(zip(self.tokens, self.parts.tolist(), strict=True))
        )

    def even(self, direction: str, head: str | None = None) -> float:
        """What even attention would give in a direction, by `head` such as "3.1": less or more in a layer with a window."""
        own = self.heads["direction"] == direction
        if head is not None:
            layer, number = map(int, head.split("."))
            own &= (self.heads["layer"] == layer) & (self.heads["head"] == number)
        return float(self.heads.loc[own, "even"].iloc[0])

    def evens(self, direction: str) -> str:
        """What even attention would give in a direction: a number, or the smallest and the largest where layers differ."""
        evens = self.heads.loc[self.heads["direction"] == direction, "even"]
        return "–".join(dict.fromkeys(f"{value:.3f}" for value in (evens.min(), evens.max())))

    def marked(self) -> set[int]:
        """The positions that the shown token pairs join."""
        return {p for d in self.directions for _, _, _, pairs in self.top_heads(d) for link in pairs for p in link[:2]}

    @property
    def about(self) -> list[str]:
        """What is said beside the score: what CrossEncoder makes of it, where that is another number; what was fed; the model."""
        beside = [] if self.activated in (None, self.score) else [f"{shown(self.activation)} {self.activated:.4f}"]
        return [*beside, f"token types {'fed' if self.types_fed else 'not fed'}", self.model]

    def lines(self) -> list[tuple[str, list[int]]]:
        """The positions in two lines: up to the first separator, and what follows."""
        last = int(np.flatnonzero(self.parts == Part.SEP1)[-1])
        return [("query", list(range(last + 1))), ("passage", list(range(last + 1, len(self.tokens))))]


def component_name(row: pd.Series, readout: str) -> str:
    """A component in words: `head 3.1`, `MLP 2`, `LayerNorm bias 0`; `readout` is that of the component of this name."""
    name, layer, head = NAMES.get(row["component"], readout), row["layer"], row["head"]
    if pd.isna(layer):
        return name
    if layer < 0:
        return f"{name} of the embeddings"
    return f"{name} {layer}" if pd.isna(head) else f"{name} {layer}.{head}"


def _numbered(text: str, position: int, count: int) -> str:
    """A word or piece as it is shown, with its position below where it is there several times."""
    return shown(text) + (str(position).translate(BELOW) if count > 1 else "")
