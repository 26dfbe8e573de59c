"""`tl-crossenc parity`: a ported model beside Hugging Face's."""

from __future__ import annotations

import argparse

from tl_crossenc.cli.options import model_options, of_the_model
from tl_crossenc.cli.output import say
from tl_crossenc.console.shown import short_name, shown

HELP = "port a model and compare it with Hugging Face's"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("model", metavar="MODEL")
    model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tl_crossenc.model.parity import check_parity

    found = check_parity(
        arguments.model,
        **of_the_model(arguments),
    )
    table = Table(title=Text(shown(f"Parity with Hugging Face: {short_name(str(found.model))}")), title_justify="left")
    for column in ("compared", "values", "max abs", "max relative", "largest value"):
        table.add_column(column, justify="left" if column == "compared" else "right", no_wrap=True)
    for row in found.differences:
        table.add_row(row.what, f"{row.compared:,}", f"{row.max_abs:.2e}", f"{row.max_rel:.2e}", f"{row.scale:.4g}")
    Console().print(table)
    say(f"{found.shape}; {found.dtype} on {found.device}; revision {found.revision}")
    say(f"token types {'fed' if found.types_fed else 'not fed'}; score: {found.score}")
    say(f"{'within' if found.passed else 'OUTSIDE of'} tolerance ({found.tolerance:g} x max(1, largest value))")
    return 0 if found.passed else 1
