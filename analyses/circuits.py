"""The circuit of a ranking: the smallest set of (direction, layer, head) found that keeps 90, 95 and 99 % of its worth over random.

python analyses/circuits.py --model planted --collection demo

Writes `tables/circuits.csv` (a row a half and share), `tables/circuits_units.csv`, `tables/circuits_curve.csv` and
`tables/circuits_per_query.csv`, and prints the circuits: found on one half of the queries, measured on the other.
"""

import argparse

from common import run, write_table

from tl_crossenc.experiments.circuits import MOST_RUNS, SHARES, run_circuits
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store

MOST_NAMED = 20
"""Units of a circuit that are printed, the most important first."""


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--share", type=float, nargs="+", default=list(SHARES), help="to keep (default: .9 .95 .99)")
    options.add_argument("--mode", choices=("zero", "mask"), default="zero", help="of removal (default: zero)")
    options.add_argument("--most-runs", type=int, default=MOST_RUNS, help=f"ablations a search (default: {MOST_RUNS})")
    options.add_argument("--seed", type=int, default=0, help="of the halves (default: 0)")


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    found = run_circuits(
        model, pools, store, shares=given.share, mode=given.mode, most_runs=given.most_runs, seed=given.seed
    )
    for name, frame in (
        ("", found.circuits),
        ("_units", found.units),
        ("_curve", found.curve),
        ("_per_query", found.per_query),
    ):
        write_table(given, f"circuits{name}.csv", frame, index=False)
    print(found.circuits.round(3).to_string(index=False))
    for (half, share), units in found.units.groupby(["fold", "share"]):
        named = [f"{row.direction} {row.layer}.{row.head}" for row in units.head(MOST_NAMED).itertuples()]
        more = f", and {len(units) - MOST_NAMED} more" if len(units) > MOST_NAMED else ""
        print(f"half {half + 1}, {share:.0%}: {', '.join(named)}{more}")


if __name__ == "__main__":
    run(main, __doc__, add_options)
