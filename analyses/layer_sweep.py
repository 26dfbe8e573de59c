"""Figure 1a: nDCG@10 with a direction removed up to each layer, from each layer on, or in each layer alone.

python analyses/layer_sweep.py --model demo --collection demo --out results
python analyses/layer_sweep.py --span only --directions 'DOC->QUERY' 'CLS->ALL'

Writes `figure1a.csv` and `figure1a_per_query.csv`.
"""

import argparse
from pathlib import Path

from tl_crossenc.collections import load_collection
from tl_crossenc.conditions import MODES
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.directions import parse_directions
from tl_crossenc.experiments.layers import FIGURE_1A, SPANS, run_layer_sweep
from tl_crossenc.outputs import write_frame
from tl_crossenc.pools import build_pool
from tl_crossenc.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--collection", nargs="+", default=["demo"])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--directions", nargs="+", default=[str(direction) for direction in FIGURE_1A])
    parser.add_argument("--span", choices=SPANS, default="up_to")
    parser.add_argument("--mode", choices=MODES, default="zero")
    arguments = parser.parse_args()
    model = HookedCrossEncoder.from_pretrained(arguments.model, device=arguments.device)
    pools = [build_pool(load_collection(name)) for name in arguments.collection]
    directions = [direction for text in arguments.directions for direction in parse_directions(text)]
    sweep = run_layer_sweep(
        model, pools, Store(arguments.out), directions=directions, span=arguments.span, mode=arguments.mode
    )
    write_frame(arguments.out / "figure1a.csv", sweep.curve, index=False)
    write_frame(arguments.out / "figure1a_per_query.csv", sweep.per_query)
    print(sweep.curve.pivot(index="direction", columns="layer", values="mean").round(3).to_string())
    print(f"{sweep.layers_run:,} pair-layers run, {sweep.layers_alone:,} without shared prefixes")


if __name__ == "__main__":
    main()
