"""What `model.explain` found about one pair, and how it is shown: HTML in a notebook, coloured tables in a terminal.

`explain.py` says what the numbers mean.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tl_crossenc.console.shown import shown
from tl_crossenc.inputs.parts import Part
from tl_crossenc.views.markup import (
    CARD,
    MUTED,
    PART_COLOURS,
    PART_STYLES,
    chip,
    chips,
    heading,
    labelled,
    share_bar,
    signed,
    signed_bar,
    table,
)

TABLES = ("contributions", "heads", "links")
ADDS = "What adds most to the score, directly"
MOVED = "Heads that moved most attention across"
CUT = "The passage is longer; the model reads no more of it."
COLUMNS = (
    "mass: how much of its attention a token of the first text gives to the second, on average; even: what even attention would "
    "give; beyond: what exceeds even attention; joins: the heaviest token pairs and their weights (a piece that its text has more "
    "than once has its position below)."
)
NO_CROSSING = "One of the texts is empty: no attention crosses."
NAMES = {
    "head": "head",
    "attn_bias": "attention bias",
    "mlp": "MLP",
    "embed": "embeddings",
    "ln_bias": "LayerNorm bias",
    "edit": "edit by hooks",
    "readout": "pooler and classifier bias",
    "remainder": "remainder",
}
STANDS_OUT = 2.0
"""A token pair is shown if its weight is at least so many times that of even attention."""
BELOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
NOTHING = 1e-5
"""A component is shown if it is more than this share of the largest, a head if more than this of its attention goes beyond even."""


@dataclass(frozen=True)
class Explanation:
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
            `attended_pos`, `attender`, `attended`.
        top: how many components, and heads a direction, are shown.
    """

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
    top: int = 5

    def to_frame(self, what: str = "contributions") -> pd.DataFrame:
        """One of the tables as a copy: "contributions", "heads" or "links".

        Raises:
            ValueError: no such table.
        """
        if what not in TABLES:
            raise ValueError(f"expected a table among {', '.join(TABLES)}, got {what!r}")
        return getattr(self, what).copy()

    # What is shown, for both ways.

    @property
    def top_contributions(self) -> list[tuple[str, float]]:
        """(name, score units) of the `top` largest contributions that are not nothing; then all others in one."""
        sizes = self.contributions["contribution"].abs()
        count = min(self.top, int((sizes > NOTHING * sizes.max()).sum()))
        shown = self.contributions.head(count)
        rows = [(component_name(row), float(row["contribution"])) for _, row in shown.iterrows()]
        rest = self.contributions["contribution"].iloc[count:]
        return rows if rest.empty else [*rows, (f"{len(rest)} others", float(rest.sum()))]

    @property
    def directions(self) -> list[str]:
        """The directions between query and passage, in the order shown."""
        return list(dict.fromkeys(self.heads["direction"]))

    def top_heads(self, direction: str) -> list[tuple[str, float, float, list[tuple[int, int, float]]]]:
        """(head, mass, beyond, token pairs) of the `top` heads that attend most beyond even in a direction, at least one.

        Only heads that can reach the score and, but for the first, do attend beyond even.

        A token pair is (attender position, attended position, weight); pairs that do not stand out of even attention are left out.

        Raises:
            ValueError: no such direction.
        """
        if direction not in self.directions:
            raise ValueError(f"expected a direction among {', '.join(self.directions) or 'none'}, got {direction!r}")
        heads = self.heads[(self.heads["direction"] == direction) & self.heads["reaches_score"]]
        above = int((heads["beyond"] > NOTHING).sum())
        keys = ["direction", "layer", "head"]
        rows = []
        for _, row in heads.head(min(self.top, max(above, 1))).iterrows():
            own = self.links[(self.links[keys] == row[keys]).all(axis=1)]
            own = own[own["weight"] * len(self.tokens) >= STANDS_OUT]
            pairs = zip(own["attender_pos"], own["attended_pos"], own["weight"], strict=True)
            links = [(int(attender), int(attended), float(weight)) for attender, attended, weight in pairs]
            rows.append((f"{row['layer']}.{row['head']}", float(row["mass"]), float(row["beyond"]), links))
        return rows

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The word pieces as they are shown: one that its text has more than once has its position below, `the₇`."""
        counts = Counter(zip(self.tokens, self.parts.tolist(), strict=True))
        return tuple(
            shown(token) + (str(p).translate(BELOW) if counts[token, part] > 1 else "")
            for p, (token, part) in enumerate(zip(self.tokens, self.parts.tolist(), strict=True))
        )

    def _even(self, direction: str) -> float:
        return float(self.heads.loc[self.heads["direction"] == direction, "even"].iloc[0])

    def _marked(self) -> set[int]:
        """The positions that the shown token pairs join."""
        return {p for d in self.directions for _, _, _, pairs in self.top_heads(d) for link in pairs for p in link[:2]}

    def _lines(self) -> list[tuple[str, list[int]]]:
        """The positions in two lines: up to the first separator, and what follows."""
        last = int(np.flatnonzero(self.parts == Part.SEP1)[-1])
        return [("query", list(range(last + 1))), ("passage", list(range(last + 1, len(self.tokens))))]

    # Shown.

    def __repr__(self) -> str:
        terms = ", ".join(f"{name} {value:+.3g}" for name, value in self.top_contributions[:-1][:2])
        heads = [
            f"{direction} most by head {name} ({mass:.2f})"
            for direction in self.directions
            for name, mass, _, _ in self.top_heads(direction)[:1]
        ]
        return f"Explanation(score {self.score:.4g} of {len(self.tokens)} tokens: {'; '.join([terms, *heads])})"

    def __str__(self) -> str:
        return self._as_text(colours=False)

    def __rich__(self) -> Group:
        header = Text.assemble(("score ", "dim"), (f"{self.score:.4f}", "bold"), (f"   {self.model}", "dim"))
        if self.condition:
            header.append(f"   ablating {self.condition}", style="bold red")
        lines = Table.grid(padding=(0, 2))
        for name, positions in self._lines():
            line = Text()
            for p in positions:
                line.append(self.names[p], style=PART_STYLES[Part(int(self.parts[p]))]).append(" ")
            lines.add_row(Text(name, style="dim"), line)
        if self.truncated:
            lines.add_row("", Text(CUT, style="dim"))
        added = Table.grid(padding=(0, 2))
        added.add_column()
        added.add_column(justify="right")
        for name, value in self.top_contributions:
            added.add_row(name, Text(signed(value), style="red" if value > 0 else "blue"))
        moved = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        sides: dict[str, Any] = {
            "direction": "left",
            "head": "left",
            "even": "right",
            "mass": "right",
            "beyond": "right",
            "joins": "left",
        }
        for column, side in sides.items():
            moved.add_column(column, justify=side)
        for direction in self.directions:
            for i, (name, mass, beyond, pairs) in enumerate(self.top_heads(direction)):
                joined = (
                    Text(", ").join(self._link_text(*link) for link in pairs)
                    if pairs
                    else Text("no pair stands out", "dim")
                )
                start = ("", "") if i else (direction, f"{self._even(direction):.3f}")
                moved.add_row(start[0], name, start[1], f"{mass:.3f}", f"{beyond:.3f}", joined)
        return Group(
            header,
            lines,
            Text(f"\n{ADDS}", "bold"),
            added,
            Text(f"\n{MOVED}", "bold"),
            *([moved, Text(COLUMNS, style="dim")] if self.directions else [Text(NO_CROSSING, style="dim")]),
        )

    def _link_text(self, attender: int, attended: int, weight: float) -> Text:
        sides = [Text(self.names[p], PART_STYLES[Part(int(self.parts[p]))]) for p in (attender, attended)]
        return Text("→").join(sides).append(f" {weight:.2f}", style="dim")

    def _as_text(self, *, colours: bool) -> str:
        width = max(shutil.get_terminal_size((100, 24)).columns, 60)
        console = Console(
            file=io.StringIO(),
            width=width,
            force_terminal=colours,
            force_jupyter=False,
            color_system="auto" if colours else None,
            legacy_windows=False,
        )
        console.print(self)
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        terminal = bool(getattr(sys.stdout, "isatty", bool)())
        return {"text/plain": self._as_text(colours=terminal), "text/html": self._repr_html_()}

    def _repr_html_(self) -> str:
        about = escape(self.model) + (f" · <b>ablating {escape(self.condition)}</b>" if self.condition else "")
        html = [
            f'<div><b style="font-size:18px">{self.score:.4f}</b> <span style="color:{MUTED}">score · {about}</span></div>'
        ]
        marked, codes = self._marked(), self.parts.tolist()
        for name, positions in self._lines():
            html.append(labelled(name, chips(self.names, codes, positions, marked)))
        if self.truncated:
            html.append(f'<div style="color:{MUTED}">{CUT}</div>')
        extent = max((abs(value) for _, value in self.top_contributions), default=0.0)
        html.append(heading(ADDS, "score units; all components sum to the score"))
        html.append(
            table(
                [(escape(name), signed(value), signed_bar(value, extent)) for name, value in self.top_contributions],
                "lrl",
            )
        )
        html.append(heading(MOVED, "and the token pairs that they join; the last layer's are left out"))
        if self.directions:
            html.append(f'<div style="color:{MUTED}">{COLUMNS}</div>')
        if not self.directions:
            html.append(f'<div style="color:{MUTED}">{NO_CROSSING}</div>')
        for direction in self.directions:
            html.append(self._direction_html(direction))
        return f'<div style="{CARD}">{"".join(html)}</div>'

    def _direction_html(self, direction: str) -> str:
        """A line about the direction, then its heads."""
        attender, attended = (Part[side] for side in direction.split("->"))
        even = self._even(direction)
        rows = []
        for name, mass, beyond, pairs in self.top_heads(direction):
            joined = " &nbsp; ".join(
                f"{chip(self.names[a], attender, f'position {a}')} → {chip(self.names[b], attended, f'position {b}')} "
                f'<span style="color:{MUTED}">{weight:.2f}</span>'
                for a, b, weight in pairs
            )
            none = f'<span style="color:{MUTED}">no pair stands out</span>'
            numbers = f"{mass:.3f}", f"{beyond:.3f}"
            rows.append((escape(name), *numbers, share_bar(beyond, PART_COLOURS[attender]), joined or none))
        about = f"even {even:.3f}; head, mass, beyond (bar), joins"
        line = f'{attender.name} → {attended.name}: <span style="color:{MUTED}">{about}</span>'
        return f'<div style="margin-top:4px">{line}</div>{table(rows, "lrrll")}'


def component_name(row: pd.Series) -> str:
    """A component in words: `head 3.1`, `MLP 2`, `LayerNorm bias 0`."""
    name, layer, head = NAMES[row["component"]], row["layer"], row["head"]
    if pd.isna(layer):
        return name
    if layer < 0:
        return f"{name} of the embeddings"
    return f"{name} {layer}" if pd.isna(head) else f"{name} {layer}.{head}"
