"""What the scripts share: their options, and how the model, the pools and the store that these name are opened."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.outputs import versions
from tl_crossenc.pools import Pool, PoolSpec
from tl_crossenc.reproduce import frozen_pool
from tl_crossenc.store import Store, StoreError


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


def open_model(given: argparse.Namespace) -> HookedCrossEncoder:
    """The model."""
    return HookedCrossEncoder.from_pretrained(given.model, device=given.device)


def open_store(given: argparse.Namespace) -> Store:
    """The store in the folder for results, `given.out`; what a script has stored there another does not compute again."""
    if given.out is None:
        names = (Path(name).name for name in (given.model, *(given.collection or ["demo"])))
        given.out = Path("results") / "-".join(["analyses", *(re.sub(r"[^\w.]+", "-", name) for name in names)])
    print(f"Tables are written into {given.out}/")
    return Store(given.out, versions={"torch": versions()["torch"]})


def open_pools(given: argparse.Namespace, store: Store) -> list[Pool]:
    """The default pool of each collection, drawn once and kept beside the store."""
    return [frozen_pool(name, PoolSpec(), store.root / "pools") for name in given.collection or ["demo"]]


@contextmanager
def bad_input_in_one_sentence() -> Iterator[None]:
    """End with the sentence that an error is, without a traceback."""
    try:
        yield
    except (ValueError, StoreError) as error:
        raise SystemExit(f"error: {error}") from None
