"""`tl-crossenc score`: passages for a query, with or without attention removed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tl_crossenc.cli.options import model_options, of_the_model
from tl_crossenc.cli.output import say
from tl_crossenc.console.shown import short_name, shown

if TYPE_CHECKING:
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder

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
    parser.add_argument(
        "--conditions",
        metavar="FILE",
        help="score under each condition of a file in turn, one a line, such as 'name: zero(DOC->QUERY; layers=0-3)'",
    )
    model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    from contextlib import nullcontext

    if arguments.conditions and arguments.ablate:
        raise ValueError("expected --ablate or --conditions, got both: add a line to the file")
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
    rule = describe_rule(str(model.cfg.score))
    called = short_name(str(model.cfg.model_name))
    about = f"query: {arguments.query}; model: {called}; score: {rule}; activated: {model.activation}"
    if arguments.conditions:
        return _under_each(model, arguments, about)
    ablations = resolve_ablations(arguments.ablate or [], model.cfg.n_layers)
    with model.ablating(ablations) if ablations else nullcontext():
        scores = model.score(arguments.query, arguments.passage)
        condition = str(model.active_condition)
    _check_finite(scores)
    activated = model.activated(scores) if model.activation.computed else None
    table = Table("score", *([] if activated is None else ["activated"]), "passage")
    for i in scores.argsort(descending=True, stable=True).tolist():
        also = [] if activated is None else [f"{activated[i]:.4f}"]
        table.add_row(f"{scores[i]:.4f}", *also, Text(shown(arguments.passage[i])))
    say(f"{about}; ablated: {condition}")
    Console().print(table)
    return 0


def _under_each(model: HookedCrossEncoder, arguments: argparse.Namespace, about: str) -> int:
    """Score under every condition of a file, beside the unablated model."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tl_crossenc.interventions.conditions_file import read_conditions

    conditions = read_conditions(arguments.conditions, model.cfg.n_layers, model.cfg.n_heads)
    unablated = model.score(arguments.query, arguments.passage)
    _check_finite(unablated)
    table = Table("condition", "score", "change", *(["activated"] if model.activation.computed else []), "passage")
    order = unablated.argsort(descending=True, stable=True).tolist()
    for name, condition in conditions.items():
        with model.ablating(condition):
            scores = model.score(arguments.query, arguments.passage)
        _check_finite(scores)
        activated = model.activated(scores) if model.activation.computed else None
        for i in order:
            also = [] if activated is None else [f"{activated[i]:.4f}"]
            change = f"{scores[i] - unablated[i]:+.4f}"
            called = Text(shown(name) if i == order[0] else "")
            table.add_row(called, f"{scores[i]:.4f}", change, *also, Text(shown(arguments.passage[i])))
        table.add_section()
    say(f"{about}; change: from the unablated model")
    Console().print(table)
    return 0


def _check_finite(scores: Any) -> None:
    if not bool(scores.isfinite().all()):
        raise ValueError(
            f"expected finite scores, got {scores.tolist()}: check the checkpoint's weights, or use --dtype float32"
        )
