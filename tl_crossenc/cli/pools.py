"""The options that say which passages are taken: drawn by grade, or the first of runs; and what reads them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tl_crossenc.cli.options import MOST_PASSAGES, count_or_all, number

if TYPE_CHECKING:
    from tl_crossenc.pools.spec import Draw

_DEFAULTS: dict[str, Any] = {"per_grade": 10, "easy_negatives": 10, "easy_negatives_draw": "matched", "seed": 0}


def pool_options(parser: argparse.ArgumentParser, *, easy_negatives: bool = False) -> None:
    """What is drawn; what is not given is not among what is read, so that it is known to be given."""
    absent: Any = argparse.SUPPRESS
    parser.add_argument(
        "--per-grade", type=count_or_all, default=absent, help="passages a grade and query, or all (default: 10)"
    )
    if easy_negatives:
        parser.add_argument(
            "--easy-negatives",
            type=number(0, MOST_PASSAGES),
            default=absent,
            help="passages a query that nobody judged for it (default: 10)",
        )
        parser.add_argument(
            "--easy-negatives-draw",
            choices=("matched", "random"),
            default=absent,
            help="as long as the query's relevant passages, or at random as in the paper (default: matched)",
        )
    parser.add_argument("--seed", type=number(0, 2**63 - 1), default=absent, help="of the pool's draw (default: 0)")
    run_options(parser)


def run_options(parser: argparse.ArgumentParser) -> None:
    """A run a collection."""
    parser.add_argument(
        "--run",
        action="append",
        dest="runs",
        metavar="FILE",
        help="rank the first passages of a TREC run, judged or not, in place of a draw of judged ones; or scoreddocs, the run that "
        "comes with a collection of ir_datasets; once for each --collection",
    )
    parser.add_argument(
        "--depth", type=number(1, MOST_PASSAGES), metavar="K", help="passages a query of a run (default: 100)"
    )


def seed_of(arguments: argparse.Namespace) -> int:
    """The seed, given or not."""
    return int(getattr(arguments, "seed", _DEFAULTS["seed"]))


def draw_of(
    arguments: argparse.Namespace,
    collections: Sequence[str],
    *,
    easy_negatives: bool = False,
    match_grades: tuple[int, ...] | None = None,
) -> Draw:
    """How the pools of some collections are made.

    Args:
        arguments: as `pool_options` reads them.
        collections: their names, for errors.
        easy_negatives: whether the command draws any; where it does not, a seed says nothing of a run.
        match_grades: see `PoolSpec`.

    Raises:
        ValueError: a run beside rules of a draw, a depth without a run, or not one run a collection.
    """
    from tl_crossenc.pools.spec import PoolSpec, specs_of

    runs = runs_of(arguments)
    if runs:
        meant = [name for name in _DEFAULTS if hasattr(arguments, name) and not (name == "seed" and easy_negatives)]
        if meant:
            option = f"--{meant[0].replace('_', '-')}"
            raise ValueError(
                f"expected --run or {option}, got both: a run's passages are not drawn; leave {option} away"
            )
        specs_of(collections, runs)
        return runs
    given = {name: getattr(arguments, name, default) for name, default in _DEFAULTS.items()}
    return PoolSpec(
        given["per_grade"],
        given["easy_negatives"] if easy_negatives else 0,
        given["seed"],
        match_length=given["easy_negatives_draw"] == "matched",
        match_grades=match_grades,
    )


def runs_of(arguments: argparse.Namespace) -> tuple[Any, ...]:
    """The runs that were asked for, as `RunSpec`s; none where passages are drawn.

    Raises:
        ValueError: a depth without a run.
    """
    from tl_crossenc.pools.spec import DEPTH, RunSpec

    if arguments.depth is not None and not arguments.runs:
        raise ValueError("expected --run beside --depth: name the run, or leave --depth away")
    return tuple(RunSpec(run, arguments.depth or DEPTH) for run in arguments.runs or ())
