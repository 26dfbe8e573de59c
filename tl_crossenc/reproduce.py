"""The main job: the paper's artefacts on one model and some collections, into one folder.

A rerun computes what is missing and writes the same files again, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.console.shown import short_name
from tl_crossenc.executors.executor import IN_PROCESS, Executor
from tl_crossenc.executors.sharded import Shard, ShardRun
from tl_crossenc.executors.task import CellsFailed, failed_ones
from tl_crossenc.experiments.head_rankers import HeadRankers
from tl_crossenc.experiments.main_job import compute_shard, main_job, run_first, run_rest
from tl_crossenc.experiments.matching import passing_heads
from tl_crossenc.experiments.paper import ProgressFactory, no_progress
from tl_crossenc.experiments.settings import Settings, settings_record
from tl_crossenc.experiments.table1 import Table1
from tl_crossenc.interventions.heads import save_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.grades import relevant_grades, scale_sentence
from tl_crossenc.pools.pool import Pool
from tl_crossenc.report.drawing import draw_figures
from tl_crossenc.report.page import remove_others, shown_files, write_report
from tl_crossenc.report.table1_files import EXISTING_CELLS, TABLE1_FILES, write_table1
from tl_crossenc.report.tables import caption, measure_text, windows_text
from tl_crossenc.results.job import heads_source
from tl_crossenc.results.kept_pools import Cut, count_cut
from tl_crossenc.results.layout import RUN
from tl_crossenc.results.outputs import write_json
from tl_crossenc.results.record import run_record
from tl_crossenc.results.saving import save_all
from tl_crossenc.results.watch import titled
from tl_crossenc.results.work import Work
from tl_crossenc.statistics.published import (
    VAST_2025,
    VAST_2025_RANDOM,
    VAST_2025_TABLE_1,
    VAST_2025_UNABLATED,
    is_monobert,
)
from tl_crossenc.store.cells import Store
from tl_crossenc.store.locks import WAIT

__all__ = ["Reproduction", "Settings", "ShardRun", "compute_shard", "reproduce"]


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` found.

    Attributes:
        settings: what was asked for.
        model_label: the model's name for titles.
        collection_label: the collections' names for titles.
        pools: one a collection.
        cut: how many passages of each were cut.
        table1: Table 1.
        results: all other experiments' results, or why there is none, by key of `results.artefacts.ARTEFACTS`.
        unavailable: artefact -> why there is none.
        report: the page; None when only Table 1 was asked for.
    """

    settings: Settings
    model_label: str
    collection_label: str
    pools: tuple[Pool, ...]
    cut: tuple[Cut, ...]
    table1: Table1
    results: dict[str, Any] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    report: Path | None = None

    __repr__ = short_repr

    @property
    def failed(self) -> dict[str, CellsFailed]:
        """Experiment -> what of its cells could not be computed; what needs it is unavailable this time."""
        return failed_ones(self.results)

    @property
    def published(self) -> dict[str, float] | None:
        """The paper's own Table 1, where the model is its MonoBERT."""
        return VAST_2025_TABLE_1 if is_monobert(self.model_label) else None

    @property
    def relevant_grades(self) -> tuple[int, ...]:
        """The grades of relevant passages, as asked or by the rule; none where the rule has no answer."""
        given = self.settings.options.relevant_grades
        if given is not None:
            return given
        found = {relevant_grades(pool.highest_grade) for pool in self.pools}
        return found.pop() if len(found) == 1 else ()

    @property
    def relevance(self) -> str:
        """Which passages are called relevant, in words."""
        return scale_sentence([pool.highest_grade for pool in self.pools], self.relevant_grades)

    @property
    def caption(self) -> str:
        """What Table 1 shows."""
        low, high = self.table1.unablated_interval
        return caption(
            short_name(self.model_label),
            self.collection_label,
            len(self.table1.per_query),
            (self.table1.unablated, low, high),
            float(self.table1.random.mean()),
            self.table1.mode,
            f"{VAST_2025}; unablated {VAST_2025_UNABLATED}, random {VAST_2025_RANDOM}" if self.published else None,
            measure=self.measure,
            one_gain=self.table1.one_gain,
            windows=windows_text(self.table1.existing_cells),
        )

    @property
    def about(self) -> dict[str, Any]:
        """What `run.json` says beside model and pools."""
        return {
            "settings": settings_record(self.settings),
            "relevance": {
                "highest_grades": {pool.collection: pool.highest_grade for pool in self.pools},
                "relevant_grades": self.relevant_grades,
                "words": self.relevance,
            },
            "measure": {
                "name": self.measure,
                "ideal": self.table1.ideal,
                "queries": len(self.table1.per_query),
                "queries_of_one_gain": self.table1.one_gain,
            },
        }

    @property
    def measure(self) -> str:
        """What is measured, in words."""
        return measure_text(self.settings.cutoff, self.table1.ideal, self.settings.gain)


