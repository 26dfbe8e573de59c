"""Docstrings and annotations, made ready for a page."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)
"""An interactive example, up to the next empty line."""


class Readable(griffe.Extension):
    """Examples fenced, which Markdown would take for quotations; names where they are made, not again where they are imported."""

    def on_module(self, *, mod: griffe.Module, **_: Any) -> None:
        """Forget `__all__`, which would show imported names a second time."""
        mod.exports = None

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the examples of an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(fenced, obj.docstring.value)


def fenced(example: re.Match[str]) -> str:
    """The example as a block of code."""
    indent = example[1]
    return f"{indent}```pycon\n{example[0]}\n{indent}```"
