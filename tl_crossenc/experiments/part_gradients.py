"""Where a relevance score is, layer by layer: integrated gradients summed by part, Zhan et al. 2020's table on any model.

For every relevant pair the score's difference to an empty query, and to an empty passage, is attributed to the positions of the
stream before each layer (`integrated_gradients.py`: a path a layer), and summed by part; a query's values are means over its pairs,
and means and intervals are over queries. The parts of every layer add up to the same mean s - s'.

**Beside the published table.** Zhan et al. attribute the softmax probability of BERT-base on MS MARCO dev, whose mean difference is
.978; here it is the score, in its own unit: compare shares of the sum. Their layer l is what layer l reads, 0..11, as here; what
the head reads, layer L, is CLS alone where it reads no other, and is not in their table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.pair_tasks import encode
from tl_crossenc.experiments.part_gradient_cells import part_gradient_tasks
from tl_crossenc.experiments.relevant_sample import relevant_pools
from tl_crossenc.inputs.parts import REAL_PART_NAMES
from tl_crossenc.instruments.attributed_difference import (
    LARGEST_ERROR,
    NODES,
    attributed_score,
    check_nodes,
    relative,
)
from tl_crossenc.instruments.baselines import Baseline, BaselineLike, as_baseline
from tl_crossenc.instruments.token_sets import STOPS, full_stop_ids
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.pool import Pool, require_distinct
from tl_crossenc.statistics.published import ZHAN_2020_GRADIENTS
from tl_crossenc.statistics.ratios import ratio_interval
from tl_crossenc.statistics.significance import mean_interval
from tl_crossenc.store.cells import Store

BASELINES = ("query:pad", "passage:pad")
"""Zhan et al.'s two."""
SEP, TOTAL = "SEP", "ALL"
PARTS = (*REAL_PART_NAMES, SEP, STOPS, TOTAL)
"""What is summed: the five parts, both separators, full stops of the passage, and everything."""


@dataclass(frozen=True)
class PartGradients(Framed):
    """Attributions by part and layer.

    Attributes:
        parts: a row a (baseline, layer, part): `mean` over queries, in the unit of the score, `low`, `high` (95 % t-interval),
            `share` of the mean of all parts, `share_low`, `share_high` (Fieller's 95 % interval of that ratio, NaN where s - s' is
            not told from 0), and `published`, Zhan et al.'s share where the model has their 12 layers.
        errors: a row a (baseline, layer): `difference`, the mean s - s' that the parts add up to; `median` and `largest` relative
            error over pairs, `missed` (pairs above 5 %), `same` (pairs that are their own baseline), `n_pairs`.
        per_query: each part's mean over a query's pairs, `score`, `baseline_score` and `n_pairs`, indexed by (baseline,
            collection, query_id, layer).
        scalars: settings and counts.
    """

    parts: pd.DataFrame
    errors: pd.DataFrame
    per_query: pd.DataFrame
    scalars: dict[str, Any]

    __repr__ = short_repr


