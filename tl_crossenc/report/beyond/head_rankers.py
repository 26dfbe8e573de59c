"""The figure of heads as rankers, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tl_crossenc.pools.grades import listed
from tl_crossenc.report.figures.head_rankers import ALL_HEADS, criterion_name, head_rankers
from tl_crossenc.report.figures.style import arrow, signed
from tl_crossenc.report.run_record import Run
from tl_crossenc.report.tables import NO_TEST, interval_text, queries_text
from tl_crossenc.results.artefacts import load_table

KEY = "head_rankers"
TABLES = ("heads", "rankings", "comparisons", "references")


def _draw(folder: Path) -> Callable[[bool], Figure]:
    frames = [load_table(folder, KEY, name) for name in TABLES]
    cutoff = Run.read(folder).cutoff
    return lambda narrow: head_rankers(*frames, cutoff=cutoff, narrow=narrow)


def _caption(folder: Path, scalars: dict[str, Any], run: Run) -> str:
    rankings, comparisons, references = (load_table(folder, KEY, name) for name in TABLES[1:])
    n, of = scalars["n_queries"], scalars["n_all_queries"]
    queries = queries_text(n) if n == of else f"{n} of {of} queries, drawn at random"
    free = scalars.get("content_free")
    less = f", less what it is with the query “{free}”, tokens below the passage's mean − 2 sd dropped" if free else ""
    by = ", ".join(criterion_name(name) for name in dict.fromkeys(rankings["criterion"]) if name != ALL_HEADS)
    first, second = scalars["fold_sizes"]
    levels = "; ".join(
        f"{row['reference']} {row['mean']:.3f}{interval_text(row['low'], row['high'])}"
        for row in references.to_dict("records")
    )
    tested = int((comparisons["against"] == "random").sum())
    filled = (
        "Filled: better than a random ranking, p ≤ .05, paired t-test over queries with Holm's correction over "
        f"{tested} rankings."
    )
    left = "".join(f" {criterion_name(name)} is left out: {reason}." for name, reason in scalars["left_out"].items())
    relevant = listed(scalars["relevant_grades"], " or ")
    return (
        f"{run.measure} of {run.where} ({queries}), ranked by attention in place of the model's score. A head's score of a "
        f"passage is its attention mass between QUERY and DOC, in one direction{less}. Top: every head alone. Bottom: the sum of "
        f"the k best, chosen on one half of the queries ({first} and {second}, seed {scalars['seed']}) and ranking the other, by "
        f"{by}; relevant: grade {relevant}, hard negatives: grade 0 ({scalars['n_contrasted']} queries have both). Dashed: on the "
        f"half that chose them.{_leak(comparisons)} Bars: 95 % t-intervals over queries. Means: {levels}; BM25 counts words in the "
        f"pool's passages. {filled if n > 1 else NO_TEST}{_best(rankings, comparisons)}{left}{run.hard}{run.one_gain}"
    )


def _leak(comparisons: pd.DataFrame) -> str:
    """By how much the half that chose looks better, where it does most."""
    leaks = comparisons[comparisons["against"] == "same half"]
    if leaks.empty or not (leaks["difference"] < 0).any():
        return ""
    row = leaks.loc[leaks["difference"].idxmin()]
    return f" There they look up to {-row['difference']:.3f} better ({_named(row)})."


def _best(rankings: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """The best of the rankings, with the warning that it is the best of many."""
    shown = rankings[(rankings["fold"] == "both") & (rankings["chosen_on"] != "same half")]
    row = shown.loc[shown["mean"].idxmax()]
    own = comparisons[
        (comparisons[["direction", "criterion", "k"]] == row[["direction", "criterion", "k"]]).all(axis=1)
    ]
    model = own[own["against"] == "model"].iloc[0]
    bounds = interval_text(model["low"], model["high"], "+").replace("-", "−")
    return (
        f" The best of these {len(shown)}, so flattered: {_named(row)}, {row['mean']:.3f}, "
        f"{signed(model['difference'])}{bounds} from the model."
    )


def _named(row: pd.Series) -> str:
    if row["criterion"] == ALL_HEADS:
        return f"{arrow(row['direction'])}, {ALL_HEADS}"
    return f"{arrow(row['direction'])}, {criterion_name(row['criterion'])}, k = {row['k']}"


DRAWERS = {KEY: _draw}
CAPTIONS = {KEY: _caption}
