"""Figure 1b: the difference in attention between relevant passages and negatives, per head, with a test over queries.

python analyses/matching_heads.py --model demo --collection demo --out results
python analyses/matching_heads.py --against 0 --directions 'CLS->DOC' --quantity density

Writes `matching_heads.csv` and the heads that pass as `heads/matching.json`, which other commands take as `@matching`.
"""

import argparse
from pathlib import Path

from tl_crossenc.collections import load_collection
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.matching import MATCHING_DIRECTIONS, RELEVANT_GRADES, matching_heads, passing_heads
from tl_crossenc.experiments.unavailable import Unavailable
from tl_crossenc.heads import format_heads, save_heads
from tl_crossenc.outputs import write_frame
from tl_crossenc.pools import build_pool
from tl_crossenc.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--collection", nargs="+", default=["demo"])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--relevant", type=int, nargs="+", default=list(RELEVANT_GRADES))
    parser.add_argument("--against", type=int, nargs="+", default=[-1], help="-1: easy negatives, 0: hard negatives")
    parser.add_argument("--directions", nargs="+", default=list(MATCHING_DIRECTIONS))
    parser.add_argument("--quantity", choices=("mass", "density"), default="mass")
    arguments = parser.parse_args()
    model = HookedCrossEncoder.from_pretrained(arguments.model, device=arguments.device)
    pools = [build_pool(load_collection(name)) for name in arguments.collection]
    attention = run_attention(model, pools, Store(arguments.out))
    settings = {
        "relevant_grades": arguments.relevant,
        "against": arguments.against,
        "directions": arguments.directions,
        "quantity": arguments.quantity,
    }
    try:
        frame = matching_heads(attention, **settings)
    except Unavailable as error:
        raise SystemExit(f"matching heads: {error}") from None
    heads = passing_heads(frame)
    write_frame(arguments.out / "matching_heads.csv", frame, index=False)
    about = {"model": arguments.model, "pools": {pool.collection: pool.digest for pool in pools}, **settings}
    save_heads(arguments.out, "matching", heads, about)
    print(f"{len(heads)} of {attention.n_layers * attention.n_heads} heads pass: {format_heads(heads) or 'none'}")


if __name__ == "__main__":
    main()
