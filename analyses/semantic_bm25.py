"""Semantic BM25: how far the score is rarity times what heads find, by queries never seen; and idf in the token embeddings.

python analyses/semantic_bm25.py --model demo --collection demo

Writes `tables/semantic_bm25.csv` (a row a split, system and fold), `tables/semantic_bm25_compared.csv`,
`tables/semantic_bm25_heads.csv`, `tables/semantic_bm25_embeddings.csv` and `tables/semantic_bm25_pairs.csv`, and prints r over all
held-out pairs, the heads chosen and in how many folds, and R² of idf.
"""

import argparse

from common import run, write_table

from tl_crossenc.experiments.semantic_bm25 import N_HEADS, run_semantic_bm25
from tl_crossenc.interventions.heads import parse_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.folds import FOLDS
from tl_crossenc.store.cells import Store


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--n-heads", type=int, default=N_HEADS, help=f"to choose (default: {N_HEADS})")
    options.add_argument("--heads", metavar="L.H,...", help="to take in place of a choice")
    options.add_argument("--folds", type=int, default=FOLDS, help=f"(default: {FOLDS})")
    options.add_argument("--queries", type=int, help="a random sample of so many (default: all)")
    options.add_argument("--seed", type=int, default=0, help="of folds and sample (default: 0)")


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    heads = None if given.heads is None else parse_heads(given.heads)
    found = run_semantic_bm25(
        model, pools, store, n_heads=given.n_heads, heads=heads, n_folds=given.folds, queries=given.queries,
        seed=given.seed,
    )  # fmt: skip
    for name, frame in (
        ("", found.correlations),
        ("_compared", found.comparisons),
        ("_heads", found.heads),
        ("_embeddings", found.embeddings),
        ("_pairs", found.per_pair),
    ):
        write_table(given, f"semantic_bm25{name}.csv", frame, index=False)
    shown = found.correlations[found.correlations["fold"] == "all"]
    print(
        shown[["split", "system", "r", "r_low", "r_high", "r_within", "r2", "r2_within"]]
        .round(3)
        .to_string(index=False)
    )
    print(
        found.heads[found.heads["chosen"] > 0]
        .sort_values(["chosen", "r_within"], ascending=False)
        .round(3)
        .to_string(index=False)
    )
    print(found.embeddings.round(3).to_string(index=False))


if __name__ == "__main__":
    run(main, __doc__, add_options)
