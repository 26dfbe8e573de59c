"""Texts of others as they are shown: what a terminal would obey, and what turns the reading direction, is written out.

A query, a passage, an id, a checkpoint's key or a file's name may hold any character. ESC begins a command to the terminal, a
carriage return hides what came before it, U+202E shows the rest backwards. Joiners and spaces of scripts stay as they are.
"""

from __future__ import annotations

import codecs
import logging
from collections.abc import Iterable
from pathlib import PurePath

PLAIN = "tl_crossenc.plain"
"""An error handler for streams of few characters: what they lack is written with characters that all have."""

_SPACES = "\t\n\v\f\r\u2028\u2029"
_DIRECTIONS = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), *_DIRECTIONS, *range(0xD800, 0xE000))
_WRITTEN_OUT = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS}
_ONE_LINE = _WRITTEN_OUT | dict.fromkeys(map(ord, _SPACES), " ")
_MANY_LINES = {code: text for code, text in _WRITTEN_OUT.items() if code != ord("\n")}
_IN_ASCII = {
    **{"†": "+", "×": "x", "→": "->", "↔": "<->", "≤": "<=", "≥": ">=", "−": "-", "–": "-", "—": "-", "…": "..."},
    **{"·": ".", "≈": "~", "±": "+-", "“": '"', "”": '"', "‘": "'", "’": "'", "\xa0": " "},
    **dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)),
}


def shown(text: object, most: int | None = None) -> str:
    """A text on one line without control characters: line ends and tabs as spaces, others as `\\x1b`; cut after `most` characters.

    >>> shown("a\\x1b[2Jb\\nc")
    'a\\\\x1b[2Jb c'
    """
    given = str(text)
    cut = given if most is None or len(given) <= most else f"{given[: max(most - 3, 0)]}..."
    return cut.translate(_ONE_LINE)


def quoted(value: object, most: int = 80) -> str:
    """A value of another's file as a sentence quotes it: its `repr`, harmless and of bounded length.

    Only as much of a large value is turned into text as is shown.
    """
    if isinstance(value, str | bytes) and len(value) > most:
        return shown(repr(value[:most]) + "...")
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 3 * most:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, dict | list | tuple | set) and len(value) > most:
        return f"a {type(value).__name__} of {len(value)} values"
    return shown(repr(value), most)


def listed(items: Iterable[object], most: int = 6) -> str:
    """The first items of a list, as a sentence shows them, and how many more there are."""
    every = [shown(item, 160) for item in items]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def short_name(model_name: str) -> str:
    """A model's name as it is shown: of a folder its last part, since paths are nobody else's business."""
    path = PurePath(model_name)
    is_folder = path.is_absolute() or model_name.startswith((".", "~")) or len(path.parts) > 2
    return shown(path.name if is_folder else model_name)


class ShownFormatter(logging.Formatter):
    """A formatter whose lines hold no control character; a traceback keeps its line ends."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        text = super().format(record)
        return text.translate(_MANY_LINES) if record.exc_info else shown(text)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end


codecs.register_error(PLAIN, _in_ascii)
