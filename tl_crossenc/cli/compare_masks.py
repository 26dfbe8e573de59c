"""`tl-crossenc compare-masks`: the masks of three papers in one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from tl_crossenc.cli.options import (
    executor_of,
    executor_options,
    model_options,
    of_the_model,
    token_budget_option,
    wait_option,
)
from tl_crossenc.cli.output import say
from tl_crossenc.cli.pools import draw_of, pool_options
from tl_crossenc.cli.work import ends_shard, shared_work
from tl_crossenc.console.shown import short_name

HELP = "put the masks of three papers in one table, each in both modes"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--model", default="demo", help="as for reproduce (default: demo)")
    parser.add_argument("--collection", action="append", metavar="C", help="as for reproduce (default: demo)")
    parser.add_argument("--out", type=Path, help="results folder (default: results/masks-MODEL-COLLECTION)")
    parser.add_argument(
        "--preset",
        action="append",
        metavar="P",
        help="such as zhan-q2d, or zhan-q2d:4 for the first four layers; several times for several (default: all compared)",
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
    from tl_crossenc.experiments.compare_masks import mask_conditions, run_compare_masks
    from tl_crossenc.interventions.presets import COMPARED
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder
    from tl_crossenc.report.masks import masks_caption, write_masks
    from tl_crossenc.report.tables import measure_text
    from tl_crossenc.report.terminal import masks_for_terminal, progress_bar
    from tl_crossenc.results.job import Job, model_source, pool_rules
    from tl_crossenc.results.kept_pools import count_cut
    from tl_crossenc.results.outputs import default_folder
    from tl_crossenc.results.watch import record_of
    from tl_crossenc.results.work import at_work

    executor = executor_of(arguments)
    collections = arguments.collection or ["demo"]
    draw = draw_of(arguments, collections)
    out = arguments.out or default_folder(arguments.model, collections, "masks-")
    presets = arguments.preset or COMPARED
    model = HookedCrossEncoder.from_pretrained(
        arguments.model,
        **of_the_model(arguments),
    )
    mask_conditions(presets, model.cfg.n_layers)  # before anything is drawn or written
    free = {"presets": list(presets), "token_budget": arguments.token_budget, "device": model.device.type}
    job = Job("compare-masks", model.cfg.model_name, model_source(model) | pool_rules(draw), free)
    with at_work(out, job, collections, draw, wait=arguments.wait, shared=isinstance(executor, Shard)) as (
        folder,
        pools,
        store,
    ):
        record_of(store).begins("Masks")
        bar = progress_bar(Console(stderr=True), "masks")
        with shared_work(executor, "masks") as reasons, bar as advance:
            found = run_compare_masks(
                model,
                pools,
                store,
                presets=presets,
                token_budget=arguments.token_budget,
                executor=executor,
                progress=advance,
            )
        if ends_shard(executor, folder, store, reasons, out):
            return 0
        names = ", ".join(pool.title for pool in pools)
        called = short_name(str(model.cfg.model_name))
        caption = masks_caption(
            called,
            names,
            found.table,
            found.unablated,
            found.random,
            found.cutoff,
            measure=measure_text(found.cutoff, found.ideal, found.gain),
            one_gain=found.one_gain,
        )
        folder.verify()
        folder.verify(write_masks(out, found, caption))
    title = f"Masks of three papers: {called} on {names}"
    Console().print(masks_for_terminal(found.table, found.cutoff, title, caption))
    for pool in pools:
        say(f"Passages of {pool.collection}: {count_cut(model, pool)}.")
    say(f"Everything is in {out}/")
    return 0
