"""The artefacts of a run and the files that hold their numbers: written here from results, read by figures and report.

A results folder has for each artefact its tables (CSV; Parquet where large) and a summary, `<key>.json`, with what is no table: the
unablated mean, seeds, counts. `unavailable.json` says why an artefact could not be made, in one sentence each (`layout` says where
they lie). Nothing here imports a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tl_crossenc.results.layout import RUN, SUMMARIES, TABLES, former_name, located
from tl_crossenc.results.outputs import read_frame, read_json, write_frame, write_json
from tl_crossenc.results.unavailable import Unavailable

UNAVAILABLE_FILE = f"{SUMMARIES}/unavailable.json"
NOT_COMPUTED = "It was not computed in this run."


@dataclass(frozen=True)
class Artefact:
    """Something that the paper shows, or that we add.

    Attributes:
        key: its name in files and results.
        title: its name for people.
        tables: name -> file in the results folder.
        source: the key of the result that it is made from.
        drawn: whether a figure of this key is drawn.
    """

    key: str
    title: str
    tables: dict[str, str]
    source: str = ""
    drawn: bool = True

    @property
    def result(self) -> str:
        """The key of the result that it is made from."""
        return self.source or self.key


def _tables(**files: str) -> dict[str, str]:
    return {name: f"{TABLES}/{file}" for name, file in files.items()}


ARTEFACTS: dict[str, Artefact] = {
    artefact.key: artefact
    for artefact in (
        Artefact(
            "table1",
            "Table 1: every direction removed",
            _tables(comparison="table1.csv", per_query="per_query.csv"),
            drawn=False,
        ),
        Artefact(
            "figure1a",
            "Figure 1a: directions removed layer by layer",
            _tables(curve="figure1a.csv", per_query="figure1a_per_query.csv"),
        ),
        Artefact("figure1b", "Figure 1b: heads that attend more in relevant passages", _tables(heads="figure1b.csv")),
        Artefact(
            "figure1b_control", "Figure 1b of the untrained twin: a control", _tables(heads="figure1b_untrained.csv")
        ),
        Artefact(
            "figure1b_counts", "Figure 1b counted in other ways", _tables(counts="figure1b_counts.csv"), drawn=False
        ),
        Artefact(
            "figure1c",
            "Figure 1c: how attention weights are distributed",
            _tables(
                histogram="figure1c_histogram.parquet",
                distance="figure1c_distance.csv",
                token_pairs="figure1c_token_pairs.csv",
            ),
        ),
        Artefact(
            "matches",
            "Figure 1c, by kind of match: attention on equal word pieces",
            _tables(
                mass="figure1c_mass.csv",
                per_query="figure1c_per_query.parquet",
                depth="figure1c_depth.csv",
            ),
            source="figure1c",
        ),
        Artefact(
            "sinks",
            "Sinks: attention on CLS, separators and full stops",
            _tables(by_layer="sinks.csv", by_head="sinks_by_head.csv"),
        ),
        Artefact(
            "figure2",
            "Figure 2: what the query-key circuits look for",
            _tables(heads="figure2_heads.csv", products="figure2_products.csv", layers="figure2_layers.csv"),
        ),
        Artefact(
            "spectrum",
            "Figure 2, its spectra: alignment by singular direction",
            _tables(spectrum="figure2_spectrum.csv"),
            source="figure2",
        ),
        Artefact(
            "decomposition",
            "The decomposition tested: how large is ε?",
            _tables(decomposition="figure2_decomposition.csv"),
            source="figure2",
        ),
        Artefact(
            "head_ablation",
            "Do the matching heads matter?",
            _tables(
                curve="head_ablation.csv",
                draws="head_ablation_draws.csv",
                per_query="head_ablation_per_query.csv",
            ),
        ),
        Artefact(
            "attention",
            "Attention by direction and grade",
            _tables(by_direction="attention_by_direction.parquet"),
            drawn=False,
        ),
    )
}
"""In the order in which a report shows them. Table 1's files are `reproduce`'s own; `save_all` writes those of all others."""

DRAWN = tuple(key for key, artefact in ARTEFACTS.items() if artefact.drawn)


LEAST = 50
"""Token pairs that every group needs for a kind of match to be drawn: fewer make a rug, not a distribution."""


def drawn_kinds(token_pairs: pd.DataFrame) -> list[str]:
    """The kinds of match of which every group has at least `LEAST` token pairs; from `MatchDistributions.token_pairs`."""
    fewest = token_pairs.groupby("kind", sort=False)["count"].min()
    return [str(kind) for kind in fewest.index[fewest >= LEAST]]


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
    return defaults | counts | {str(name): value for name, value in result.attrs.items()}


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
            `Sinks`, "figure2" a `QKAlignment`, "head_ablation" a `HeadAblation`, "attention" an `Attention`, "table1" ignored
            unless it is `Unavailable`; or for any of them the `Unavailable` that was raised instead.
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
            missing[key] = NOT_COMPUTED
        elif key in SAVERS:
            try:
                scalars = SAVERS[key](folder, key, result) | dict((about or {}).get(key, {}))
            except Unavailable as reason:
                missing[key] = str(reason)
                continue
            write_json(folder / summary(key), _plain(scalars))
    for key in missing:
        for name in files_of(key):
            (folder / name).unlink(missing_ok=True)
    write_json(folder / UNAVAILABLE_FILE, missing)
    return missing


def files_of(key: str) -> list[str]:
    """The files that hold an artefact's numbers: its tables, and the summary where `save_all` writes one."""
    return [*ARTEFACTS[key].tables.values(), *([summary(key)] if key in SAVERS else [])]


def summary(key: str) -> str:
    """The file of what of an artefact is no table."""
    return f"{SUMMARIES}/{key}.json"


def load_unavailable(folder: Path) -> dict[str, str]:
    """key -> reason, of artefacts that were not made, whose files are not there, or of which `run.json` does not say that they are.

    A folder without a `run.json`, or with one that lists no files, is taken as it is.
    """
    folder = Path(folder)
    path = located(folder, UNAVAILABLE_FILE)
    reasons: dict[str, str] = read_json(path) if path.exists() else {}
    listed = read_json(folder / RUN).get("files") if (folder / RUN).exists() else None
    for key, artefact in ARTEFACTS.items():
        there = all(_is_there(folder, name, listed) for name in artefact.tables.values())
        if key not in reasons and not there:
            reasons[key] = NOT_COMPUTED
    return reasons


def load_table(folder: Path, key: str, name: str) -> pd.DataFrame:
    """A table of an artefact as it was saved."""
    return read_frame(located(Path(folder), ARTEFACTS[key].tables[name]))


def load_scalars(folder: Path, key: str) -> dict[str, Any]:
    """What the summary holds; nothing where there is no such file."""
    path = located(Path(folder), summary(key))
    return read_json(path) if path.exists() else {}


def _is_there(folder: Path, name: str, listed: Sequence[str] | None) -> bool:
    """Whether a table is there and, where `run.json` lists files, among them: by either layout's name, while a job is made anew."""
    return located(folder, name).is_file() and (listed is None or name in listed or former_name(name) in listed)


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
