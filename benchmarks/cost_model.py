"""What a layer costs, by family: measured at several widths and lengths, fitted, and checked on points that it was not fitted on.

    seconds of a layer = weights * tokens * (4 d² + 2 d d_mlp)       projections and MLP, multiply-adds
                       + attention * tokens * n * 2 d                scores and sums over n positions, multiply-adds
                       + elements * tokens * d                       norms, GELU, residual stream
                       + call                                        of a batch

with constants, none below 0, that make the relative errors small (least squares). A model of L layers takes L - 1 of these: of the
last only CLS is run. Several conditions take as many layers as `count_layer_runs` counts. Points are batches of pairs of one
length, without padding, over three layers of random weights (for ModernBERT one that sees all positions and two with windows). On a
CPU the seconds are the processor's, the least of the rounds, so that other processes on the machine count for less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from common import batches, interleave, print_table, random_pairs, real_pairs, sample, subject
from families import both
from scipy.optimize import nnls

from tl_crossenc.experiments.table1 import table1_conditions
from tl_crossenc.instruments.attention_flow import measure_attention
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.model.execution import count_layer_runs, run_conditions

FAMILIES = ("bert", "xlm-roberta", "modernbert", "deberta-v2")
LAYERS = 3
D_HEAD = 64
TERMS = ("weights", "attention", "elements", "call")


@dataclass(frozen=True)
class Point:
    """A batch: `pairs` of `length` tokens, in a model of width `d` with an MLP of 4 d."""

    d: int
    length: int
    pairs: int

    @property
    def terms(self) -> tuple[float, ...]:
        """What each constant is multiplied with."""
        return terms(self.d, 4 * self.d, self.pairs * self.length, self.pairs * self.length**2)


FITTED = tuple(
    Point(d, n, max(tokens // n, 1)) for d, tokens in ((128, 1024), (384, 1024), (768, 512)) for n in (32, 128, 512)
)
FITTED += (Point(384, 64, 2), Point(128, 64, 2))
HELD_OUT = (
    Point(256, 96, 8),
    Point(512, 64, 12),
    Point(512, 256, 3),
    Point(640, 384, 2),
    Point(768, 192, 4),
    Point(1024, 96, 4),
)


def terms(d: int, d_mlp: int, tokens: float, squares: float) -> tuple[float, ...]:
    """Multiply-adds of weights and of attention, elements, calls; `squares` are those of the lengths, added up."""
    return tokens * (4 * d * d + 2 * d * d_mlp), squares * 2 * d, tokens * d, 1.0


def predicted(constants: Sequence[float], *of: float) -> float:
    """Seconds of a layer."""
    return float(np.dot(constants, of))


def fit(points: Sequence[Point], seconds: Sequence[float]) -> np.ndarray:
    """The constants: least squares of relative errors, none below 0."""
    rows = np.array([point.terms for point in points]) / np.asarray(seconds)[:, None]
    scale = rows.max(0)
    return nnls(rows / scale, np.ones(len(points)))[0] / scale


def measure(given: Any, device: str) -> None:
    """Print the constants and the points of each family, and what whole models take beside what the constants say."""
    fitted, held_out = (FITTED[3:5], HELD_OUT[:1]) if given.smoke else (FITTED, HELD_OUT)
    families = given.family[:1] if given.smoke else given.family
    constants, rows = {}, []
    for family in families:
        seconds = seconds_of(family, (*fitted, *held_out), given.rounds, device)
        constants[family] = fit(fitted, [seconds[point] for point in fitted])
        for point in (*fitted, *held_out):
            said = predicted(constants[family], *point.terms)
            which = "fitted" if point in fitted else "held out"
            off = f"{100 * (said / seconds[point] - 1):+.0f} %"
            numbers = f"{1e3 * seconds[point]:.2f}", f"{1e3 * said:.2f}", off
            each = f"{1e6 * seconds[point] / (point.pairs * point.length):.2f}"
            rows.append((family, point.d, point.length, point.pairs, which, each, *numbers))
    named = [
        (family, *(f"{1e12 * value:.2f}" for value in found[:2]), f"{1e9 * found[2]:.2f}", f"{1e6 * found[3]:.0f}")
        for family, found in constants.items()
    ]
    units = ("weights, ps a multiply-add", "attention, ps a multiply-add", "elements, ns", "call, µs")
    print_table(f"Constants of a layer on {device}", ("family", *units), named)
    header = ("layer of", "d", "tokens a pair", "pairs", "point", "µs a token", "ms", "the constants say", "off by")
    print_table("Points, a layer each", header, rows)
    if "bert" in constants:
        whole(constants["bert"], given, device)


def seconds_of(family: str, points: Sequence[Point], rounds: int, device: str) -> dict[Point, float]:
    """Seconds of one layer at each point, the points of a width in turns."""
    found: dict[Point, float] = {}
    for d in dict.fromkeys(point.d for point in points):
        sizes = {"hidden_size": d, "num_hidden_layers": LAYERS + 1, "num_attention_heads": max(d // D_HEAD, 1)}
        _, model = both(family, {**sizes, "intermediate_size": 4 * d})
        own = [point for point in points if point.d == d]
        jobs = {str(point): layers(model.to(device), point, device) for point in own}
        timings = interleave(jobs, rounds)
        found |= {point: min(timings.seconds[str(point)]) / LAYERS for point in own}
    return found


def layers(model: Any, point: Point, device: str) -> Callable[[], float]:
    """A job that runs all layers but the last over a point's batch and gives its seconds."""
    pairs = random_pairs([point.length] * point.pairs)
    pairs = replace(pairs, token_type_ids=np.zeros_like(pairs.token_type_ids))  # some families have one type
    batch = pairs.batch(np.arange(point.pairs)).to(device)
    given = model.attention_input(batch.attention_mask, batch.parts)
    start = model.run_embed(batch.tokens, batch.token_type_ids)

    def run() -> None:
        resid = start
        for layer in range(LAYERS):
            resid = model.run_layer(layer, resid, given, only_cls=False)

    return timed(run, device)


