"""What the views of a pair share: parts' colours, tokens and bars as HTML that needs no script, no style sheet and no network.

Every text that comes from a user or a vocabulary goes through `html.escape`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.pieces import CONTINUES

INK, MUTED, FAINT = "#1A1A1A", "#6B6B6B", "#E4E4E4"
PART_COLOURS = {
    Part.CLS: "#B2578C",
    Part.QUERY: "#0072B2",
    Part.SEP1: "#4AA5DA",
    Part.DOC: "#D55E00",
    Part.SEP2: "#C98A00",
}
"""Those of the figures."""
PART_STYLES = {
    Part.CLS: "magenta",
    Part.QUERY: "bold bright_blue",
    Part.SEP1: "cyan",
    Part.DOC: "bold yellow",
    Part.SEP2: "green",
}
"""The same in a terminal, in the colours of its theme."""
LESS, MORE = "#0072B2", "#B2182B"
FONT = "font:13px/1.5 'Helvetica Neue',Helvetica,Arial,'DejaVu Sans',sans-serif"
CARD = f"{FONT};color:{INK};background:#fff;border:1px solid {FAINT};border-radius:6px;padding:12px 16px;max-width:60em"
"""Dark pages get a light card, since the colours are made for one."""


def tinted(colour: str, share: float) -> str:
    """A colour at an opacity of `share`, as CSS."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{max(0.0, min(1.0, share)):.2f})"


def chip(token: str, part: Part, title: str = "", marked: bool = False) -> str:
    """A word piece in its part's colour."""
    colour = PART_COLOURS[part]
    line = f"box-shadow:inset 0 -2px {colour};" if marked else ""
    joined = "margin-left:-3px;" if token.startswith(CONTINUES) else ""
    hover = f' title="{escape(title)}"' if title else ""
    return (
        f'<span{hover} style="background:{tinted(colour, 0.15)};{line}{joined}border-radius:3px;padding:1px 4px;'
        f'white-space:pre">{escape(token)}</span>'
    )


def chips(tokens: Sequence[str], parts: Sequence[int], positions: Iterable[int], marked: set[int]) -> str:
    """The tokens at `positions`, each with its part and position under the pointer; those in `marked` underlined."""
    return " ".join(
        chip(tokens[p], Part(parts[p]), f"{Part(parts[p]).name}, position {p}", p in marked) for p in positions
    )


def signed_bar(value: float, extent: float, width: int = 160) -> str:
    """A bar from a middle line: to the right and red for more, to the left and blue for less."""
    half = width / 2
    size = half * min(abs(value) / extent, 1.0) if extent else 0.0
    left = half - size if value < 0 else half
    return (
        f'<svg width="{width}" height="12" style="vertical-align:middle" aria-hidden="true">'
        f'<rect x="{left:.1f}" y="1" width="{size:.1f}" height="10" fill="{LESS if value < 0 else MORE}"/>'
        f'<line x1="{half}" x2="{half}" y1="0" y2="12" stroke="{MUTED}"/></svg>'
    )


def share_bar(value: float, colour: str, width: int = 120) -> str:
    """A bar from 0 to 1."""
    return (
        f'<svg width="{width}" height="12" style="vertical-align:middle" aria-hidden="true">'
        f'<rect width="{width}" y="1" height="10" fill="{FAINT}"/>'
        f'<rect width="{width * min(max(value, 0.0), 1.0):.1f}" y="1" height="10" fill="{colour}"/></svg>'
    )


def table(rows: Iterable[Sequence[str]], align: str) -> str:
    """Rows of cells that are HTML already; `align` has l, r or c for each column."""
    names = {"l": "left", "r": "right", "c": "center"}
    body = ""
    for row in rows:
        body += '<tr style="background:none">'
        for i, (cell, side) in enumerate(zip(row, align, strict=True)):
            wraps = "normal" if i == len(row) - 1 else "nowrap"
            style = f"text-align:{names[side]};padding:1px 10px 1px 0;border:0;white-space:{wraps};min-width:2.2em"
            body += f'<td style="{style}">{cell}</td>'
        body += "</tr>"
    return f'<table style="border-collapse:collapse;margin:0 0 2px 0;{FONT};color:{INK}">{body}</table>'


def signed(value: float) -> str:
    """A number with its sign and four decimals; zero has no sign."""
    text = f"{value:+.4f}"
    return text if float(text) else text[1:]


def labelled(label: str, html: str) -> str:
    """Lines of HTML beside a label in grey."""
    name = f'<div style="color:{MUTED};flex:0 0 5em">{escape(label)}</div>'
    return f'<div style="display:flex;margin-top:5px;line-height:1.9">{name}<div>{html}</div></div>'


def heading(text: str, aside: str = "") -> str:
    """A section's title, with a remark in grey; both are text."""
    remark = f' <span style="font-weight:400;color:{MUTED}">{escape(aside)}</span>' if aside else ""
    return f'<div style="font-weight:700;margin:12px 0 3px">{escape(text)}{remark}</div>'


def page(title: str, body: str) -> str:
    """A whole HTML page around a view."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title></head>\n'
        f"<body>{body}</body></html>\n"
    )
