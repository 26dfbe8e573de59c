"""nDCG with heads, MLPs and directions set to zero, to their mean over the pool, or to another pair's activations.

python analyses/replacement.py 3.1 mlp.2 "DOC->QUERY@1.2" --model demo --collection demo --out results

Each argument is a set of targets replaced together, joined by +: 3.7+3.8. Writes `replacement.csv`, a row a (set, kind of values),
and `replacement_per_query.parquet`. A second run scores nothing anew.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tl_crossenc.collections import load_collection
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.experiments.replacement import KINDS, run_replacement
from tl_crossenc.outputs import write_frame
from tl_crossenc.pools import build_pool
from tl_crossenc.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", help="such as 3.7, 3.7+3.8, mlp.2, attn.2 or 'DOC->QUERY@3.7'")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--collection", nargs="+", default=["demo"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0, help="of the draws of resampling")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    try:
        model = HookedCrossEncoder.from_pretrained(given.model, device=given.device)
        pools = [build_pool(load_collection(name)) for name in given.collection]
        found = run_replacement(model, pools, Store(given.out), given.targets, kinds=given.kinds, seed=given.seed)
    except ValueError as error:
        sys.exit(f"error: {error}")
    write_frame(given.out / "replacement.csv", found.comparison, index=False)
    write_frame(given.out / "replacement_per_query.parquet", found.per_query.reset_index(), index=False)
    columns = ["targets", "values", "mean", "difference", "diff_low", "diff_high", "p_holm"]
    print(f"unchanged nDCG@10 {found.unchanged[0]:.3f}, random {found.random:.3f}")
    print(found.comparison[columns].to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
