"""Figure 1c: attention weights between QUERY and DOC tokens by group and kind of token match, as CSV files.

python analyses/attention_distributions.py --model demo --collection demo --out results
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tl_crossenc.collections import load_collection
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.experiments.match_distributions import run_match_distributions
from tl_crossenc.heads import resolve_heads
from tl_crossenc.pools import build_pool
from tl_crossenc.store import Store

FRAMES = ("histogram", "mass", "per_query", "exact_by_layer", "depth", "distance", "token_pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a hub name, a folder, or demo")
    parser.add_argument("--collection", action="append", help="an ir_datasets id, a folder, or demo; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the store and the CSV files")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--heads", help="heads to test one by one, such as 3.7,4.1 or @matching; all by default")
    parser.add_argument("--permutations", type=int, default=200, help="of the labels, for the null of the distances")
    parser.add_argument("--max-pairs", type=int, help="measure whole queries, drawn at random, up to so many passages")
    parser.add_argument("--seed", type=int, default=0, help="of the permutations and of the draw of queries")
    given = parser.parse_args()
    try:
        model = HookedCrossEncoder.from_pretrained(given.model, device=given.device)
        pools = [build_pool(load_collection(name)) for name in given.collection or ["demo"]]
        found = run_match_distributions(
            model,
            pools,
            Store(given.out / "store"),
            heads=None if given.heads is None else resolve_heads(given.heads, given.out),
            n_permutations=given.permutations,
            seed=given.seed,
            max_pairs=given.max_pairs,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    for name in FRAMES:
        getattr(found, name).to_csv(given.out / f"match_{name}.csv", index=False)
    print(f"{found.pairs} passages; the share of attention between query and passage that is on equal word pieces:")
    table = found.exact_by_layer.pivot(index="layer", columns=["direction", "group"], values=["share", "lift_pooled"])
    print(table.to_string(float_format="{:.3f}".format))
    print("last half of the layers less first half:")
    print(found.depth.to_string(index=False, float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
