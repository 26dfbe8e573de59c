"""The sinks ("no-op"): attention mass on CLS, the separators and full stops, by layer and attender.

python analyses/sinks.py --model demo --collection demo --out results

Writes `sinks_by_layer.csv` (means over heads) and `sinks_by_head.csv`, and prints the means over all positions beside those of
Zhan et al. 2020 where the model has as many layers as theirs.
"""

import argparse
from pathlib import Path

from tl_crossenc.collections import load_collection
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.sinks import measure_sinks
from tl_crossenc.outputs import write_frame
from tl_crossenc.pools import build_pool
from tl_crossenc.published import ZHAN_2020, ZHAN_2020_SEP_MASS
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
    sinks = measure_sinks(run_attention(model, pools, Store(arguments.out)))
    write_frame(arguments.out / "sinks_by_layer.csv", sinks.by_layer, index=False)
    write_frame(arguments.out / "sinks_by_head.csv", sinks.by_head, index=False)
    rows = sinks.by_layer[sinks.by_layer["attender"] == "ALL"]
    table = rows.pivot(index="layer", columns="sink", values="mass")
    if len(table) == len(ZHAN_2020_SEP_MASS):
        table[f"SEP, {ZHAN_2020}"] = ZHAN_2020_SEP_MASS
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
