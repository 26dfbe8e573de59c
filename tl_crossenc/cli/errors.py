"""How a command ends: its exit status, and what went wrong as one sentence on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tl_crossenc.console.shown import shown

SMALLER = "use a smaller --token-budget or another device"


def status_of(command: Callable[[], int], *, debug: bool) -> int:
    """Run a command; its exit status, 2 where it failed as can be expected, 130 where it was interrupted.

    With `debug` an error is raised as it is. Raises whatever no user or machine can be the cause of.
    """
    try:
        return int(command())
    except (ValueError, TypeError, OSError) as error:
        if debug:
            raise
        hint = f": {SMALLER}" if _out_of_memory(error) else ""
        sys.stderr.write(f"tl-crossenc: {_one_line(error)}{hint}\n")
        return 2
    except (RuntimeError, MemoryError, ImportError) as error:
        if debug:
            raise
        hint = SMALLER if _out_of_memory(error) else "run again with --debug to see where"
        sys.stderr.write(f"tl-crossenc: {type(error).__name__}: {_one_line(error)[:300]}: {hint}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("tl-crossenc: interrupted; run the same command again to go on where it stopped\n")
        return 130


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether that is the cause, or the cause of the cause."""
    return error is not None and (
        isinstance(error, MemoryError) or "out of memory" in str(error) or _out_of_memory(error.__cause__)
    )


def _one_line(error: Exception) -> str:
    return " ".join(shown(error).split()) or type(error).__name__
