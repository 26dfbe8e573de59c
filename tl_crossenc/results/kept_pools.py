"""The pools of a folder of results: each drawn once, kept in a file of its own, and taken from there ever after."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from tl_crossenc.inputs.encoder import BLOCK
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.collections import TREC_DL, load_collection
from tl_crossenc.pools.pool import Pool, PoolSpec, build_pool, require_distinct
from tl_crossenc.pools.runs import read_run
from tl_crossenc.pools.spec import SCOREDDOCS, Draw, RunSpec, specs_of
from tl_crossenc.store.files import sha256


class Cut(NamedTuple):
    """How many passages of a pool the model does not read to their end.

    Attributes:
        passages: how many lost tokens. A query never does: one that leaves its passage no room is an error.
        of: how many there are, easy negatives among them.
        max_length: the most tokens of a pair, special tokens included.
    """

    passages: int
    of: int
    max_length: int

    def __str__(self) -> str:
        many = f"{self.passages:,} of {self.of:,}" if self.passages else "none"
        return f"{many} cut to the model's {self.max_length:,} tokens a pair"


def count_cut(model: HookedCrossEncoder, pool: Pool) -> Cut:
    """Count the passages that are cut. Texts are tokenized for it, the model is not run."""
    found, limit = 0, model.cfg.n_ctx if model.encoder is None else model.encoder.max_length
    for start in range(0, len(pool.pairs), BLOCK):
        pairs = pool.pairs[start : start + BLOCK]
        found += int(model.encode_pairs([p.query for p in pairs], [p.text for p in pairs]).truncated.sum())
    return Cut(found, len(pool.pairs), limit)


def pool_title(name: str) -> str:
    """A collection's name in tables: of a folder its last part."""
    source = _collection_folder(name)
    return name if source is None or name == "demo" else source.name


def frozen_pools(names: Sequence[str], draw: Draw, folder: Path) -> tuple[Pool, ...]:
    """The pools of some collections: those that the folder keeps, or newly made ones, which are not kept yet.

    Raises:
        ValueError: two collections of one name, not one run a collection, or see `frozen_pool`.
        FileNotFoundError: a run is not there.
    """
    titles = [pool_title(name) for name in names]
    require_distinct(titles)
    specs = specs_of(names, draw)
    return tuple(_kept_pool(name, spec, folder) or _made(name, spec) for name, spec in zip(names, specs, strict=True))


def _made(name: str, spec: PoolSpec | RunSpec) -> Pool:
    collection = load_collection(name)
    if isinstance(spec, RunSpec):
        return Pool.from_run(collection, spec.run, depth=spec.depth)
    return build_pool(collection, spec)


def run_of(spec: RunSpec) -> dict[str, Any]:
    """What a job says of a run: depth, and its SHA-256, which is not known of `scoreddocs` before they are read.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if spec.run == SCOREDDOCS:
        return {"depth": spec.depth}
    path = Path(spec.run)
    return {"depth": spec.depth, "sha256": sha256(path) if path.is_file() else read_run(path)[1]}


def run_of_pool(pool: Pool) -> dict[str, Any] | None:
    """What a job says of the run that a pool is the top of; None of a pool that was drawn."""
    if pool.provenance.get("source") != "run":
        return None
    return {"depth": pool.provenance["depth"], "sha256": pool.provenance["run_sha256"]}


def keep_pool(name: str, pool: Pool, folder: Path) -> None:
    """Keep a pool where `frozen_pool` finds it; one that is there stays."""
    run = run_of_pool(pool)
    if run is not None:
        path = _run_path(name, pool.provenance["run"], run, folder)
    else:
        path = _pool_path(name, pool.spec, folder)
    if not path.exists():
        pool.save(path)


def frozen_pool(name: str, spec: PoolSpec | RunSpec, folder: Path) -> Pool:
    """The pool of a collection, drawn once and kept: it is not drawn again while its file is there.

    Raises:
        ValueError: the pool kept is that of another collection or was drawn by other rules, or its folder's files are no longer
            those it was drawn from.
    """
    (pool,) = frozen_pools([name], spec if isinstance(spec, PoolSpec) else (spec,), folder)
    keep_pool(name, pool, folder)
    return pool


def _label(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", pool_title(name)).strip("-") or "unnamed"


def _run_path(name: str, run: str, about: Mapping[str, Any], folder: Path) -> Path:
    called = SCOREDDOCS if run == SCOREDDOCS else about["sha256"][:12]
    return folder / f"{_label(name)}_run-{called}_depth-{about['depth']}.parquet"


def _pool_path(name: str, spec: PoolSpec, folder: Path) -> Path:
    label = _label(name)
    per_grade = "all" if spec.per_grade is None else spec.per_grade
    easy = str(spec.easy_negatives)
    if spec.easy_negatives and spec.match_length:
        easy += "-matched" + "".join(f"-{grade}" for grade in spec.match_grades or ())
    return folder / f"{label}_grade-{per_grade}_easy-{easy}_seed-{spec.seed}.parquet"


def _kept_pool(name: str, spec: PoolSpec | RunSpec, folder: Path) -> Pool | None:
    """The pool in the folder, where one is kept."""
    source, title = _collection_folder(name), pool_title(name)
    run = run_of(spec) if isinstance(spec, RunSpec) else None
    path = (
        _pool_path(name, spec, folder) if isinstance(spec, PoolSpec) else _run_path(name, spec.run, run or {}, folder)
    )
    if not path.exists():
        return None
    pool = Pool.load(path)
    if pool.collection != title:
        raise ValueError(
            f"expected the pool of {title!r} in {path}, got that of {pool.collection!r}: choose another --out"
        )
    if run is not None:
        kept = run_of_pool(pool) or {}
        other = next((key for key, value in run.items() if kept.get(key) != value), None)
        if other is not None:
            raise ValueError(
                f"expected a pool of the run with {other} {run[other]} in {path}, got one with {kept.get(other)}: choose another "
                "--out, or delete that pool to make it anew"
            )
    elif pool.spec != spec:
        kept, asked = asdict(pool.spec), asdict(spec)
        first = next(rule for rule in asked if kept[rule] != asked[rule])
        raise ValueError(
            f"expected a pool drawn with {first} {asked[first]} in {path}, got one drawn with {kept[first]}: choose another --out, "
            "or delete that pool to draw it anew"
        )
    changed = _changed(pool, source)
    if changed:
        raise ValueError(
            f"expected {source} as it was when {path} was drawn from it, but {', '.join(changed)} changed since: choose "
            "another --out, or delete that pool to draw it anew"
        )
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
    digests = {**recorded["sha256"], recorded["docs"].get("file", "docs.tsv"): recorded["docs"]["sha256"]}
    return [file for file, digest in digests.items() if not _has_digest(source / file, digest)]


def _has_digest(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest
