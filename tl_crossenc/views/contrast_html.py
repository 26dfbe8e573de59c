"""How two contrasted passages are shown as HTML: side by side, words tinted by what they do to the difference.

Red is for A and blue for B: what is red moves A ahead, in whichever text it stands. A line below a tinted word is solid for A and
dotted for B, so that it reads without colours; words that the smallest removal takes out are struck through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from tl_crossenc.console.shown import shown
from tl_crossenc.inputs.parts import Part
from tl_crossenc.views.contrast_text import (
    ADDS,
    ADDS_ASIDE,
    ALIKE,
    CUT,
    FEWEST,
    HEADS,
    HEADS_ASIDE,
    NO_CROSSING,
    NO_SHARED,
    NO_WORDS,
    NOT_SEARCHED,
    SHARED,
    SHARED_ASIDE,
    WORDS,
    WORDS_ASIDE,
    way_of,
)
from tl_crossenc.views.contrasted_pairs import ContrastedPairs
from tl_crossenc.views.contrasted_words import QUERY, SIDES
from tl_crossenc.views.markup import (
    CARD,
    FAINT,
    LESS,
    MORE,
    MUTED,
    chip,
    heading,
    share_bar,
    signed,
    signed_bar,
    table,
    tinted,
)

LEGEND = "red moves A ahead, blue B; struck through: the fewest words that turn the order"
DARKEST, FAINTEST = 0.55, 0.02
"""The opacity of the largest effect's tint, and the share of it below which a word is left plain."""


def contrast_html(found: ContrastedPairs) -> str:
    """All of it, as one element."""
    about = " · ".join(map(escape, found.about))
    if found.condition:
        about += f" · <b>ablating {escape(found.condition)}</b>"
    texts = [_text(found, QUERY, "")]
    sides = [
        f'<div style="flex:1 1 20em;min-width:0">{_text(found, side, f"{score:.4f}")}</div>'
        for side, score in zip(SIDES, (found.score_a, found.score_b), strict=True)
    ]
    texts.append(f'<div style="display:flex;flex-wrap:wrap;gap:4px 24px">{"".join(sides)}</div>')
    html = [
        f'<div><b style="font-size:18px">{escape(found.verdict)}</b> <span style="color:{MUTED}">{about}</span></div>',
        *texts,
        f'<div style="color:{MUTED};margin-top:4px">{LEGEND}</div>',
        heading(FEWEST),
        _removal(found),
        heading(ADDS, ADDS_ASIDE),
        _numbers([""], [((name,), a, b, less) for name, a, b, less in found.top_contributions], summed=True),
        heading(WORDS, WORDS_ASIDE.format(way=way_of(found))),
        _words(found, "words", NO_WORDS),
        heading(SHARED, SHARED_ASIDE),
        _words(found, "shared", NO_SHARED),
        heading(HEADS, HEADS_ASIDE + ("" if found.heads["reaches_score"].all() else "; the last layer's are left out")),
        _heads(found),
    ]
    return f'<div style="{CARD};overflow:auto">{"".join(html)}</div>'


def _text(found: ContrastedPairs, name: str, score: str) -> str:
    """One text with its words tinted."""
    words, struck, text = found.words[found.words["text"] == name], found.struck(name), found.text_of(name)
    largest = float(found.words["difference"].abs().max()) if len(found.words) else 0.0
    start, stop = found.shown_span(name)
    html, at = [_unread(text[:start])], start
    for row in words.itertuples():
        html.append(_plain(text[at : row.start]))
        html.append(_word(row, largest, (row.start, row.stop) in struck))
        at = row.stop
    html += [_plain(text[at:stop]), _unread(text[stop:])]
    label = escape(name) + (f" <b>{score}</b>" if score else "")
    return (
        f'<div style="margin-top:6px"><span style="color:{MUTED}">{label}</span><br>'
        f'<span style="line-height:1.9;overflow-wrap:anywhere">{"".join(html)}</span></div>'
    )


