"""`tl-crossenc score`: passages for a query, with or without attention removed."""

from __future__ import annotations

import argparse

from tl_crossenc.cli.options import model_options, of_the_model
from tl_crossenc.cli.output import say
from tl_crossenc.console.shown import short_name, shown

HELP = "score passages for a query"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--query", required=True)
    parser.add_argument("--passage", required=True, action="append")
    parser.add_argument(
        "--ablate",
        action="append",
        metavar="CONDITION",
        help="such as 'DOC->QUERY', 'zero(CLS->ALL; layers=0-3)' or '@zhan-q2d:4'",
    )
    model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    from contextlib import nullcontext

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tl_crossenc.interventions.presets import resolve_ablations
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder
    from tl_crossenc.model.score_rule import describe_rule

    model = HookedCrossEncoder.from_pretrained(
        arguments.model,
        **of_the_model(arguments),
    )
    ablations = resolve_ablations(arguments.ablate or [], model.cfg.n_layers)
    with model.ablating(ablations) if ablations else nullcontext():
        scores = model.score(arguments.query, arguments.passage)
        condition = str(model.active_condition)
    if not bool(scores.isfinite().all()):
        raise ValueError(
            f"expected finite scores, got {scores.tolist()}: check the checkpoint's weights, or use --dtype float32"
        )
    activated = model.activated(scores) if model.activation.computed else None
    table = Table("score", *([] if activated is None else ["activated"]), "passage")
    for i in scores.argsort(descending=True, stable=True).tolist():
        also = [] if activated is None else [f"{activated[i]:.4f}"]
        table.add_row(f"{scores[i]:.4f}", *also, Text(shown(arguments.passage[i])))
    rule = describe_rule(str(model.cfg.score))
    say(
        f"query: {arguments.query}; model: {short_name(str(model.cfg.model_name))}; score: {rule}; activated: {model.activation}; "
        f"ablated: {condition}"
    )
    Console().print(table)
    return 0
