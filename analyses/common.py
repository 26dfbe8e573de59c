"""What the scripts share: their options, how what these name is opened, and how a script is run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from tl_crossenc.experiments.matching import QUANTITY
from tl_crossenc.instruments.attention_flow import QUANTITIES
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.grades import parse_grades
from tl_crossenc.pools.pool import Pool, PoolSpec
from tl_crossenc.results.former import adopt
from tl_crossenc.results.job import Job, claim, model_source, refuse_another
from tl_crossenc.results.kept_pools import frozen_pool
from tl_crossenc.results.layout import POOLS, TABLES, is_former
from tl_crossenc.results.outputs import default_folder, write_frame
from tl_crossenc.results.work import open_store, prepare
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
    return options


def grade_options(options: argparse.ArgumentParser) -> None:
    """Which passages are compared with which, and by what; `grade_settings` reads them."""
    options.add_argument(
        "--relevant-grades",
        type=parse_grades,
        metavar="G",
        help="such as 1,2,3 (default: the upper half of the collection's scale)",
    )
    options.add_argument(
        "--against",
        type=parse_grades,
        metavar="G",
        default=(-1,),
        help="-1 or easy negatives, 0 or hard ones, or several such as hard,easy (default: -1)",
    )
    options.add_argument("--quantity", choices=QUANTITIES, default=QUANTITY, help=f"(default: {QUANTITY})")


def grade_settings(given: argparse.Namespace) -> dict[str, Any]:
    """The options of `grade_options` as `matching_heads` takes them."""
    return {name: getattr(given, name) for name in ("relevant_grades", "against", "quantity")}


def opened(given: argparse.Namespace) -> tuple[HookedCrossEncoder, list[Pool], Store]:
    """The model; the default pool of each collection, drawn once and kept; the store, which the scripts share."""
    collections = given.collection or ["demo"]
    given.out = given.out or default_folder(given.model, collections, "analyses-")
    model = HookedCrossEncoder.from_pretrained(given.model, device=given.device)
    job = Job("analyses", model.cfg.model_name, model_source(model))
    prepare(given.out)
    refuse_another(given.out, job)
    if is_former(given.out):
        with locked(given.out):
            adopt(given.out)
    print(f"Tables are written into {given.out}/{TABLES}/")
    pools = [frozen_pool(name, PoolSpec(), given.out / POOLS) for name in collections]
    claim(given.out, job)
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
    except (ValueError, StoreError) as error:
        raise SystemExit(f"error: {error}") from None