def timed(job: Callable[[], object], device: str) -> Callable[[], float]:
    """A job that gives its seconds: on a CPU of the processor, elsewhere by the clock until the device is done."""

    def run() -> float:
        start = time.process_time() if device == "cpu" else time.perf_counter()
        job()
        if device != "cpu":
            torch.cuda.synchronize()
            return time.perf_counter() - start
        return time.process_time() - start

    return run


def whole(constants: np.ndarray, given: Any, device: str) -> None:
    """Whole models over real pairs, none of which was fitted: untouched, and Table 1's conditions over fewer pairs."""
    everything, rows = real_pairs(given.collection, given.pairs), []
    for shape in given.shape:
        tested = subject(shape, device=device)
        model, cfg = tested.model, tested.model.cfg
        few = sample(everything, max(len(everything) // 8, 2))
        conditions = [UNABLATED, *table1_conditions().values()]
        runs = count_layer_runs([condition.compile(cfg.n_layers, cfg.n_heads) for condition in conditions])
        for what, pairs, full in (
            ("untouched", everything, cfg.n_layers - 1),
            ("Table 1, 37 conditions", few, runs - len(conditions)),  # of the last layer CLS alone
            ("attention by direction", few, cfg.n_layers),
        ):
            own = batches(pairs, given.token_budget, device)
            shapes = [tuple(batch.tokens.shape) for batch in own]
            said = full * sum(
                predicted(constants, *terms(cfg.d_model, cfg.d_mlp, n_pairs * width, n_pairs * width**2))
                for n_pairs, width in shapes
            )

            def untouched(own=own, model=model) -> None:
                for batch in own:
                    model(batch)

            def conditioned(pairs=pairs, model=model, conditions=conditions) -> None:
                run_conditions(model, pairs, conditions, token_budget=given.token_budget)

            def looked_at(pairs=pairs, model=model) -> None:
                measure_attention(model, pairs, [0] * len(pairs), token_budget=given.token_budget)

            job = {"untouched": untouched, "attention by direction": looked_at}.get(what, conditioned)
            took = min(interleave({what: timed(job, device)}, min(given.rounds, 2)).seconds[what])
            off = f"{100 * (said / took - 1):+.0f} %"
            rows.append((f"{shape}, {what}", len(pairs), full, f"{took:.2f}", f"{said:.2f}", off))
    header = ("", "pairs", "whole layers a pair", "s", "the constants of bert say", "off by")
    print_table("Whole models over real pairs, padded, all of it held out", header, rows)
