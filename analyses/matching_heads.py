"""Figure 1b: the difference in attention between relevant passages and negatives, per head, with a test over queries.

python analyses/matching_heads.py --model demo --collection demo
python analyses/matching_heads.py --relevant-grades 1,2,3 --against 0 --directions 'CLS->DOC' --quantity density

Writes `tables/matching_heads.csv` and the heads that pass as `heads/matching.json`, which other commands take as `@matching`.
"""

from common import bad_input_in_one_sentence, grade_options, grade_settings, opened, parser, write_table

from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.matching import MATCHING_DIRECTIONS, matching_heads, passing_heads
from tl_crossenc.interventions.heads import format_heads, save_heads
from tl_crossenc.pools.grades import scale_sentence
from tl_crossenc.results.job import heads_source, model_source


@bad_input_in_one_sentence()
def main() -> None:
    options = parser(__doc__)
    grade_options(options)
    options.add_argument("--directions", nargs="+", default=list(MATCHING_DIRECTIONS))
    given = options.parse_args()
    model, pools, store = opened(given)
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
    main()
