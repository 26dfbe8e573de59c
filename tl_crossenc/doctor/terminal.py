"""What reports are shown with in a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tl_crossenc.console.shown import shown
from tl_crossenc.doctor.causes import NO, PERHAPS, YES

WIDTH = 80
STYLES = {YES: "bold green", PERHAPS: "yellow", NO: "", "ok": "green", "note": "cyan", "warning": "bold yellow"}


def plain(shown_as: RenderableType, width: int = WIDTH) -> str:
    """What is shown, as text without colours and without spaces at the ends of lines."""
    stream = StringIO()
    Console(file=stream, width=width, color_system=None, force_terminal=False, highlight=False).print(shown_as)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def line(text: str, style: str = "") -> Text:
    """A line of others' texts, folded at words, without markup."""
    return Text(shown(text), style=style, overflow="fold")


def bullets(texts: Sequence[str]) -> list[RenderableType]:
    """Sentences with a hanging indent."""
    found: list[RenderableType] = []
    for text in texts:
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column()
        grid.add_column(overflow="fold")
        grid.add_row("-", line(text))
        found.append(grid)
    return found


def number(value: float) -> str:
    """A difference as it is shown: two digits.

    >>> number(3.21e-07)
    '3.2e-07'
    """
    return f"{value:.1e}"
