"""One progress bar for terminals and notebooks: rich in the one, a line of HTML that is updated in place in the other.

>>> with progress_bar("scoring") as advance:
...     advance(3, 4)
...     advance(4, 4)

Nothing is drawn where nobody watches (a pipe, a file). A total of 0 is one that nobody knows. Functions of the library that take
`progress(done, total)` take `advance`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

Advance = Callable[[int, int], None]
SECONDS_BETWEEN = 0.1
"""How often a notebook's bar is drawn at most; a message goes to the browser each time."""


@contextmanager
def progress_bar(what: str) -> Iterator[Advance]:
    """A bar for the time of a `with` block; yields what to call with (done, total)."""
    with _notebook_bar(what) if in_notebook() else _terminal_bar(what) as advance:
        yield advance


def in_notebook() -> bool:
    """Whether what is displayed goes to a notebook's page, and not to a terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@contextmanager
def _terminal_bar(what: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns: tuple[Any, ...] = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield advance


@contextmanager
def _notebook_bar(what: str) -> Iterator[Advance]:
    from IPython.display import HTML, display

    started, drawn = time.monotonic(), 0.0
    handle: Any = display(HTML(bar_html(what, 0, 0, 0.0)), display_id=True)

    def advance(done: int, total: int) -> None:
        nonlocal drawn
        now = time.monotonic()
        if 0 < total <= done or now - drawn >= SECONDS_BETWEEN:
            drawn = now
            handle.update(HTML(bar_html(what, done, total, now - started)))

    yield advance


def bar_html(what: str, done: int, total: int, seconds: float) -> str:
    """A notebook's bar: what, how far, and how long it took or will yet take."""
    if total <= 0:
        count, value = f"{done:,}" if done else "", ""
    elif done >= total:
        count, value = f"{done:,} of {total:,}, {seconds:.0f} s", f'value="{done}" max="{total}"'
    else:
        left = f", {seconds * (total - done) / done:.0f} s left" if done else ""
        count, value = f"{done:,} of {total:,}{left}", f'value="{done}" max="{total}"'
    return (
        f'<div style="font:13px sans-serif"><label>{escape(what)} '
        f'<progress {value} style="width:16em;vertical-align:middle"></progress></label> {count}</div>'
    )


@contextmanager
def counted(progress: Callable[[int], Any] | bool | None, what: str, total: int) -> Iterator[Callable[[int], Any]]:
    """What to call with the number of things newly done: the caller's own function, a bar for True, nothing for None or False."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda _: None
    else:
        done = 0
        with progress_bar(what) as advance:

            def more(count: int) -> None:
                nonlocal done
                done += count
                advance(done, total)

            yield more
