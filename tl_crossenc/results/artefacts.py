"""The artefacts of a run and the files that hold their numbers: written by `saving`, read by figures and report.

A results folder has for each artefact its tables (CSV; Parquet where large) and a summary, `<key>.json`, with what is no table: the
unablated mean, seeds, counts. `unavailable.json` says why an artefact could not be made, in one sentence each (`layout` says where
they lie). Nothing here imports a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tl_crossenc.results.artefact import Artefact, tables
from tl_crossenc.results.beyond import BEYOND
from tl_crossenc.results.layout import RUN, SUMMARIES, former_name, located
from tl_crossenc.results.outputs import read_frame, read_json

UNAVAILABLE_FILE = f"{SUMMARIES}/unavailable.json"
NOT_COMPUTED = "It was not computed in this run."
NOT_ASKED = "It was left out of this run; --all or --method computes it."


ARTEFACTS: dict[str, Artefact] = {
    artefact.key: artefact
    for artefact in (
        Artefact(
            "table1",
            "Table 1: every direction removed",
            tables(comparison="table1.csv", per_query="per_query.csv"),
            drawn=False,
        ),
        Artefact(
            "figure1a",
            "Figure 1a: directions removed layer by layer",
            tables(curve="figure1a.csv", per_query="figure1a_per_query.csv"),
        ),
        Artefact("figure1b", "Figure 1b: heads that attend more in relevant passages", tables(heads="figure1b.csv")),
        Artefact(
            "figure1b_control", "Figure 1b of the untrained twin: a control", tables(heads="figure1b_untrained.csv")
        ),
        Artefact(
            "figure1b_counts", "Figure 1b counted in other ways", tables(counts="figure1b_counts.csv"), drawn=False
        ),
        Artefact(
            "figure1c",
            "Figure 1c: how attention weights are distributed",
            tables(
                histogram="figure1c_histogram.parquet",
                distance="figure1c_distance.csv",
                token_pairs="figure1c_token_pairs.csv",
            ),
        ),
        Artefact(
            "matches",
            "Figure 1c, by kind of match: attention on equal word pieces",
            tables(
                mass="figure1c_mass.csv",
                per_query="figure1c_per_query.parquet",
                depth="figure1c_depth.csv",
            ),
            source="figure1c",
        ),
        Artefact(
            "sinks",
            "Sinks: attention on CLS, separators and full stops",
            tables(by_layer="sinks.csv", by_head="sinks_by_head.csv"),
        ),
        Artefact(
            "figure2",
            "Figure 2: what the query-key circuits look for",
            tables(heads="figure2_heads.csv", products="figure2_products.csv", layers="figure2_layers.csv"),
        ),
        Artefact(
            "spectrum",
            "Figure 2, its spectra: alignment by singular direction",
            tables(spectrum="figure2_spectrum.csv"),
            source="figure2",
        ),
        Artefact(
            "decomposition",
            "The decomposition tested: how large is ε?",
            tables(decomposition="figure2_decomposition.csv"),
            source="figure2",
        ),
        Artefact(
            "head_ablation",
            "Do the matching heads matter?",
            tables(
                curve="head_ablation.csv",
                draws="head_ablation_draws.csv",
                per_query="head_ablation_per_query.csv",
            ),
        ),
        Artefact(
            "head_ablation_folds",
            "Do the matching heads matter to queries that did not choose them?",
            tables(folds="head_ablation_folds.csv", per_query="head_ablation_folds_per_query.csv"),
            drawn=False,
        ),
        Artefact(
            "attention",
            "Attention by direction and grade",
            tables(by_direction="attention_by_direction.parquet"),
            drawn=False,
        ),
        *BEYOND,
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


def files_of(key: str) -> list[str]:
    """The files that hold an artefact's numbers: its tables, and the summary of all but Table 1."""
    return [*ARTEFACTS[key].tables.values(), *([summary(key)] if key != "table1" else [])]


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
            reasons[key] = not_there(key)
    return reasons


def not_there(key: str) -> str:
    """Why an artefact is not there of which nothing else is known: what is beyond the paper is computed when it is asked for."""
    return NOT_ASKED if ARTEFACTS[key].beyond else NOT_COMPUTED


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
