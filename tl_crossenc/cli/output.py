"""What the commands print."""

from __future__ import annotations

import json
import sys
from typing import Any

from tl_crossenc.console.shown import shown


def say(text: str) -> None:
    """A line on standard output: texts of the user's are no markup, and paths are not broken over lines."""
    from rich.console import Console

    Console().print(shown(text), markup=False, emoji=False, highlight=False, soft_wrap=True)


def say_json(value: Any) -> None:
    """One JSON object on standard output, in ASCII, so that no terminal obeys what is in it."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")
