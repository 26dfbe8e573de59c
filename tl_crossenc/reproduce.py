"""The main job: the paper's artefacts on one model and some collections, into one folder.

A rerun computes what is missing and writes the same files again, byte for byte.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from tl_crossenc.artefacts import save_all
from tl_crossenc.batching import default_token_budget
from tl_crossenc.collections import TREC_DL, load_collection
from tl_crossenc.conditions import MODES, UNABLATED, Mode
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.drawing import draw_figures
from tl_crossenc.experiments.matching import passing_heads
from tl_crossenc.experiments.paper import PaperOptions, ProgressFactory, no_progress, run_paper
from tl_crossenc.experiments.table1 import Table1, run_table1
from tl_crossenc.grades import check_sides, relevant_grades, scale_sentence
from tl_crossenc.heads import resolve_heads, save_heads
from tl_crossenc.outputs import file_name, versions, write_frame, write_json, write_runs
from tl_crossenc.pools import Pool, PoolSpec, build_pool
from tl_crossenc.published import (
    MONOBERT_MODELS,
    VAST_2025,
    VAST_2025_RANDOM,
    VAST_2025_TABLE_1,
    VAST_2025_UNABLATED,
)
from tl_crossenc.report import write_report
from tl_crossenc.shown import short_name
from tl_crossenc.store import Store, write_atomic
from tl_crossenc.tables import caption, latex_table, markdown, markdown_table, table1_csv


@dataclass(frozen=True)
class Settings:
    """What to reproduce, on what.

    Attributes:
        model: "demo", a folder or a hub name.
        collections: "demo", folders, `trec-dl-2019` ... `-2022`, or ir_datasets ids.
        out: the results folder.
        mode: of the ablations, "zero" or "mask".
        pool: how passages are drawn.
        cutoff: the k of nDCG@k.
        gain: "linear" (as in trec_eval) or "exponential".
        token_budget: padded tokens a batch; None for what suits the device (`batching.default_token_budget`).
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


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` found.

    Attributes:
        settings: what was asked for.
        model_label: the model's name for titles.
        collection_label: the collections' names for titles.
        pools: one a collection.
        table1: Table 1.
        results: all other experiments' results, or why there is none, by key of `artefacts.ARTEFACTS`.
        unavailable: artefact -> why there is none.
        report: the page; None when only Table 1 was asked for.
    """

    settings: Settings
    model_label: str
    collection_label: str
    pools: tuple[Pool, ...]
    table1: Table1
    results: dict[str, Any] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    report: Path | None = None

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
        )


def reproduce(settings: Settings, progress: ProgressFactory = no_progress) -> Reproduction:
    """Run the paper's experiments, or read them from the folder where they are done, and write everything there.

    Raises:
        ValueError: bad settings, model, collection or output folder.
        StoreError: the folder cannot be written.
    """
    store = Store(settings.out, versions={name: version for name, version in versions().items() if name == "torch"})
    model = HookedCrossEncoder.from_pretrained(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        revision=settings.revision,
        tokenizer=settings.tokenizer,
    )
    if settings.token_budget is None:
        settings = replace(settings, token_budget=default_token_budget(model.device, model.cfg))
    pools = tuple(frozen_pool(name, settings.pool, settings.out / "pools") for name in settings.collections)
    if settings.options.relevant_grades is None and not settings.only_table1:
        for pool in pools:  # before any work
            check_sides(relevant_grades(pool.highest_grade) or (1,), settings.options.against)
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
    found = Reproduction(settings, model.cfg.model_name, ", ".join(pool.collection for pool in pools), pools, table)
    write_table1(found)
    write_json(settings.out / "run.json", provenance(found, model))
    return found if settings.only_table1 else _reproduce_rest(found, model, store, progress)


def _reproduce_rest(
    found: Reproduction, model: HookedCrossEncoder, store: Store, progress: ProgressFactory
) -> Reproduction:
    """Everything but Table 1: results, their files, the figures and the page."""
    settings = found.settings
    options = settings.options
    if settings.heads is not None:
        options = replace(options, heads=tuple(resolve_heads(settings.heads, settings.out)))
    results = run_paper(
        model,
        found.pools,
        store,
        options=options,
        mode=settings.mode,
        cutoff=settings.cutoff,
        gain=settings.gain,
        token_budget=settings.token_budget,
        progress=progress,
    )
    unavailable = save_all(settings.out, results)
    if isinstance(results["figure1b"], pd.DataFrame):
        about = {"model": found.model_label, "collections": found.collection_label, "test": "Figure 1b, Holm, p <= .05"}
        save_heads(settings.out, "matching", passing_heads(results["figure1b"]), about)
    draw_figures(settings.out)
    report = write_report(settings.out)
    return replace(found, results=results, unavailable=unavailable, report=report)


def frozen_pool(name: str, spec: PoolSpec, folder: Path) -> Pool:
    """The pool of a collection, drawn once and kept: it is not drawn again while its file is there.

    Raises:
        ValueError: the pool kept is that of another collection, or its folder's files are no longer those it was drawn from.
    """
    source = _collection_folder(name)
    title = name if source is None or name == "demo" else source.name
    label = re.sub(r"[^\w.]+", "-", title).strip("-") or "unnamed"
    per_grade = "all" if spec.per_grade is None else spec.per_grade
    easy = f"{spec.easy_negatives}-matched" if spec.easy_negatives and spec.match_length else spec.easy_negatives
    path = folder / f"{label}_grade-{per_grade}_easy-{easy}_seed-{spec.seed}.parquet"
    if path.exists():
        pool = Pool.load(path)
        if pool.collection != title:
            raise ValueError(
                f"expected the pool of {title!r} in {path}, got that of {pool.collection!r}: choose another --out"
            )
        changed = _changed(pool, source)
        if changed:
            raise ValueError(
                f"expected {source} as it was when {path} was drawn from it, but {', '.join(changed)} changed since: choose "
                "another --out, or delete that pool to draw it anew"
            )
        return pool
    pool = build_pool(load_collection(name), spec)
    pool.save(path)
    return pool


def _collection_folder(name: str) -> Path | None:
    """The folder whose files a collection's name means; None for one of ir_datasets'."""
    if name == "demo":
        return Path(str(files("tl_crossenc.demo"))) / "collection"
    folder = Path(name).expanduser().resolve()
    return folder if name not in TREC_DL and folder.is_dir() else None


def _changed(pool: Pool, source: Path | None) -> list[str]:
    """The collection's files that are no longer those that the pool was drawn from."""
    recorded = pool.provenance.get("collection", {})
    if source is None or recorded.get("source") != "folder":
        return []
    digests = {**recorded["sha256"], "docs.tsv": recorded["docs"]["sha256"]}
    return [file for file, digest in digests.items() if _sha256(source / file) != digest]


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


def provenance(found: Reproduction, model: HookedCrossEncoder) -> dict[str, object]:
    """What was run, on what, with which versions. No times: a rerun writes the same bytes."""
    options = {name: str(value) for name, value in asdict(found.settings.options).items()}
    options["directions"] = ", ".join(str(direction) for direction in found.settings.options.directions)
    settings = asdict(found.settings) | {"out": None, "options": options}
    return {
        "settings": settings,
        "model": {
            "name": found.model_label,
            "revision": model.cfg.revision,
            "layers": model.cfg.n_layers,
            "heads": model.cfg.n_heads,
            "d_model": model.cfg.d_model,
            "labels": model.cfg.n_labels,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
        },
        "pools": [
            {"collection": pool.collection, "digest": pool.digest, "provenance": pool.provenance}
            for pool in found.pools
        ],
        "relevance": {
            "highest_grades": {pool.collection: pool.highest_grade for pool in found.pools},
            "relevant_grades": found.relevant_grades,
            "words": found.relevance,
        },
        "runs": {
            condition: f"{file_name(condition)}.run" for condition in [str(UNABLATED), *_conditions(found.table1)]
        },
        "versions": versions(),
    }
