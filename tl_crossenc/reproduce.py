"""The main job: the paper's artefacts on one model and some collections, into one folder.

A rerun computes what is missing and writes the same files again, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.console.shown import short_name
from tl_crossenc.experiments.matching import passing_heads
from tl_crossenc.experiments.paper import PaperOptions, ProgressFactory, no_progress, run_paper
from tl_crossenc.experiments.table1 import Table1, run_table1
from tl_crossenc.interventions.conditions import MODES, UNABLATED, Mode
from tl_crossenc.interventions.heads import check_heads, check_heads_text, parse_heads, resolve_heads, save_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.grades import check_sides, relevant_grades, scale_sentence
from tl_crossenc.pools.pool import Pool, PoolSpec
from tl_crossenc.report.drawing import draw_figures
from tl_crossenc.report.page import remove_others, shown_files, write_report
from tl_crossenc.report.tables import caption, latex_table, markdown, markdown_table, measure_text, table1_csv
from tl_crossenc.results.artefacts import save_all
from tl_crossenc.results.job import Job, at_work, heads_source, model_source
from tl_crossenc.results.kept_pools import Cut, count_cut
from tl_crossenc.results.outputs import file_name, versions, write_frame, write_json, write_runs
from tl_crossenc.statistics.published import (
    MONOBERT_MODELS,
    VAST_2025,
    VAST_2025_RANDOM,
    VAST_2025_TABLE_1,
    VAST_2025_UNABLATED,
)
from tl_crossenc.store.cells import Store
from tl_crossenc.store.files import write_atomic
from tl_crossenc.store.locks import WAIT, LockedFolder

NOT_OF_THE_JOB = ("model", "collections", "out", "device", "dtype", "revision", "tokenizer", "max_length", "score")
"""Settings that the model's identity, the pools or the place say better."""
TABLE1_FILES = ("table1.csv", "table1.md", "table1.tex", "per_query.csv", "tie_rate.csv", "scores.parquet")
FREE = ("heads", "only_table1", "token_budget")
"""Settings that may change from run to run in one folder; so may `PaperOptions`, but for its seed."""


@dataclass(frozen=True)
class Settings:
    """What to reproduce, on what.

    Attributes:
        model: "demo", a folder or a hub name.
        collections: "demo", folders, `trec-dl-2019` ... `-2022`, or ir_datasets ids.
        out: the results folder.
        device, dtype, revision, tokenizer, max_length, score: as `HookedCrossEncoder.from_pretrained` takes them.
        mode: of the ablations, "zero" or "mask".
        pool: how passages are drawn.
        cutoff: the k of nDCG@k.
        gain: "linear" (as in trec_eval) or "exponential".
        token_budget: padded tokens a batch; None for what suits the device (`HookedEncoder.token_budget`).
        options: what of the other experiments is chosen.
        heads: text of the heads to ablate, `3.7,4.1` or `@matching`; None for those that Figure 1b ranks highest.
        only_table1: leave all but Table 1.
    """

    model: str
    collections: tuple[str, ...]
    out: Path
    device: str = "auto"
    dtype: str = "float32"
    revision: str | None = None
    tokenizer: str | None = None
    max_length: int | None = None
    score: str | None = None
    mode: Mode = "zero"
    pool: PoolSpec = field(default_factory=PoolSpec)
    cutoff: int = 10
    gain: str = "linear"
    token_budget: int | None = None
    options: PaperOptions = field(default_factory=PaperOptions)
    heads: str | None = None
    only_table1: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"expected a mode among {', '.join(MODES)}, got {self.mode!r}")
        if not self.collections:
            raise ValueError("expected at least one collection, got none")
        if self.heads is not None:
            check_heads_text(self.heads)


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
        results: all other experiments' results, or why there is none, by key of `artefacts.ARTEFACTS`.
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
        )

    @property
    def measure(self) -> str:
        """What is measured, in words."""
        return measure_text(self.settings.cutoff, self.table1.ideal, self.settings.gain)


