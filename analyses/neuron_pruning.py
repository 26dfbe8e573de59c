"""nDCG@10 with MLP neurons pruned: those of the largest conductance, those of the largest activations, and random ones.

python analyses/neuron_pruning.py --model demo --collection demo --counts 16 64 --draws 20

Neurons are chosen on one half of the queries and pruned in rankings of the other. Writes `tables/neuron_pruning.csv`,
`tables/neuron_pruning_contrasts.csv` (paired tests), `tables/neuron_pruning_draws.csv`, `tables/neuron_pruning_neurons.csv` and
`tables/neuron_pruning_per_query.csv`, and prints the first two.
"""

import argparse

from common import relevant_grades_option, run, write_table

from tl_crossenc.experiments.neuron_pruning import COUNTS, DRAWS, KINDS, run_neuron_pruning
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--counts",
        nargs="+",
        type=int,
        metavar="K",
        default=list(COUNTS),
        help=f"neurons pruned (default: {' '.join(map(str, COUNTS))})",
    )
    options.add_argument("--draws", type=int, default=DRAWS, help=f"of random neurons (default: {DRAWS})")
    options.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what takes their place (default: both)"
    )
    options.add_argument("--baseline", default="both:pad", help="of the conductance (default: both:pad)")
    relevant_grades_option(options)
    options.add_argument("--queries", type=int, metavar="N", help="so many, drawn at random (default: all)")
    options.add_argument(
        "--passages", type=int, metavar="N", help="relevant ones a query for conductance (default: all)"
    )
    options.add_argument("--seed", type=int, default=0, help="of the halves and of all draws (default: 0)")


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    names = ("counts", "draws", "kinds", "baseline", "relevant_grades", "queries", "passages", "seed")
    found = run_neuron_pruning(model, pools, store, **{name: getattr(given, name) for name in names})
    write_table(given, "neuron_pruning.csv", found.rankings, index=False)
    for name in ("contrasts", "draws", "neurons"):
        write_table(given, f"neuron_pruning_{name}.csv", getattr(found, name), index=False)
    write_table(given, "neuron_pruning_per_query.csv", found.per_query)
    print(f"unpruned nDCG@10 {found.scalars['unpruned']:.3f}, a random ranking {found.scalars['random_ranking']:.3f}")
    print(found.rankings.round(3).to_string(index=False))
    print(found.contrasts.round(4).to_string(index=False))


if __name__ == "__main__":
    run(main, __doc__, add_options)
