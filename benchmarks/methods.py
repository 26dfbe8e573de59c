"""What the methods of `instruments` cost, in passes of the untouched model over the same pairs.

    python benchmarks/methods.py --collection FOLDER

Timed in turn with the model's own scores: bottlenecks at every layer, integrated gradients from one layer and from all,
conductance, leaving each token of the passage out, removal curves, and what reads heads and layers in a run or two. Two have
targets: 50 pairs x 6 layers of bottlenecks within five minutes and gradients of 100 pairs within two, on two cores, by the demo
model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from common import chosen, interleave, parse, parser, print_machine, print_pairs, print_table, real_pairs, subject

from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.instruments.bottleneck import fit_bottlenecks
from tl_crossenc.instruments.conductance import conductance
from tl_crossenc.instruments.faithfulness import removal_curves
from tl_crossenc.instruments.head_rankers import measure_head_scores
from tl_crossenc.instruments.integrated_gradients import integrated_gradients
from tl_crossenc.instruments.layer_features import layer_features
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.instruments.removal import Removal, model_scorer
from tl_crossenc.instruments.soft_tf import measure_soft_tf
from tl_crossenc.instruments.token_attributions import LEAVE_ONE_OUT, Attributing, token_attributions
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.execution import run_conditions

UNTOUCHED = "scores, untouched"
MASK = Removal("mask", "passage", 103)
"""BERT's `[MASK]`."""


def jobs(model: HookedCrossEncoder, pairs: EncodedPairs, others: EncodedPairs) -> dict[str, Callable[[], object]]:
    """The methods by what they are called in the table."""
    statistics = LayerStatistics.fit(model, others)
    given = Attributing(MASK)
    values = np.random.default_rng(0).random(len(pairs.tokens))
    baseline = "passage:pad"
    return {
        UNTOUCHED: lambda: run_conditions(model, pairs, [UNABLATED]),
        "heads as rankers, without calibration": lambda: measure_head_scores(model, pairs),
        "soft-TF of heads": lambda: measure_soft_tf(model, pairs),
        "features of layers, for probes": lambda: layer_features(model, pairs),
        "attention read by token": lambda: token_attributions(model, pairs, "attention", given),
        "removal curves of one attribution": lambda: removal_curves(model_scorer(model), pairs, values, MASK),
        "each token of the passage left out": lambda: token_attributions(model, pairs, LEAVE_ONE_OUT, given),
        "integrated gradients, one layer": lambda: integrated_gradients(model, pairs, baseline, layers=[0]),
        "integrated gradients, every layer": lambda: integrated_gradients(model, pairs, baseline),
        "conductance of neurons and heads": lambda: conductance(model, pairs, baseline),
        "bottlenecks, every layer": lambda: fit_bottlenecks(model, pairs, statistics),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser(__doc__, pairs=50)
    options.set_defaults(rounds=1)
    given = parse(options, argv)
    torch.set_grad_enabled(True)
    print_machine()
    everything = real_pairs(given.collection, 3 * given.pairs)
    places = np.arange(len(everything))
    middle = places[1::3]
    pairs, others = chosen(everything, middle), chosen(everything, np.setdiff1d(places, middle))
    print_pairs(pairs, given.collection, given.token_budget)
    for shape in given.shape:
        model = subject(shape).model
        timings = interleave({name: _silent(job) for name, job in jobs(model, pairs, others).items()}, given.rounds)
        rows = [
            (name, f"{timings.median(name):.2f}", f"{timings.ratio(name, UNTOUCHED):.1f}") for name in timings.seconds
        ]
        print_table(f"{len(pairs)} pairs, {shape}", ("", "median s", "untouched passes"), rows)


def _silent(job: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        job()

    return run


if __name__ == "__main__":
    main()
