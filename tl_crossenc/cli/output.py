"""What the commands print."""

from __future__ import annotations

from tl_crossenc.console.shown import shown


def say(text: str) -> None:
    """A line on standard output: texts of the user's are no markup, and paths are not broken over lines."""
    from rich.console import Console

    Console().print(shown(text), markup=False, emoji=False, highlight=False, soft_wrap=True)
