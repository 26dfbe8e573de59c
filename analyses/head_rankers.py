"""Heads as rankers: nDCG@10 of every head alone, and of the best together, chosen on other queries than they rank.

python analyses/head_rankers.py --model demo --collection demo
python analyses/head_rankers.py --plain --temperatures 0.01 0.1 --counts 1 4 16

Writes `tables/head_rankers.csv` (a row a head), `tables/head_rankers_best.csv` (a row a ranking),
`tables/head_rankers_compared.csv`, `tables/head_rankers_references.csv` and `tables/head_rankers_per_query.csv`, and keeps the
strongest heads for `--heads @rankers` in `heads/rankers.json`.
"""

import argparse

from common import relevant_grades_option, run, write_table

from tl_crossenc.experiments.head_rankers import COUNTS, run_head_rankers
from tl_crossenc.instruments.head_rankers import TEMPERATURES
from tl_crossenc.interventions.heads import format_heads, save_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.results.job import heads_source, model_source
from tl_crossenc.store.cells import Store


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--plain", action="store_true", help="rank by the attention mass, without calibration (half the cost)"
    )
    options.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        default=list(TEMPERATURES),
        help=f"of the CoRe score (default: {' '.join(map(str, TEMPERATURES))})",
    )
    options.add_argument(
        "--counts",
        type=int,
        nargs="+",
        default=list(COUNTS),
        metavar="K",
        help=f"heads that rank together, fewer than all, which always do (default: {' '.join(map(str, COUNTS))})",
    )
    relevant_grades_option(options)
    options.add_argument("--queries", type=int, help="a random sample of so many (default: all)")
    options.add_argument("--seed", type=int, default=0, help="of the halves and the sample (default: 0)")


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    found = run_head_rankers(
        model,
        pools,
        store,
        calibrated=not given.plain,
        temperatures=given.temperatures,
        counts=given.counts,
        relevant_grades=given.relevant_grades,
        queries=given.queries,
        seed=given.seed,
    )
    write_table(given, "head_rankers.csv", found.heads, index=False)
    write_table(given, "head_rankers_best.csv", found.rankings, index=False)
    write_table(given, "head_rankers_compared.csv", found.comparisons, index=False)
    write_table(given, "head_rankers_references.csv", found.references, index=False)
    write_table(given, "head_rankers_per_query.csv", found.per_query)
    about = {"model": model.cfg.model_name, "test": "CoRe score, all queries"}
    save_heads(given.out, "rankers", found.strongest, about, heads_source(model_source(model), pools))
    both = found.rankings[found.rankings["fold"] == "both"]
    places = ["direction", "criterion", "chosen_on"]
    print(both.pivot_table(index=places, columns="k", values="mean").round(3).to_string())
    print(found.references.round(3).to_string(index=False))
    print(f"strongest: {format_heads(found.strongest)}")


if __name__ == "__main__":
    run(main, __doc__, add_options)
