"""Which attributions are faithful: the scores, and the rankings, that are left when the tokens that they name are removed.

Every graded passage of some queries is attributed by every method and its tokens are removed by rank (`instruments.faithfulness`);
a query's values are means over its passages, and means, intervals and tests are over queries, against a random order of tokens.

**Rankings.** nDCG of a query after each of its passages lost its top share of tokens, by rank and at random. Where all of DOC is
deleted, the passages of a query are one and the same input: the end point is the random ranking, exactly, for every attribution.
Where tokens are masked or padded, passages of unequal length stay apart, and the end point is what the length alone ranks.

**Bottlenecks** need a layer's distribution over pairs of other queries: two folds over queries, each the other's. A pool of one
query has none, and they are left out there, with the reason in `scalars`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.bottleneck_cells import About, moments_tasks, read_moments
from tl_crossenc.experiments.bottleneck_sample import folds
from tl_crossenc.experiments.faithfulness_cells import (
    Attribution,
    FaithfulnessTask,
    Measuring,
    faithfulness_tasks,
    read_curves,
)
from tl_crossenc.experiments.faithfulness_frames import curve_frame, measure_frame, query_frame, ranking_frame
from tl_crossenc.experiments.pair_tasks import encode
from tl_crossenc.experiments.query_folds import sampled_pools
from tl_crossenc.instruments.attributed_difference import NODES, check_nodes
from tl_crossenc.instruments.faithfulness import BINS, FRACTIONS, check_fractions
from tl_crossenc.instruments.fitting import Fitting
from tl_crossenc.instruments.removal import as_removal
from tl_crossenc.instruments.token_attributions import (
    ATTRIBUTIONS,
    BOTTLENECK,
    RANDOM,
    Attributing,
    check_attributions,
)
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.model.resumed_run import check_unhooked
from tl_crossenc.pools.pool import Pool, require_distinct
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

QUERIES = 8
"""Of each pool, by default."""
DRAWS = 3
"""Random orders of the tokens of every passage, whose mean is `random`."""
SHARE, SETS = 0.2, 32
"""Of sensitivity-n: tokens in a set, sets a pair."""
LEAST_SPAN = 0.1
"""Of the standard deviation of all scores: pairs whose score falls by less without the text have no normalised curve or area."""
NOISE_PAIRS = 256
"""Most pairs of other queries that bottlenecks take a layer's distribution from."""


@dataclass(frozen=True)
class Faithfulness(Framed):
    """How faithful attributions are.

    Attributes:
        measures: a row an (attribution, measure) of `faithfulness_frames.MEASURES`: `mean` over queries, `low`, `high` (95 %
            t-interval), `difference` from random with `diff_low`, `diff_high`, `p` (paired t over queries), `p_holm` (Holm over all
            rows), `n_queries`.
        curves: a row an (attribution, order, fraction), order "most" or "least" important first: `mean` normalised score over
            queries, `low`, `high`.
        rankings: a row an (attribution, fraction): `mean` nDCG with the most important share of every passage removed, `low`,
            `high`, and the difference from random tested as above; no test at the ends, where all are alike.
        per_query: the measures and nDCG by fraction of every (attribution, collection, query_id), and how many of its passages have
            no span or no token.
        scalars: settings and counts.
    """

    measures: pd.DataFrame
    curves: pd.DataFrame
    rankings: pd.DataFrame
    per_query: pd.DataFrame
    scalars: dict[str, Any]

    __repr__ = short_repr


