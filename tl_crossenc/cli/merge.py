"""`tl-crossenc merge`: folders of results that were computed apart, into one."""

from __future__ import annotations

import argparse
from pathlib import Path

from tl_crossenc.cli.options import wait_option
from tl_crossenc.cli.output import say
from tl_crossenc.cli.work import typed
from tl_crossenc.console.shown import shown

HELP = "join the cells of results folders that were computed apart into one folder"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "folders", metavar="DIR", type=Path, nargs="+", help="the shards' --out; nothing in them is changed"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="results folder: a new one, one of the same job, or one of DIR"
    )
    wait_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from tl_crossenc.results.merging import merge

    merged = merge(arguments.folders, arguments.out, wait=arguments.wait)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for name in ("from", "cells of", "whole", "new", "there before", "damaged"):
        table.add_column(name, justify="left" if name in ("from", "cells of") else "right", overflow="fold")
    for (folder, kind), own in merged.joined.items():
        counts = (own.cells, own.new, own.cells - own.new, own.damaged)
        table.add_row(shown(folder), kind, *(f"{count:,}" for count in counts))
    if merged.joined:
        Console().print(table)
    for note in merged.notes:
        say(f"Note: {note}.")
    new = sum(own.new for own in merged.joined.values())
    out = arguments.out
    say(f"Collections: {', '.join(merged.collections) or 'none'}.")
    say(f"New in {out}/: {_many(new, 'cell')}, {_many(len(merged.pools), 'pool')}.")
    damaged = sum(own.damaged for own in merged.joined.values())
    if damaged:
        say(f"Left out as damaged: {_many(damaged, 'cell')}, to be computed anew.")
    say(
        f"Next: {typed(merged.command)} with the shards' own options and --out {out}: it finds all of this, computes what is "
        "missing and draws."
    )
    return 0


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)
