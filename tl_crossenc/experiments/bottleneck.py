"""How many bits of each token, layer by layer, a score can be had from: does CLS gather relevance only late?

A bottleneck (`instruments.bottleneck`) is fitted for a sample of pairs at every layer. Its noise is estimated on pairs of other
queries: the queries are cut into two folds, and each fold's noise is the other's. Bits are averaged over a query's pairs, and
intervals are over queries.

Jiang et al. 2021 say of MonoBERT that CLS "mainly gathers information for predictions at the last layer". What is measured here of
it is the share that CLS has of the bits of all tokens (`by_layer`), and `first_half`, the first layer after which that is a half.
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
from tl_crossenc.experiments.bottleneck_cells import (
    About,
    BottleneckTask,
    bottleneck_tasks,
    moments_tasks,
    read_moments,
)
from tl_crossenc.experiments.bottleneck_frames import (
    QueryBits,
    by_layer_frame,
    match_frame,
    memberships,
    per_query_frame,
    position_frame,
    query_bits,
    score_frame,
    token_kinds,
)
from tl_crossenc.experiments.bottleneck_sample import folds
from tl_crossenc.experiments.pair_tasks import encode
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.instruments.fitting import Fitting
from tl_crossenc.interventions.indices import Indices, within
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.model.resumed_run import check_unhooked
from tl_crossenc.pools.pool import Pool, require_distinct
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

QUERIES, PER_QUERY = 10, 5
"""What is measured of each pool by default: 50 pairs."""
NOISE_PAIRS = 512


@dataclass(frozen=True)
class BottleneckResult(Framed):
    """Bits by layer.

    Attributes:
        by_layer: a row a (layer, part), see `by_layer_frame`.
        matches: a row a (layer, part, kind of match), see `match_frame`.
        positions: a row a (layer, decile of the passage), see `position_frame`.
        scores: a row a layer, see `score_frame`.
        per_query: a row a (collection, query_id, layer, group of tokens), see `per_query_frame`.
        pairs: a row a (pair, layer): collection, query_id, doc_id, grade, layer, score, masked, masked_sd, score_sd, floored.
        fitting: how masks were fitted.
        layers: which.
        n_queries, per_query_passages: most of the sample; None for all.
        sampled: whether the pools have more passages to rank than were measured.
        seed: of the sample and the folds.
        layers_run: layers that the model ran for this, a layer of one pair counting 1; 0 when everything was stored.
    """

    by_layer: pd.DataFrame
    matches: pd.DataFrame
    positions: pd.DataFrame
    scores: pd.DataFrame
    per_query: pd.DataFrame
    pairs: pd.DataFrame
    fitting: Fitting
    layers: tuple[int, ...]
    n_queries: int | None
    per_query_passages: int | None
    sampled: bool
    seed: int
    layers_run: int

    __repr__ = short_repr

    @property
    def first_half(self) -> int | None:
        """The first layer after which CLS has half of the bits or more, in the mean over queries; None where it never has."""
        rows = self.by_layer[(self.by_layer["part"] == "CLS") & (self.by_layer["share"] >= 0.5)]
        return None if rows.empty else int(rows["layer"].min())

    @property
    def scalars(self) -> dict[str, Any]:
        """What is no table."""
        return {
            **self.fitting.fields,
            "sample_seed": self.seed,
            "queries": int(self.pairs[["collection", "query_id"]].drop_duplicates().shape[0]),
            "pairs": int(self.pairs[["collection", "query_id", "doc_id"]].drop_duplicates().shape[0]),
            "sampled": self.sampled,
            "first_half": self.first_half,
            "layers": list(self.layers),
        }


@recorded
def run_bottleneck(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    fitting: Fitting | None = None,
    layers: Indices = None,
    n_queries: int | None = QUERIES,
    per_query: int | None = PER_QUERY,
    noise_pairs: int = NOISE_PAIRS,
    seed: int = 0,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> BottleneckResult:
    """Fit bottlenecks for a sample of each pool's judged passages.

    Args:
        model: with a tokenizer; what it ablates at the moment stays ablated.
        pools: of different names.
        store: of the results.
        fitting: `Fitting()` where None.
        layers: after which masks are put, each alone; None for all.
        n_queries: queries of each pool that are measured, drawn at random; None for all.
        per_query: passages of each, drawn at random; None for all.
        noise_pairs: most pairs of other queries that noise is estimated on.
        seed: of the draws and the folds (that of the noise is `fitting.seed`).
        token_budget: padded tokens a batch, copies of the noise counted.
        executor: who computes what is missing.
        progress: called with (layer runs done, layer runs in all).

    Raises:
        ValueError: no pools, pools of one name, numbers or layers that there are not, a model without a tokenizer or with hooks.
        Unavailable: a pool of one query, without passages to rank, or whose scores do not vary.
    """
    if model.tokenizer is None:
        raise ValueError("expected a model with a tokenizer to read texts; this one was made without: pass tokenizer=")
    if not pools:
        raise ValueError("expected at least one pool to sample pairs of, got none")
    require_distinct([pool.collection for pool in pools])
    check_unhooked(model)
    fitting, chosen = fitting or Fitting(), tuple(within(layers, model.cfg.n_layers, "layer"))
    about = About(
        executor.identity(model),
        str(model.active_condition),
        executor.token_budget(model, token_budget),
        model.cfg.n_layers,
    )
    draw: dict[str, Any] = {"n_queries": n_queries, "per_query": per_query, "noise_pairs": noise_pairs, "seed": seed}
    parted = [fold for pool in pools for fold in folds(pool, **draw)]
    moments = [moments_tasks(about, fold.noise) for fold in parted]
    tasks = [bottleneck_tasks(about, fold.sample, fold.noise, chosen, fitting) for fold in parted]

    to_come = _cost_of_missing(store, [task for some in tasks for task in some])
    first, spent = [task for some in moments for task in some], 0

    def early(done: int, total: int) -> None:
        nonlocal spent
        spent = total
        if progress is not None:
            progress(done, total + to_come)

    def late(done: int, total: int) -> None:
        if progress is not None:
            progress(spent + done, spent + total)

    ran = sum(task.cost for task in executor.run(model, first, store, early, tell=False))
    for i, some in enumerate(tasks):
        statistics = read_moments(model, store, moments[i])
        if fitting.objective == "keep" and not statistics.score_sd > 0:
            raise Unavailable(
                f"bottlenecks that keep the score need scores that vary, and those of {parted[i].noise.collection} do not: "
                "take a larger pool, or the objective 'relevant'"
            )
        tasks[i] = [replace(task, statistics=statistics) for task in some]
    ran += sum(task.cost for task in executor.run(model, [task for some in tasks for task in some], store, late))

    pairs, found = _read(model, store, [task for some in tasks for task in some])
    return BottleneckResult(
        by_layer=by_layer_frame(found, chosen),
        matches=match_frame(found, chosen),
        positions=position_frame(found, chosen),
        scores=score_frame(pairs),
        per_query=per_query_frame(found, chosen),
        pairs=pairs,
        fitting=fitting,
        layers=chosen,
        n_queries=n_queries,
        per_query_passages=per_query,
        sampled=sum(len(fold.sample) for fold in parted) < sum(len(pool.ranked) for pool in pools),
        seed=seed,
        layers_run=ran,
    )


def _cost_of_missing(store: Store, tasks: Sequence[BottleneckTask]) -> int:
    absent = set(store.missing([key for task in tasks for key in task.keys]))
    return sum(left.cost for task in tasks if (left := task.only(absent)) is not None)


def _read(model: HookedCrossEncoder, store: Store, tasks: Sequence[BottleneckTask]) -> tuple[pd.DataFrame, QueryBits]:
    """The pairs' scores, and their tokens' bits by query."""
    pieces, frames, owners, bits, members = Pieces(model.tokenizer), [], [], [], []
    for task in tasks:
        tables = [store.read(key) for key in task.keys]
        collection = task.meta["collection"]
        for layer, table in zip(task.layers, tables, strict=True):
            frame = table.drop_columns(["bits"]).to_pandas()
            frame.insert(0, "collection", collection)
            frame.insert(4, "layer", layer)
            frames.append(frame)
        encoded = encode(model, task.pairs)
        kinds = token_kinds(encoded, pieces)
        for i, pair in enumerate(task.pairs):
            own = slice(encoded.offsets[i], encoded.offsets[i + 1])
            owners.append((collection, pair.query_id))
            bits.append(np.stack([table["bits"][i].values.to_numpy() for table in tables]).astype(np.float64))
            members.append(memberships(encoded.parts[own], kinds[own]))
    return pd.concat(frames, ignore_index=True), query_bits(owners, bits, members)
