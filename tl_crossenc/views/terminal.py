"""Results of the prompt as plain text, as wide as the terminal."""

from __future__ import annotations

import io
import shutil
import sys

from rich.console import Console, RenderableType


def as_text(shown: RenderableType, *, colours: bool = False) -> str:
    """What a terminal would show, with its colours or without."""
    console = Console(
        file=io.StringIO(),
        width=max(shutil.get_terminal_size((100, 24)).columns, 60),
        force_terminal=colours,
        force_jupyter=False,
        color_system="auto" if colours else None,
        legacy_windows=False,
    )
    console.print(shown)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)


def in_terminal() -> bool:
    """Whether what is printed goes to one."""
    return bool(getattr(sys.stdout, "isatty", bool)())
