"""The command line, `tl-crossenc COMMAND`: arguments in, library calls, text out.

In: what was typed. Out: text, and an exit status. A command is a module that has its one line of `HELP`, its `options` and what it
does, `run`; it imports the library there, so that help, and errors in what was typed, cost nothing.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from tl_crossenc.cli.errors import status_of
from tl_crossenc.cli.parser import parser_of
from tl_crossenc.console.shown import PLAIN, ShownFormatter

COMMANDS = (
    "reproduce",
    "compare_masks",
    "rerank",
    "compare",
    "merge",
    "status",
    "parity",
    "score",
    "explain",
    "doctor",
    "patch",
)
"""Modules of commands, in the order of the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status. A user's mistake is one sentence on standard error and status 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that lacks a character gets another one, and not an error
            stream.reconfigure(errors=PLAIN)
    arguments = parser_of(COMMANDS).parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(ShownFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if arguments.debug else logging.WARNING, handlers=[handler])
    logging.getLogger("tl_crossenc").setLevel(logging.DEBUG if arguments.debug else logging.INFO)
    if not arguments.debug:  # the hub's own retries; what matters of them is in our sentence
        os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
    logging.getLogger("transformers").setLevel(logging.INFO if arguments.debug else logging.ERROR)
    return status_of(lambda: arguments.run(arguments), debug=arguments.debug)
