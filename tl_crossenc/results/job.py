"""One folder, one job: what a folder of results is of, kept in its `job.json`, and refused to any other.

A job is who asks (`reproduce`, `compare-masks`), the model as it runs (weights, tokenizer, number type), what is measured and on
which pools. What of it a folder keeps:

- fixed: the model, the mode, the pool's rules and seed (or the run that it is the top of), the measure, and whatever is not named
  as free. A run that differs there is refused, with the first difference, before anything is computed or written.
- free: what chooses what is shown or how it is computed and not what a number means: heads to ablate, directions and span of
  Figure 1a, draws, easy negatives (which are not ranked), Table 1 alone or everything, token budget, kind of device. Collections
  may be added behind those that are there.
  A later run may change these: everything that is shown is then made anew, and what the run does not make goes.
- While another process is at work in the folder, all of it must be the same but for device and token budget: two that ask for
  different things at once would each find half of the other's.

A folder in which nothing is computed yet is anybody's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.identity import CONFIG, model_identity
from tl_crossenc.pools.pool import Pool, PoolSpec
from tl_crossenc.pools.spec import Draw
from tl_crossenc.results.layout import CELLS, JOB, REPORT, RUN, TABLES, former_name, is_former, located
from tl_crossenc.results.outputs import write_json
from tl_crossenc.store.files import StoreError, explained, regular

FORMAT = 1
SHOWN = (
    RUN,
    f"{TABLES}/table1.csv",
    REPORT,
    f"{TABLES}/compare_masks.csv",
    f"{TABLES}/compare_models.csv",
    f"{TABLES}/patch_pairs.csv",
)
"""Files that a job leaves for people: where one is without a `job.json`, it is of a version that kept none."""
FROM = "pool.source"
HOW = frozenset({"device", "token_budget"})
"""How a number is computed, not which."""
WORDS = {
    "weights": "the model's weights",
    "tokenizer": "the tokenizer or the length that it cuts to",
    "dtype": "the number type (--dtype)",
    "model.score": "what of the logits is the score (--score)",
    "mode": "how attention is removed (--mode)",
    "cutoff": "the cutoff of nDCG",
    "gain": "the gain (--gain)",
    "seed": "the seed (--seed)",
    "pool.seed": "the seed (--seed)",
    "pool.match_length": "whether easy negatives match in length",
    "pool.per_grade": "the number of passages a grade (--per-grade)",
    "pool.easy_negatives": "the number of easy negatives (--easy-negatives)",
    "heads": "the choice of heads (--heads)",
    "only_table1": "whether Table 1 alone is asked for (--only-table1)",
    "directions": "the directions of Figure 1a (--direction)",
    "span": "the span of Figure 1a (--span)",
    "n_draws": "the number of draws (--draws)",
    "methods": "the choice of methods (--method, --all)",
    "sampled": "whether methods take samples (--all)",
    "presets": "the choice of masks (--preset)",
    "run": "the run (--run)",
    "depth": "the number of passages a query (--depth)",
    "condition": "the choice of conditions (--ablate, --conditions)",
    "conditions": "the choice of conditions (--ablate, --conditions)",
    "measures": "the choice of measures (--measure)",
}


@dataclass(frozen=True)
class Job:
    """What a folder of results is of.

    Attributes:
        command: what is run.
        model: the model's name, for messages; another name of the same weights is the same model.
        fixed, free: names → JSON values, see the module.
        pools: (collection, digest of the passages that are ranked) in order; None while the pools are not drawn.
        runs: collection → depth and, once it is known, SHA-256 of the run that its pool is the top of; none of others.
    """

    command: str
    model: str
    fixed: Mapping[str, Any]
    free: Mapping[str, Any] = field(default_factory=dict)
    pools: tuple[tuple[str, str], ...] | None = None
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        pools = [
            {"collection": name, "digest": digest} | ({"run": self.runs[name]} if name in self.runs else {})
            for name, digest in self.pools or ()
        ]
        kept = {"command": self.command, "model": self.model, "fixed": self.fixed, "free": self.free, "pools": pools}
        return json.loads(json.dumps({"format": FORMAT, **kept}, default=str))


def model_source(model: HookedCrossEncoder) -> dict[str, Any]:
    """What of a model belongs to a job, in the order in which differences are named: nothing of where and how it runs."""
    identity = model_identity(model)
    config = {f"model.{name}": getattr(model.cfg, name) for name in CONFIG if not name.startswith("use_")}
    return {"dtype": identity["dtype"], **config, **{name: identity[name] for name in ("weights", "tokenizer")}}


def pool_rules(draw: Draw) -> dict[str, Any]:
    """What of the way in which pools are made belongs to a job; of a run that it is one: depth and checksum are with the pools."""
    if isinstance(draw, PoolSpec):
        return {f"pool.{name}": value for name, value in asdict(draw).items()}
    return {FROM: "run"}


def heads_source(source: Mapping[str, Any], pools: Sequence[Pool]) -> dict[str, Any]:
    """On what a list of heads is found: the model, as `model_source` gives it, and the pools."""
    return {"model": dict(source), "pools": {pool.collection: pool.digest for pool in pools}}


def refuse_another(folder: Path, job: Job, *, at_once: bool = False, shared: bool = False) -> None:
    """Whether the folder is this job's, or nobody's yet.

    Args:
        folder: of the results.
        job: the job that asks; its collections are not looked at while its pools are not drawn.
        at_once: whether another process is at work in the folder.
        shared: whether another may be at work in it without a lock, so that it is somebody's from its `job.json` on.

    Raises:
        ValueError: it holds the results of another job, or of a version that did not say of which; the first difference is named.
    """
    there = job_record(folder)
    if there is None:
        shown = [name for name in SHOWN if located(folder, name).is_file()]
        if shown:
            raise ValueError(
                f"expected {JOB} in {folder} beside {shown[0]}: its results are of an earlier version, which did not say of which "
                f"job they are: choose another --out, such as --out {unused(folder)}, or move them away"
            )
        return
    if not at_once and not shared and not _has_results(folder):
        return
    difference = first_difference(there, job, at_once=at_once)
    if difference is None:
        return
    if at_once:
        raise ValueError(
            f"another process is at work in {folder} on another job: {difference}: run again when it is done, or choose another "
            f"--out, such as --out {unused(folder)}"
        )
    raise ValueError(
        f"expected {folder} to be empty or to hold this job's results, but it holds another job's: {difference}: choose another "
        f"--out, such as --out {unused(folder)}"
    )


def claim(folder: Path, job: Job, *, shared: bool = False) -> None:
    """Make the folder this job's, by its `job.json`; `shared` as in `refuse_another`.

    Raises:
        ValueError: see `refuse_another`.
        StoreError: the folder cannot be written.
    """
    refuse_another(folder, job, shared=shared)
    if job_record(folder) != job.record():
        write_json(folder / JOB, job.record())


def first_difference(
    there: Mapping[str, Any], job: Job, *, at_once: bool = False, places: tuple[str, str] = ("there", "here")
) -> str | None:
    """`the gain (--gain) there is 'linear', here 'exponential'`; None where a run of `job` may follow.

    Args:
        there: a job's record.
        job: the other.
        at_once: whether what is free has to be the same too.
        places: what the two are called.
    """
    here = job.record()
    if there.get("command") != here["command"]:
        return f"{places[0]} it is {there.get('command')!r}, {places[1]} {here['command']!r}"
    origins = [_origin(record["fixed"]) for record in (there, here)]
    if origins[0] != origins[1]:
        return f"the passages {places[0]} are {origins[0]}, {places[1]} {origins[1]}"
    parts = ["fixed", *(["free"] if at_once else [])]
    for part in parts:
        old, new = there.get(part, {}), here[part]
        for name in dict.fromkeys([*job.fixed, *job.free, *old]):
            if name in HOW or (name not in old and name not in new):
                continue
            if old.get(name) != new.get(name):
                ends = [_shown(record.get(name)) for record in (old, new)]
                if name in ("weights", "tokenizer") or name.startswith("model."):
                    names = str(there.get("model")), here["model"]
                    ends = [f"{end} ({label})" for end, label in zip(ends, names, strict=True)]
                return f"{_words(name)} {places[0]} is {ends[0]}, {places[1]} {ends[1]}"
    return None if job.pools is None else _pool_difference(there.get("pools", []), here["pools"], at_once)


def _origin(fixed: Mapping[str, Any]) -> str:
    return "the first of a run (--run)" if fixed.get(FROM) == "run" else "drawn from all that are judged"


def _words(name: str) -> str:
    own = name.removeprefix("model.")
    return WORDS.get(name, ("the model's " if own != name else "") + own.replace("_", " "))


def _pool_difference(old: list[dict[str, Any]], new: list[dict[str, Any]], at_once: bool) -> str | None:
    names = [[pool["collection"] for pool in pools] for pools in (old, new)]
    if names[0] != names[1][: len(names[0])] or (at_once and len(names[0]) < len(names[1])):
        return f"the collections there are {', '.join(names[0])}, here {', '.join(names[1])}"
    for there, here in zip(old, new, strict=False):
        for name, value in here.get("run", {}).items():
            kept = there.get("run", {}).get(name)
            if kept != value:
                what = "depth (--depth)" if name == "depth" else name.upper().replace("SHA", "SHA-")
                return f"the {what} of the run of {here['collection']} there is {_shown(kept)}, here {_shown(value)}"
        if here["digest"] and there["digest"] != here["digest"]:
            return f"the pool of {here['collection']} there is {_shown(there['digest'])}, here {_shown(here['digest'])}"
    return None


def unused(folder: Path) -> Path:
    """The folder's name with the first number behind it that no folder has."""
    base, number = folder if folder.name not in ("", "..") else folder.resolve(), 2
    while (place := base.with_name(f"{base.name}-{number}")).exists():
        number += 1
    return place


