"""Where relevance scores are, layer by layer: integrated gradients by part, beside Zhan et al. 2020's table.

python analyses/integrated_gradients.py --model demo --collection demo --queries 10 --passages 2

Writes `tables/part_gradients.csv` (a row a baseline, layer and part), `tables/part_gradients_errors.csv` (how well
each layer's sums meet the difference of scores) and
`tables/part_gradients_per_query.csv`, and prints each baseline's table of shares.
"""

import argparse

from common import relevant_grades_option, run, write_table

from tl_crossenc.experiments.part_gradients import BASELINES, PARTS, run_part_gradients
from tl_crossenc.instruments.attributed_difference import NODES
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.published import ZHAN_2020
from tl_crossenc.store.cells import Store


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--baselines",
        nargs="+",
        metavar="B",
        default=list(BASELINES),
        help=f"query, passage or both, by pad, mask, unk or a word piece: query:mask (default: {' '.join(BASELINES)})",
    )
    relevant_grades_option(options)
    options.add_argument("--queries", type=int, metavar="N", help="so many, drawn at random (default: all)")
    options.add_argument("--passages", type=int, metavar="N", help="so many of a query, drawn at random (default: all)")
    options.add_argument("--nodes", type=int, default=NODES, help=f"of the quadrature (default: {NODES})")
    options.add_argument(
        "--score", metavar="S", help="probability, or index:K for one logit (default: the model's score)"
    )
    options.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    names = ("baselines", "relevant_grades", "queries", "passages", "nodes", "score", "seed")
    found = run_part_gradients(model, pools, store, **{name: getattr(given, name) for name in names})
    write_table(given, "part_gradients.csv", found.parts, index=False)
    write_table(given, "part_gradients_errors.csv", found.errors, index=False)
    write_table(given, "part_gradients_per_query.csv", found.per_query)
    for baseline, own in found.parts.groupby("baseline", sort=False):
        errors = found.errors[found.errors["baseline"] == baseline].set_index("layer")
        print(f"{baseline}: mean s - s' {errors['difference'].iloc[0]:.4f}, in shares of it:")
        table = own.pivot(index="layer", columns="part", values="share")[list(PARTS)]
        print(table.assign(largest_error=errors["largest"]).round(3).to_string())
        published = own.pivot(index="layer", columns="part", values="published").dropna(axis=1, how="all")
        if not published.empty:
            print(f"{ZHAN_2020}, of the probability:\n{published.round(3).to_string()}")


if __name__ == "__main__":
    run(main, __doc__, add_options)
