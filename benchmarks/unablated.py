"""Nothing ablated: our scores against Hugging Face's SDPA model on the same length-sorted batches.

python benchmarks/unablated.py --collection FOLDER --shape minilm base [--compile]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from common import batches, compiled_forward, interleave, parse, parser, print_timings, run_hf, subjects


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, pairs=192, shapes=("minilm", "base"))
    options.add_argument("--compile", action="store_true", help="our pass under torch.compile as well")
    given = parse(options, argv)
    for tested, pairs in subjects(given, share=3):
        sorted_batches = batches(pairs, given.token_budget)
        hf = tested.hf("sdpa")
        theirs = torch.cat(run_hf(hf, sorted_batches))
        ours = torch.cat([tested.model(batch, return_type="logits") for batch in sorted_batches])
        print(f"\nlargest difference of logits: {float((theirs - ours).abs().max()):.1e}")

        def run_ours(model=tested.model, over=sorted_batches) -> None:
            for batch in over:
                model(batch)

        def run_theirs(model=hf, over=sorted_batches) -> None:
            run_hf(model, over)

        jobs = {"Hugging Face SDPA": run_theirs, "ours": run_ours}
        if given.compile:
            compiled = compiled_forward(tested.model)

            def run_compiled(model=compiled, over=sorted_batches) -> None:
                for batch in over:
                    model(batch)

            jobs["ours, compiled"] = run_compiled
        timings = interleave(jobs, given.rounds)
        print_timings(f"{tested.shape}, {len(pairs)} pairs", timings, "Hugging Face SDPA")
        print(f"throughput against Hugging Face: {timings.ratio('Hugging Face SDPA', 'ours'):.2f} x")


if __name__ == "__main__":
    main()
