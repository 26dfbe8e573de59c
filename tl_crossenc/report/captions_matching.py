"""The captions of Figure 1b, of its control and of the counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from tl_crossenc.pools.grades import NAMES, listed, scale_sentence
from tl_crossenc.report.figures.matching import map_extent
from tl_crossenc.report.run_record import Run
from tl_crossenc.results.artefacts import load_scalars, load_table, load_unavailable

ALPHA_TEXT = "p ≤ .05"
QUANTITY_TEXT = {
    "mass": "Attention mass",
    "density": "Attention density (mass for each attended position)",
    "excess": "Attention in excess of even attention (mass less the attended part's share of all positions)",
}


def figure1b(folder: Path, scalars: dict[str, Any], run: Run) -> str:
    """The caption of a model's map."""
    where, record = run.where, run.record
    frame = load_table(folder, "figure1b", "heads")
    text = QUANTITY_TEXT[scalars["quantity"]]
    if any(record.get("model", {}).get("windows") or ()):
        text = text.replace("share of all positions", "share of all positions that a token sees")
    return (
        f"{text} of every head in relevant passages ({_relevant(scalars)}) less that in "
        f"{_negatives(scalars['against'])}{_lengths(scalars['against'], record)}: {where}, {scalars['n_queries']:,} queries with "
        f"both. Means over a query's passages first, then over queries. {_marks(folder, frame)}"
        + (run.hard if NAMES["hard"] in scalars["against"] else "")
    )


def figure1b_control(folder: Path, where: str, record: dict[str, Any]) -> str:
    """The caption of the untrained twin's map."""
    drawn = "normal, standard deviation 0.02; biases 0"
    if record.get("model", {}).get("family") == "modernbert":
        drawn = "normal, cut at two standard deviations: 0.02, less where heads and MLPs write; biases 0"
    frame = load_table(folder, "figure1b_control", "heads")
    return (
        f"The same of an untrained model: the shape, tokenizer and passages of {where}, weights redrawn as before any training "
        f"({drawn}). What stands out here, no training made. {_marks(folder, frame)}"
    )


def figure1b_counts(folder: Path, run: Run) -> str:
    """The caption of the table of counts."""
    where, record = run.where, run.record
    scalars = load_scalars(folder, "figure1b")
    shown = f"{scalars.get('quantity', 'mass')} against {_negatives(scalars.get('against', [-1]))}"
    return (
        f"How many heads of {where} pass the test of Figure 1b in either direction, and how many cells are significantly more "
        "or less in relevant passages, by the quantity and the negatives. "
        f"Easy negatives{_lengths([-1], record)}; hard negatives are as long as they are. Bold: Figure 1b, {shown}. Where lengths "
        "differ, each quantity follows them in its own way: mass and density where a head looks at nothing in particular, the "
        "excess where it gives a part the same mass whatever its length. What stands in one row alone, or in the untrained twin, "
        f"is of the choice and not of the head. All three: significant in the same sense under every quantity.{run.hard}"
    )


def _marks(folder: Path, frame: pd.DataFrame) -> str:
    """What the marks and the colours of a map say."""
    more, less = int(frame["passes"].sum()), int(frame["less"].sum()) if "less" in frame else 0
    maps = [
        load_table(folder, key, "heads")
        for key in ("figure1b", "figure1b_control")
        if key not in load_unavailable(folder)
    ]
    marked = sum(int(rows["passes"].sum()) + int(rows.get("less", pd.Series(dtype=bool)).sum()) for rows in maps)
    scale = (
        "the largest difference" if marked else "twice the smallest that could be significant where it is least certain"
    )
    shared = " of model and twin" if len(maps) > 1 else ""
    return (
        f"Outlined: more in relevant passages with {ALPHA_TEXT}, paired t-test over queries, Holm's correction over all "
        f"{len(frame)} cells; {more} of them {'passes' if more == 1 else 'pass'}. With a bar: as significantly less; {less}. "
        f"The colours end at ±{map_extent(*maps):.3g}, {scale}{shared}."
    )


def _lengths(against: list[int], record: dict[str, Any]) -> str:
    """How long easy negatives are beside relevant passages, as the pools tell."""
    told = [pool.get("provenance", {}).get("easy_negatives_lengths") for pool in record.get("pools", [])]
    if NAMES["easy"] not in against or not told or not all(told):
        return ""
    matched = record.get("settings", {}).get("pool", {}).get("match_length", False)
    unit = told[0]["unit"]
    means = " and ".join(
        f"{about['easy_negatives']:.0f} {unit} on average, relevant passages {about['relevant']:.0f}" for about in told
    )
    near, queries = sum(about["queries_near"] for about in told), sum(about["queries"] for about in told)
    how = "matched in length to each query's relevant passages" if matched else "drawn at random"
    sizes = [about["standardized_difference"] for about in told]
    size = " and ".join("undefined" if value is None else f"{value:+.2f}".replace("-", "−") for value in sizes)
    return f" ({how}: {means}; standardized difference {size}; within 10 % in {near} of {queries} queries)"


def _relevant(scalars: dict) -> str:
    grades, scales = scalars["relevant_grades"], scalars.get("highest_grades")
    return scale_sentence(scales, grades) if scales else f"grade {listed(grades, ' or ')}"


def _negatives(grades: list[int]) -> str:
    return " and ".join({-1: "easy negatives", 0: "hard negatives"}.get(grade, f"grade {grade}") for grade in grades)
