"""On a CUDA device: MonoBERT-large's shape in bfloat16, nothing ablated and Table 1's 36 conditions, eager and compiled.

Prints pairs a second and the model FLOPs utilisation: multiply-adds that the job needs (`ceiling.needed`, 2 FLOPs each) against
the device's dense peak (from its name, or --peak-tflops) and against its own matrix product at 8192 x 4096 x 4096 in the same run.

    python benchmarks/gpu.py --collection FOLDER [--shape large] [--peak-tflops 989]
    python benchmarks/gpu.py --device cpu --smoke      # does the script run?
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from ceiling import needed
from common import (
    batches,
    compiled_forward,
    interleave,
    parse,
    parser,
    print_machine,
    print_pairs,
    print_table,
    print_timings,
    real_pairs,
    run_hf,
    subject,
)

from tl_crossenc.experiments.table1 import table1_conditions
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.model.execution import run_conditions

PEAKS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125, "4090": 165}
"""Dense bfloat16 TFLOP/s, from the makers' data sheets; the first name found in the device's counts."""


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, pairs=1600, shapes=("large",))
    options.add_argument("--device", default="cuda")
    options.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of the device")
    options.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    given = parse(options, argv)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(
            "gpu.py: expected a CUDA device, but there is none: run it where there is one, or with --device cpu --smoke"
        )
    print_machine()
    name = torch.cuda.get_device_name() if given.device.startswith("cuda") else "cpu"
    print(f"device: {name}")
    pairs = real_pairs(given.collection, given.pairs)
    for shape in given.shape:
        measure(shape, pairs, given, name)


def measure(shape: str, pairs, given, name: str) -> None:
    tested = subject(shape, torch.bfloat16, given.device)
    model, cfg = tested.model, tested.model.cfg
    budget = model.token_budget()
    print_pairs(pairs, given.collection, budget)
    sorted_batches = batches(pairs, budget, given.device)
    hf = tested.hf("sdpa")

    def wait() -> None:
        if given.device.startswith("cuda"):
            torch.cuda.synchronize()

    def forward() -> None:
        for batch in sorted_batches:
            model(batch)
        wait()

    def theirs() -> None:
        run_hf(hf, sorted_batches)
        wait()

    def ablated() -> None:
        with model.ablating("DOC->QUERY"):
            forward()

    jobs = {"Hugging Face SDPA": theirs, "ours": forward, "ours, DOC->QUERY removed": ablated}
    if not given.no_compile:
        compiled = compiled_forward(model)

        def fast() -> None:
            for batch in sorted_batches:
                compiled(batch)
            wait()

        jobs["ours, compiled"] = fast
    timings = interleave(jobs, given.rounds)
    print_timings(f"{shape}, bfloat16, {len(pairs)} pairs", timings, "Hugging Face SDPA")

    conditions = [UNABLATED, *table1_conditions().values()]
    found = {}

    def table1() -> None:
        found["scores"] = run_conditions(model, pairs, conditions, token_budget=budget)

    whole = interleave({"Table 1": table1}, 1 if given.smoke else 3)
    macs = needed(cfg, pairs.lengths)
    layers = found["scores"].layers_run / len(pairs) / cfg.n_layers
    rate = machine_rate(given.device, 256 if given.smoke else 4096, wait)
    peak = given.peak_tflops or next((tflops for key, tflops in PEAKS.items() if key in name), None)
    rows = []
    for job, seconds, count in (
        *((job, timings.median(job), macs) for job in jobs),
        ("Table 1, 37 conditions", whole.median("Table 1"), macs * layers),
    ):
        flops = 2 * count / seconds
        of_peak = f"{100 * flops / (peak * 1e12):.1f} %" if peak else "unknown peak"
        rows.append((job, f"{len(pairs) / seconds:.0f}", f"{flops / 1e12:.2f}", of_peak, f"{100 * flops / rate:.1f} %"))
    print_table("Utilisation", ("job", "pairs/s", "TFLOP/s", "of the peak (MFU)", "of its own matmul"), rows)
    if given.device.startswith("cuda"):
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


def machine_rate(device: str, size: int, wait) -> float:
    """FLOP/s of the device's own bfloat16 matrix product."""
    a = torch.randn(2 * size, size, device=device, dtype=torch.bfloat16)
    b = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    repeats = 20

    def product() -> None:
        for _ in range(repeats):
            a @ b
        wait()

    return repeats * 2 * 2 * size**3 / interleave({"product": product}, 5).median("product")


if __name__ == "__main__":
    main()
