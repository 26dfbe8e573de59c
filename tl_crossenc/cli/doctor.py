"""`tl-crossenc doctor`: why a score differs from somebody else's."""

from __future__ import annotations

import argparse
from pathlib import Path

from tl_crossenc.cli.options import model_options, of_the_model, token_budget_option
from tl_crossenc.cli.output import say_json

HELP = "find out why scores differ from another system's"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="find the cause of these: query, passage and the other system's score: .tsv, .csv or .jsonl, with or without a header",
    )
    parser.add_argument(
        "--hidden",
        type=Path,
        metavar="FILE",
        help="hidden states of its first pairs, .npz or .safetensors: the first layer that differs",
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit status 1 where there is a warning, or no known cause gives the scores",
    )
    token_budget_option(parser)
    model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    from rich.console import Console

    from tl_crossenc.checkpoints.embedded import open_model
    from tl_crossenc.doctor.causes import YES
    from tl_crossenc.doctor.examination import examine_model
    from tl_crossenc.doctor.findings import ModelReport
    from tl_crossenc.doctor.foreign_scores import read_scores
    from tl_crossenc.doctor.hidden_comparison import compare_hidden
    from tl_crossenc.doctor.hidden_dump import read_hidden
    from tl_crossenc.doctor.score_comparison import compare_scores
    from tl_crossenc.doctor.score_report import ScoreReport
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder

    if arguments.hidden is not None and arguments.scores is None:
        raise ValueError("expected --scores with the pairs beside --hidden, which has their hidden states: add it")
    dump = None if arguments.hidden is None else read_hidden(arguments.hidden)
    foreign = None if arguments.scores is None else read_scores(arguments.scores)
    model = HookedCrossEncoder.from_pretrained(arguments.model, **of_the_model(arguments))
    report: ModelReport | ScoreReport
    if foreign is None:
        report = examine_model(model, open_model(arguments.model, arguments.revision))
        failed = bool(report.warnings)
    else:
        report = compare_scores(model, foreign, token_budget=arguments.token_budget, progress=True)
        failed = report.reproduced != YES
    hidden = None if dump is None or foreign is None else compare_hidden(model, dump, foreign)
    if arguments.json:
        say_json(report.to_dict() | ({} if hidden is None else {"hidden": hidden.to_dict()}))
    else:
        Console().print(report, *([] if hidden is None else ["", hidden]))
    return int(arguments.strict and failed)
