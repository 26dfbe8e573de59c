"""Figure 1c: attention weights between QUERY and DOC tokens by group and kind of token match, as CSV files.

python analyses/attention_distributions.py --model demo --collection demo

Writes `tables/match_histogram.csv`, `tables/match_mass.csv`, `tables/match_per_query.csv`, `tables/match_exact_by_layer.csv`,
`tables/match_depth.csv`, `tables/match_distance.csv` and `tables/match_token_pairs.csv`.
"""

from __future__ import annotations

import argparse

from common import run, write_table

from tl_crossenc.experiments.match_distributions import match_groups, run_match_distributions
from tl_crossenc.interventions.heads import resolve_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.grades import parse_grades
from tl_crossenc.pools.pool import Pool
from tl_crossenc.results.job import heads_source, model_source
from tl_crossenc.store.cells import Store

FRAMES = ("histogram", "mass", "per_query", "exact_by_layer", "depth", "distance", "token_pairs")


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--heads", help="heads to test one by one, such as 3.7,4.1 or @matching; all by default")
    options.add_argument("--permutations", type=int, default=200, help="of the labels, for the null of the distances")
    options.add_argument("--max-pairs", type=int, help="measure whole queries, drawn at random, up to so many passages")
    options.add_argument("--seed", type=int, default=0, help="of the permutations and of the draw of queries")
    options.add_argument(
        "--relevant-grades", type=parse_grades, metavar="G", help="such as 1,2,3 (default: by the scale)"
    )


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    found = run_match_distributions(
        model,
        pools,
        store,
        groups=match_groups(pools, given.relevant_grades, only_present=True),
        heads=None
        if given.heads is None
        else resolve_heads(given.heads, given.out, heads_source(model_source(model), pools)),
        n_permutations=given.permutations,
        seed=given.seed,
        max_pairs=given.max_pairs,
    )
    for name in FRAMES:
        write_table(given, f"match_{name}.csv", getattr(found, name), index=False)
    print(f"{found.pairs} passages; the share of attention between query and passage that is on equal word pieces:")
    table = found.exact_by_layer.pivot(index="layer", columns=["direction", "group"], values=["share", "lift_pooled"])
    print(table.to_string(float_format="{:.3f}".format))
    print("last half of the layers less first half:")
    print(found.depth.to_string(index=False, float_format="{:.4f}".format))


if __name__ == "__main__":
    run(main, __doc__, add_options)
