"""Figure 1a: nDCG@10 with a direction removed up to each layer, from each layer on, or in each layer alone.

python analyses/layer_sweep.py --model demo --collection demo
python analyses/layer_sweep.py --span only --directions 'DOC->QUERY' 'CLS->ALL'

Writes `tables/figure1a.csv` and `tables/figure1a_per_query.csv`.
"""

import argparse

from common import run, write_table

from tl_crossenc.experiments.layers import FIGURE_1A, SPANS, run_layer_sweep
from tl_crossenc.interventions.conditions import MODES
from tl_crossenc.interventions.directions import parse_directions
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--directions", nargs="+", default=[str(direction) for direction in FIGURE_1A])
    options.add_argument("--span", choices=SPANS, default="up_to")
    options.add_argument("--mode", choices=MODES, default="zero")


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    directions = [direction for text in given.directions for direction in parse_directions(text)]
    sweep = run_layer_sweep(model, pools, store, directions=directions, span=given.span, mode=given.mode)
    write_table(given, "figure1a.csv", sweep.curve, index=False)
    write_table(given, "figure1a_per_query.csv", sweep.per_query)
    print(sweep.curve.pivot(index="direction", columns="layer", values="mean").round(3).to_string())
    print(f"{sweep.layers_run:,} pair-layers run, {sweep.layers_alone:,} without shared prefixes")


if __name__ == "__main__":
    run(main, __doc__, add_options)
