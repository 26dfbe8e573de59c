"""Figure 2: per head, the contrast of the part means against the alignment of its query-key circuit, as CSV files.

python analyses/qk_alignment.py --model demo --collection demo --out results
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tl_crossenc.collections import load_collection
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.experiments.qk_alignment import run_qk_alignment
from tl_crossenc.pools import build_pool
from tl_crossenc.store import Store

FRAMES = ("heads", "products", "spectrum", "decomposition", "layers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a hub name, a folder, or demo")
    parser.add_argument("--collection", action="append", help="an ir_datasets id, a folder, or demo; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the store and the CSV files")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weighting", choices=("token", "pair"), default="token", help="of tokens in the part means")
    parser.add_argument("--max-pairs", type=int, default=512, help="pairs that the decomposition is measured on")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of those pairs")
    given = parser.parse_args()
    try:
        model = HookedCrossEncoder.from_pretrained(given.model, device=given.device)
        pools = [build_pool(load_collection(name)) for name in given.collection or ["demo"]]
        found = run_qk_alignment(
            model,
            pools,
            Store(given.out / "store"),
            weighting=given.weighting,
            max_pairs=given.max_pairs,
            seed=given.seed,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    for name in FRAMES:
        getattr(found, name).to_csv(given.out / f"qk_{name}.csv", index=False)
    columns = ["layer", "head", "alignment", "contrast_relative", "other_contrast_relative"]
    top = found.heads.sort_values("alignment", ascending=False).head(12)
    print(f"{found.pairs} pairs, decomposition on {found.sampled}; the heads most aligned:")
    print(top[columns].to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
