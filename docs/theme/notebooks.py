"""An executed notebook as a page: words, code, and what came out, as it was saved."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import nbformat


def markdown_of(path: Path) -> str:
    """The Markdown of a notebook's cells and outputs; nothing is run."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```")
            parts += [shown(output) for output in cell.outputs]
    return "\n\n".join(parts) + "\n"


def shown(output: Any) -> str:
    """An output in a box of its own: HTML as it is, on one line so that Markdown leaves it alone; else text.

    Tables get a class where they have none: the theme dresses those without.
    """
    data = output.get("data", {})
    if "text/html" in data:
        html = re.sub(r"<table(?![^>]*\bclass=)", '<table class="own"', data["text/html"])
        return f'<div class="output">{one_line(html)}</div>'
    text = output.get("text") or data.get("text/plain", "")
    return f'<div class="output"><pre>{one_line(escape(text.rstrip()), "&#10;")}</pre></div>'


def one_line(html: str, instead: str = " ") -> str:
    """HTML without the blank lines and indents that Markdown would read as its own."""
    return re.sub(r"\s*\n\s*", instead, html) if instead == " " else html.replace("\n", instead)
