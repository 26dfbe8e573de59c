"""How the words of an explained pair are shown: tables in a terminal, the texts themselves in HTML.

In HTML a word is tinted by its value, red for more and blue for less, with a line below that is solid for more and dotted for less,
so that it reads without colours; its value is under the pointer, and the largest are in a table. Values that have no sign are in
grey.
"""

from __future__ import annotations

from html import escape

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tl_crossenc.console.shown import shown
from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments.token_attributions import BOTTLENECK, GRADIENTS, LEAVE_ONE_OUT, RANDOM
from tl_crossenc.views.explained_pair import ExplainedPair
from tl_crossenc.views.markup import LESS, MORE, MUTED, heading, labelled, share_bar, signed, signed_bar, table, tinted

METHODS = {
    LEAVE_ONE_OUT: "the score less the score without each",
    GRADIENTS: "the score less that of emptied texts, split over words",
    "attention": "the attention that the head's rows give each, a mean over layers and heads",
    "direct": "what the head's rows read of each, in the unit of the score",
    BOTTLENECK: "the bits of each that the score needs",
    RANDOM: "random numbers",
}
SIGNED = (LEAVE_ONE_OUT, GRADIENTS, "direct")
NO_WORDS = "Neither text has a word that the model reads."
NOT_ADDITIVE = "Words are left out one at a time: what they are worth need not add up to what all are worth."
FAINTEST, LINED = 0.02, 0.1
"""Words of less than these shares of the largest value are not tinted, and have no line."""
DARKEST = 0.55
"""The opacity of the largest value's tint."""
MOST_CUT = 150
"""Characters that are shown of what is cut."""


def title(found: ExplainedPair) -> tuple[str, str]:
    """A heading, and what the values are."""
    way = f", {found.way}" if found.way else ""
    return f"Words by {found.attribution}{way}", METHODS[found.attribution]


def sums(found: ExplainedPair) -> list[str]:
    """What the values of words add up to beside what they are to explain, a sentence each."""
    lines = []
    for row in found.completeness.to_dict("records"):
        total, lost = signed(row["sum"]), signed(row["difference"])
        if found.attribution == LEAVE_ONE_OUT:
            whose, of_whom = ("Both texts", "their") if row["text"] == "both" else (f"The {row['text']}", "its")
            lines.append(f"{whose}: the values sum to {total}; all of {of_whom} words at once are worth {lost}.")
        else:
            lines.append(
                f"The values sum to {total} ({signed(row['others'])} of it outside of words); the score less that of emptied "
                f"texts is {lost}, the error {row['error']:+.1e}."
            )
    return [*lines, NOT_ADDITIVE] if lines and found.attribution == LEAVE_ONE_OUT else lines


def cut_line(found: ExplainedPair) -> str:
    """What truncation cut of the passage: how much, and how it begins."""
    tokens, words = found.cut_tokens, len(found.cut)
    counts = f"{tokens:,} of its {tokens + int((found.parts == Part.DOC).sum()):,} tokens are cut ({words:,} words)"
    return f"{counts}: {shown(found.cut_text.strip(), MOST_CUT)}"


