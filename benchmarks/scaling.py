"""Time and peak memory against pairs, passage length, layers and conditions. Each point is a process of its own.

Memory is the peak resident size beyond what it was when model and pairs were loaded. Linear in pairs, flat memory: expected.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --cost-model      # seconds a token and layer, by family; see cost_model.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import SHAPES, parse, parser, ported, print_machine, print_table, random_checkpoint, random_pairs
from cost_model import FAMILIES as COSTED
from cost_model import measure
from families import FAMILIES

from tl_crossenc.experiments.layers import sweep_conditions
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.execution import run_conditions

START = {"pairs": 64, "length": 96, "layers": 6, "conditions": 7}
SWEEPS = {
    "pairs": (64, 128, 256, 512),
    "length": (32, 96, 192, 384),
    "layers": (3, 6, 12),
    "conditions": (1, 7, 19, 37),
}


def make_pairs(n_pairs: int, length: int) -> EncodedPairs:
    """Pairs of random tokens, `length` long on average, with queries of 8 tokens."""
    rng = np.random.default_rng(0)
    return random_pairs(np.clip(rng.normal(length, length / 5, n_pairs), 16, 512).astype(int), query=8)


def peak_memory(reset: bool = False) -> float:
    """MiB of the largest resident size so far; with `reset`, from now on (Linux; elsewhere the peak of loading stays in it)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def point(sizes: dict[str, int], shape: str, token_budget: int) -> dict[str, float]:
    """Seconds and MiB of one point, in this process."""
    model = ported(random_checkpoint("random", {**SHAPES[shape], "num_hidden_layers": sizes["layers"]}))
    pairs = make_pairs(sizes["pairs"], sizes["length"])
    directions = [
        Direction.parse(text) for text in ("DOC->QUERY", "QUERY->DOC", "CLS->DOC", "DOC->DOC", "ALL->SEP1", "DOC->SEP2")
    ]
    conditions = [UNABLATED, *sweep_conditions(directions, sizes["layers"]).values()][: sizes["conditions"]]
    run_conditions(model, make_pairs(2, 32), conditions[:1])
    before = peak_memory(reset=True)
    start = time.perf_counter()
    run_conditions(model, pairs, conditions, token_budget=token_budget)
    took = time.perf_counter() - start
    return {"seconds": took, "mebibytes": peak_memory() - before, "tokens": int(pairs.lengths.sum())}


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, pairs=64)
    options.add_argument("--cost-model", action="store_true", help="seconds of a layer, by family")
    options.add_argument("--family", nargs="+", choices=tuple(FAMILIES), default=list(COSTED), help="of the cost model")
    options.add_argument("--device", default="cpu", help="of the cost model (default: cpu)")
    options.add_argument("--point", help=argparse.SUPPRESS)
    given = parse(options, argv)
    if given.point:
        asked = json.loads(given.point)
        print(json.dumps(point(asked["sizes"], asked["shape"], asked["budget"])))
        return
    print_machine()
    if given.cost_model:
        measure(given, given.device)
        return
    shape = given.shape[0]
    for name, values in SWEEPS.items():
        rows = []
        for value in values[:2] if given.smoke else values:
            sizes = {**START, name: value}
            if given.smoke:
                sizes = {**sizes, "pairs": min(sizes["pairs"], 16), "layers": min(sizes["layers"], 3)}
            asked = json.dumps({"sizes": sizes, "shape": shape, "budget": given.token_budget})
            taken = [_in_a_process(asked) for _ in range(1 if given.smoke else given.rounds)]
            best = sorted(taken, key=lambda t: t["seconds"])[len(taken) // 2]
            peak = max(t["mebibytes"] for t in taken)
            per = 1e3 * best["seconds"] / sizes[name]
            rows.append((value, f"{best['tokens']:,}", f"{best['seconds']:.2f}", f"{per:.2f}", f"{peak:.0f}"))
        rest = ", ".join(f"{value} {what}" for what, value in START.items() if what != name)
        print_table(
            f"{shape}: against {name} ({rest})",
            (name, "tokens", "s", f"ms for each of {name}", "peak MiB more"),
            rows,
        )


def _in_a_process(asked: str) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", __file__, "--threads", str(torch.get_num_threads()), "--point", asked]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
