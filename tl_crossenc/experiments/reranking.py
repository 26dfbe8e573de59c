"""A run reranked: its first passages in the order of the model's scores, under conditions, evaluated and ready to be written.

Passages are looked up a shard at a time and scores lie in cells, so that memory holds ids, grades and one condition's scores of the
run, and never its texts. `first_stage` has what is read of the run, `reranked_frames` how it is evaluated.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.rankings import Rankings
from tl_crossenc.experiments.reranked_frames import evaluated, measure_table, pool_frame
from tl_crossenc.experiments.run_tasks import run_tasks, survey
from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.interventions.presets import resolve_ablations
from tl_crossenc.model.ablations import as_condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import made_by
from tl_crossenc.pools.collections import Collection
from tl_crossenc.pools.first_stage import FirstStage, RunPairs
from tl_crossenc.pools.runs import Run
from tl_crossenc.pools.spec import DEPTH
from tl_crossenc.statistics.measures import MEASURES, parse_measures
from tl_crossenc.store.cells import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reranked:
    """A run reranked under conditions.

    Attributes:
        table: a row a measure and ranking (`reranked_frames.measure_table`); no row where no query of the run is judged.
        per_query: a row a ranking and judged query: a column a measure, `tied`, `unjudged`, `n_passages`
            (`measures.evaluate_rankings`).
        pool: a row a query of the run: what of its relevant passages the first stage holds, what was cut and what is missing
            (`reranked_frames.pool_frame`).
        rankings: the scores, and what was read of the run.
        measures: their texts.
        made: how, in plain values (`made_by`).
    """

    table: pd.DataFrame
    per_query: pd.DataFrame
    pool: pd.DataFrame
    rankings: Rankings
    measures: tuple[str, ...]
    made: dict[str, Any]

    __repr__ = short_repr

    @property
    def stage(self) -> FirstStage:
        """What was read of the run."""
        return self.rankings.pairs.stage

    @property
    def relevant(self) -> int:
        """Relevant passages, of grade 1 and more, in all judgments of the queries that are evaluated."""
        qrels = self.stage.collection.qrels
        return sum(grade > 0 for query_id in self.stage.judged for grade in qrels[query_id].values())

    @property
    def recall(self) -> float:
        """The share of them that the first stage holds; NaN without any."""
        return float(self.pool["relevant_in_pool"].sum() / self.relevant) if self.relevant else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """`table`; its `attrs` say how it was made."""
        frame = self.table.copy()
        frame.attrs = dict(self.made)
        return frame


def rerank(
    model: HookedCrossEncoder,
    collection: Collection,
    run: str | Path | Run,
    store: Store,
    conditions: Sequence[Condition | str] = (),
    *,
    depth: int = DEPTH,
    measures: Sequence[str] = MEASURES,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> Reranked:
    """Rerank the first passages of every query of a run.

    A passage that the collection lacks is left out, and so is a query; a query without judgments is reranked and not evaluated.

    Args:
        model: the model.
        collection: with the run's queries and passages.
        run: a TREC file, gzipped or not, "scoreddocs", or query_id -> doc_id -> score.
        store: of the cells.
        conditions: what to ablate beside the unablated model, a ranking each; texts may name presets.
        depth: passages a query, at most.
        measures: as ir_measures names them.
        token_budget: padded tokens a batch.
        executor: who computes what the store lacks.
        progress: called with (done, in all), in layer runs times tokens.

    Raises:
        ValueError: a run, measure or condition that cannot be used, or nothing in common with the collection.
        CellsFailed, Waiting: see `Executor.run`.
    """
    chosen = conditions_of(model, conditions)
    parse_measures(measures)
    pairs = survey(model, FirstStage.of(collection, run, depth))
    tell(pairs)
    return rerank_pairs(
        model, pairs, store, chosen, measures=measures, token_budget=token_budget, executor=executor, progress=progress
    )


def rerank_pairs(
    model: HookedCrossEncoder,
    pairs: RunPairs,
    store: Store,
    conditions: Sequence[Condition],
    *,
    measures: Sequence[str] = MEASURES,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> Reranked:
    """`rerank` of what `survey` found, under conditions from `conditions_of`."""
    asked, stage = parse_measures(measures), pairs.stage
    tasks = run_tasks(model, pairs, conditions, executor, token_budget)
    executor.run(model, tasks, store, progress)
    rankings = Rankings(pairs, tuple(map(str, conditions)), store, tuple(tasks))
    about = {"dtype": str(model.dtype).removeprefix("torch."), "scale": model.score_scale}
    per_query = evaluated(rankings, asked, about)
    return Reranked(
        table=measure_table(per_query, asked, rankings.conditions),
        per_query=per_query,
        pool=pool_frame(pairs),
        rankings=rankings,
        measures=tuple(map(str, asked)),
        made=made_by(
            model,
            collection=stage.collection.name,
            run_sha256=stage.sha256,
            depth=stage.depth,
            conditions=list(rankings.conditions),
            measures=list(map(str, asked)),
        ),
    )


def conditions_of(model: HookedCrossEncoder, conditions: Sequence[Condition | str]) -> tuple[Condition, ...]:
    """The unablated model and the conditions, each once.

    Raises:
        ValueError: text that is no condition, or a layer or head that the model does not have.
    """
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    texts = (resolve_ablations([one], n_layers)[0] if isinstance(one, str) else one for one in conditions)
    found = [as_condition(one) for one in texts]
    for one in found:
        (model.active_condition + one).compile(n_layers, n_heads)
    return tuple(dict.fromkeys([UNABLATED, *found]))


def measures_of(texts: Sequence[str] | None) -> list[str]:
    """The measures asked for, each once as ir_measures writes it; `MEASURES` where none is.

    Raises:
        ValueError: see `parse_measures`.
    """
    return [str(measure) for measure in parse_measures(texts or MEASURES)]


def tell(pairs: RunPairs) -> None:
    """Log what of a run is left out, and what of it is not evaluated."""
    for sentence in pairs.left_out():
        logger.warning("%s: %s", pairs.stage.collection.name, sentence)
