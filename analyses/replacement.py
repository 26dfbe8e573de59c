"""nDCG with heads, MLPs and directions set to zero, to their mean over the pool, or to another pair's activations.

python analyses/replacement.py 3.1 mlp.2 "DOC->QUERY@1.2" --model demo --collection demo

Each argument is a set of targets replaced together, joined by +: 3.7+3.8. Writes `tables/replacement.csv`, a row a (set, kind
of values), and `tables/replacement_per_query.parquet`. A second run scores nothing anew.
"""

from __future__ import annotations

import argparse

from common import run, write_table

from tl_crossenc.experiments.replacement import KINDS, run_replacement
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("targets", nargs="+", help="such as 3.7, 3.7+3.8, mlp.2, attn.2 or 'DOC->QUERY@3.7'")
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options.add_argument("--seed", type=int, default=0, help="of the draws of resampling")


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    found = run_replacement(model, pools, store, given.targets, kinds=given.kinds, seed=given.seed)
    write_table(given, "replacement.csv", found.comparison, index=False)
    write_table(given, "replacement_per_query.parquet", found.per_query.reset_index(), index=False)
    columns = ["targets", "values", "mean", "difference", "diff_low", "diff_high", "p_holm"]
    print(f"unchanged nDCG@10 {found.unchanged[0]:.3f}, random {found.random:.3f}")
    print(found.comparison[columns].to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    run(main, __doc__, add_options)
