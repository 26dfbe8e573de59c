"""Which part of a job a process is to compute: `2/3` is the second of three. No torch, so that what was typed is read at once."""

from __future__ import annotations

MOST_SHARES = 100_000


def check_share(number: int, of: int) -> None:
    """Whether there is a share of this number among so many.

    Raises:
        ValueError: the number is not from 1 to `of`, or there are too many.
    """
    if not 1 <= of <= MOST_SHARES or not 1 <= number <= of:
        raise ValueError(
            f"expected a shard from 1/n to n/n, such as 1/4, n up to {MOST_SHARES:,}, got {number}/{of}: count shards from 1"
        )


def parse_share(text: str) -> tuple[int, int]:
    """(number, of how many) of a text such as `2/3`.

    Raises:
        ValueError: it is no such text; see also `check_share`.
    """
    number, slash, of = text.partition("/")
    digits = len(text) <= 2 * len(str(MOST_SHARES)) + 1
    if not (digits and slash and all(part.isascii() and part.isdigit() for part in (number, of))):
        raise ValueError(f"expected a shard i/n such as 2/3, the second of three, got {text[:40]!r}")
    check_share(int(number), int(of))
    return int(number), int(of)
