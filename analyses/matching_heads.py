"""Figure 1b: the difference in attention between relevant passages and negatives, per head, with a test over queries.

python analyses/matching_heads.py --model demo --collection demo
python analyses/matching_heads.py --relevant-grades 1,2,3 --against 0 --directions 'CLS->DOC' --quantity density

Writes `tables/matching_heads.csv` and the heads that pass as `heads/matching.json`, which other commands take as `@matching`.
"""

import argparse

from common import grade_options, grade_settings, run, write_table

from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.matching import MATCHING_DIRECTIONS, matching_heads, passing_heads
from tl_crossenc.interventions.heads import format_heads, save_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.grades import scale_sentence
from tl_crossenc.pools.pool import Pool
from tl_crossenc.results.job import heads_source, model_source
from tl_crossenc.store.cells import Store


def add_options(options: argparse.ArgumentParser) -> None:
    grade_options(options)
    options.add_argument("--directions", nargs="+", default=list(MATCHING_DIRECTIONS))


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    attention = run_attention(model, pools, store)
    frame = matching_heads(attention, directions=given.directions, **grade_settings(given))
    print(f"relevant: {scale_sentence(attention.highest_grades, frame.attrs['relevant_grades'])}")
    heads = passing_heads(frame)
    write_table(given, "matching_heads.csv", frame, index=False)
    about = {"model": given.model, "pools": {pool.collection: pool.digest for pool in pools}}
    about |= {"directions": given.directions, **frame.attrs}
    save_heads(given.out, "matching", heads, about, heads_source(model_source(model), pools))
    print(f"{len(heads)} of {attention.n_layers * attention.n_heads} heads pass: {format_heads(heads) or 'none'}")


if __name__ == "__main__":
    run(main, __doc__, add_options)
