"""Files of results, written whole or not at all and read back: tables, JSON, TREC runs; and the names of folders and files."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import tl_crossenc
from tl_crossenc.statistics.trec_run import trec_run_lines
from tl_crossenc.store.files import regular, write_atomic

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "transformer-lens",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "ir_datasets",
    "ir_measures",
)
LONGEST = 120
"""Letters of a run's file name; file systems take 255 bytes."""


def write_frame(path: Path, frame: pd.DataFrame, *, index: bool = True) -> None:
    """A frame as CSV or Parquet, by the path's ending, written whole or not at all.

    In a CSV a text that a spreadsheet would run as a formula (an id or a word that begins with `=`, `+`, `-`, `@`, a tab or a
    carriage return, and is no number) has a `'` before it, as spreadsheets write such texts; `read_frame` takes it off again.
    Parquet files hold every text as it is.
    """
    if path.suffix == ".csv":
        guarded = _each_text(frame, guard) if index else _each_text(frame.reset_index(drop=True), guard)
        write_atomic(path, guarded.to_csv(index=index, lineterminator="\n"))
        return
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=index)
    write_atomic(path, buffer.getvalue())


def read_frame(path: Path) -> pd.DataFrame:
    """A frame that `write_frame` wrote, its index among the columns; texts as they were."""
    regular(path)  # a pipe would be waited for
    return pd.read_parquet(path) if path.suffix == ".parquet" else _each_text(pd.read_csv(path), unguard)


def guard(text: str) -> str:
    """A text that no spreadsheet takes for a formula.

    >>> guard("=1+1"), guard("-12.5"), guard("a-b"), unguard(guard("'=x"))
    ("'=1+1", '-12.5', 'a-b', "'=x")
    """
    return f"'{text}" if _is_formula(text.lstrip("'")) else text


def unguard(text: str) -> str:
    """What `guard` was given."""
    return text[1:] if text.startswith("'") and _is_formula(text.lstrip("'")) else text


def _is_formula(text: str) -> bool:
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _each_text(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """The frame with `change` applied to the texts of its columns and its index."""

    def one(value: Any) -> Any:
        return change(value) if isinstance(value, str) else value

    changed = frame.copy()
    for name, dtype in frame.dtypes.items():
        if pd.api.types.is_object_dtype(dtype) or pd.api.types.is_string_dtype(dtype):
            changed[name] = frame[name].map(one)
    if isinstance(changed.index, pd.MultiIndex):
        changed.index = changed.index.set_levels([level.map(one) for level in changed.index.levels])
    elif not isinstance(changed.index, pd.RangeIndex):
        changed.index = changed.index.map(one).rename(frame.index.name)
    return changed


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object with sorted keys."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that `write_json` wrote.

    Raises:
        ValueError: no regular file lies there, or it is no JSON object.
    """
    data = regular(path).read_bytes()
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, which cannot be read ({error}): run the job again") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object in {path}, got {type(value).__name__}: run the job again")
    return value


def default_folder(model: str, collections: Sequence[str], prefix: str = "") -> Path:
    """Where results go that were given no folder: `results/<model>-<collections>`, by the last part of each name or folder."""
    given = (
        (Path(name).expanduser().resolve() if Path(name).is_dir() else Path(name)).name
        for name in (model, *collections)
    )
    return Path("results") / (prefix + "-".join(re.sub(r"[^\w.]+", "-", name) for name in given))


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    own = {"python": platform.python_version(), "tl-crossenc": tl_crossenc.__version__}
    return own | {package: version(package) for package in PACKAGES}


def write_runs(folder: Path, scores: pd.DataFrame, conditions: list[str]) -> None:
    """One TREC run a collection and condition (query ids of two collections may be the same)."""
    for collection, pairs in scores.groupby("collection", sort=False):
        by_query = list(pairs.groupby("query_id", sort=False))
        for condition, name in run_files(conditions).items():
            lines: list[str] = []
            for query_id, rows in by_query:
                lines += trec_run_lines(query_id, rows["doc_id"], rows[condition], file_name(condition))
            write_atomic(folder / file_name(str(collection)) / name, "\n".join(lines) + "\n")


def run_files(conditions: Iterable[str]) -> dict[str, str]:
    """Condition -> the file name of its run; with a digest in it where that is long, or another condition's too."""
    names = {condition: file_name(condition) for condition in conditions}
    often = Counter(names.values())
    return {
        condition: f"{name if often[name] == 1 and len(name) <= LONGEST else _with_digest(name, condition)}.run"
        for condition, name in names.items()
    }


def _with_digest(name: str, condition: str) -> str:
    return f"{name[:LONGEST]}-{hashlib.sha256(condition.encode()).hexdigest()[:8]}"


def file_name(condition: str) -> str:
    """A condition's or collection's text as a file name: `zero(DOC->QUERY; layers=0-3)` → `zero_DOC-QUERY_layers_0-3`."""
    return re.sub(r"[^\w,.+-]+", "_", condition.replace("->", "-")).strip("_") or "unnamed"