def refuse_two_jobs(folder: Path) -> None:
    """Whether a folder that has something of both layouts, this one and the former, is of one job.

    Raises:
        ValueError: it is not; the first difference is named.
    """
    here, former = (_read_at(folder / name) if is_former(folder) else None for name in (JOB, former_name(JOB)))
    if here is None or former is None:
        return
    less, more = sorted((former, here), key=lambda record: len(record["pools"]))
    pools = tuple((pool["collection"], pool["digest"]) for pool in more["pools"])
    runs = {pool["collection"]: pool["run"] for pool in more["pools"] if "run" in pool}
    difference = first_difference(less, Job(more["command"], more["model"], more["fixed"], more["free"], pools, runs))
    if difference is not None:
        raise ValueError(
            f"expected the results of one job in {folder}, but {JOB} and the former layout's {former_name(JOB)} are of two: "
            f"{difference}: move one of them away with what is its, or choose another --out, such as --out {unused(folder)}"
        )


def command_of(folder: Path) -> str | None:
    """The command of the job that a folder is of; None where it is nobody's yet."""
    record = job_record(folder)
    return None if record is None else record.get("command")


def job_record(folder: Path) -> dict[str, Any] | None:
    """The job that a folder is of, as `Job.record` gives it; None where it is nobody's yet.

    Raises:
        ValueError: it cannot be read.
        StoreError: it may not be read.
    """
    return _read_at(located(folder, JOB))


def _read_at(path: Path) -> dict[str, Any] | None:
    try:
        with explained(path, doing="read"):
            if not path.exists():
                return None
            found = json.loads(regular(path).read_bytes())
        if found["format"] > FORMAT:
            raise ValueError(f"it is of format {found['format']}, this version reads {FORMAT}")
        if not all(isinstance(found[name], kind) for name, kind in (("fixed", dict), ("free", dict), ("pools", list))):
            raise ValueError("its parts are not what they should be")
        return found
    except StoreError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"expected in {path} what the folder's results are of, but it cannot be read ({type(error).__name__}: {error}): "
            "choose another --out"
        ) from None


def _has_results(folder: Path) -> bool:
    cells = (CELLS, former_name(CELLS))
    return any(located(folder, name).is_file() for name in SHOWN) or any(
        any(folder.glob(f"{place}/*/*.json")) for place in cells
    )


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 32 else f"{text[:24]}…"
