"""How two contrasted passages are shown in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tl_crossenc.console.shown import shown
from tl_crossenc.inputs.parts import Part
from tl_crossenc.views.contrasted_pairs import ContrastedPairs
from tl_crossenc.views.contrasted_words import QUERY, SIDES
from tl_crossenc.views.markup import PART_STYLES, signed

ADDS = "Where the difference comes from, directly"
ADDS_ASIDE = "score units; all components sum to the scores and to their difference"
WORDS = "What words add"
WORDS_ASIDE = "the score less the score without each one, {way}"
SHARED = "Words that more than one text has"
SHARED_ASIDE = "taken out of all of them at once"
HEADS = "Heads whose attention across differs most"
HEADS_ASIDE = "beyond even attention, and the token pairs that one passage has more of, weight with A : with B"
FEWEST = "The fewest words that turn the order"
WAYS = {"delete": "deleted", "mask": "masked", "pad": "padded over"}
NO_WORDS = "None of the texts has a word."
NO_SHARED = "There is none."
NO_CROSSING = "The query or both passages are empty: no attention crosses."
ALIKE = "none differs"
NOT_SEARCHED = "The scores are tied: there is no order to turn."
CUT = "longer than what the model reads"


def way_of(found: ContrastedPairs) -> str:
    """How a word is removed, in a word."""
    return WAYS[found.way]


def contrast_group(found: ContrastedPairs) -> Group:
    """All of it, for rich."""
    header = Text.assemble((found.verdict, "bold"), (f"   {'   '.join(found.about)}", "dim"))
    if found.condition:
        header.append(f"   ablating {found.condition}", style="bold red")
    return Group(
        header,
        _texts(found),
        *_section(
            ADDS, ADDS_ASIDE, _numbers([""], (((name,), a, b, less) for name, a, b, less in found.top_contributions))
        ),
        *_section(WORDS, WORDS_ASIDE.format(way=way_of(found)), _words(found, "words", NO_WORDS)),
        *_section(SHARED, SHARED_ASIDE, _words(found, "shared", NO_SHARED)),
        *_section(HEADS, HEADS_ASIDE, _heads(found)),
        *_section(FEWEST, "", _removal(found)),
    )


def _section(title: str, aside: str, *what: Any) -> list[Any]:
    return [Text.assemble((f"\n{title}", "bold"), (f"  {aside}" if aside else "", "dim")), *what]


def _texts(found: ContrastedPairs) -> Table:
    lines = Table.grid(padding=(0, 2))
    lines.add_row(Text(QUERY, "dim"), "", Text(shown(found.query), PART_STYLES[Part.QUERY]))
    for side, score, cut in zip(SIDES, (found.score_a, found.score_b), found.truncated, strict=True):
        text, struck, (first, last) = found.text_of(side), found.struck(side), found.shown_span(side)
        line, at = Text(shown(text[:first]), "dim"), first
        for start, stop in sorted(struck):
            line.append(shown(text[at:start]), PART_STYLES[Part.DOC])
            line.append(shown(text[start:stop]), f"{PART_STYLES[Part.DOC]} strike")
            at = stop
        line.append(shown(text[at:last]), PART_STYLES[Part.DOC]).append(shown(text[last:]), "dim")
        if cut:
            line.append(f"  ({CUT})", "dim")
        lines.add_row(Text(side, "dim"), Text(f"{score:.4f}", "bold"), line)
    return lines


def _numbers(names: Sequence[str], rows: Iterable[tuple[tuple[str, ...], float, float, float]]) -> Table:
    """Rows of names and of three numbers, the last in colour."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    for name in ("A", "B", "A less B"):
        table.add_column(name, justify="right", no_wrap=True)
    for own, a, b, difference in rows:
        table.add_row(
            *map(Text, own), signed(a), signed(b), Text(signed(difference), "red" if difference > 0 else "blue")
        )
    return table


def _words(found: ContrastedPairs, table: str, none: str) -> Any:
    rows = found.top_words(table)
    if not rows:
        return Text(none, "dim")
    where = "text" if table == "words" else "texts"
    return _numbers([where, "word"], ((own[:2], *own[2:]) for own in rows))


def _heads(found: ContrastedPairs) -> Any:
    if not found.directions:
        return Text(NO_CROSSING, "dim")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name, side in (("direction", "left"), ("head", "left"), ("A", "right"), ("B", "right"), ("joins", "left")):
        table.add_column(name, justify=side, no_wrap=name != "joins")  # type: ignore[arg-type]
    for direction in found.directions:
        rows = found.top_heads(direction)
        if not rows:
            table.add_row(direction, "", "", "", Text(ALIKE, "dim"))
        for i, head in enumerate(rows):
            joined = Text(", ").join(_pair(direction, *pair) for pair in head.pairs)
            numbers = (f"{head.beyond_a:.3f}", f"{head.beyond_b:.3f}")
            table.add_row("" if i else direction, head.name, *numbers, joined or Text("no pair stands out", "dim"))
    return table


def _pair(direction: str, attender: str, attended: str, a: float, b: float) -> Text:
    parts = [PART_STYLES[Part[side]] for side in direction.split("->")]
    sides = [Text(name, style) for name, style in zip((attender, attended), parts, strict=True)]
    return Text("→").join(sides).append(f" {a:.2f}:{b:.2f}", style="dim")


def _removal(found: ContrastedPairs) -> Text:
    if found.tied:
        return Text(NOT_SEARCHED, "dim")
    return Text("\n").join(Text(found.removal_sentence(side)) for side in SIDES)
