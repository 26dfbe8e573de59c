"""`tl-crossenc compare`: two models on one pool, query by query and layer by layer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tl_crossenc.cli.options import (
    MOST_PASSAGES,
    executor_of,
    executor_options,
    model_options,
    number,
    of_the_model,
    token_budget_option,
    wait_option,
)
from tl_crossenc.cli.output import say
from tl_crossenc.cli.pools import draw_of, pool_options
from tl_crossenc.cli.work import ends_shard, shared_work
from tl_crossenc.console.shown import quoted

if TYPE_CHECKING:
    from tl_crossenc.interventions.conditions import Condition
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder

HELP = "compare two models on one pool, by query and by layer"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("a", metavar="A", help="a model, as for reproduce")
    parser.add_argument("b", metavar="B", help="the other; differences are B - A")
    parser.add_argument("--collection", action="append", metavar="C", help="as for reproduce (default: demo)")
    parser.add_argument("--out", type=Path, help="results folder (default: results/compare-A-B-COLLECTION)")
    parser.add_argument(
        "--measure",
        action="append",
        metavar="M",
        help="as ir_measures names it, such as nDCG@10, RR@10 or 'AP(rel=2)'; several times for several (default: nDCG@10)",
    )
    parser.add_argument(
        "--ablate",
        action="append",
        metavar="CONDITION",
        help="rank under a condition, such as 'zero(DOC->QUERY; layers=0-3)' or '@zhan-q2d:4'; both models; several times "
        "for several, each in turn",
    )
    parser.add_argument(
        "--conditions",
        metavar="FILE",
        help="rank under each condition of a file, one a line, such as 'name: zero(DOC->QUERY; layers=0-3)'; none is the unablated "
        "models",
    )
    parser.add_argument(
        "--sample",
        type=number(1, MOST_PASSAGES),
        default=32,
        metavar="N",
        help="pairs whose residual streams are compared, layer by layer (default: 32)",
    )
    pool_options(parser)
    token_budget_option(parser)
    wait_option(parser)
    executor_options(parser)
    model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    from rich.console import Console

    from tl_crossenc.executors.sharded import Shard
    from tl_crossenc.experiments.compare_models import run_compare_models
    from tl_crossenc.experiments.reranking import measures_of
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder
    from tl_crossenc.report.drawing import draw_divergence
    from tl_crossenc.report.model_comparison import comparison_sentences, write_comparison
    from tl_crossenc.report.terminal import comparison_for_terminal, progress_bar
    from tl_crossenc.results.job import Job, model_source, pool_rules
    from tl_crossenc.results.outputs import default_folder
    from tl_crossenc.results.watch import titled
    from tl_crossenc.results.work import at_work

    executor = executor_of(arguments)
    measures = measures_of(arguments.measure or ["nDCG@10"])
    collections = arguments.collection or ["demo"]
    draw = draw_of(arguments, collections)
    out = arguments.out or default_folder(arguments.a, [arguments.b, *collections], "compare-")
    models = [
        HookedCrossEncoder.from_pretrained(name, **of_the_model(arguments)) for name in (arguments.a, arguments.b)
    ]
    conditions, named = _conditions(arguments, models)
    fixed = {
        f"{side}.{key}": value
        for side, model in zip("AB", models, strict=True)
        for key, value in model_source(model).items()
    }
    texts = [str(condition) for condition in conditions]
    fixed |= {"condition": texts[0] if len(texts) == 1 else texts} | pool_rules(draw)
    free = {
        "measures": measures,
        "sample": arguments.sample,
        "token_budget": arguments.token_budget,
        "device": models[0].device.type,
    }
    job = Job("compare", " and ".join(str(model.cfg.model_name) for model in models), fixed, free)
    with at_work(out, job, collections, draw, wait=arguments.wait, shared=isinstance(executor, Shard)) as (
        folder,
        pools,
        store,
    ):
        errors = Console(stderr=True)
        with shared_work(executor, "compare") as reasons:
            found = run_compare_models(
                models,
                pools,
                store,
                condition=conditions,
                measures=measures,
                sample=arguments.sample,
                token_budget=arguments.token_budget,
                executor=executor,
                progress=titled(lambda what: progress_bar(errors, what), store),
            )
        if ends_shard(executor, folder, store, reasons, out):
            return 0
        names = ", ".join(pool.title for pool in pools)
        folder.verify()
        folder.verify([*write_comparison(out, found, names), *draw_divergence(out, found.layers)])
    for sentence in comparison_sentences(found, names):
        say(sentence)
    for table in comparison_for_terminal(found):
        Console().print(table)
    for name, condition in named.items():
        if name != str(condition):
            say(f"{name}: {condition}")
    for pool in pools:
        if pool.unjudged:
            say(f"{pool.title}: nobody judged {pool.unjudged:,} of {len(pool.ranked):,} passages; they gain nothing.")
    drawn = "" if found.layers is None else f"; the layers are drawn in {out}/figures/compare_models.svg"
    say(f"All queries and scores are in {out}/tables/{drawn}")
    return 0


def _conditions(
    arguments: argparse.Namespace, models: Sequence[HookedCrossEncoder]
) -> tuple[list[Condition], dict[str, Condition]]:
    """The conditions asked for, each once, the unablated models where none is; and those of the file by name.

    Raises:
        ValueError: text that is no condition, a layer or head that a model does not have, or what is another condition in each.
    """
    from tl_crossenc.interventions.conditions import UNABLATED
    from tl_crossenc.interventions.conditions_file import read_conditions
    from tl_crossenc.interventions.presets import resolve_condition

    of_each: list[list[tuple[str, Condition]]] = []
    named: dict[str, Condition] = {}
    for model in models:
        sizes = model.cfg.n_layers, model.cfg.n_heads
        own = [(text, resolve_condition(text, sizes[0])) for text in arguments.ablate or []]
        for _, condition in own:
            condition.compile(*sizes)
        named = read_conditions(arguments.conditions, *sizes) if arguments.conditions else {}
        of_each.append([*own, *named.items()])
    for (called, condition), (_, other) in zip(*of_each, strict=True):
        if condition != other:
            raise ValueError(
                f"expected a condition that is one in both models, got {quoted(called)}, which is {condition} in A and {other} in "
                "B: write its edits out"
            )
    return list(dict.fromkeys(condition for _, condition in of_each[0])) or [UNABLATED], named
