"""Table 1: nDCG@10 with each direction of attention removed in every layer and head.

python analyses/table1.py --model demo --collection demo
python analyses/table1.py --mode mask --gain exponential

Writes `tables/table1.csv` and `tables/table1.md`, and `tables/table1_per_query.csv`.
"""

import argparse

from common import run, write_table

from tl_crossenc.experiments.table1 import run_table1
from tl_crossenc.interventions.conditions import MODES
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.report.tables import markdown_table, table1_csv
from tl_crossenc.results.layout import TABLES
from tl_crossenc.store.cells import Store
from tl_crossenc.store.files import write_atomic


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--mode", choices=MODES, default="zero")
    options.add_argument("--gain", choices=("linear", "exponential"), default="linear")


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    table = run_table1(model, pools, store, mode=given.mode, gain=given.gain)
    write_table(given, "table1.csv", table1_csv(table.comparison))
    write_table(given, "table1_per_query.csv", table.per_query)
    text = markdown_table(table.comparison, table.unablated)
    write_atomic(given.out / TABLES / "table1.md", text)
    print(f"{text}\nunablated {table.unablated:.3f}, random {table.random.mean():.3f}")


if __name__ == "__main__":
    run(main, __doc__, add_options)
