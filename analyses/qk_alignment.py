"""Figure 2: per head, the contrast of the part means against the alignment of its query-key circuit, as CSV files.

python analyses/qk_alignment.py --model demo --collection demo

Writes `tables/qk_heads.csv`, `tables/qk_products.csv`, `tables/qk_spectrum.csv`, `tables/qk_decomposition.csv` and
`tables/qk_layers.csv`.
"""

from __future__ import annotations

import argparse

from common import run, write_table

from tl_crossenc.experiments.qk_alignment import run_qk_alignment
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store

FRAMES = ("heads", "products", "spectrum", "decomposition", "layers")


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--weighting", choices=("token", "pair"), default="token", help="of tokens in the part means")
    options.add_argument("--max-pairs", type=int, default=512, help="pairs that the decomposition is measured on")
    options.add_argument("--seed", type=int, default=0, help="of the draw of those pairs")


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    found = run_qk_alignment(
        model,
        pools,
        store,
        weighting=given.weighting,
        max_pairs=given.max_pairs,
        seed=given.seed,
    )
    for name in FRAMES:
        write_table(given, f"qk_{name}.csv", getattr(found, name), index=False)
    columns = ["layer", "head", "alignment", "contrast_relative", "other_contrast_relative"]
    top = found.heads.sort_values("alignment", ascending=False).head(12)
    print(f"{found.pairs} pairs, decomposition on {found.sampled}; the heads most aligned:")
    print(top[columns].to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    run(main, __doc__, add_options)
