"""`tl-crossenc compare`: two models on one pool, query by query and layer by layer."""

from __future__ import annotations

import argparse
from pathlib import Path

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
        metavar="CONDITION",
        help="rank under a condition, such as 'zero(DOC->QUERY; layers=0-3)'; both models",
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
    from tl_crossenc.interventions.conditions import UNABLATED
    from tl_crossenc.interventions.presets import resolve_condition
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
    condition = UNABLATED
    if arguments.ablate:
        conditions = [resolve_condition(arguments.ablate, model.cfg.n_layers) for model in models]
        for model, own in zip(models, conditions, strict=True):
            own.compile(model.cfg.n_layers, model.cfg.n_heads)
        condition = conditions[0]
        if conditions[1] != condition:
            raise ValueError(
                f"expected a condition that is one in both models, got {arguments.ablate!r}: write its edits out"
            )
    fixed = {
        f"{side}.{key}": value
        for side, model in zip("AB", models, strict=True)
        for key, value in model_source(model).items()
    }
    fixed |= {"condition": str(condition)} | pool_rules(draw)
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
                condition=condition,
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
    for pool in pools:
        if pool.unjudged:
            say(f"{pool.title}: nobody judged {pool.unjudged:,} of {len(pool.ranked):,} passages; they gain nothing.")
    drawn = "" if found.layers is None else f"; the layers are drawn in {out}/figures/compare_models.svg"
    say(f"All queries and scores are in {out}/tables/{drawn}")
    return 0
