"""Table 1: nDCG@10 with each direction of attention removed in every layer and head.

python analyses/table1.py --model demo --collection demo --out results
python analyses/table1.py --mode mask --gain exponential

Writes `table1.csv` and `table1.md`, and `table1_per_query.csv`.
"""

import argparse
from pathlib import Path

from tl_crossenc.collections import load_collection
from tl_crossenc.conditions import MODES
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.experiments.table1 import run_table1
from tl_crossenc.files import write_atomic
from tl_crossenc.outputs import write_frame
from tl_crossenc.pools import build_pool
from tl_crossenc.store import Store
from tl_crossenc.tables import markdown_table, table1_csv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--collection", nargs="+", default=["demo"])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--mode", choices=MODES, default="zero")
    parser.add_argument("--gain", choices=("linear", "exponential"), default="linear")
    arguments = parser.parse_args()
    model = HookedCrossEncoder.from_pretrained(arguments.model, device=arguments.device)
    pools = [build_pool(load_collection(name)) for name in arguments.collection]
    table = run_table1(model, pools, Store(arguments.out), mode=arguments.mode, gain=arguments.gain)
    write_frame(arguments.out / "table1.csv", table1_csv(table.comparison))
    write_frame(arguments.out / "table1_per_query.csv", table.per_query)
    text = markdown_table(table.comparison, table.unablated)
    write_atomic(arguments.out / "table1.md", text)
    print(f"{text}\nunablated {table.unablated:.3f}, random {table.random.mean():.3f}")


if __name__ == "__main__":
    main()
