"""How an explained pair is shown: HTML in a notebook, coloured tables in a terminal."""

from __future__ import annotations

import os
from html import escape
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tl_crossenc.console.shown import shown
from tl_crossenc.inputs.parts import Part
from tl_crossenc.store.files import write_atomic
from tl_crossenc.views.explained_pair import ExplainedPair
from tl_crossenc.views.markup import (
    CARD,
    MUTED,
    PART_COLOURS,
    PART_STYLES,
    chip,
    chips,
    heading,
    labelled,
    page,
    share_bar,
    signed,
    signed_bar,
    table,
)
from tl_crossenc.views.shown_words import (
    cut_line,
    lengths_in_html,
    lengths_in_terminal,
    words_in_html,
    words_in_terminal,
)
from tl_crossenc.views.terminal import as_text, in_terminal

ADDS = "What adds most to the score, directly"
MOVED = "Heads that moved most attention across"
CUT = "The passage is longer; the model reads no more of it."
COLUMNS = (
    "mass: how much of its attention a token of the first text gives to the second, on average; even: what even attention would "
    "give; beyond: what exceeds even attention; joins: the heaviest token pairs and their weights (a piece that its text has more "
    "than once has its position below)."
)
NO_CROSSING = "One of the texts is empty: no attention crosses."


class Explanation(ExplainedPair):
    """One pair, its score, and where it comes from, as it is shown; `ExplainedPair` says what it holds."""

    def __repr__(self) -> str:
        terms = ", ".join(f"{name} {value:+.3g}" for name, value in self.top_contributions[:-1][:2])
        heads = [
            f"{direction} most by head {name} ({mass:.2f})"
            for direction in self.directions
            for name, mass, _, _ in self.top_heads(direction)[:1]
        ]
        return f"Explanation(score {self.score:.4g} of {len(self.tokens)} tokens: {'; '.join([terms, *heads])})"

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        header = Text.assemble(
            ("score ", "dim"), (f"{self.score:.4f}", "bold"), (f"   {'   '.join(self.about)}", "dim")
        )
        if self.condition:
            header.append(f"   ablating {self.condition}", style="bold red")
        lines = Table.grid(padding=(0, 2))
        for name, positions in self.lines():
            line = Text()
            for p in positions:
                line.append(self.names[p], style=PART_STYLES[Part(int(self.parts[p]))]).append(" ")
            lines.add_row(Text(name, style="dim"), line)
        if self.truncated:
            lines.add_row("", Text(f"{CUT} {cut_line(self)}", style="dim"))
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
            last = ""
            for i, (name, mass, beyond, pairs) in enumerate(self.top_heads(direction)):
                joined = (
                    Text(", ").join(self._link_text(*link) for link in pairs)
                    if pairs
                    else Text("no pair stands out", "dim")
                )
                even = f"{self.even(direction, name):.3f}"
                start, last = ("" if i else direction, "" if even == last else even), even
                moved.add_row(start[0], name, start[1], f"{mass:.3f}", f"{beyond:.3f}", joined)
        return Group(
            header,
            lines,
            *([words_in_terminal(self)] if self.attribution else []),
            *([lengths_in_terminal(self)] if len(self.lengths) > 1 else []),
            Text(f"\n{ADDS}", "bold"),
            added,
            Text(f"\n{MOVED}", "bold"),
            *([moved, Text(COLUMNS, style="dim")] if self.directions else [Text(NO_CROSSING, style="dim")]),
        )

    def _link_text(self, attender: int, attended: int, weight: float) -> Text:
        sides = [Text(self.names[p], PART_STYLES[Part(int(self.parts[p]))]) for p in (attender, attended)]
        return Text("→").join(sides).append(f" {weight:.2f}", style="dim")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": as_text(self, colours=in_terminal()), "text/html": self._repr_html_()}

    def _repr_html_(self) -> str:
        about = " · ".join(map(escape, self.about)) + (
            f" · <b>ablating {escape(self.condition)}</b>" if self.condition else ""
        )
        html = [
            f'<div><b style="font-size:18px">{self.score:.4f}</b> <span style="color:{MUTED}">score · {about}</span></div>'
        ]
        if self.attribution:
            html.append(words_in_html(self))
        if self.truncated:
            html.append(f'<div style="color:{MUTED};margin-top:5px">{CUT} {escape(cut_line(self))}</div>')
        if len(self.lengths) > 1:
            html.append(lengths_in_html(self))
        extent = max((abs(value) for _, value in self.top_contributions), default=0.0)
        html.append(heading(ADDS, "score units; all components sum to the score"))
        html.append(
            table(
                [(escape(name), signed(value), signed_bar(value, extent)) for name, value in self.top_contributions],
                "lrl",
            )
        )
        last = "" if self.heads["reaches_score"].all() else "; the last layer's are left out"
        html.append(heading(MOVED, f"and the token pairs that they join{last}"))
        marked, codes = self.marked(), self.parts.tolist()
        for name, positions in self.lines():
            html.append(labelled(name, chips(self.names, codes, positions, marked)))
        if self.directions:
            html.append(f'<div style="color:{MUTED}">{COLUMNS}</div>')
        if not self.directions:
            html.append(f'<div style="color:{MUTED}">{NO_CROSSING}</div>')
        for direction in self.directions:
            html.append(self._direction_html(direction))
        return f'<div style="{CARD}">{"".join(html)}</div>'

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write it as an HTML page that works offline and runs no script.

        Raises:
            StoreError: the file system refuses.
        """
        write_atomic(path, page(f"{self.model}: {shown(self.query, 60)}", self._repr_html_()))

    def _direction_html(self, direction: str) -> str:
        """A line about the direction, then its heads."""
        attender, attended = (Part[side] for side in direction.split("->"))
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
        about = f"even {self.evens(direction)}; head, mass, beyond (bar), joins"
        line = f'{attender.name} → {attended.name}: <span style="color:{MUTED}">{about}</span>'
        return f'<div style="margin-top:4px">{line}</div>{table(rows, "lrrll")}'
