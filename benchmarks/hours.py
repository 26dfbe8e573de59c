"""GPU hours and bytes of `reproduce` with 24-layer models on four TREC years, from counts and constants; nothing is measured here.

    python benchmarks/hours.py [--utilisation 0.5] [--peak-tflops 989] [--write-ms 1.7] [--cell-ms 0.9]
    python benchmarks/hours.py --collection FOLDER --run FOLDER/bm25.run      # how long a collection's pairs are

A layer of a pair of n tokens takes n (4 d² + 2 d d_mlp) + 2 n² d multiply-adds, 2 FLOPs each; over many pairs the means of n and n²
say all. An experiment takes as many layers a pair as `count_layer_runs` counts, less the last one of each condition, of which only
CLS is run. Of a job's hours what the devices do is divided by their number; the driver makes tasks, writes each cell and reads it,
one after another; writing goes on beside computing, so that the slower of the two counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import encoded, parse, parser, print_machine, print_table
from cost_model import terms

from tl_crossenc.experiments.head_ablation import LEAST_DRAWS, SCOPES, heads_condition, random_ranking
from tl_crossenc.experiments.layers import FIGURE_1A, sweep_conditions
from tl_crossenc.experiments.scoring import SHARD
from tl_crossenc.experiments.table1 import table1_conditions
from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.interventions.directions import direction_grid
from tl_crossenc.model.execution import count_layer_runs
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import Pool

LAYERS, HEADS, D, D_MLP = 24, 16, 1024, 4096
"""Of MonoBERT-large and of bge-reranker-v2-m3 alike, whose vocabularies alone differ in size."""
PARAMETERS = {"MonoBERT-large": 335e6, "bge-reranker-v2-m3": 568e6}
YEARS = {"2019": 43, "2020": 54, "2021": 53, "2022": 76}
"""TREC Deep Learning, passages: judged queries."""
DEPTHS = (100, 1000)
DEVICES = (1, 8, 64)
MEAN, MEAN_OF_SQUARES = 95.9, 10_457
"""Tokens of a pair, and their squares: BM25's first 100 of 2019 and 2020, whose passages are at hand; in BERT's vocabulary."""
CONSTANTS = (13.88, 15.08, 16.87)
"""Of bert on one core of the machine of docs/SCALING.md: picoseconds a multiply-add of weights and of attention, ns an element."""
DRAW_QUERIES = 12
GROUP_BYTES, PAIR_BYTES = 42 * 45 * LAYERS * HEADS, 5_700
"""Of the cells of the demo's own `reproduce`: 42 rows of 45 bytes a head for each query and grade in a cell of attention, and of
matches a passage's histograms, 62 kB before they are compressed to a tenth."""
GRADES = 4
RANKING = tuple((layer, (5 * layer) % HEADS) for layer in range(LAYERS - 1, 0, -3))
"""Eight heads, spread over the layers: which ones a model's are is not known before it is run."""


@dataclass(frozen=True)
class Work:
    """An experiment.

    Attributes:
        layers: whole layers a pair.
        cells: a shard.
        queries: that it is run on; None for all.
        times: of a layer that is untouched, a layer of it takes.
    """

    layers: int
    cells: int
    queries: int | None = None
    times: float = 1.0


def under(conditions: Sequence[Condition], queries: int | None = None) -> Work:
    """Scores under conditions, which share their prefixes."""
    distinct = tuple(dict.fromkeys(conditions))
    runs = count_layer_runs([condition.compile(LAYERS, HEADS) for condition in distinct])
    return Work(runs - len(distinct), len(distinct), queries)


def experiments(looking: float) -> dict[str, Work]:
    """What `reproduce` runs; a layer whose patterns are looked at takes `looking` times one that is untouched."""
    draws = [random_ranking(RANKING, HEADS, np.random.default_rng([0, draw])) or () for draw in range(LEAST_DRAWS)]
    ranked = [heads_condition(RANKING[:k], scope) for scope in SCOPES for k in (1, 2, 4, 8)]
    drawn = [heads_condition(draw[:k], scope) for scope in SCOPES for draw in draws for k in (4, 8)]
    return {
        "Table 1": under([UNABLATED, *table1_conditions().values()]),
        "Figure 1a": under([UNABLATED, *sweep_conditions(FIGURE_1A, LAYERS).values()]),
        "Attention, and that of the untrained twin": Work(2 * LAYERS, 2, times=looking),
        "Matches": Work(LAYERS, 3, times=looking),
        "Query-key means": Work(LAYERS, 1),
        "Head ablation, ranked heads": under([UNABLATED, *ranked]),
        "Head ablation, draws": under([UNABLATED, *drawn], DRAW_QUERIES),
    }


def all_directions() -> Work:
    """Figure 1a of all 36 directions."""
    return under([UNABLATED, *sweep_conditions(direction_grid(), LAYERS).values()])


def flops(layers: float, pairs: float) -> float:
    """Of so many layers of so many pairs of the lengths above."""
    return 2 * layers * pairs * (MEAN * (4 * D * D + 2 * D * D_MLP) + MEAN_OF_SQUARES * 2 * D)