def _word(row, largest: float, struck: bool) -> str:
    effect = float(row.difference)
    share = abs(effect) / largest if largest else 0.0
    colour = MORE if effect > 0 else LESS
    style = "border-radius:2px;"
    if share >= FAINTEST:
        line = "solid" if effect > 0 else "dotted"
        style += f"background:{tinted(colour, DARKEST * share)};border-bottom:2px {line} {colour};"
    if struck:
        style += "text-decoration:line-through 2px;"
    both = f"to A {signed(float(row.to_a))}, to B {signed(float(row.to_b))}" if row.text == QUERY else signed(effect)
    return f'<span style="{style}" title="{escape(both)}">{_plain(row.word)}</span>'


def _plain(text: str) -> str:
    return escape(shown(text))


def _unread(text: str) -> str:
    return f'<span style="color:{MUTED};background:{FAINT}" title="{CUT}">{_plain(text)}</span>' if text.strip() else ""


def _numbers(
    names: Sequence[str], rows: Sequence[tuple[tuple[str, ...], float, float, float]], *, summed: bool = False
) -> str:
    """Rows of names, of three numbers, and of a bar for the last."""
    bars = rows[:-1] if summed else rows
    extent = max((abs(difference) for *_, difference in bars), default=0.0)
    grey = [f'<span style="color:{MUTED}">{name}</span>' for name in (*names, "A", "B", "A less B", "")]
    cells = [
        (
            *map(escape, own),
            *map(signed, (a, b, difference)),
            "" if summed and i == len(rows) - 1 else signed_bar(difference, extent),
        )
        for i, (own, a, b, difference) in enumerate(rows)
    ]
    return table([grey, *cells], "l" * len(names) + "rrrl")


def _words(found: ContrastedPairs, which: str, none: str) -> str:
    rows = found.top_words(which)
    if not rows:
        return f'<div style="color:{MUTED}">{none}</div>'
    where = "text" if which == "words" else "texts"
    return _numbers([where, "word"], [(own[:2], *own[2:]) for own in rows])


def _heads(found: ContrastedPairs) -> str:
    if not found.directions:
        return f'<div style="color:{MUTED}">{NO_CROSSING}</div>'
    return "".join(_direction(found, direction) for direction in found.directions)


def _direction(found: ContrastedPairs, direction: str) -> str:
    sides = [Part[side] for side in direction.split("->")]
    rows = []
    for head in found.top_heads(direction):
        joined = " &nbsp; ".join(_pairs(sides, head.pairs))
        bars = [
            f"{value:.3f} {share_bar(value, colour, 60)}"
            for value, colour in ((head.beyond_a, MORE), (head.beyond_b, LESS))
        ]
        rows.append((escape(head.name), *bars, joined or f'<span style="color:{MUTED}">no pair stands out</span>'))
    name = f'<div style="margin-top:4px">{sides[0].name} → {sides[1].name}: <span style="color:{MUTED}">'
    if not rows:
        return f"{name}{ALIKE}</span></div>"
    return f"{name}head, beyond even with A and with B, joins</span></div>{table(rows, 'lrrl')}"


def _pairs(sides: Sequence[Part], pairs: Iterable[tuple[str, str, float, float]]) -> Iterable[str]:
    for attender, attended, a, b in pairs:
        more = MORE if a > b else LESS
        weights = f'<span style="color:{more}">{a:.2f} : {b:.2f}</span>'
        pair = f"{chip(attender, sides[0])} → {chip(attended, sides[1])} {weights}"
        yield f'<span style="white-space:nowrap">{pair}</span>'


def _removal(found: ContrastedPairs) -> str:
    lines = [NOT_SEARCHED] if found.tied else [found.removal_sentence(side) for side in SIDES]
    return "".join(f"<div>{escape(line)}</div>" for line in lines)
