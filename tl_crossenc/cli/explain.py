"""`tl-crossenc explain`: what makes the score of one passage, or why one outranks another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tl_crossenc.cli.options import model_options, number, of_the_model
from tl_crossenc.cli.output import say

HELP = "show what makes the score of a passage, or why one outranks another, word by word and head by head"
MOST_BYTES = 1 << 24
"""Of a passage in a file."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--query", required=True)
    passage = parser.add_mutually_exclusive_group(required=True)
    passage.add_argument("--passage")
    passage.add_argument("--passage-file", type=Path, metavar="FILE", help="a text file that is the passage, in UTF-8")
    against = parser.add_mutually_exclusive_group()
    against.add_argument("--against", metavar="PASSAGE", help="a second passage: show why the one outranks the other")
    against.add_argument("--against-file", type=Path, metavar="FILE", help="a text file that is the second passage")
    parser.add_argument(
        "--most-runs",
        type=number(1, 10_000_000),
        metavar="N",
        help="with a second passage: sets of words that are run to prove the fewest that turn the order (default: 1000)",
    )
    parser.add_argument(
        "--attribution",
        default="leave-one-out",
        metavar="NAME",
        help="what words get their values by: leave-one-out, gradients, attention, direct or random (default: leave-one-out)",
    )
    parser.add_argument(
        "--removal",
        choices=("delete", "mask", "pad"),
        help="what stands for a word that is left out, and where gradients begin (default: delete; of gradients, pad)",
    )
    parser.add_argument(
        "--ablate",
        action="append",
        metavar="CONDITION",
        help="explain the score without this attention, such as 'DOC->QUERY', 'zero(CLS->ALL; layers=0-3)' or '@zhan-q2d:4'",
    )
    parser.add_argument(
        "--top", type=number(1, 10_000), default=5, help="components, heads and words that are shown (default: 5)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page too, which works offline")
    parser.add_argument("--json", action="store_true", help="print all tables as JSON, and no other")
    model_options(parser, lengths=True)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    import json
    from contextlib import nullcontext

    from rich.console import Console

    from tl_crossenc.interventions.presets import resolve_ablations
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder

    check_attribution(arguments.attribution)
    passage = passage_of(arguments.passage, arguments.passage_file)
    second: dict[str, Any] = {}
    if arguments.against is not None or arguments.against_file is not None:
        second["against"] = passage_of(arguments.against, arguments.against_file)
    require_text(arguments.query, "query")
    model = HookedCrossEncoder.from_pretrained(arguments.model, **of_the_model(arguments) | {"max_length": None})
    ablations = resolve_ablations(arguments.ablate or [], model.cfg.n_layers)
    with model.ablating(ablations) if ablations else nullcontext():
        found = model.explain(
            arguments.query,
            passage,
            **second,
            most_runs=arguments.most_runs,
            top=arguments.top,
            attribution=arguments.attribution,
            removal=arguments.removal,
            max_length=arguments.max_length,
            progress=True,
        )
    if arguments.html is not None:
        found.to_html(arguments.html)
    if arguments.json:
        say(json.dumps(found.to_dict()))
        return 0
    Console().print(found)
    if arguments.html is not None:
        say(f"The page is {arguments.html}")
    return 0


def check_attribution(name: str) -> None:
    """Whether one pair is enough for it.

    Raises:
        ValueError: it is not, or there is none of this name.
    """
    from tl_crossenc.instruments.token_attributions import BOTTLENECK, check_attributions

    (name,) = check_attributions([name])
    if name == BOTTLENECK:
        raise ValueError(
            "expected an attribution that one pair is enough for, got bottleneck, whose bits are measured against other pairs: "
            "take another, or pass statistics= to model.explain in Python"
        )


def passage_of(text: str | None, file: Path | None) -> str:
    """A passage as it was typed, or as it is in a file, with the white space around it gone.

    Raises:
        ValueError: there is no such file, it is no text in UTF-8, or the passage is empty.
    """
    from tl_crossenc.store.files import read_regular

    if file is not None:
        try:
            text = read_regular(file.expanduser(), MOST_BYTES).decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise ValueError(f"expected text in UTF-8 in {file}, got other bytes: save it as UTF-8") from None
    return require_text(text or "", "passage" if file is None else f"passage in {file}")


def require_text(text: str, what: str) -> str:
    """The text.

    Raises:
        ValueError: there is nothing in it.
    """
    if not text.strip():
        raise ValueError(f"expected a {what} with text in it, got an empty one: there is nothing to explain")
    return text