@recorded
def run_faithfulness(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    attributions: Sequence[str] = ATTRIBUTIONS,
    text: str = "passage",
    removal: str | None = None,
    fractions: Sequence[float] = FRACTIONS,
    bins: Sequence[float] = BINS,
    share: float = SHARE,
    sets: int = SETS,
    draws: int = DRAWS,
    layer: int | None = None,
    fitting: Fitting | None = None,
    nodes: int = NODES,
    queries: int | None = QUERIES,
    noise_pairs: int = NOISE_PAIRS,
    seed: int = 0,
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> Faithfulness:
    """Measure how faithful attributions are, computing only missing cells.

    Args:
        model: with a tokenizer; what it ablates at the moment stays ablated.
        pools: of different names; easy negatives are left out.
        store: of the cells.
        attributions: by name; random orders are always measured beside them.
        text: whose tokens, "passage" or "query".
        removal: "mask", "pad" or "delete"; None for the first that the vocabulary has.
        fractions, bins: see `instruments.faithfulness`.
        share, sets: of random sets of tokens.
        draws: random orders.
        layer, fitting, nodes: see `token_attributions.Attributing`.
        queries: whole queries of each pool, drawn at random; None for all.
        noise_pairs: most pairs that bottlenecks take a layer's distribution from.
        seed: of all draws.
        cutoff, gain: of nDCG.
        token_budget: padded tokens a batch.
        executor: of what is missing.
        progress: called with (layer runs done, layer runs in all), estimated.

    Raises:
        Unavailable: no passage to rank, or bottlenecks alone are asked for and cannot be had.
        ValueError: no pools, two of one name, names, numbers or a removal that there are not, or hooks on the model.
        CellsFailed, Waiting: see `Executor.run`.
    """
    names = (*(name for name in check_attributions(attributions) if name != RANDOM), RANDOM)
    fractions, bins = check_fractions(fractions, bins)
    if not pools or draws < 1 or sets < 2 or not 0 < share < 1 or seed < 0 or (queries is not None and queries < 1):
        raise ValueError(
            "expected at least one pool, query and draw, two sets of a share between 0 and 1, and a seed of at least 0, got "
            f"{len(pools)}, {queries}, {draws}, {sets}, {share} and {seed}"
        )
    require_distinct([pool.collection for pool in pools])
    check_unhooked(model)
    check_nodes(nodes)
    about = About(
        executor.identity(model),
        str(model.active_condition),
        executor.token_budget(model, token_budget),
        model.cfg.n_layers,
    )
    some = next((pool.pairs[:1] for pool in pools if len(pool)), ())
    chosen = as_removal(model, encode(model, some), removal, text)
    given = Attributing(chosen, layer, fitting or Fitting(), nodes, seed)
    given.bottleneck_layer(model.cfg.n_layers)
    parts, left_out = _parts(pools, names, queries, noise_pairs, seed)
    if left_out and names == (BOTTLENECK, RANDOM):
        raise Unavailable(next(iter(left_out.values())))
    measuring = Measuring(fractions, bins, share, sets)
    tasks = []
    for sample, noise in parts:
        kept = [name for name in names if name not in left_out]
        listed = [Attribution(name, draw) for name in kept for draw in range(draws if name == RANDOM else 1)]
        tasks.append(faithfulness_tasks(about, sample, listed, given, measuring, noise))
    tasks = _with_statistics(model, store, executor, about, parts, tasks, progress)
    executor.run(model, [task for own in tasks for task in own], store, progress)
    per_pair = {own: [read_curves(store, some, own) for some in tasks] for own in tasks[0][0].attributions}
    full = np.concatenate([curves.most[:, 0] for _, curves, _ in next(iter(per_pair.values()))])
    least = LEAST_SPAN * float(full.std())
    per_pair = {
        own: [(pairs, replace(curves, least_span=least), sensitivity) for pairs, curves, sensitivity in some]
        for own, some in per_pair.items()
    }
    samples = [sample for sample, _ in parts]
    values = query_frame(model, pools, samples, per_pair, cutoff=cutoff, gain=gain)
    first = next(iter(per_pair.values()))
    return Faithfulness(
        measures=measure_frame(values),
        curves=curve_frame(values, fractions),
        rankings=ranking_frame(values, fractions),
        per_query=values.drop(columns=[name for name in values if name.startswith(("most@", "least@"))]),
        scalars={
            "n_queries": len(values.loc[RANDOM]),
            "n_pairs": sum(map(len, samples)),
            "without_span": int(sum((~curves.has_span & (curves.n_tokens > 0)).sum() for _, curves, _ in first)),
            "least_span": least,
            "without_tokens": int(sum((curves.n_tokens == 0).sum() for _, curves, _ in first)),
            "random_ranking": float(values.loc[RANDOM, "random_ranking"].mean()),
            "text": text,
            "removal": chosen.way,
            "bins": list(bins),
            "share": share,
            "sets": sets,
            "draws": draws,
            "layer": given.bottleneck_layer(model.cfg.n_layers),
            "nodes": nodes,
            "left_out": left_out,
            "sampled": sum(map(len, samples)) < sum(len(pool.ranked) for pool in pools),
            "seed": seed,
        },
    )


Part = tuple[Pool, Pool | None]
"""A sample of whole queries, and pairs of other queries."""


def _parts(
    pools: Sequence[Pool], names: Sequence[str], queries: int | None, noise_pairs: int, seed: int
) -> tuple[list[Part], dict[str, str]]:
    """The samples, with the pairs that bottlenecks need; and which attributions are left out, with the reason."""
    used = [pool for pool in pools if len(pool.ranked)]
    if not used:
        raise Unavailable("faithfulness needs graded passages, and the pools have none")
    if BOTTLENECK in names:
        draw: dict[str, Any] = {"n_queries": queries, "per_query": None, "noise_pairs": noise_pairs, "seed": seed}
        try:
            return [(fold.sample, fold.noise) for pool in used for fold in folds(pool, **draw)], {}
        except Unavailable as reason:
            return _plain(used, queries, seed), {BOTTLENECK: str(reason)}
    return _plain(used, queries, seed), {}


def _plain(pools: Sequence[Pool], queries: int | None, seed: int) -> list[Part]:
    sampled = [(sampled_pools([pool], queries, seed) or [pool])[0].ranked for pool in pools]
    return [(pool, None) for pool in sampled]


def _with_statistics(
    model: HookedCrossEncoder,
    store: Store,
    executor: Executor,
    about: About,
    parts: Sequence[Part],
    tasks: list[list[FaithfulnessTask]],
    progress: Progress | None,
) -> list[list[FaithfulnessTask]]:
    """The tasks with the layers' distributions, where they have bottlenecks."""
    moments = [[] if noise is None else moments_tasks(about, noise) for _, noise in parts]
    executor.run(model, [task for own in moments for task in own], store, progress, tell=False)
    found = []
    for own, of_noise in zip(tasks, moments, strict=True):
        statistics = read_moments(model, store, of_noise) if of_noise else None
        if statistics is not None and own[0].given.fitting.objective == "keep" and not statistics.score_sd > 0:
            raise Unavailable(
                "bottlenecks that keep the score need scores that vary, and those of the pool do not: take a larger pool, or leave "
                "bottlenecks out"
            )
        found.append([replace(task, statistics=statistics) for task in own])
    return found
