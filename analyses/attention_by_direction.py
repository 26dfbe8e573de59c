"""Attention mass and density of every direction in every layer and head, by grade.

python analyses/attention_by_direction.py --model demo --collection demo --out results

Writes `attention_by_direction.csv`, a row a (layer, head, attender, attended, grade, quantity), and the per-query means of
QUERY->DOC and DOC->QUERY as `attention_per_query.parquet`. A second run measures nothing anew.
"""

import argparse
from pathlib import Path

import pandas as pd

from tl_crossenc.collections import load_collection
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.matching import MATCHING_DIRECTIONS
from tl_crossenc.outputs import write_frame
from tl_crossenc.pools import build_pool
from tl_crossenc.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--collection", nargs="+", default=["demo"])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    model = HookedCrossEncoder.from_pretrained(arguments.model, device=arguments.device)
    pools = [build_pool(load_collection(name)) for name in arguments.collection]
    attention = run_attention(model, pools, Store(arguments.out))
    write_frame(arguments.out / "attention_by_direction.csv", attention.by_direction, index=False)
    per_query = [
        attention.per_query(direction, quantity).assign(direction=direction, quantity=quantity)
        for direction in MATCHING_DIRECTIONS
        for quantity in ("mass", "density")
    ]
    write_frame(arguments.out / "attention_per_query.parquet", pd.concat(per_query, ignore_index=True), index=False)
    print(f"wrote attention_by_direction.csv and attention_per_query.parquet in {arguments.out}")


if __name__ == "__main__":
    main()
