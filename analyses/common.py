"""What the scripts share: their options, how what these name is opened, and how a script is run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from tl_crossenc.cli.pools import run_options, runs_of
from tl_crossenc.experiments.matching import QUANTITY
from tl_crossenc.instruments.attention_flow import QUANTITIES
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.grades import parse_grades
from tl_crossenc.pools.pool import Pool, PoolSpec
from tl_crossenc.pools.spec import specs_of
from tl_crossenc.results.former import adopt
from tl_crossenc.results.job import Job, claim, model_source, pool_rules, refuse_another
from tl_crossenc.results.kept_pools import frozen_pool
from tl_crossenc.results.layout import POOLS, TABLES, is_former
from tl_crossenc.results.outputs import default_folder, write_frame
from tl_crossenc.results.work import drawn, open_store, prepare
from tl_crossenc.store.cells import Store
from tl_crossenc.store.files import StoreError
from tl_crossenc.store.locks import locked

Main = Callable[[argparse.Namespace, HookedCrossEncoder, list[Pool], Store], object]
"""What a script does with its arguments, the model, the pools and the store of results."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every script takes."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="demo", help="a hub name, a folder, or demo")
    options.add_argument(
        "--collection",
        action="append",
        metavar="C",
        help="an ir_datasets id, a folder, or demo (the default); may be repeated",
    )
    options.add_argument(
        "--out",
        type=Path,
        help="folder of tables, pools and stored results (default: results/analyses-<model>-<collections>)",
    )
    options.add_argument("--device", default="auto", help="auto, cpu or cuda")
    run_options(options)
    return options


def grade_options(options: argparse.ArgumentParser) -> None:
    """Which passages are compared with which, and by what; `grade_settings` reads them."""
    relevant_grades_option(options)
    options.add_argument(
        "--against",
        type=parse_grades,
        metavar="G",
        help="-1 or easy negatives, 0 or hard ones, or several such as hard,easy (default: -1; 0 with --run)",
    )
    options.add_argument("--quantity", choices=QUANTITIES, default=QUANTITY, help=f"(default: {QUANTITY})")


def relevant_grades_option(options: argparse.ArgumentParser) -> None:
    """Which passages are called relevant."""
    options.add_argument(
        "--relevant-grades",
        type=parse_grades,
        metavar="G",
        help="such as 1,2,3 (default: the upper half of the collection's scale)",
    )


def grade_settings(given: argparse.Namespace) -> dict[str, Any]:
    """The options of `grade_options` as `matching_heads` takes them."""
    chosen = {name: getattr(given, name) for name in ("relevant_grades", "against", "quantity")}
    return chosen | {"against": given.against or ((0,) if given.runs else (-1,))}


def opened(given: argparse.Namespace) -> tuple[HookedCrossEncoder, list[Pool], Store]:
    """The model; the default pool of each collection or the first of its run, kept; the store, which the scripts share."""
    collections, runs = given.collection or ["demo"], runs_of(given)
    specs = specs_of(collections, runs or PoolSpec())
    given.out = given.out or default_folder(given.model, collections, "analyses-")
    model = HookedCrossEncoder.from_pretrained(given.model, device=given.device)
    rules = pool_rules(runs) if runs else {}  # what is drawn by default is not said
    job = Job("analyses", model.cfg.model_name, model_source(model) | rules)
    prepare(given.out)
    refuse_another(given.out, job)
    if is_former(given.out):
        with locked(given.out):
            adopt(given.out)
    print(f"Tables are written into {given.out}/{TABLES}/")
    pools = [frozen_pool(name, spec, given.out / POOLS) for name, spec in zip(collections, specs, strict=True)]
    for pool in pools:
        print(f"Passages: {pool.title}: {pool.describe()}" + (f"; {pool.unjudged:,} judged by nobody" if runs else ""))
    claim(given.out, drawn(job, pools) if runs else job)
    return model, pools, open_store(given.out)


def write_table(given: argparse.Namespace, name: str, frame: pd.DataFrame, *, index: bool = True) -> None:
    """Write a frame among the tables of the folder that was opened, by the ending of its name."""
    write_frame(given.out / TABLES / name, frame, index=index)


def run(main: Main, doc: str | None, add_options: Callable[[argparse.ArgumentParser], object] | None = None) -> None:
    """Read the arguments, open what they name, and do what the script does; bad input ends in one sentence, without a traceback."""
    options = parser(doc)
    if add_options is not None:
        add_options(options)
    given = options.parse_args()
    try:
        main(given, *opened(given))
    except (ValueError, FileNotFoundError, StoreError) as error:
        raise SystemExit(f"error: {error}") from None
