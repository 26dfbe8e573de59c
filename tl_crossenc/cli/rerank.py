"""`tl-crossenc rerank`: the first passages of a run in the model's order, under conditions, evaluated."""

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
from tl_crossenc.cli.work import ends_shard, shared_work

HELP = "rerank the first passages of a run, under any conditions, and evaluate it"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("model", metavar="MODEL", help="demo, planted, a folder or a hub name")
    parser.add_argument(
        "--run",
        dest="first_stage",
        metavar="FILE",
        required=True,
        help="a TREC run, gzipped or not, or scoreddocs, the one that comes with a collection of ir_datasets",
    )
    parser.add_argument("--collection", metavar="C", default="demo", help="as for reproduce (default: demo)")
    parser.add_argument(
        "--depth",
        type=number(1, MOST_PASSAGES),
        metavar="K",
        default=100,
        help="passages a query that are reranked, the run's first (default: 100)",
    )
    parser.add_argument(
        "--ablate",
        action="append",
        metavar="CONDITION",
        help="a ranking more, under a condition such as 'DOC->QUERY', 'zero(CLS->ALL; layers=0-3)' or '@zhan-q2d:4'; several times "
        "for several",
    )
    parser.add_argument(
        "--conditions",
        metavar="FILE",
        help="a ranking more under each condition of a file, one a line, such as 'name: zero(DOC->QUERY; layers=0-3)'",
    )
    parser.add_argument(
        "--measure",
        action="append",
        metavar="M",
        help="as ir_measures names it, such as nDCG@10, RR@10, 'AP(rel=2)', R@100; several times for several (default: nDCG@10 and "
        "RR@10)",
    )
    parser.add_argument("--out", type=Path, help="results folder (default: results/rerank-MODEL-COLLECTION)")
    token_budget_option(parser)
    wait_option(parser)
    executor_options(parser)
    model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    from rich.console import Console

    from tl_crossenc.executors.sharded import Shard
    from tl_crossenc.experiments.reranking import conditions_of, measures_of, rerank_pairs, tell
    from tl_crossenc.experiments.run_tasks import survey
    from tl_crossenc.interventions.conditions_file import read_conditions
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder
    from tl_crossenc.pools.collections import load_collection
    from tl_crossenc.pools.first_stage import FirstStage
    from tl_crossenc.report.reranked import reranked_for_terminal, reranked_notes, write_reranked
    from tl_crossenc.report.terminal import progress_bar
    from tl_crossenc.results.job import Job, model_source
    from tl_crossenc.results.outputs import default_folder
    from tl_crossenc.results.watch import record_of
    from tl_crossenc.results.work import with_store

    executor = executor_of(arguments)
    out = arguments.out or default_folder(arguments.model, [arguments.collection], "rerank-")
    measures = measures_of(arguments.measure)
    model = HookedCrossEncoder.from_pretrained(arguments.model, **of_the_model(arguments))
    named = read_conditions(arguments.conditions, model.cfg.n_layers, model.cfg.n_heads) if arguments.conditions else {}
    conditions = conditions_of(model, [*(arguments.ablate or []), *named.values()])
    stage = FirstStage.of(load_collection(arguments.collection), arguments.first_stage, arguments.depth)
    pairs = survey(model, stage)
    tell(pairs)
    free = {"conditions": list(map(str, conditions)), "measures": measures, "token_budget": arguments.token_budget}
    fixed = model_source(model) | {"depth": stage.depth, "run": stage.sha256}
    names = ((stage.collection.name, pairs.digest),)
    job = Job("rerank", model.cfg.model_name, fixed, free | {"device": model.device.type}, names)
    with with_store(out, job, wait=arguments.wait, shared=isinstance(executor, Shard)) as (folder, store):
        record_of(store).begins("Reranking")
        bar = progress_bar(Console(stderr=True), "reranking", unit="token-layers")
        with shared_work(executor, "reranking") as reasons, bar as advance:
            found = rerank_pairs(
                model,
                pairs,
                store,
                conditions,
                measures=measures,
                token_budget=arguments.token_budget,
                executor=executor,
                progress=advance,
            )
        if ends_shard(executor, folder, store, reasons, out):
            return 0
        folder.verify()
        folder.verify(write_reranked(out, found))
    for table in reranked_for_terminal(found):
        Console().print(table)
        say("")
    for name, condition in named.items():
        if name != str(condition):
            say(f"{name}: {condition}")
    for note in reranked_notes(found):
        say(note)
    say(f"Tables and runs are in {out}/")
    return 0
