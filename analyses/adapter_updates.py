"""Which of a LoRA adapter's updates the ranking needs: nDCG@10 with those of some layers or projections applied and no others.

python analyses/adapter_updates.py --model demo --collection demo

Writes `tables/adapter_updates.csv` (a row a ranking), `tables/adapter_updates_sizes.csv` (a row an update) and
`tables/adapter_updates_per_query.csv`, and prints the rankings.
"""

import argparse

from common import run, write_table

from tl_crossenc.experiments.adapter_updates import run_adapter_updates
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    found = run_adapter_updates(model, pools, store)
    write_table(given, "adapter_updates.csv", found.rankings, index=False)
    write_table(given, "adapter_updates_sizes.csv", found.updates, index=False)
    write_table(given, "adapter_updates_per_query.csv", found.per_query)
    shown = found.rankings.set_index("ranking")[["n_updates", "mean", "difference", "diff_low", "diff_high", "p_holm"]]
    print(shown.round(3).to_string())
    print(f"a random ranking: {found.random:.3f}")


if __name__ == "__main__":
    run(main, __doc__)
