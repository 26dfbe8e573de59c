"""The comparison of two models (`experiments.compare_models`) as texts and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from tl_crossenc.console.shown import short_name, shown
from tl_crossenc.report.tables import (
    DIGITS,
    NO_TEST,
    interval_text,
    markdown,
    one_gain_text,
    p_text,
    queries_text,
    text_lines,
)
from tl_crossenc.results.layout import TABLES
from tl_crossenc.results.outputs import write_frame
from tl_crossenc.store.files import write_atomic

SHOWN = 10
"""Queries that are shown, those that differ most; all are in the table."""
TESTED = "B - A: paired t-tests over queries, with Holm's correction over all measures and conditions."
HEADERS = {
    "means": ["condition", "measure", "A", "B", "B - A", "95 % interval", "Holm p", "tau"],
    "layers": ["layer", "CLS", "QUERY", "DOC", "CKA CLS", "CKA QUERY", "CKA DOC"],
    "queries": ["query", "A", "B", "B - A", "tau", "text"],
}


def comparison_sentences(found: Any, collections: str) -> list[str]:
    """What was found, a sentence or two each: means, tests, orders, layers; of several conditions `mean_rows` has the numbers."""
    row, names = found.table.iloc[0], [short_name(name) for name in found.names]
    count, several = int(row["n_queries"]), len(found.conditions) > 1
    under = f", under {len(found.conditions)} conditions" if several else ""
    over = "the pool's passages are all that is judged" if found.ideal == "pool" else "all judgments count"
    lines = [
        f"A ({names[0]}) and B ({names[1]}) on {collections}{under}: {queries_text(count)}, {over}."
        + one_gain_text(found.one_gain, count)
    ]
    if several:
        lines.append(f"{TESTED if count > 1 else NO_TEST} tau: Kendall's, of a query's two orders, in the mean.")
    else:
        lines += [_measure_sentence(one) for _, one in found.table.iterrows()]
    if not several and pd.notna(row["tau"]):
        lines.append(
            f"Orders of a query's passages: Kendall's tau {row['tau']:.{DIGITS}f}, weighted to the top "
            f"{row['weighted_tau']:.{DIGITS}f} (means over queries)."
        )
    if found.same:
        lines.append("A and B are the same model, by weights, arithmetic and tokenizer: every difference is exactly 0.")
    if found.layers is None:
        lines.append(f"Layers are not compared: {found.why_no_layers}.")
    else:
        lines.append(
            f"Relative distance of the residual streams{' of the unablated models' * several} after each layer (0: the embeddings; "
            f"sqrt(2) for unrelated states) over {int(found.layers['n_pairs'].max()):,} sampled pairs, at most 20 tokens of a "
            "part; linear CKA, 1 for states that are one but for rotation and scale."
        )
    return lines


def _measure_sentence(row: pd.Series) -> str:
    """The means of one measure, their difference and its tests."""
    means = ", ".join(
        f"{side.upper()} {row[side]:.{DIGITS}f}{interval_text(row[f'{side}_low'], row[f'{side}_high'])}"
        for side in "ab"
    )
    tests = f"paired t-test p = {row['p_t']:.3g}, randomization test p = {row['p_randomization']:.3g}."
    return (
        f"{row['measure']}: {means}; B - A {row['difference']:+.{DIGITS}f}"
        f"{interval_text(row['diff_low'], row['diff_high'], '+')}; {tests if row['n_queries'] > 1 else NO_TEST} B is better in "
        f"{row['b_better']} of {row['n_queries']}, A in {row['a_better']}, equal in {row['equal']}."
    )


def mean_rows(table: pd.DataFrame) -> list[list[str]]:
    """A row a condition and measure, where there are several conditions; else none."""
    rows = []
    for _, row in table.iterrows() if "condition" in table else ():
        means = [f"{row['a']:.{DIGITS}f}", f"{row['b']:.{DIGITS}f}", f"{row['difference']:+.{DIGITS}f}"]
        interval = interval_text(row["diff_low"], row["diff_high"], "+").strip() or "–"
        rows.append([row["condition"], row["measure"], *means, interval, p_text(row["p_holm"]), _number(row["tau"])])
    return rows


def query_header(per_query: pd.DataFrame) -> list[str]:
    """Of `query_rows`."""
    return ["condition"] * ("condition" in per_query) + HEADERS["queries"]


def layer_rows(layers: pd.DataFrame) -> list[list[str]]:
    """A row a layer: distances, then CKA, by part."""
    by = layers.set_index(["layer", "part"])
    parts = list(dict.fromkeys(layers["part"]))
    return [
        [
            str(layer),
            *(_number(by.loc[(layer, part), "distance"]) for part in parts),
            *(_number(by.loc[(layer, part), "cka"]) for part in parts),
        ]
        for layer in dict.fromkeys(layers["layer"])
    ]


def query_rows(per_query: pd.DataFrame, count: int = SHOWN) -> list[list[str]]:
    """The queries that differ most, under whichever condition; those that do not differ are left out."""
    rows = []
    for key, row in per_query.head(count).iterrows():
        if row["difference"]:
            values = [
                f"{row['a']:.{DIGITS}f}",
                f"{row['b']:.{DIGITS}f}",
                f"{row['difference']:+.{DIGITS}f}",
                _number(row["tau"]),
            ]
            under = [row["condition"]] if "condition" in per_query else []
            rows.append([*under, shown(key[1], 24), *values, shown(row["query"], 60)])
    return rows


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.{DIGITS}f}"


def write_comparison(out: Path, found: Any, collections: str) -> list[str]:
    """Write everything that was found: means and tests, every query, every pair's two scores, and the layers where there are any.

    Args:
        out: the results folder.
        found: a `ModelComparison`.
        collections: the pools in words.

    Returns:
        The files, in the results folder.
    """
    base = f"{TABLES}/compare_models"
    files = [f"{base}.csv", f"{base}_per_query.csv", f"{base}_scores.parquet", f"{base}.md"]
    write_frame(out / files[0], found.table.assign(model_a=found.names[0], model_b=found.names[1]), index=False)
    write_frame(out / files[1], found.per_query)
    write_frame(out / files[2], found.scores, index=False)
    blocks = [f"{markdown(line)}\n" for line in comparison_sentences(found, collections)]
    if means := mean_rows(found.table):
        blocks.append(text_lines(HEADERS["means"], means))
    layers = f"{base}_layers.csv"
    if found.layers is not None:
        files.append(layers)
        write_frame(out / layers, found.layers, index=False)
        blocks.append(text_lines(HEADERS["layers"], layer_rows(found.layers)))
    else:
        (out / layers).unlink(missing_ok=True)
    write_atomic(out / files[3], "\n".join(blocks))
    return files
