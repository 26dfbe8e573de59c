"""The main job's experiments in its folder: all of them, for what is shown, or one shard's part of their cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tl_crossenc.executors.executor import Executor, Progress
from tl_crossenc.executors.sharded import Shard, ShardRun
from tl_crossenc.experiments.paper import ProgressFactory, no_progress, run_paper
from tl_crossenc.experiments.settings import Settings, job_of
from tl_crossenc.experiments.table1 import Table1, run_table1
from tl_crossenc.interventions.heads import check_heads, parse_heads, resolve_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.grades import check_sides, relevant_grades
from tl_crossenc.pools.pool import Pool
from tl_crossenc.results.job import heads_source, model_source
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.results.watch import titled
from tl_crossenc.results.work import Work, at_work, prepare
from tl_crossenc.store.cells import Store
from tl_crossenc.store.locks import WAIT


@contextmanager
def main_job(
    settings: Settings, executor: Executor, wait: int | float, *, shared: bool = False
) -> Iterator[tuple[Settings, HookedCrossEncoder, dict[str, Any], Work]]:
    """The main job at work in its folder: settings with all that is known by then, the model, what it is, and what it has in hand.

    Args:
        settings: what to reproduce.
        executor: which will compute.
        wait: seconds to wait for another process that is at work in the folder.
        shared: whether others may work in the folder at the same time, see `at_work`.

    Raises:
        ValueError, StoreError: see `reproduce.reproduce`.
    """
    prepare(settings.out)
    model = HookedCrossEncoder.from_pretrained(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        revision=settings.revision,
        tokenizer=settings.tokenizer,
        max_length=settings.max_length,
        score=settings.score,
    )
    if settings.heads is not None and not settings.heads.strip().startswith("@"):
        check_heads(parse_heads(settings.heads), model.cfg.n_layers, model.cfg.n_heads)
    if settings.token_budget is None:
        settings = replace(settings, token_budget=executor.token_budget(model))
    source, out = model_source(model), settings.out
    job, chosen = job_of(settings, model, source), settings

    def check(pools: tuple[Pool, ...]) -> None:
        nonlocal chosen
        if settings.options.relevant_grades is None and not settings.only_table1:
            for pool in pools:
                check_sides(relevant_grades(pool.highest_grade) or (1,), settings.options.against)
        if settings.heads is not None:
            heads = resolve_heads(settings.heads, out, heads_source(source, pools))
            check_heads(heads, model.cfg.n_layers, model.cfg.n_heads)
            chosen = replace(settings, options=replace(settings.options, heads=tuple(heads)))

    with at_work(out, job, settings.collections, settings.pool, check=check, wait=wait, shared=shared) as work:
        yield chosen, model, source, work


def run_first(
    settings: Settings,
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    executor: Executor,
    advance: Progress,
) -> Table1:
    """Table 1."""
    return run_table1(model, pools, store, **settings.ranking, executor=executor, progress=advance)


def run_rest(
    settings: Settings,
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    progress: ProgressFactory,
    executor: Executor,
) -> dict[str, Any]:
    """Results of all but Table 1."""
    chosen = {"options": settings.options, **settings.ranking}
    return run_paper(model, pools, store, **chosen, executor=executor, progress=progress)


def compute_shard(
    settings: Settings, shard: Shard, progress: ProgressFactory = no_progress, *, wait: int | float = WAIT
) -> ShardRun:
    """Compute a shard's part of what the paper's experiments need, as far as that is known; write cells, and show nothing.

    Other shards of the same job may be at work in the folder at the same time: it is locked only while it is made this job's.

    Args:
        settings: what to reproduce.
        shard: which part.
        progress: makes a bar.
        wait: seconds to wait for another process that has the folder to itself.

    Raises:
        ValueError, StoreError: see `reproduce.reproduce`.
    """
    with main_job(settings, shard, wait, shared=True) as (chosen, model, _, (folder, pools, store)):
        results: dict[str, Any] = {}
        progress = titled(progress, store)
        try:
            with progress("Table 1") as advance:
                run_first(chosen, model, pools, store, shard, advance)
        except Unavailable as reason:
            results["table1"] = reason
        if not chosen.only_table1:
            results |= run_rest(chosen, model, pools, store, progress, shard)
        folder.verify()
        return shard.done(store, results)