def work_of(every: dict[str, Work], queries: Sequence[int], depth: int) -> tuple[float, int]:
    """FLOPs and cells of experiments over years with so many queries and `depth` passages a query."""
    total, cells = 0.0, 0
    for work in every.values():
        asked = [work.queries] if work.queries else queries  # drawn from all years together
        total += flops(work.layers * work.times, depth * sum(asked))
        cells += work.cells * sum(-(-depth * count // SHARD) for count in asked)
    return total, cells


def kept(every: dict[str, Work], queries: Sequence[int], depth: int, cell: float) -> dict[str, float]:
    """Bytes of the cells, by what they are of; `cell` a cell of scores. Of attention at most: every grade in every cell."""
    pairs, scored = depth * sum(queries), {name: work for name, work in every.items() if work.times == 1}
    groups = sum(count * (depth // SHARD + 2) * GRADES for count in queries)
    return {
        "scores": work_of(scored, queries, depth)[1] * cell,
        "attention": 2 * groups * GROUP_BYTES,
        "matches": pairs * PAIR_BYTES,
    }


def hours(total: float, cells: int, devices: int, rate: float, write: float, cell: float) -> tuple[float, float]:
    """(of the whole job, of them those that do not divide): devices at `rate` FLOP/s each, seconds a cell written and otherwise."""
    computing, writing, rest = total / rate / devices, cells * write, cells * cell
    return (max(computing, writing) + rest) / 3600, (max(writing - computing, 0) + rest) / 3600


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, pairs=0)
    options.add_argument("--run", help="a TREC run of the collection, whose first 100 passages a query are measured")
    options.add_argument(
        "--utilisation", type=float, default=0.5, help="model FLOPs utilisation, stated (default: 0.5)"
    )
    options.add_argument(
        "--peak-tflops", type=float, default=989, help="dense bfloat16 peak of a device (default: an H100's)"
    )
    options.add_argument("--looking", type=float, default=2.0, help="times of a layer whose patterns are looked at")
    options.add_argument("--write-ms", type=float, default=1.7, help="milliseconds of the driver a cell written")
    options.add_argument("--cell-ms", type=float, default=0.9, help="and for all else that it does with a cell")
    options.add_argument(
        "--constants",
        type=float,
        nargs=3,
        default=CONSTANTS,
        help="of a layer on a CPU core, as `scaling.py --cost-model` prints them",
    )
    options.add_argument("--cell-kb", type=float, default=4.8, help="kilobytes of a cell of scores")
    given = parse(options, argv)
    print_machine()
    if given.run:
        measure(given.collection, given.run)
        return
    every, rate = experiments(given.looking), given.utilisation * given.peak_tflops * 1e12
    widest = all_directions()
    weights, attention, elements, _ = terms(D, D_MLP, MEAN, MEAN_OF_SQUARES)
    each = (1e-12, 1e-12, 1e-9)
    a_layer = sum(c * e * n for c, e, n in zip(given.constants, each, (weights, attention, elements), strict=True))
    rows = [
        (name, work.cells, work.layers, f"{flops(work.layers * work.times, 1) / 1e12:.3f}")
        for name, work in (*every.items(), ("(Figure 1a, all 36 directions)", widest))
    ]
    header = ("experiment", "cells a shard", "whole layers a pair", "TFLOP a pair")
    print_table(f"A pair of {MEAN} tokens, {LAYERS} layers, d {D}", header, rows)
    rows = []
    years = {**{year: [count] for year, count in YEARS.items()}, "all four": list(YEARS.values())}
    wide = {**every, "Figure 1a": widest}
    jobs = [("reproduce", every, year) for year in years] + [("and all 36 directions", wide, "all four")]
    for depth in DEPTHS:
        for what, asked, year in jobs:
            total, cells = work_of(asked, years[year], depth)
            took = [hours(total, cells, n, rate, given.write_ms / 1e3, given.cell_ms / 1e3) for n in DEVICES]
            wall = (f"{60 * whole:.1f} ({alone / whole:.0%})" for whole, alone in took)
            bytes_ = sum(kept(asked, years[year], depth, 1e3 * given.cell_kb).values())
            core = total / flops(1, 1) * a_layer / 3600
            counted = f"{total / 1e15:,.0f}", f"{cells:,}", f"{bytes_ / 1e9:.1f}"
            rows.append((f"{what}, {year}, {depth}", *counted, f"{core:,.0f}", f"{total / rate / 3600:.2f}", *wall))
    header = (
        "job",
        "PFLOP",
        "cells",
        "GB at most",
        "core hours",
        "GPU hours",
        *(f"minutes on {n} (not divided)" for n in DEVICES),
    )
    print_table(f"Hours at {given.utilisation:g} of {given.peak_tflops:g} TFLOP/s a device; not measured", header, rows)
    rows = [
        (name, f"{count / 1e6:.0f} M", f"{2 * count / 1e9:.2f} GB", f"{4 * count / 1e9:.2f} GB")
        for name, count in PARAMETERS.items()
    ]
    print_table("Weights", ("model", "parameters", "bfloat16", "float32"), rows)


def measure(collection: str, run: str) -> None:
    """How long the pairs of a run are."""
    pool = Pool.from_run(load_collection(collection), run, depth=100)
    pairs = encoded(pool.pairs)
    lengths = pairs.lengths.astype(float)
    queries = [int((pairs.parts[a:b] == 1).sum()) for a, b in zip(pairs.offsets, pairs.offsets[1:], strict=False)]
    numbers = (
        f"{lengths.mean():.1f}",
        f"{(lengths**2).mean():,.0f}",
        int(np.median(queries)),
        f"{int(pairs.truncated.sum())}",
    )
    print_table(
        "Tokens of a pair",
        ("run", "pairs", "mean", "mean square", "middle query", "cut"),
        [(Path(run).parent.name, len(pairs), *numbers)],
    )
    print("every twentieth: " + ", ".join(f"{value:.0f}" for value in np.quantile(lengths, np.linspace(0, 1, 21))))


if __name__ == "__main__":
    main()
