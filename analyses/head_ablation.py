"""Do the matching heads matter? The heads that Figure 1b ranks highest, removed, against random heads of the same layers.

python analyses/head_ablation.py --model demo --collection demo --out results
python analyses/head_ablation.py --heads @matching:8 --counts 2 4 8 --draws 20

Writes `head_ablation.csv`, `head_ablation_draws.csv` and `head_ablation_per_query.csv`.
"""

import argparse
from pathlib import Path

from tl_crossenc.collections import load_collection
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.head_ablation import run_head_ablation
from tl_crossenc.experiments.matching import matching_heads
from tl_crossenc.experiments.paper import ranked_heads
from tl_crossenc.experiments.unavailable import Unavailable
from tl_crossenc.heads import resolve_heads
from tl_crossenc.outputs import write_frame
from tl_crossenc.pools import build_pool
from tl_crossenc.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--collection", nargs="+", default=["demo"])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--heads", help="best first, 3.7,4.1 or @matching; by default as Figure 1b ranks them")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = HookedCrossEncoder.from_pretrained(arguments.model, device=arguments.device)
    pools = [build_pool(load_collection(name)) for name in arguments.collection]
    store = Store(arguments.out)
    try:
        if arguments.heads is None:
            ranking = ranked_heads(matching_heads(run_attention(model, pools, store)))
        else:
            ranking = resolve_heads(arguments.heads, arguments.out)
    except Unavailable as error:
        raise SystemExit(f"head ablation: {error}") from None
    found = run_head_ablation(
        model, pools, store, ranking, counts=arguments.counts, n_draws=arguments.draws, seed=arguments.seed
    )
    for name, frame in (("", found.curve), ("_draws", found.draws), ("_per_query", found.per_query)):
        write_frame(arguments.out / f"head_ablation{name}.csv", frame, index=name == "_per_query")
    print(found.curve.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
