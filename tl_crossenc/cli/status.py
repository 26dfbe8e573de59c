"""`tl-crossenc status`: how far a folder of results is. Exit status: 0 all is done, 1 something is left, 2 no such folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tl_crossenc.cli.output import say
from tl_crossenc.cli.work import typed
from tl_crossenc.console.shown import short_name, shown

if TYPE_CHECKING:
    from rich.table import Table

    from tl_crossenc.results.status import Status

PLAIN = ("", "InProcess()")
"""Executors that say no more than the process."""
HELP = "show what of a results folder is done, running, failed and left"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a job's --out; nothing in it is changed")
    parser.add_argument("--json", action="store_true", help="for programs: all of it as one JSON object")
    parser.epilog = (
        "Exit status: 0 where everything is done, 1 where something is left, 2 where DIR is no results folder."
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    import json
    import sys

    from rich.console import Console

    from tl_crossenc.results.status import read_status

    found = read_status(arguments.folder)
    if arguments.json:
        sys.stdout.write(json.dumps(found.record(), indent=1) + "\n")
        return 0 if found.all_done else 1
    models = found.model.split(" and ") if found.command == "compare" else [found.model]
    job = f"{found.command} of {' and '.join(map(short_name, models))}" if found.command else "no job yet"
    say(f"{found.folder}: {job}: {found.state}")
    at_work = any(process.state != "ended" for process in found.processes)
    tables = [_experiments(found)] * bool(found.experiments) + [_processes(found)] * at_work
    for table in tables:
        Console().print()
        Console().print(table)
    if tables:
        say("")
    for failed in found.failures:
        say(f"Failed: {_cells(failed.cells)} of {failed.experiment or 'the job'}: {failed.why}")
    for process in found.processes:
        if process.why and process.why not in {failed.why for failed in found.failures}:
            who = process.executor if process.executor not in PLAIN else f"Process {process.process}"
            say(f"{who} {process.state}: {process.why}")
    kinds = ", ".join(f"{count:,} of {kind}" for kind, count in found.cells.items())
    say(f"Cells stored: {kinds or 'none'}.")
    say(_last_line(found))
    return 0 if found.all_done else 1


def duration(seconds: int | float) -> str:
    """A time as one plans with it.

    >>> [duration(s) for s in (0.2, 48, 70, 3000, 7500, 200_000)]
    ['1 s', '48 s', '1 min', '50 min', '2 h 5 min', '2 d 8 h']
    """
    if round(seconds) < 60:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def _experiments(found: Status) -> Table:
    table = _table("experiment", "cells", "done", "running", "failed", "left")
    for row in found.experiments:
        counts = (row.cells, row.done, row.running, row.failed, row.left)
        table.add_row(shown(row.experiment or "(no name)"), *(f"{count:,}" for count in counts))
    return table


def _processes(found: Status) -> Table:
    table = _table("process", "state", "at", "done", "time left")
    for one in found.processes:
        if one.state == "ended":
            continue
        left = "" if one.state != "running" else "unknown" if one.seconds_left is None else duration(one.seconds_left)
        share = "" if one.share is None else f"{100 * one.share:.0f} %"
        who = f"{one.process} on {one.host}" + (f", {one.executor}" if one.executor not in PLAIN else "")
        table.add_row(shown(who), one.state, shown(one.now), share, left)
    return table


def _table(*names: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    texts = ("experiment", "process", "state", "at")
    for name in names:
        table.add_column(name, justify="left" if name in texts else "right", overflow="fold")
    return table


def _last_line(found: Status) -> str:
    if found.state == "done":
        return f"Everything is done: {found.why}."
    if found.state == "running":
        left = "unknown" if found.seconds_left is None else f"about {duration(found.seconds_left)}"
        return f"Time left: {left}, for what is planned so far: an experiment is planned when it begins."
    why = f"{found.why}: " if found.state == "left" and not found.processes else ""
    return (
        f"Left: {why}run {typed(found.command)} with the same options and --out {found.folder} again: it computes what is missing, "
        "and nothing that is stored."
    )


def _cells(count: int) -> str:
    return f"{count:,} cell" + "s" * (count != 1)
