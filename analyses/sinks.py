"""The sinks ("no-op"): attention mass on CLS, the separators and full stops, by layer and attender.

python analyses/sinks.py --model demo --collection demo

Writes `tables/sinks_by_layer.csv` (means over heads) and `tables/sinks_by_head.csv`, and prints the means over all positions
beside those of Zhan et al. 2020 where the model has as many layers as theirs.
"""

import argparse

from common import run, write_table

from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.sinks import measure_sinks
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.published import ZHAN_2020, ZHAN_2020_SEP_MASS
from tl_crossenc.store.cells import Store


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    sinks = measure_sinks(run_attention(model, pools, store))
    write_table(given, "sinks_by_layer.csv", sinks.by_layer, index=False)
    write_table(given, "sinks_by_head.csv", sinks.by_head, index=False)
    rows = sinks.by_layer[sinks.by_layer["attender"] == "ALL"]
    table = rows.pivot(index="layer", columns="sink", values="mass")
    if len(table) == len(ZHAN_2020_SEP_MASS):
        table[f"SEP, {ZHAN_2020}"] = ZHAN_2020_SEP_MASS
    print(table.round(3).to_string())


if __name__ == "__main__":
    run(main, __doc__)
