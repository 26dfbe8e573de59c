"""Attention mass and density of every direction in every layer and head, by grade.

python analyses/attention_by_direction.py --model demo --collection demo

Writes `tables/attention_by_direction.csv`, a row a (layer, head, attender, attended, grade, quantity), and the per-query means
of QUERY->DOC and DOC->QUERY as `tables/attention_per_query.parquet`. A second run measures nothing anew.
"""

import argparse

import pandas as pd
from common import run, write_table

from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.matching import MATCHING_DIRECTIONS
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    attention = run_attention(model, pools, store)
    write_table(given, "attention_by_direction.csv", attention.by_direction, index=False)
    per_query = [
        attention.per_query(direction, quantity).assign(direction=direction, quantity=quantity)
        for direction in MATCHING_DIRECTIONS
        for quantity in ("mass", "density")
    ]
    write_table(given, "attention_per_query.parquet", pd.concat(per_query, ignore_index=True), index=False)


if __name__ == "__main__":
    run(main, __doc__)