def reproduce(settings: Settings, progress: ProgressFactory = no_progress, *, wait: int | float = WAIT) -> Reproduction:
    """Run the paper's experiments, or read them from the folder where they are done, and write everything there.

    The folder is locked meanwhile, and is of one job (`job`): a second process with the same job waits and finds everything done.

    Args:
        settings: what to reproduce.
        progress: makes a bar.
        wait: seconds to wait for another process that is at work in the folder.

    Raises:
        ValueError: bad settings, model, collection or output folder; or the folder is another job's.
        StoreError: the folder cannot be written, was moved in mid-run, or another process still works in it after `wait` seconds.
    """
    store = Store(settings.out, versions={name: version for name, version in versions().items() if name == "torch"})
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
        settings = replace(settings, token_budget=model.token_budget())
    source, out = model_source(model), settings.out
    job = describe(settings, model, source)

    def check(pools: tuple[Pool, ...]) -> None:
        if settings.options.relevant_grades is None and not settings.only_table1:
            for pool in pools:
                check_sides(relevant_grades(pool.highest_grade) or (1,), settings.options.against)
        if settings.heads is not None:
            heads = resolve_heads(settings.heads, out, heads_source(source, pools))
            check_heads(heads, model.cfg.n_layers, model.cfg.n_heads)

    with at_work(out, job, settings.collections, settings.pool, check=check, wait=wait) as (folder, pools):
        chosen = settings
        if settings.heads is not None:
            heads = resolve_heads(settings.heads, out, heads_source(source, pools))
            chosen = replace(settings, options=replace(settings.options, heads=tuple(heads)))
        return _reproduce(chosen, model, source, pools, store, progress, folder)


def _reproduce(
    settings: Settings,
    model: HookedCrossEncoder,
    source: Mapping[str, Any],
    pools: tuple[Pool, ...],
    store: Store,
    progress: ProgressFactory,
    folder: LockedFolder,
) -> Reproduction:
    """Table 1, then the rest where it is asked for, in a folder that is locked and this job's."""
    with progress("Table 1") as advance:
        table = run_table1(
            model,
            pools,
            store,
            mode=settings.mode,
            cutoff=settings.cutoff,
            gain=settings.gain,
            token_budget=settings.token_budget,
            progress=advance,
        )
    names, cut = ", ".join(pool.collection for pool in pools), tuple(count_cut(model, pool) for pool in pools)
    found = Reproduction(settings, model.cfg.model_name, names, pools, cut, table)
    folder.verify()
    record = provenance(found, model)
    remove_others(settings.out, record)
    write_table1(found)
    if settings.only_table1:
        write_json(settings.out / "run.json", record)
    else:
        found, record = _reproduce_rest(found, model, source, store, progress)
    folder.verify(record["files"])
    return found


def _reproduce_rest(
    found: Reproduction,
    model: HookedCrossEncoder,
    source: Mapping[str, Any],
    store: Store,
    progress: ProgressFactory,
) -> tuple[Reproduction, dict[str, Any]]:
    """Everything but Table 1: results, their files, the figures and the page; and what `run.json` says."""
    settings = found.settings
    results = run_paper(
        model,
        found.pools,
        store,
        options=settings.options,
        mode=settings.mode,
        cutoff=settings.cutoff,
        gain=settings.gain,
        token_budget=settings.token_budget,
        progress=progress,
    )
    unavailable = save_all(settings.out, results)
    found = replace(found, results=results, unavailable=unavailable)
    if isinstance(results["figure1b"], pd.DataFrame):
        about = {"model": found.model_label, "collections": found.collection_label, "test": "Figure 1b, Holm, p <= .05"}
        heads = passing_heads(results["figure1b"])
        save_heads(settings.out, "matching", heads, about, heads_source(source, found.pools))
    record = provenance(found, model)
    write_json(settings.out / "run.json", record)
    draw_figures(settings.out)
    return replace(found, report=write_report(settings.out)), record


