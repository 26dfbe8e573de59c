"""On a CUDA device: MonoBERT-large's shape in bfloat16, nothing ablated and Table 1's 36 conditions, eager and compiled.

Prints, for pairs of random tokens with the lengths of TREC's (or a collection's own pairs):

- pairs a second and the model FLOPs utilisation: multiply-adds that the job needs (`ceiling.needed`, 2 FLOPs each) against the
  device's dense peak (from its name, or --peak-tflops) and against its own matrix product at 8192 x 4096 x 4096 in the same run;
- Table 1's 37 conditions beside 37 passes of Hugging Face's model over the same sorted batches, in turns (target: 1.15 x at most);
- which kernels attend, by the profiler's names, with their share of the device's time, and how long the device was busy: what is
  missing from 1 is host work that nothing hid.

    python benchmarks/gpu.py [--collection FOLDER] [--shape large] [--peak-tflops 989]
    python benchmarks/gpu.py --device cpu --smoke --compile-backend eager      # does the script run?
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence

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
    trec_pairs,
)
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.profiler import profile as recording

from tl_crossenc.experiments.table1 import table1_conditions
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.model.execution import run_conditions

PEAKS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125, "4090": 165}
"""Dense bfloat16 TFLOP/s, from the makers' data sheets; the first name found in the device's counts."""

ATTENDING = re.compile("flash|fmha|attention|attn|sdpa|softmax", re.IGNORECASE)
"""In the names of kernels that attend, of whichever library."""
TARGET = 1.15


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, pairs=2000, shapes=("large",))
    options.set_defaults(collection="trec")
    options.add_argument("--device", default="cuda")
    options.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of the device")
    options.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options.add_argument("--compile-backend", default="inductor", help="of torch.compile (default: inductor)")
    given = parse(options, argv)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(
            "gpu.py: expected a CUDA device, but there is none: run it where there is one, or with --device cpu --smoke"
        )
    print_machine()
    name = torch.cuda.get_device_name() if given.device.startswith("cuda") else "cpu"
    print(f"device: {name}")
    pairs = trec_pairs(given.pairs) if given.collection == "trec" else real_pairs(given.collection, given.pairs)
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
        compiled = compiled_forward(model, given.compile_backend)

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

    def passes() -> None:
        for _ in conditions:
            theirs()

    many = f"{len(conditions)} passes of Hugging Face's"
    whole = interleave({many: passes, "Table 1": table1}, 1 if given.smoke else 3)
    print_timings(f"{shape}, Table 1's {len(conditions)} conditions; target: {TARGET} at most", whole, many)
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
    rows, busy = [], []
    for job, run in (*jobs.items(), ("Table 1, 37 conditions", table1)):
        kernels, share = profiled(run, given.device, wait)
        busy.append((job, f"{100 * share:.1f} %"))
        rows += [(job, kernel[:90], calls, f"{100 * part:.1f} %") for kernel, calls, part in kernels]
    where = (
        "kernels of the device" if given.device.startswith("cuda") else "operations of the CPU, as there is no device"
    )
    print_table(f"What attends ({where})", ("job", "name", "calls", "of the time"), rows)
    print_table(f"Busy ({where}), of the job's time under the profiler", ("job", "share"), busy)
    if given.device.startswith("cuda"):
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


def profiled(
    job: Callable[[], object], device: str, wait: Callable[[], None]
) -> tuple[list[tuple[str, int, float]], float]:
    """(name, calls, share of the time in which anything ran) of what attends; and in which share of the job's time anything did.

    On a CUDA device of its kernels; else of operations, which are one in another.
    """
    cuda = device.startswith("cuda")
    with recording(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as recorded:
        start = time.perf_counter()
        job()
        wait()
        took = 1e6 * (time.perf_counter() - start)
    kind = DeviceType.CUDA if cuda else DeviceType.CPU
    events = [event for event in recorded.events() if event.device_type == kind]
    busy = covered([(event.time_range.start, event.time_range.end) for event in events])
    found: dict[str, tuple[int, float]] = {}
    for event in events:
        if ATTENDING.search(event.name):
            calls, spent = found.get(event.name, (0, 0.0))
            found[event.name] = calls + 1, spent + event.time_range.elapsed_us()
    named = sorted(((name, calls, spent / busy) for name, (calls, spent) in found.items()), key=lambda row: -row[2])
    return named, busy / took


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of what any of the spans covers: kernels of several streams may run at once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


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
