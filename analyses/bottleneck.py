"""From how many bits of each token can the score be had, layer by layer, and when does CLS have them?

python analyses/bottleneck.py --model demo --collection demo
python analyses/bottleneck.py --queries 20 --passages 5 --layers 0,2,5 --beta 1 --objective relevant

Writes `tables/bottleneck.csv` (bits by layer and part), `tables/bottleneck_matches.csv` (tokens that are in the query against the
rest), `tables/bottleneck_positions.csv` (by tenths of the passage), `tables/bottleneck_scores.csv` (scores under the masks) and
`tables/bottleneck_per_query.parquet`. A second run fits nothing anew.
"""

from __future__ import annotations

import argparse

from common import run, write_table

from tl_crossenc.console.progress import progress_bar
from tl_crossenc.experiments.bottleneck import PER_QUERY, QUERIES, run_bottleneck
from tl_crossenc.instruments.fitting import OBJECTIVES, Fitting
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--layers", help="after which masks are put, each alone, such as 0-3,5 (default: all)")
    options.add_argument("--queries", type=int, default=QUERIES, help=f"of each collection (default: {QUERIES})")
    options.add_argument("--passages", type=int, default=PER_QUERY, help=f"of each query (default: {PER_QUERY})")
    options.add_argument(
        "--objective", choices=OBJECTIVES, default="keep", help="keep the score, or raise it (default: keep)"
    )
    options.add_argument("--beta", type=float, default=Fitting.beta, help=f"(default: {Fitting.beta:g})")
    options.add_argument("--steps", type=int, default=Fitting.steps, help=f"(default: {Fitting.steps})")
    options.add_argument(
        "--by", choices=("all", "part"), default="all", help="whose tokens the noise is like (default: all)"
    )
    options.add_argument("--seed", type=int, default=0, help="of the sample and of the noise (default: 0)")


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    fitting = Fitting(given.objective, given.beta, given.steps, by=given.by, seed=given.seed)
    chosen = {"n_queries": given.queries, "per_query": given.passages, "seed": given.seed, "layers": given.layers}
    with progress_bar("bottlenecks") as advance:
        found = run_bottleneck(model, pools, store, fitting=fitting, **chosen, progress=advance)
    tables = {"": found.by_layer, "_matches": found.matches, "_positions": found.positions, "_scores": found.scores}
    for name, frame in tables.items():
        write_table(given, f"bottleneck{name}.csv", frame, index=False)
    write_table(given, "bottleneck_per_query.parquet", found.per_query, index=False)
    bits = found.by_layer.pivot(index="layer", columns="part", values="bits")[
        ["CLS", "QUERY", "SEP1", "DOC", "SEP2", "ALL"]
    ]
    bits["CLS share"] = found.by_layer[found.by_layer["part"] == "CLS"].set_index("layer")["share"]
    bits["score off by"] = found.scores.set_index("layer")["error"]
    print(bits.to_string(float_format="{:.2f}".format))
    half = found.first_half
    print(f"CLS has half of the bits {'after no layer' if half is None else f'first after layer {half}'}.")


if __name__ == "__main__":
    run(main, __doc__, add_options)
