"""Figure 1b: the difference in attention between relevant passages and negatives, per head, with a test over queries.

python analyses/matching_heads.py --model demo --collection demo
python analyses/matching_heads.py --against 0 --directions 'CLS->DOC' --quantity density

Writes `matching_heads.csv` and the heads that pass as `heads/matching.json`, which other commands take as `@matching`.
"""

from common import bad_input_in_one_sentence, opened, parser

from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.matching import MATCHING_DIRECTIONS, RELEVANT_GRADES, matching_heads, passing_heads
from tl_crossenc.heads import format_heads, save_heads
from tl_crossenc.outputs import write_frame


@bad_input_in_one_sentence()
def main() -> None:
    options = parser(__doc__)
    options.add_argument("--relevant", type=int, nargs="+", default=list(RELEVANT_GRADES))
    options.add_argument("--against", type=int, nargs="+", default=[-1], help="-1: easy negatives, 0: hard negatives")
    options.add_argument("--directions", nargs="+", default=list(MATCHING_DIRECTIONS))
    options.add_argument("--quantity", choices=("mass", "density"), default="mass")
    given = options.parse_args()
    model, pools, store = opened(given)
    attention = run_attention(model, pools, store)
    settings = {
        "relevant_grades": given.relevant,
        "against": given.against,
        "directions": given.directions,
        "quantity": given.quantity,
    }
    frame = matching_heads(attention, **settings)
    heads = passing_heads(frame)
    write_frame(given.out / "matching_heads.csv", frame, index=False)
    about = {"model": given.model, "pools": {pool.collection: pool.digest for pool in pools}, **settings}
    save_heads(given.out, "matching", heads, about)
    print(f"{len(heads)} of {attention.n_layers * attention.n_heads} heads pass: {format_heads(heads) or 'none'}")


if __name__ == "__main__":
    main()