@recorded
def run_part_gradients(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    baselines: BaselineLike | Iterable[BaselineLike] = BASELINES,
    relevant_grades: Sequence[int] | None = None,
    queries: int | None = None,
    passages: int | None = None,
    nodes: int = NODES,
    score: str | None = None,
    seed: int = 0,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> PartGradients:
    """Attribute the relevant passages' scores by part and layer, computing only missing cells.

    Args:
        model: the model, with what it ablates at the moment.
        pools: the pools.
        store: of the cells.
        baselines: where the paths begin, one or several.
        relevant_grades, queries, passages, seed: see `relevant_sample.relevant_pools`.
        nodes: of the quadrature.
        score: what is attributed, as `integrated_gradients` takes it.
        token_budget: padded tokens a pass.
        executor: of what is missing.
        progress: called with (layer runs done, layer runs in all).

    Raises:
        Unavailable: no passage is relevant.
        ValueError: no pools, two of one name, no baseline, or see `integrated_gradients`.
        CellsFailed, Waiting: see `Executor.run`.
    """
    several = [baselines] if isinstance(baselines, str | Baseline) else baselines
    chosen = list(dict.fromkeys(as_baseline(baseline) for baseline in several))
    if not pools or not chosen:
        raise ValueError(f"expected at least one pool and one baseline, got {len(pools)} and {len(chosen)}")
    require_distinct([pool.collection for pool in pools])
    attributed_score(model, score)
    check_nodes(nodes)
    used, grades = relevant_pools(pools, relevant_grades, queries=queries, passages=passages, seed=seed)
    every, _ = relevant_pools(pools, relevant_grades)
    drawn = sum(map(len, used)) < sum(map(len, every))
    for baseline in chosen:  # told here, and not of every cell
        baseline.token_id(model, encode(model, used[0].pairs[:1]))
    stops = full_stop_ids(model)
    given: dict[str, Any] = {"score": score, "nodes": nodes, "stops": stops, "token_budget": token_budget}
    tasks = {
        (str(baseline), pool.collection): part_gradient_tasks(model, pool, baseline, executor, **given)
        for baseline in chosen
        for pool in used
    }
    executor.run(model, [task for own in tasks.values() for task in own], store, progress)
    frames = []
    for (name, collection), own in tasks.items():
        for task in own:
            frame = store.read(task.keys[0]).to_pandas()
            frames.append(frame.assign(baseline=name, collection=collection))
    by_pair = pd.concat(frames, ignore_index=True)
    by_pair[TOTAL] = by_pair[list(REAL_PART_NAMES)].sum(axis=1)
    by_pair[SEP] = by_pair["SEP1"] + by_pair["SEP2"]
    per_query = _per_query(by_pair)
    return PartGradients(
        parts=_parts_frame(per_query, model.cfg.n_layers),
        errors=_error_frame(by_pair, per_query),
        per_query=per_query.set_index(["baseline", "collection", "query_id", "layer"]),
        scalars={
            "n_queries": len(per_query[["collection", "query_id"]].drop_duplicates()),
            "n_pairs": sum(map(len, used)),
            "n_layers": model.cfg.n_layers,
            "nodes": nodes,
            "score": score or "score",
            "relevant_grades": list(grades),
            "seed": seed,
            "sampled": {"queries": queries, "passages": passages} if drawn else {"queries": None, "passages": None},
        },
    )


def _per_query(by_pair: pd.DataFrame) -> pd.DataFrame:
    groups = by_pair.groupby(["baseline", "collection", "query_id", "layer"], sort=False)
    means = groups[[*PARTS, "score", "baseline_score"]].mean()
    return means.assign(n_pairs=groups.size()).reset_index()


def _parts_frame(per_query: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    rows = []
    for (baseline, layer), own in per_query.groupby(["baseline", "layer"], sort=False):
        total = float(own[TOTAL].mean())
        for part in PARTS:
            mean = float(own[part].mean())
            share = mean / total if total else float("nan")
            said = _published(str(baseline), part, int(layer), n_layers)
            shares = (share, *ratio_interval(own[part], own[TOTAL]))
            rows.append((baseline, layer, part, mean, *mean_interval(own[part]), *shares, said, len(own)))
    names = ["baseline", "layer", "part", "mean", "low", "high"]
    names += ["share", "share_low", "share_high", "published", "n_queries"]
    return pd.DataFrame(rows, columns=names)


def _published(baseline: str, part: str, layer: int, n_layers: int) -> float:
    known = ZHAN_2020_GRADIENTS.get(baseline, {})
    if part not in known or layer >= len(known[part]) or n_layers != len(known[part]):
        return float("nan")
    return known[part][layer] / sum(known[own][layer] for own in ("CLS", "SEP", "QUERY", "DOC"))


def _error_frame(by_pair: pd.DataFrame, per_query: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (baseline, layer), own in by_pair.groupby(["baseline", "layer"], sort=False):
        difference = own["score"] - own["baseline_score"]
        errors = relative((own[TOTAL] - difference).to_numpy(), difference.to_numpy())
        mine = per_query[(per_query["baseline"] == baseline) & (per_query["layer"] == layer)]
        mean = float((mine["score"] - mine["baseline_score"]).mean())
        missed = int((errors > LARGEST_ERROR).sum())
        rows.append(
            (
                baseline,
                layer,
                mean,
                float(np.median(errors)),
                float(errors.max()),
                missed,
                int(own["same"].sum()),
                len(own),
            )
        )
    names = ["baseline", "layer", "difference", "median", "largest", "missed", "same", "n_pairs"]
    return pd.DataFrame(rows, columns=names)
