"""Results as files: an artefact's tables and its summary, or the sentence that says why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tl_crossenc.results.artefacts import (
    ARTEFACTS,
    LEAST,
    UNAVAILABLE_FILE,
    drawn_kinds,
    files_of,
    not_there,
    summary,
)
from tl_crossenc.results.outputs import write_frame, write_json
from tl_crossenc.results.unavailable import Unavailable


def save_ablation(folder: Path, key: str, result: Any) -> dict[str, Any]:
    """Tables of a `LayerSweep` (figure1a) or `HeadAblation` (head_ablation), and its scalars."""
    _save_tables(folder, key, result, index=("per_query",))
    mean, low, high = result.unablated
    scalars = {"unablated": {"mean": mean, "low": low, "high": high}, "random": result.random}
    scalars |= {"n_queries": len(result.per_query)}
    scalars |= dict(zip(("layers_shared", "layers_alone"), result.whole_job, strict=True))
    queries = getattr(result, "drawn_queries", ())
    if len(queries) < len(result.per_query):
        scalars |= {"drawn_queries": [" ".join(query) for query in queries]} if queries else {}
    return scalars | _present(result, "span", "seed")


def save_figure1b(folder: Path, key: str, result: pd.DataFrame) -> dict[str, Any]:
    """The frame of `matching_heads`; its `attrs` have the grades compared and the quantity, the paper's where there are none."""
    write_frame(folder / ARTEFACTS[key].tables["heads"], result, index=False)
    defaults = {"relevant_grades": [2, 3], "against": [-1], "quantity": "mass"}
    counts = {"n_queries": int(result["n_queries"].max()), "n_passing": int(result["passes"].sum())}
    counts |= {"n_less": int(result["less"].sum())} if "less" in result else {}
    return (
        defaults
        | counts
        | {name: value for name, value in result.attrs.items() if name in (*defaults, "highest_grades")}
    )


def save_figure1c(folder: Path, key: str, result: Any) -> dict[str, Any]:
    """Tables of a `MatchDistributions`, and its scalars.

    Raises:
        Unavailable: no kind of match has enough token pairs for a distribution.
    """
    if key == "figure1c":
        shown = str(result.distance["comparison"].iloc[-1]).split(" - ")
        counts = result.token_pairs[result.token_pairs["group"].isin(shown)]
        if not drawn_kinds(counts):
            raise Unavailable(
                f"a distribution of attention weights needs {LEAST} token pairs of one kind of match in {' and in '.join(shown)} "
                f"passages, and the fullest kind has {counts.groupby('kind')['count'].min().max():,}: take more passages"
            )
    _save_tables(folder, key, result)
    counts = {"groups": {name: list(grades) for name, grades in result.groups.items()}, "n_heads": len(result.heads)}
    return counts | _present(result, "pairs", "n_permutations", "seed")


def save_tables(folder: Path, key: str, result: Any) -> dict[str, Any]:
    """The frame of counts, or the tables of `Sinks`, `QKAlignment` or `Attention` with their weighting, pairs, sampled and seed."""
    _save_tables(folder, key, result)
    return _present(result, "weighting", "pairs", "sampled", "seed")


def save_method(folder: Path, key: str, result: Any) -> dict[str, Any]:
    """The tables of a method beyond the paper or of a `HeadFolds`, attributes of its result by their names, and its `scalars`.

    An index that has names is written.
    """
    frames = {name: getattr(result, name) for name in ARTEFACTS[key].tables}
    _save_tables(
        folder, key, result, index=tuple(name for name, frame in frames.items() if frame.index.names != [None])
    )
    return dict(result.scalars)


SAVERS: dict[str, Callable[[Path, str, Any], dict[str, Any]]] = {
    "figure1a": save_ablation,
    "figure1b": save_figure1b,
    "figure1b_control": save_figure1b,
    "figure1b_counts": save_tables,
    "figure1c": save_figure1c,
    "matches": save_figure1c,
    "sinks": save_tables,
    "figure2": save_tables,
    "spectrum": save_tables,
    "decomposition": save_tables,
    "head_ablation": save_ablation,
    "head_ablation_folds": save_method,
    "attention": save_tables,
}


def save_all(
    folder: Path, results: Mapping[str, Any], about: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, str]:
    """Write every artefact's tables and scalars, and `unavailable.json`; remove what an earlier run left of the others.

    Args:
        folder: of the results.
        results: by key: "figure1a" a `LayerSweep`, "figure1b" the frame of `matching_heads`, "figure1b_control" that of the
            untrained twin, "figure1b_counts" the frame of `matching_counts`, "figure1c" a `MatchDistributions`, "sinks" a
            `Sinks`, "figure2" a `QKAlignment`, "head_ablation" a `HeadAblation`, "head_ablation_folds" a `HeadFolds`,
            "attention" an `Attention`, "table1" ignored unless it is `Unavailable`; or for any of them the `Unavailable` that
            was raised instead.
        about: more scalars for `<key>.json`, such as the grades compared in figure1b.

    Returns:
        What is unavailable: key -> reason.

    Raises:
        ValueError: a key that no artefact is made from.
    """
    folder = Path(folder)
    known = {artefact.result for artefact in ARTEFACTS.values()}
    unknown = sorted(set(results) - known)
    if unknown:
        raise ValueError(f"expected results among {', '.join(sorted(known))}, got {', '.join(unknown)}")
    missing: dict[str, str] = {}
    for key, artefact in ARTEFACTS.items():
        result = results.get(artefact.result)
        if isinstance(result, Unavailable):
            missing[key] = str(result)
        elif result is None and key != "table1":
            missing[key] = not_there(key)
        elif key in SAVERS or artefact.beyond:
            try:
                scalars = SAVERS.get(key, save_method)(folder, key, result) | dict((about or {}).get(key, {}))
            except Unavailable as reason:
                missing[key] = str(reason)
                continue
            write_json(folder / summary(key), _plain(scalars))
    for key in missing:
        for name in files_of(key):
            (folder / name).unlink(missing_ok=True)
    write_json(folder / UNAVAILABLE_FILE, missing)
    return missing


def _save_tables(folder: Path, key: str, result: Any, index: tuple[str, ...] = ()) -> None:
    for name, file in ARTEFACTS[key].tables.items():
        frame = result if isinstance(result, pd.DataFrame) else getattr(result, name)
        write_frame(folder / file, frame, index=name in index)


def _present(result: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(result, name) for name in names if hasattr(result, name)}


def _plain(value: Any) -> Any:
    """What JSON has words for: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
