"""`tl-crossenc reproduce`: the experiments of the paper on a model and collections."""

from __future__ import annotations

import argparse
from pathlib import Path

from tl_crossenc.cli.options import (
    count_or_all,
    executor_of,
    executor_options,
    grades,
    model_options,
    number,
    of_the_model,
    token_budget_option,
    wait_option,
)
from tl_crossenc.cli.output import say
from tl_crossenc.cli.pools import draw_of, pool_options, seed_of
from tl_crossenc.cli.work import refuse_failed, say_shard
from tl_crossenc.console.shown import short_name

HELP = "run the paper's experiments on a model and collections"
QUANTITIES = ("excess", "mass", "density")
MOST_DRAWS = 10_000
"""Of random sets of heads."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    from tl_crossenc.results.artefact import by_result
    from tl_crossenc.results.beyond import BEYOND

    parser.add_argument(
        "--model",
        default="demo",
        help="demo, planted, a folder with a checkpoint or a LoRA adapter, or a Hugging Face hub name (default: demo)",
    )
    parser.add_argument(
        "--collection",
        action="append",
        metavar="C",
        help="demo, a folder with docs.tsv, queries.tsv and qrels.txt or in BEIR's layout, gzipped or not, trec-dl-2019 ... "
        "trec-dl-2022, or an ir_datasets id; several times for several (default: demo)",
    )
    parser.add_argument("--out", type=Path, help="results folder (default: results/MODEL-COLLECTION)")
    parser.add_argument(
        "--mode", choices=("zero", "mask"), default="zero", help="how attention is removed (default: zero)"
    )
    pool_options(parser, easy_negatives=True)
    parser.add_argument(
        "--gain", choices=("linear", "exponential"), default="linear", help="of nDCG@10 (default: linear)"
    )
    token_budget_option(parser)
    parser.add_argument("--only-table1", action="store_true", help="leave the figures, the heads and the report")
    parser.add_argument(
        "--direction", action="append", metavar="D", help="of Figure 1a, such as DOC->QUERY; several times for several"
    )
    parser.add_argument(
        "--span", choices=("up_to", "from", "only"), default="up_to", help="of layers in Figure 1a (default: up_to)"
    )
    parser.add_argument(
        "--heads",
        help="to ablate, best first: 3.7,4.1, or @matching or @rankers, @matching:8 (default: as Figure 1b ranks them)",
    )
    parser.add_argument(
        "--relevant-grades",
        type=grades,
        metavar="G",
        help="of relevant passages in Figures 1b and 1c, such as 1,2,3 (default: the upper half of the collection's scale)",
    )
    parser.add_argument(
        "--against",
        type=grades,
        metavar="G",
        help="grades that Figure 1b compares them with: -1 or easy, 0 or hard, or several such as hard,easy (default: -1, and 0 "
        "with --run)",
    )
    parser.add_argument(
        "--quantity",
        choices=QUANTITIES,
        default="excess",
        help="of Figure 1b: attention mass less the part's share of the tokens, mass as in the paper, or mass a token "
        "(default: excess)",
    )
    wait_option(parser)
    parser.add_argument(
        "--no-control",
        action="store_true",
        help="leave Figure 1b of the untrained twin: attention once more over the pools",
    )
    parser.add_argument(
        "--draws",
        type=number(1, MOST_DRAWS),
        default=19,
        help="random sets of heads to compare with; p is 1 / (1 + draws) at least (default: 19)",
    )
    parser.add_argument(
        "--draw-queries",
        type=count_or_all,
        default=12,
        help="queries that random sets of heads are scored on, or all (default: 12)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every method beyond the paper, on all passages (default: the quick ones, on samples)",
    )
    parser.add_argument(
        "--method",
        action="append",
        metavar="M",
        help="a method beyond the paper in place of the quick ones, or none; several times for several: "
        + ", ".join(by_result(BEYOND)),
    )
    executor_options(parser)
    model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    from rich.console import Console

    from tl_crossenc.executors.sharded import Shard
    from tl_crossenc.experiments.layers import FIGURE_1A
    from tl_crossenc.experiments.paper import PaperOptions
    from tl_crossenc.interventions.directions import parse_directions
    from tl_crossenc.pools.pool import PoolSpec
    from tl_crossenc.report.terminal import progress_bar, table1_for_terminal
    from tl_crossenc.reproduce import Settings, compute_shard, reproduce
    from tl_crossenc.results.artefact import by_result
    from tl_crossenc.results.artefacts import ARTEFACTS, NOT_ASKED
    from tl_crossenc.results.outputs import default_folder

    executor = executor_of(arguments)
    collections = tuple(arguments.collection or ["demo"])
    seed = seed_of(arguments)
    draw = draw_of(arguments, collections, easy_negatives=True, match_grades=arguments.relevant_grades)
    against = arguments.against or ((-1,) if isinstance(draw, PoolSpec) else (0,))
    folder = default_folder(arguments.model, collections)
    for value, default in ((arguments.mode, "zero"), (arguments.dtype, "float32"), (seed, 0)):
        folder = folder if value == default else Path(f"{folder}-{value}")
    directions = [direction for text in arguments.direction or [] for direction in parse_directions(text)]
    settings = Settings(
        model=arguments.model,
        collections=collections,
        out=arguments.out or folder,
        **of_the_model(arguments),
        mode=arguments.mode,
        pool=draw,
        gain=arguments.gain,
        token_budget=arguments.token_budget,
        options=PaperOptions(
            directions=tuple(directions) or FIGURE_1A,
            span=arguments.span,
            relevant_grades=arguments.relevant_grades,
            against=against,
            quantity=arguments.quantity,
            control=not arguments.no_control,
            n_draws=arguments.draws,
            draw_queries=arguments.draw_queries,
            seed=seed,
            methods=_methods(arguments),
            sampled=not arguments.all,
        ),
        heads=arguments.heads,
        only_table1=arguments.only_table1,
    )
    errors = Console(stderr=True)
    if isinstance(executor, Shard):
        done = compute_shard(settings, executor, lambda what: progress_bar(errors, what), wait=arguments.wait)
        say_shard(executor, done, settings.out)
        return 0
    with executor:
        found = reproduce(settings, lambda what: progress_bar(errors, what), wait=arguments.wait, executor=executor)
    title = f"Table 1: {short_name(found.model_label)} on {found.collection_label}, nDCG@{settings.cutoff}"
    table1 = found.table1
    Console().print(table1_for_terminal(table1.comparison, table1.unablated, title, found.caption, found.published))
    for name, part in (("Table 1", found.table1), *found.results.items()):
        if hasattr(part, "layers_alone"):  # others share no layers among conditions
            say(f"{name}: {part.layers_run:,} pair-layers run now ({part.layers_alone:,} without shared prefixes).")
    if not settings.only_table1:
        say(f"Relevant passages: {found.relevance}.")
    for pool, cut in zip(found.pools, found.cut, strict=True):
        say(f"Passages of {pool.collection}: {cut}.")
    for name, reason in found.unavailable.items():
        if reason != NOT_ASKED:
            say(f"{name}: not drawn: {reason}")
    left = by_result(ARTEFACTS[name] for name, reason in found.unavailable.items() if reason == NOT_ASKED)
    if left:
        say(f"Left out, for --method NAME or --all: {', '.join(left)}.")
    say(f"Everything is in {settings.out}/" + (f"; open {found.report}" if found.report else ""))
    refuse_failed(found.failed)
    return 0


def _methods(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    """The methods asked for; None for those of a plain run."""
    from tl_crossenc.experiments.beyond import check_methods, every_method

    named = arguments.method or []
    if named and arguments.all:
        raise ValueError("expected --all or --method, got both: --all takes every method")
    if "none" in named and len(named) > 1:
        raise ValueError(f"expected --method none alone, got {', '.join(named)}")
    if arguments.all:
        return every_method()
    return (() if named == ["none"] else check_methods(named)) if named else None
