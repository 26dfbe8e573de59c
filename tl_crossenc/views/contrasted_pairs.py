"""What `model.explain(query, a, b)` found about two passages of one query, and what of it is worth showing.

`contrast.py` says what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from tl_crossenc.console.shown import shown
from tl_crossenc.instruments.smallest_removal import SmallestRemoval
from tl_crossenc.views.contrasted_words import QUERY, SIDES
from tl_crossenc.views.explained_pair import NOTHING, STANDS_OUT, component_name
from tl_crossenc.views.tabled import Tabled

TABLES = ("contributions", "words", "shared", "heads", "links", "removal")


class TwoHeads(NamedTuple):
    """A head's attention across, of either passage.

    Attributes:
        name: such as "3.1".
        beyond_a, beyond_b: what of it goes beyond even attention.
        pairs: (attender's text, attended's text, weight with A, weight with B) of the token pairs that one has more of.
    """

    name: str
    beyond_a: float
    beyond_b: float
    pairs: list[tuple[str, str, float, float]]


@dataclass(frozen=True)
class ContrastedPairs(Tabled):
    """Two passages of one query, their scores, and where the difference comes from.

    Attributes:
        query, a, b: the texts.
        model: the model's name.
        condition: what was ablated, "" for nothing.
        score_a, score_b: the model's scores.
        tied: whether they count as equal (`statistics.ties`): then nothing outranks the other, and no removal is searched for.
        truncated: whether A and B lost tokens.
        read: the characters of A and of B that the model reads, half open.
        contributions: a row a component: `component`, `layer`, `head`, `a`, `b`, `difference`, the largest difference first; `a`
            sums to the score of A, `b` to that of B, and `difference` to their difference.
        words: a row a word that is read, the query's, A's and B's in order: `text` (query, A or B), `word`, `start`, `stop` (its
            characters in the text), `to_a`, `to_b` (the score less the score without it), `difference` (`to_a` less `to_b`).
        shared: a row a word that more than one of the texts has: `word`, `texts`, `to_a`, `to_b`, `difference` of removing it
            from all of them.
        heads: a row a (direction, head): `direction`, `layer`, `head`, `mass_a`, `mass_b`, `even_a`, `even_b`, `beyond_a`,
            `beyond_b`, `difference` (of beyond), `reaches_score`; the largest difference of each direction first.
        links: token pairs by text: `direction`, `layer`, `head`, `attender`, `attended`, `weight_a`, `weight_b`, `difference`,
            `times_even` (the larger weight in units of even attention).
        removal: a row for A and one for B, none of tied scores: `text`, `size` (missing if no set was found), `words`, `score`
            (without them), `other` (the score of the other passage), `minimal`, `whole` (all sets up to this size were run),
            `n_words`, `runs`.
        removals: the same as `SmallestRemoval`, words by number among those of the passage.
        way: what stood for a word that was not there: "delete", "mask" or "pad".
        top: how many components, words, and heads a direction, are shown.
        activated: the scores as sentence-transformers' CrossEncoder gives them; None where it cannot be told from the scores.
        activation: the function that they are through, as torch calls it.
        types_fed: whether token types were fed.
        readout: what `readout` is called, by what the model's head has.
        made: how it was made, as plain values; on every frame as `attrs`.
    """

    tables: ClassVar[tuple[str, ...]] = TABLES
    query: str
    a: str
    b: str
    model: str
    condition: str
    score_a: float
    score_b: float
    tied: bool
    truncated: tuple[bool, bool]
    read: tuple[tuple[int, int], tuple[int, int]]
    contributions: pd.DataFrame = field(repr=False)
    words: pd.DataFrame = field(repr=False)
    shared: pd.DataFrame = field(repr=False)
    heads: pd.DataFrame = field(repr=False)
    links: pd.DataFrame = field(repr=False)
    removal: pd.DataFrame = field(repr=False)
    removals: Mapping[str, SmallestRemoval] = field(repr=False)
    way: str = "delete"
    top: int = 5
    activated: tuple[float, float] | None = None
    activation: str = ""
    types_fed: bool = True
    readout: str = "pooler and classifier bias"
    made: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, as JSON has them: tables as lists of rows, None for what is not there."""
        about: dict[str, Any] = {
            "query": self.query,
            "a": self.a,
            "b": self.b,
            "score_a": self.score_a,
            "score_b": self.score_b,
            "higher": self.higher,
            "activated": None if self.activated is None else list(self.activated),
            "activation": self.activation,
            "condition": self.condition,
            "truncated": list(self.truncated),
            "read": [list(own) for own in self.read],
            "way": self.way,
        }
        return about | self.records()

    @property
    def difference(self) -> float:
        """The score of A less that of B."""
        return self.score_a - self.score_b

    @property
    def higher(self) -> str:
        """Which passage outranks the other, "A" or "B"; "" if their scores are tied."""
        return "" if self.tied else SIDES[int(self.score_b > self.score_a)]

    @property
    def lower(self) -> str:
        """The other one."""
        return "" if self.tied else SIDES[int(self.score_b < self.score_a)]

    # What is shown, for both ways.

    @property
    def verdict(self) -> str:
        """Which outranks which and by how much, in a sentence."""
        if self.tied:
            return "Neither outranks the other: their scores are tied."
        return f"{self.higher} outranks {self.lower} by {abs(self.difference):.4f}."

    @property
    def about(self) -> list[str]:
        """What is said beside the scores: what CrossEncoder makes of them, what was fed, the model."""
        beside = []
        if self.activated not in (None, (self.score_a, self.score_b)):
            beside = [f"{shown(self.activation)} {self.activated[0]:.4f} and {self.activated[1]:.4f}"]
        return [*beside, f"token types {'fed' if self.types_fed else 'not fed'}", self.model]

    @property
    def top_contributions(self) -> list[tuple[str, float, float, float]]:
        """(name, to A, to B, difference) of the `top` largest differences that are not nothing; all others in one; the sum."""
        columns = ["a", "b", "difference"]
        sizes = self.contributions["difference"].abs()
        count = min(self.top, int((sizes > NOTHING * self.contributions[columns].abs().to_numpy().max()).sum()))
        best = self.contributions.head(count)
        named = [(component_name(row, self.readout), row) for _, row in best.iterrows()]
        rest = self.contributions[columns].iloc[count:]
        if not rest.empty:
            named.append((f"{len(rest)} others", rest.sum()))
        rows = [(name, float(row["a"]), float(row["b"]), float(row["difference"])) for name, row in named]
        return [*rows, ("sum: the scores", self.score_a, self.score_b, self.difference)]

    def top_words(self, table: str = "words") -> list[tuple[str, str, float, float, float]]:
        """(text or texts, word, to A, to B, difference) of the `top` largest differences of `words` or `shared`."""
        frame = getattr(self, table)
        where = "text" if table == "words" else "texts"
        best = frame.iloc[np.argsort(-frame["difference"].abs().to_numpy(), kind="stable")[: self.top]]
        return [
            (row[where], shown(row["word"]), *map(float, row[["to_a", "to_b", "difference"]]))
            for _, row in best.iterrows()
        ]

    def top_heads(self, direction: str) -> list[TwoHeads]:
        """The `top` heads of a direction whose attention beyond even differs most, of those that can reach the score.

        Raises:
            ValueError: no such direction.
        """
        own = self.heads_that_reach(direction)
        rows = []
        for _, row in own[own["difference"].abs() > NOTHING].head(self.top).iterrows():
            rows.append(
                TwoHeads(
                    f"{row['layer']}.{row['head']}",
                    float(row["beyond_a"]),
                    float(row["beyond_b"]),
                    self._pairs(direction, row["layer"], row["head"]),
                )
            )
        return rows

    def _pairs(self, direction: str, layer: int, head: int) -> list[tuple[str, str, float, float]]:
        own = self.links
        own = own[(own["direction"] == direction) & (own["layer"] == layer) & (own["head"] == head)]
        own = own[(own["times_even"] >= STANDS_OUT) & (own["difference"].abs() > NOTHING)]
        texts = (map(shown, own[name]) for name in ("attender", "attended"))
        return list(zip(*texts, own["weight_a"], own["weight_b"], strict=True))

    def removal_sentence(self, side: str) -> str:
        """What the removal of words of A or of B does to the order, and what is known of it."""
        row = self.removal.loc[self.removal["text"] == side].iloc[0]
        other = SIDES[1 - SIDES.index(side)]
        does = f"falls below {other}" if side == self.higher else f"passes {other}"
        if pd.isna(row["size"]):
            if not row["n_words"]:
                return f"{side} has no word to remove."
            if row["minimal"]:
                return f"Whatever words are removed from {side}, the order stays."
            return f"No removal of {side}'s words that was searched turns the order ({row['runs']} sets)."
        whole = int(row["whole"])
        proof = "the fewest that do" if row["minimal"] else f"found step by step: {_up_to(whole)} does it"
        count = "1 word" if row["size"] == 1 else f"{row['size']} words"
        gone = f"{side} {does} without {count}: {shown(row['words'])}"
        return f"{gone} ({row['score']:.4f} against {row['other']:.4f}; {proof})."

    def struck(self, side: str) -> set[tuple[int, int]]:
        """The characters of the words that the removal takes out of A or of B."""
        found = self.removals.get(side)
        own = self.words[self.words["text"] == side]
        if found is None or found.words is None:
            return set()
        return {(int(own["start"].iloc[i]), int(own["stop"].iloc[i])) for i in found.words}

    def shown_span(self, name: str) -> tuple[int, int]:
        """The characters of a text that are shown as read: all of a word of which a part is."""
        own = self.words[self.words["text"] == name]
        start, stop = (0, len(self.query)) if name == QUERY else self.read[SIDES.index(name)]
        return min([start, *own["start"].tolist()]), max([stop, *own["stop"].tolist()])

    def text_of(self, name: str) -> str:
        """The query, A or B."""
        return {QUERY: self.query, SIDES[0]: self.a, SIDES[1]: self.b}[name]


def _up_to(size: int) -> str:
    return "no single word" if size == 1 else f"no set of up to {size} words"
