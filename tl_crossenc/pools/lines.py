"""Lines of a collection's files, unpacked where they are gzipped, and the error that says which line is wrong."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn


def read_lines(path: Path, checksum: Any) -> Iterator[tuple[int, int, str]]:
    """(line number from 1, offset in bytes, text without its line end) of the lines that are not blank.

    A file whose name ends in `.gz` is unpacked, and offsets are those of the unpacked text; the checksum is of the file itself.
    """
    offset = 0
    with unpacked(path, checksum) as file:
        for number, raw in enumerate(file, 1):
            line = decoded(path, number, raw)
            if line.strip():
                yield number, offset, line
            offset += len(raw)


@contextmanager
def unpacked(path: Path, checksum: Any = None) -> Iterator[Any]:
    """The file's bytes, unpacked where its name ends in `.gz`; what is read to the end is in the checksum.

    Raises:
        ValueError: it is not in gzip's format, or is cut short or damaged.
    """
    with path.open("rb") as raw:
        stream: Any = raw if checksum is None else io.BufferedReader(_Summed(raw, checksum))
        if path.suffix != ".gz":
            yield stream
            return
        try:
            with gzip.GzipFile(fileobj=stream) as file:
                yield file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is not a whole file of gzip's ({error}); copy it again, or unpack it.") from error


class _Summed(io.RawIOBase):
    """A file that adds what is read of it to a checksum."""

    def __init__(self, file: Any, checksum: Any) -> None:
        self._file, self._checksum = file, checksum

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._checksum.update(memoryview(buffer)[:count])
        return count


def decoded(path: Path, number: int, raw: bytes) -> str:
    """A line as text, without its end; a mark of byte order before the first is no part of it."""
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError:
        malformed(path, number, raw.decode("utf-8", "backslashreplace"), "UTF-8", "other bytes")
    return line.removeprefix("\ufeff" if number == 1 else "").rstrip("\r\n")


def malformed(path: Path, number: int, line: str, expected: str, came: str) -> NoReturn:
    """Raise the ValueError for a line: where, what was expected, what came, the line itself."""
    raise ValueError(
        f"{path}, line {number}: expected {expected}, found {came} in {shortened(line, 80)!r}; correct or remove it."
    )


def two_columns(path: Path, number: int, line: str, expected: str) -> tuple[str, str]:
    """Split a line into id and text, or raise the ValueError that says what is wrong with it."""
    columns = line.split("\t")
    if len(columns) != 2:
        malformed(path, number, line, f"two columns, {expected}", f"{len(columns)}")
    if not columns[0] or len(columns[0].split()) != 1 or columns[0] != columns[0].strip():
        malformed(path, number, line, "an id without white space", repr(columns[0]))
    return columns[0], columns[1]


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning with three dots."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