def lengths_shown(found: ExplainedPair) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of the scores at several lengths; the one explained is marked."""
    activated = found.activated not in (None, found.score)
    columns = ["max length", "score", *([found.activation] if activated else []), "tokens", "cut", ""]
    rows = [
        [
            f"{row['max_length']:,}",
            f"{row['score']:.4f}",
            *([f"{row['activated']:.4f}"] if activated else []),
            f"{row['tokens']:,}",
            f"{row['cut']:,}",
            "explained here" if row["explained"] else "",
        ]
        for row in found.lengths.to_dict("records")
    ]
    return columns, rows


# In a terminal.


def words_in_terminal(found: ExplainedPair) -> RenderableType:
    """The largest words of each text, and what they add up to."""
    name, about = title(found)
    heads = Text.assemble((f"\n{name}", "bold"), (f": {about}", "dim"))
    if found.words.empty:
        return Group(heads, Text(NO_WORDS, style="dim"))
    rows = Table.grid(padding=(0, 2))
    rows.add_column()
    rows.add_column(overflow="fold")
    rows.add_column(justify="right")
    for text in ("query", "passage"):
        for i, (word, value) in enumerate(found.top_words(text)):
            rows.add_row(Text("" if i else text, "dim"), Text(word), _value(found, value))
    return Group(heads, rows, *(Text(line, style="dim") for line in sums(found)))


def lengths_in_terminal(found: ExplainedPair) -> RenderableType:
    """The scores at several lengths."""
    columns, rows = lengths_shown(found)
    shown_rows = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        shown_rows.add_column(column, justify="right" if column else "left")
    for row in rows:
        shown_rows.add_row(*row)
    return Group(Text("\nAt other lengths", "bold"), shown_rows)


def _value(found: ExplainedPair, value: float) -> Text:
    if found.attribution not in SIGNED:
        return Text(f"{value:.4f}")
    return Text(signed(value), "red" if value > 0 else "blue" if value < 0 else "")


# In HTML.


def words_in_html(found: ExplainedPair) -> str:
    """The texts with their words tinted, a legend, the largest words and what they add up to."""
    name, about = title(found)
    html = [heading(name, about)]
    if found.words.empty:
        return "".join([*html, f'<div style="color:{MUTED}">{NO_WORDS}</div>'])
    extent, has_sign = float(found.words["value"].abs().max()), found.attribution in SIGNED
    start, stop = found.read
    for text, whole, (first, last) in (
        ("query", found.query, (0, len(found.query))),
        ("passage", found.passage, (start, stop)),
    ):
        html.append(labelled(text, _tinted_text(found, text, whole, first, last, extent, has_sign)))
    html.append(labelled("", _legend(extent, has_sign)))
    rows = [
        ("" if i else text, escape(word), _written(value, has_sign), _bar(value, extent, has_sign))
        for text in ("query", "passage")
        for i, (word, value) in enumerate(found.top_words(text))
    ]
    html.append(table(rows, "llrl"))
    html += [f'<div style="color:{MUTED}">{escape(line)}</div>' for line in sums(found)]
    return "".join(html)


def lengths_in_html(found: ExplainedPair) -> str:
    """The scores at several lengths."""
    columns, rows = lengths_shown(found)
    head = [f'<span style="color:{MUTED}">{escape(column)}</span>' for column in columns]
    sides = "r" * (len(columns) - 1) + "l"
    return heading("At other lengths") + table([head, *([escape(cell) for cell in row] for row in rows)], sides)


def _tinted_text(
    found: ExplainedPair, text: str, whole: str, first: int, last: int, extent: float, has_sign: bool
) -> str:
    """The characters `first:last` of a text, its words marked."""
    html, at = [], first
    for row in found.words[found.words["text"] == text].to_dict("records"):
        start, stop = max(row["start"], first), min(row["stop"], last)
        html += [escape(shown(whole[at:start])), _word(whole[start:stop], row["value"], extent, has_sign)]
        at = stop
    return "".join([*html, escape(shown(whole[at:last]))])


def _word(word: str, value: float, extent: float, has_sign: bool) -> str:
    """A word with its value under the pointer, and what shows it."""
    share = abs(value) / extent if extent else 0.0
    colour, line = (MUTED, "") if not has_sign else (MORE, "solid") if value > 0 else (LESS, "dotted")
    marks = f"background:{tinted(colour, DARKEST * share)};border-radius:2px;" if share >= FAINTEST else ""
    if line and share >= LINED:
        marks += f"border-bottom:2px {line} {colour};"
    style = f' style="{marks}"' if marks else ""
    return f'<span title="{_written(value, has_sign)}"{style}>{escape(shown(word))}</span>'


def _bar(value: float, extent: float, has_sign: bool) -> str:
    return signed_bar(value, extent) if has_sign else share_bar(value / extent if extent else 0.0, MUTED)


def _written(value: float, has_sign: bool) -> str:
    return signed(value) if has_sign else f"{value:.4f}"


def _legend(extent: float, has_sign: bool) -> str:
    """What tints and lines mean, from the lowest to the highest value that there could be."""
    shares = (-1, -0.5, 0, 0.5, 1) if has_sign else (0, 0.5, 1)
    steps = " ".join(_word(_written(share * extent, has_sign), share * extent, extent, has_sign) for share in shares)
    less, more = ("lowers the score (dotted)", "raises it (solid)") if has_sign else ("least", "most")
    return f'<span style="color:{MUTED}">{less}</span> {steps} <span style="color:{MUTED}">{more}</span>'
