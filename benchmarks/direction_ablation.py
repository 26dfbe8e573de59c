"""One direction removed in every layer and head, against what users would write otherwise.

    python benchmarks/direction_ablation.py --collection FOLDER --shape minilm --tl39-env CACHE/tl39

Compared, on the same pairs: Hugging Face SDPA with nothing ablated (sorted batches); Hugging Face eager with the pattern edited in
a patched attention (sorted batches); TransformerLens 3.9's HookedEncoder with a pattern hook (batches of 32 in the order given; in
an environment of its own, made on first use; rounds alternate by commanding its process).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from common import batches, interleave, parse, parser, print_timings, replaced, run_hf, subjects
from tl39 import Worker, environment_option

from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.inputs.parts import N_PARTS
from tl_crossenc.interventions.conditions import MODES
from tl_crossenc.interventions.directions import Direction

DIRECTIONS = ("DOC->QUERY", "QUERY->DOC", "CLS->DOC", "DOC->DOC", "ALL->SEP1", "DOC->ALL")


def side(part: Any) -> list[int]:
    """The codes of a part, of all for None or ALL."""
    return list(range(N_PARTS)) if part is None or str(part) == "ALL" else [int(part)]


def zeroes(direction: Direction) -> list[tuple[list[int], list[int]]]:
    """A direction as (attender codes, attended codes)."""
    return [(side(direction.attender), side(direction.attended))]


@contextmanager
def pattern_edited(batch: PairBatch, zero: Sequence[tuple[list[int], list[int]]]) -> Iterator[None]:
    """Hugging Face's eager attention with the pattern multiplied by 0 in some directions."""
    from transformers.models.bert import modeling_bert

    codes = batch.parts.codes
    keep = torch.ones(len(batch), 1, codes.shape[1], codes.shape[1])
    for attenders, attended in zero:
        rows, columns = (torch.isin(codes, torch.tensor(chosen, dtype=codes.dtype)) for chosen in (attenders, attended))
        keep[rows[:, None, :, None] & columns[:, None, None, :]] = 0.0

    def attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        scores = query @ key.transpose(2, 3) * scaling
        if attention_mask is not None:
            scores = scores + attention_mask
        pattern = scores.softmax(-1) * keep
        return (pattern @ value).transpose(1, 2).contiguous(), pattern

    with replaced(modeling_bert, "eager_attention_forward", attention):
        yield


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, pairs=192)
    environment_option(options)
    options.add_argument("--direction", nargs="+", default=list(DIRECTIONS))
    given = parse(options, argv)
    for tested, pairs in subjects(given, share=6, print_each=True):
        compare(tested, pairs, given)


def compare(tested, pairs, given) -> None:
    directions = [Direction.parse(text) for text in given.direction]
    sorted_batches = batches(pairs, given.token_budget)
    sdpa, eager = tested.hf("sdpa"), tested.hf("eager")
    worker = None
    if given.tl39_env is not None:
        worker = Worker(given.tl39_env, tested.model, pairs, torch.get_num_threads())
        print(f"beside it: {worker.versions}")

    def untouched() -> None:
        run_hf(sdpa, sorted_batches)

    def ours(direction=None, mode: str = "zero") -> torch.Tensor:
        with tested.model.ablating(direction, mode=mode):
            return torch.cat([tested.model(batch) for batch in sorted_batches])

    def edited() -> torch.Tensor:
        found = []
        for batch in sorted_batches:
            with pattern_edited(batch, zeroes(directions[0])):
                found += run_hf(eager, [batch])
        return torch.cat(found)

    jobs = {"Hugging Face SDPA, untouched": untouched}
    for direction in directions:
        for mode in MODES:
            jobs[f"ours, {direction}, {mode}"] = lambda direction=direction, mode=mode: ours(direction, mode)
    jobs = {name: _silent(job) for name, job in jobs.items()}
    timings = interleave(jobs, given.rounds)
    print_timings(
        f"{tested.shape}, {len(pairs)} pairs, one direction everywhere", timings, "Hugging Face SDPA, untouched"
    )

    first = directions[0]
    label = f"ours, {first}, zero"
    slow = {label: _silent(lambda: ours(first)), "Hugging Face eager, pattern edited": _silent(edited)}
    got = ours(first)
    logits = edited()
    theirs = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
    print(f"\nlargest difference of scores to the patched Hugging Face: {float((got - theirs).abs().max()):.1e}")
    if worker is not None:
        own = run_in_order(tested.model, pairs, first, given.token_budget)
        alike = torch.tensor(worker.run(zeroes(first))["scores"])
        print(f"largest difference of scores to TransformerLens 3.9: {float((own - alike).abs().max()):.1e}")
        slow["TransformerLens 3.9, pattern hook"] = lambda: worker.run(zeroes(first))["seconds"]
    timings = interleave(slow, given.rounds)
    print_timings(f"{tested.shape}, {len(pairs)} pairs, what users write today", timings, label)
    if worker is not None:
        worker.close()


def run_in_order(model, pairs, direction: Direction, token_budget: int) -> torch.Tensor:
    """Our scores in the order given."""
    from tl_crossenc.interventions.conditions import Condition
    from tl_crossenc.model.execution import run_conditions

    return torch.from_numpy(
        run_conditions(model, pairs, [Condition.ablate(direction)], token_budget=token_budget).values[0]
    )


def _silent(job):
    """A job whose result is thrown away."""

    def run() -> None:
        job()

    return run


if __name__ == "__main__":
    main()
