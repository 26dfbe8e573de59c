"""A whole job, conditions over pairs, run three ways: what `table1.py` and `figure1a.py` share.

ours: `run_conditions`, shared prefixes, shared projections, edited rows only. The plain loop: our own model, a condition at a time
(each still with fused attention, length buckets and CLS alone in the last layer). TransformerLens 3.9: its loop over some of the
conditions on the same pairs, extrapolated by their number (each costs it the same: it runs every layer whole).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from common import interleave, parse, parser, print_table, subjects
from direction_ablation import zeroes
from tl39 import Worker, environment_option

from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.execution import run_conditions


def options(doc: str | None, pairs: int) -> argparse.ArgumentParser:
    """The options of a whole job."""
    found = parser(doc, pairs=pairs)
    environment_option(found)
    found.add_argument(
        "--tl39-conditions", type=int, default=3, help="conditions that its loop is timed on (default: 3)"
    )
    return found


def compare(
    name: str, given: argparse.Namespace, chosen_of, doc_of_conditions: str, targets: tuple[float | None, float | None]
) -> None:
    """Time the job three ways and print the ratios.

    Args:
        name: of the job.
        given: the arguments.
        chosen_of: layers -> [(direction, layers or None, condition)].
        doc_of_conditions: what the conditions are.
        targets: times faster than the plain loop and than TransformerLens 3.9.
    """
    for tested, pairs in subjects(given, share=4, print_each=True):
        _compare_one(name, given, tested.model, pairs, chosen_of(tested.model.cfg.n_layers), doc_of_conditions, targets)


def _compare_one(name, given, model, pairs, chosen, doc_of_conditions, targets) -> None:
    conditions = [UNABLATED, *(condition for _, _, condition in chosen)]
    found = {}

    def ours() -> None:
        found["ours"] = run_conditions(model, pairs, conditions, token_budget=given.token_budget)

    def loop() -> None:
        found["loop"] = np.concatenate(
            [run_conditions(model, pairs, [one], token_budget=given.token_budget).values for one in conditions]
        )

    jobs = {"ours": ours, "plain loop": loop}
    worker = None
    if given.tl39_env is not None:
        worker = Worker(given.tl39_env, model, pairs, torch.get_num_threads())
        picked = [chosen[i] for i in np.linspace(0, len(chosen) - 1, given.tl39_conditions).astype(int)]
        share = len(picked) / len(conditions)
        jobs["TransformerLens 3.9 loop"] = lambda: _loop39(worker, picked) / share
    timings = interleave(jobs, given.rounds)
    result = found["ours"]
    rows = [(job, f"{timings.median(job):.2f}", f"{timings.ratio(job, 'ours'):.2f}") for job in jobs]
    print_table(
        f"{name}: {len(conditions)} conditions ({doc_of_conditions}) x {len(pairs)} pairs, {model.cfg.model_name}",
        ("", "median s", "times ours"),
        rows,
    )
    print(
        f"\nlayers run for each pair: {result.layers_run // len(pairs)} (alone: {result.layers_alone // len(pairs)}); largest "
        f"difference of scores to the plain loop: {np.abs(result.values - found['loop']).max():.1e}"
    )
    if targets[0] is not None:
        print(f"target against the plain loop: {targets[0]:g} x")
    if worker is not None:
        print(f"TransformerLens 3.9: timed on {len(picked)} conditions, extrapolated by their number")
        worker.close()


def _loop39(worker: Worker, picked: Sequence[tuple[Direction, Sequence[int] | None, Condition]]) -> float:
    return sum(
        worker.run(zeroes(direction), None if layers is None else list(layers))["seconds"]
        for direction, layers, _ in picked
    )


def run(argv: Sequence[str] | None, doc: str | None, pairs: int, **job) -> None:
    """Parse and compare."""
    given = parse(options(doc, pairs), argv)
    start = time.perf_counter()
    compare(given=given, **job)
    print(f"\n(took {time.perf_counter() - start:.0f} s)")
