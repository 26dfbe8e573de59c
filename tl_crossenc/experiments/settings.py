"""What the main job is asked for: the model, the collections, the place and the choices; and of which job a folder is with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tl_crossenc.experiments.paper import PaperOptions
from tl_crossenc.interventions.conditions import MODES, Mode
from tl_crossenc.interventions.heads import check_heads_text
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import PoolSpec
from tl_crossenc.pools.spec import Draw, specs_of
from tl_crossenc.results.job import Job, pool_rules

NOT_OF_THE_JOB = ("model", "collections", "out", "device", "dtype", "revision", "tokenizer", "max_length", "score")
"""Settings that the model's identity, the pools or the place say better."""
FREE = ("heads", "only_table1", "token_budget")
"""Settings that may change from run to run in one folder; so may `PaperOptions`, but for its seed."""
NEGATIVES = ("pool.easy_negatives", "pool.match_length", "pool.match_grades")
"""Rules of a pool that choose what is not ranked."""


@dataclass(frozen=True)
class Settings:
    """What to reproduce, on what.

    Attributes:
        model: "demo", a folder or a hub name.
        collections: "demo", folders, `trec-dl-2019` ... `-2022`, or ir_datasets ids.
        out: the results folder.
        device, dtype, revision, tokenizer, max_length, score: as `HookedCrossEncoder.from_pretrained` takes them.
        mode: of the ablations, "zero" or "mask".
        pool: how passages are drawn, or a run a collection, whose first passages are taken.
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
    pool: Draw = field(default_factory=PoolSpec)
    cutoff: int = 10
    gain: str = "linear"
    token_budget: int | None = None
    options: PaperOptions = field(default_factory=PaperOptions)
    heads: str | None = None
    only_table1: bool = False

    @property
    def ranking(self) -> dict[str, Any]:
        """How rankings are ablated and measured, as the experiments take it."""
        return {name: getattr(self, name) for name in ("mode", "cutoff", "gain", "token_budget")}

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"expected a mode among {', '.join(MODES)}, got {self.mode!r}")
        if not self.collections:
            raise ValueError("expected at least one collection, got none")
        specs_of(self.collections, self.pool)
        if self.heads is not None:
            check_heads_text(self.heads)


def job_of(settings: Settings, model: HookedCrossEncoder, source: Mapping[str, Any]) -> Job:
    """The job that settings ask for, `source` being what the model is; a setting that is not named here as free is fixed."""
    fixed: dict[str, Any] = dict(source)
    for item in fields(settings):
        if item.name not in (*NOT_OF_THE_JOB, *FREE, "pool", "options"):
            fixed[item.name] = getattr(settings, item.name)
    pool = pool_rules(settings.pool)
    negatives = {name: pool.pop(name) for name in NEGATIVES if name in pool}
    fixed |= pool | {"seed": settings.options.seed}
    free = {name: getattr(settings, name) for name in FREE} | {"device": model.device.type}
    free |= {name: str(value) for name, value in negatives.items()}
    for item in fields(settings.options):
        if item.name not in ("seed", "heads"):
            value = getattr(settings.options, item.name)
            free[item.name] = [str(one) for one in value] if isinstance(value, tuple) else value
    return Job("reproduce", model.cfg.model_name, fixed, free)


def settings_record(settings: Settings) -> dict[str, Any]:
    """The settings as `run.json` says them; not the folder, which may be moved."""
    options = {name: str(value) for name, value in asdict(settings.options).items()}
    options["directions"] = ", ".join(str(direction) for direction in settings.options.directions)
    record = asdict(settings) | {"out": None, "options": options}
    if not isinstance(settings.pool, PoolSpec):
        record["pool"] = {
            "runs": [spec.name for spec in settings.pool],
            "depth": [spec.depth for spec in settings.pool],
        }
    return record