def describe(settings: Settings, model: HookedCrossEncoder, source: Mapping[str, Any]) -> Job:
    """The job that settings ask for, `source` being what the model is; a setting that is not named here as free is fixed."""
    fixed: dict[str, Any] = dict(source)
    for item in fields(settings):
        if item.name not in (*NOT_OF_THE_JOB, *FREE, "pool", "options"):
            fixed[item.name] = getattr(settings, item.name)
    pool = {f"pool.{name}": value for name, value in asdict(settings.pool).items()}
    negatives = {name: pool.pop(f"pool.{name}") for name in ("easy_negatives", "match_length", "match_grades")}
    fixed |= pool | {"seed": settings.options.seed}
    free = {name: getattr(settings, name) for name in FREE} | {"device": model.device.type}
    free |= {f"pool.{name}": str(value) for name, value in negatives.items()}
    for item in fields(settings.options):
        if item.name not in ("seed", "heads"):
            value = getattr(settings.options, item.name)
            free[item.name] = [str(one) for one in value] if isinstance(value, tuple) else value
    return Job("reproduce", model.cfg.model_name, fixed, free)


def is_monobert(model_name: str) -> bool:
    """Whether the paper's numbers are this model's."""
    return model_name in MONOBERT_MODELS or "monobert-large" in Path(model_name).name


def write_table1(found: Reproduction) -> None:
    """Write Table 1 in every form, the per-query values, the runs and the scores."""
    table, out = found.table1, found.settings.out
    published = found.published
    write_frame(out / "table1.csv", table1_csv(table.comparison, published))
    text = markdown_table(table.comparison, table.unablated, published)
    write_atomic(out / "table1.md", f"{text}\n{markdown(found.caption)}\n")
    write_atomic(out / "table1.tex", latex_table(table.comparison, table.unablated, found.caption, published))
    per_query = table.per_query.copy()
    per_query.insert(0, "random", table.random)
    per_query.insert(1, "ideal_dcg", table.ideal_dcg)
    write_frame(out / "per_query.csv", per_query)
    write_frame(out / "tie_rate.csv", table.tie_rate)
    write_frame(out / "scores.parquet", table.scores, index=False)
    write_runs(out / "runs", table.scores, [str(UNABLATED), *_conditions(table)])


def _conditions(table: Table1) -> Sequence[str]:
    return [name for name in table.per_query.columns if name != str(UNABLATED)]


def provenance(found: Reproduction, model: HookedCrossEncoder) -> dict[str, Any]:
    """What was run, on what, with which versions, and the files that are of it. No times: a rerun writes the same bytes."""
    options = {name: str(value) for name, value in asdict(found.settings.options).items()}
    options["directions"] = ", ".join(str(direction) for direction in found.settings.options.directions)
    settings = asdict(found.settings) | {"out": None, "options": options}
    runs = {condition: f"{file_name(condition)}.run" for condition in [str(UNABLATED), *_conditions(found.table1)]}
    listed = [f"runs/{file_name(pool.collection)}/{name}" for pool in found.pools for name in runs.values()]
    if not found.settings.only_table1:
        listed += shown_files(found.unavailable)
    return {
        "files": sorted([*TABLE1_FILES, *listed]),
        "settings": settings,
        "model": {
            "name": found.model_label,
            "revision": model.cfg.revision,
            "layers": model.cfg.n_layers,
            "heads": model.cfg.n_heads,
            "d_model": model.cfg.d_model,
            "labels": model.cfg.n_labels,
            "score": model.cfg.score,
            "types_fed": model.types_fed,
            "max_length": model.encoder.max_length if model.encoder else None,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
        },
        "pools": [
            {"collection": pool.collection, "digest": pool.digest, "provenance": pool.provenance, "cut": cut._asdict()}
            for pool, cut in zip(found.pools, found.cut, strict=True)
        ],
        "relevance": {
            "highest_grades": {pool.collection: pool.highest_grade for pool in found.pools},
            "relevant_grades": found.relevant_grades,
            "words": found.relevance,
        },
        "measure": {
            "name": found.measure,
            "ideal": found.table1.ideal,
            "queries": len(found.table1.per_query),
            "queries_of_one_gain": found.table1.one_gain,
        },
        "runs": runs,
        "versions": versions(),
    }
