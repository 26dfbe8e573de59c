"""Do the matching heads matter? The heads that Figure 1b ranks highest, removed, against random heads of the same layers.

python analyses/head_ablation.py --model demo --collection demo
python analyses/head_ablation.py --heads @matching:8 --counts 2 4 8 --draws 39

Writes `tables/head_ablation.csv`, `tables/head_ablation_draws.csv` and `tables/head_ablation_per_query.csv`; and, where Figure 1b
ranks the heads, what those that one half of the queries ranks highest do to the other half: `tables/head_ablation_folds.csv`.
"""

import argparse

from common import grade_options, grade_settings, run, write_table

from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.head_ablation import LEAST_DRAWS, run_head_ablation
from tl_crossenc.experiments.head_folds import run_head_folds
from tl_crossenc.experiments.matching import matching_heads, ranked_heads
from tl_crossenc.interventions.heads import resolve_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.results.job import heads_source, model_source
from tl_crossenc.store.cells import Store


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--heads", help="best first, 3.7,4.1 or @matching; by default as Figure 1b ranks them")
    options.add_argument(
        "--counts", type=int, nargs="+", default=[1, 2, 4, 8], metavar="K", help="heads removed (default: 1 2 4 8)"
    )
    options.add_argument("--draws", type=int, default=LEAST_DRAWS, help="random rankings to compare with (default: 19)")
    options.add_argument("--draw-queries", type=int, help="queries that these are scored on (default: all)")
    options.add_argument("--seed", type=int, default=0, help="of draws and halves (default: 0)")
    grade_options(options)


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    compared = grade_settings(given)
    if given.heads is None:
        attention = run_attention(model, pools, store)
        ranking = ranked_heads(matching_heads(attention, **compared))
    else:
        ranking = resolve_heads(given.heads, given.out, heads_source(model_source(model), pools))
    chosen = {"counts": given.counts, "n_draws": given.draws, "draw_queries": given.draw_queries, "seed": given.seed}
    found = run_head_ablation(model, pools, store, ranking, **chosen)
    for name, frame in (("", found.curve), ("_draws", found.draws), ("_per_query", found.per_query)):
        write_table(given, f"head_ablation{name}.csv", frame, index=name == "_per_query")
    print(found.curve.round(3).to_string(index=False))
    if given.heads is None:
        halves = run_head_folds(model, pools, store, attention, found, seed=given.seed, **compared)
        write_table(given, "head_ablation_folds.csv", halves.folds, index=False)
        print(halves.folds.round(3).to_string(index=False))


if __name__ == "__main__":
    run(main, __doc__, add_options)
