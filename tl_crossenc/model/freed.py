"""Memory that was freed goes back to the system now and then in long work.

Batches of many lengths leave freed blocks of many sizes, which glibc keeps: over tens of thousands of pairs they add up to some
hundred megabytes that nothing uses. Other C libraries give them back themselves.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import cache

EVERY = 2.0
"""Seconds between two times at least: looking through the blocks takes milliseconds, and pages that are used again are zeroed."""


_last = time.monotonic()


def give_back_now_and_then() -> None:
    """Do so if the last time in this process is `EVERY` seconds ago; nothing where the C library is not glibc."""
    global _last
    if time.monotonic() - _last >= EVERY:
        give_back()
        _last = time.monotonic()


def give_back() -> bool:
    """Have glibc give back what it holds of freed blocks; whether there is such a thing to ask."""
    trim = _trim()
    if trim is None:
        return False
    trim(0)
    return True


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # no such function; no program of that kind, on Windows
        return None
