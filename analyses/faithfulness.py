"""Which attributions are faithful: what is left of scores and rankings when the tokens that they name are removed.

python analyses/faithfulness.py --model demo --collection demo --attribution gradients leave-one-out --removal delete

Writes `tables/faithfulness.csv` (a row an attribution and measure, tested against random tokens), `tables/faithfulness_curves.csv`
(scores by the share of tokens removed), `tables/faithfulness_rankings.csv` (nDCG likewise) and
`tables/faithfulness_per_query.csv`, and prints the first and the third.
"""

import argparse

from common import run, write_table

from tl_crossenc.experiments.faithfulness import DRAWS, QUERIES, SETS, run_faithfulness
from tl_crossenc.instruments.faithfulness import FRACTIONS
from tl_crossenc.instruments.integrated_gradients import NODES
from tl_crossenc.instruments.removal import TEXTS, WAYS
from tl_crossenc.instruments.token_attributions import ATTRIBUTIONS
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--attribution",
        nargs="+",
        metavar="A",
        default=list(ATTRIBUTIONS),
        help=f"among {', '.join(ATTRIBUTIONS)}; random is always there (default: all)",
    )
    options.add_argument("--text", choices=TEXTS, default="passage", help="whose tokens (default: passage)")
    options.add_argument("--removal", choices=WAYS, help="default: mask, or pad where the vocabulary has no mask token")
    options.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        metavar="F",
        default=list(FRACTIONS),
        help="of the tokens removed, rising from 0 to 1 (default: tenths)",
    )
    options.add_argument(
        "--queries", type=int, metavar="N", default=QUERIES, help=f"drawn at random (default: {QUERIES})"
    )
    options.add_argument("--draws", type=int, default=DRAWS, help=f"of random orders (default: {DRAWS})")
    options.add_argument(
        "--sets", type=int, default=SETS, help=f"of random tokens, for sensitivity-n (default: {SETS})"
    )
    options.add_argument("--layer", type=int, metavar="L", help="after which bits are measured (default: the middle)")
    options.add_argument("--nodes", type=int, default=NODES, help=f"of integrated gradients (default: {NODES})")
    options.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    names = ("text", "removal", "fractions", "queries", "draws", "sets", "layer", "nodes", "seed")
    chosen = {name: getattr(given, name) for name in names}
    found = run_faithfulness(model, pools, store, attributions=given.attribution, **chosen)
    write_table(given, "faithfulness.csv", found.measures, index=False)
    for name in ("curves", "rankings"):
        write_table(given, f"faithfulness_{name}.csv", getattr(found, name), index=False)
    write_table(given, "faithfulness_per_query.csv", found.per_query)
    for name, reason in found.scalars["left_out"].items():
        print(f"{name} left out: {reason}")
    print(found.measures.round(4).to_string(index=False))
    print(f"nDCG with tokens removed; a random ranking has {found.scalars['random_ranking']:.3f}")
    print(found.rankings.pivot(index="fraction", columns="attribution", values="mean").round(3).to_string())


if __name__ == "__main__":
    run(main, __doc__, add_options)
