"""What reads the command line: a parser of all commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import NoReturn

import tl_crossenc
from tl_crossenc.console.shown import shown


def parser_of(commands: Iterable[str]) -> argparse.ArgumentParser:
    """The parser of these commands, each the name of a module beside this one with `HELP`, `options` and `run`.

    What it reads has `run`, to be called with all that was read, and `debug`.
    """
    parser = _Parser(
        prog="tl-crossenc", description="See which attention carries query-document matching in a neural reranker."
    )
    parser.add_argument("--version", action=_Version, help="show the versions of this package, torch and transformers")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in commands:
        command = import_module(f"tl_crossenc.cli.{name}")
        own = subparsers.add_parser(name.replace("_", "-"), help=command.HELP, description=command.HELP)
        own.add_argument("--debug", action="store_true", help="show the traceback of an error")
        own.set_defaults(run=command.run)
        command.options(own)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose errors hold no control character of what was typed."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        super().error(shown(message, 1000))


class _Version(argparse.Action):
    """Versions as they are installed: torch alone would take seconds to import."""

    def __init__(self, option_strings, dest, **settings):
        super().__init__(option_strings, dest, nargs=0, **settings)

    def __call__(self, parser, namespace, values, option_string=None):
        from importlib.metadata import version

        others = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
        sys.stdout.write(f"tl-crossenc {tl_crossenc.__version__} ({others})\n")
        parser.exit()