def reproduce(
    settings: Settings,
    progress: ProgressFactory = no_progress,
    *,
    wait: int | float = WAIT,
    executor: Executor = IN_PROCESS,
) -> Reproduction:
    """Run the paper's experiments, or read them from the folder where they are done, and write everything there.

    The folder is locked meanwhile, and is of one job (`results.job`): a second process with the same job waits, and finds all done.
    An experiment that some cells of could not be computed is in `Reproduction.failed`; the others are made.

    Args:
        settings: what to reproduce.
        progress: makes a bar.
        wait: seconds to wait for another process that is at work in the folder.
        executor: computes what is missing; all of it, see `compute_shard` for parts.

    Raises:
        ValueError: bad settings, model, collection or output folder; or the folder is another job's.
        CellsFailed: cells of Table 1 could not be computed; those of the other experiments are stored where they could.
        StoreError: the folder cannot be written, was moved in mid-run, or another process still works in it after `wait` seconds.
    """
    if isinstance(executor, Shard):
        raise ValueError(f"expected an executor that computes everything, got shard {executor}: use compute_shard")
    with main_job(settings, executor, wait) as (chosen, model, source, work):
        return _reproduce(chosen, model, source, progress, work, executor)


def _reproduce(
    settings: Settings,
    model: HookedCrossEncoder,
    source: Mapping[str, Any],
    progress: ProgressFactory,
    work: Work,
    executor: Executor,
) -> Reproduction:
    """Table 1, then the rest where it is asked for, in a folder that is locked and this job's."""
    folder, pools, store = work
    progress = titled(progress, store)
    try:
        with progress("Table 1") as advance:
            table = run_first(settings, model, pools, store, executor, advance)
    except CellsFailed as error:
        rest = {} if settings.only_table1 else run_rest(settings, model, pools, store, progress, executor)
        raise CellsFailed.of([error, *failed_ones(rest).values()]) from error.failures[0].cause
    names, cut = ", ".join(pool.title for pool in pools), tuple(count_cut(model, pool) for pool in pools)
    found = Reproduction(settings, model.cfg.model_name, names, pools, cut, table)
    folder.verify()
    record = _record(found, model, executor)
    remove_others(settings.out, record)
    write_table1(settings.out, table, found.caption, found.published)
    if settings.only_table1:
        write_json(settings.out / RUN, record)
    else:
        found, record = _reproduce_rest(found, model, source, store, progress, executor)
    folder.verify(record["files"])
    return found


def _reproduce_rest(
    found: Reproduction,
    model: HookedCrossEncoder,
    source: Mapping[str, Any],
    store: Store,
    progress: ProgressFactory,
    executor: Executor,
) -> tuple[Reproduction, dict[str, Any]]:
    """Everything but Table 1: results, their files, the figures and the page; and what `run.json` says."""
    settings = found.settings
    results = run_rest(settings, model, found.pools, store, progress, executor)
    unavailable = save_all(settings.out, results)
    found = replace(found, results=results, unavailable=unavailable)
    if isinstance(results["figure1b"], pd.DataFrame):
        about = {"model": found.model_label, "collections": found.collection_label, "test": "Figure 1b, Holm, p <= .05"}
        heads = passing_heads(results["figure1b"])
        save_heads(settings.out, "matching", heads, about, heads_source(source, found.pools))
    rankers = results.get("head_rankers")
    if isinstance(rankers, HeadRankers):
        about = {"model": found.model_label, "collections": found.collection_label, "test": "CoRe score, all queries"}
        save_heads(settings.out, "rankers", rankers.strongest, about, heads_source(source, found.pools))
    record = _record(found, model, executor)
    write_json(settings.out / RUN, record)
    draw_figures(settings.out)
    return replace(found, report=write_report(settings.out)), record


def _record(found: Reproduction, model: HookedCrossEncoder, executor: Executor) -> dict[str, Any]:
    table1 = [*TABLE1_FILES, *([] if found.table1.existing_cells is None else [EXISTING_CELLS])]
    listed = [*table1, *([] if found.settings.only_table1 else shown_files(found.unavailable))]
    columns = found.table1.per_query.columns
    return run_record(model, found.pools, found.cut, columns, listed, found.about, executor.device_of(model))
