"""How near to the machine's own matrix products a job comes, and the profile of what is left.

Counted are the multiply-adds that the job needs: real tokens only, the last layer's CLS row only, attention over real lengths.
The ceiling is the rate of bare matrix products (`F.linear` and batched `matmul`, outputs thrown away) at the shapes of the same
batches (all layers but the last), timed in the same rounds. The fraction is the job's rate over that rate; padding counts against
us. The last column does not: it is the share of our time that the same products take bare, padding and all.

    python benchmarks/ceiling.py --collection FOLDER --shape minilm base --profile
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from common import batches, interleave, parse, parser, print_table, subjects

from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch
from tl_crossenc.model.config import CrossEncoderConfig


def needed(cfg: CrossEncoderConfig, lengths: Sequence[int]) -> int:
    """Multiply-adds of scoring pairs of these lengths, nothing ablated; in the last layer CLS reads the residual stream itself."""
    d, mlp, last = cfg.d_model, cfg.d_mlp, cfg.n_layers - 1
    row = 4 * d * d + 2 * d * mlp  # query, key, value and output projections, MLP
    total = 0
    for n in map(int, lengths):
        total += last * (n * row + 2 * n * n * d) + row + 2 * n * cfg.n_heads * d + d * d + d
    return total


def products(cfg: CrossEncoderConfig, given: Sequence[PairBatch]) -> tuple[list, int]:
    """Bare matrix products at the shapes of the batches as (function, times), and their multiply-adds, padding included."""
    d, mlp, layers = cfg.d_model, cfg.d_mlp, cfg.n_layers - 1
    weights = {size: torch.randn(size) for size in ((3 * d, d), (d, d), (mlp, d), (d, mlp))}
    found, count = [], 0
    for batch in given:
        n_pairs, width = batch.tokens.shape
        rows = n_pairs * width
        x, wide = torch.randn(rows, d), torch.randn(rows, mlp)
        heads = torch.randn(n_pairs, cfg.n_heads, width, cfg.d_head)
        pattern = torch.randn(n_pairs, cfg.n_heads, width, width)

        def run(x=x, wide=wide, heads=heads, pattern=pattern) -> None:
            F.linear(x, weights[3 * d, d])
            torch.matmul(heads, heads.transpose(2, 3))
            torch.matmul(pattern, heads)
            F.linear(x, weights[d, d])
            F.linear(x, weights[mlp, d])
            F.linear(wide, weights[d, mlp])

        found.append(run)
        count += rows * (4 * d * d + 2 * d * mlp) + 2 * n_pairs * width * width * d
    return [(run, layers) for run in found], layers * count


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, pairs=192, shapes=("minilm", "base"))
    options.add_argument("--profile", action="store_true", help="where the time of our forward pass goes, by operation")
    given = parse(options, argv)
    rows = []
    for tested, pairs in subjects(given, share=3):
        rows += measure(tested.shape, tested.model, pairs, given)
        if given.profile:
            profile(tested.shape, tested.model, pairs, given.token_budget)
    header = (
        "job",
        "multiply-adds needed",
        "s",
        "GMAC/s",
        "bare products, GMAC/s",
        "fraction",
        "bare products' time / its time",
    )
    print_table("Fraction of the machine's own matrix product", header, rows)


def measure(shape: str, model, pairs: EncodedPairs, given) -> list[tuple]:
    sorted_batches = batches(pairs, given.token_budget)
    bare, bare_count = products(model.cfg, sorted_batches)

    def forward() -> None:
        for batch in sorted_batches:
            model(batch)

    def ablated() -> None:
        with model.ablating("DOC->QUERY"):
            forward()

    def ceiling() -> None:
        for run, times in bare:
            for _ in range(times):
                run()

    timings = interleave({"unablated": forward, "DOC->QUERY removed": ablated, "bare": ceiling}, given.rounds)
    macs = needed(model.cfg, pairs.lengths)
    machine = bare_count / timings.median("bare") / 1e9
    rows = []
    for job in ("unablated", "DOC->QUERY removed"):
        fraction = macs / bare_count / timings.ratio(job, "bare")
        seconds = timings.median(job)
        rows.append(
            (
                f"{shape}, {job}",
                f"{macs / 1e9:.0f} G",
                f"{seconds:.2f}",
                f"{macs / seconds / 1e9:.0f}",
                f"{machine:.0f}",
                f"{fraction:.2f}",
                f"{1 / timings.ratio(job, 'bare'):.2f}",
            )
        )
    return rows


def profile(shape: str, model, pairs: EncodedPairs, token_budget: int) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recording

    sorted_batches = batches(pairs, token_budget)
    with recording(activities=[ProfilerActivity.CPU]) as recorded:
        for batch in sorted_batches:
            model(batch)
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    rows = [(event.key, event.count, f"{100 * event.self_cpu_time_total / total:.1f} %") for event in events[:10]]
    print_table(f"{shape}: where the time goes", ("operation", "calls", "share"), rows)


if __name__ == "__main__":
    main()
