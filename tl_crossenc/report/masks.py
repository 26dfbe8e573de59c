"""The comparison of masks (`experiments.compare_masks`) as texts and files: cells, Markdown, caption, what lies in `tables/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from tl_crossenc.report.tables import (
    DIGITS,
    NO_TEST,
    OURS_MARK,
    interval_text,
    markdown,
    one_gain_text,
    queries_text,
    text_lines,
)
from tl_crossenc.results.layout import TABLES
from tl_crossenc.results.outputs import write_frame
from tl_crossenc.store.files import write_atomic


def masks_cells(table: pd.DataFrame, cutoff: int = 10) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of `compare_masks.MaskComparison.table` as texts, one row a preset and mode."""
    header = ["mask", "mode", f"nDCG@{cutoff}", "difference", "95 % interval", "p (Holm)", "published"]
    header += ["cells"] if "existing_cells" in table else []
    return header, [_masks_row(row) for _, row in table.iterrows()]


def _masks_row(row: pd.Series) -> list[str]:
    published = ""
    if not pd.isna(row["published"]):
        published = f"{row['published']:.3f} of {row['published_unablated']:.3f} {row['published_measure']}"
    return [
        row["preset"],
        row["mode"],
        f"{row['mean']:.{DIGITS}f}" + (OURS_MARK if row["decrease_holm"] else ""),
        f"{row['difference']:+.{DIGITS}f}",
        interval_text(row["diff_low"], row["diff_high"], "+").strip() or "–",
        "–" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.3g}",
        published,
        *([f"{row['existing_cells']:.1%}"] if "existing_cells" in row else []),
    ]


def masks_markdown(table: pd.DataFrame, cutoff: int = 10) -> str:
    """The comparison of masks in Markdown."""
    header, rows = masks_cells(table, cutoff)
    return text_lines(header, rows)


def masks_caption(
    model: str,
    collections: str,
    table: pd.DataFrame,
    unablated: tuple[float, float, float],
    random: float,
    cutoff: int,
    *,
    measure: str | None = None,
    one_gain: int = 0,
) -> str:
    """What the comparison of masks shows. `unablated` is (mean, low, high); the rest as for `caption`."""
    mean, low, high = unablated
    count = int(table["n_queries"].iloc[0])
    mark = f"{OURS_MARK}: a decrease, paired t-test with Holm's correction over {len(table)} rows, p ≤ .05."
    sources = "; ".join(dict.fromkeys(table["published_source"].dropna()))
    published = (
        f" Published: under the mask, of what was without it, for the model and the mode of the paper: {sources}."
        if sources
        else ""
    )
    return (
        f"{measure or f'nDCG@{cutoff}'} of {model} on {collections} ({queries_text(count)}) under the masks of three papers. "
        f"Unablated {mean:.3f}{interval_text(low, high)}, random ranking {random:.3f}. Difference: from the unablated model, "
        f"paired over queries. {mark if count > 1 else NO_TEST}"
        + one_gain_text(one_gain, count)
        + published
        + (
            " Cells: the share of the removed cells that exist, as layers with a window have few of some directions; by layer in "
            f"{TABLES}/compare_masks_cells.csv."
            if "existing_cells" in table
            else ""
        )
    )


def write_masks(out: Path, found: Any, caption: str) -> list[str]:
    """Write the comparison: its table as CSV and Markdown, the values a query and, where layers have windows, the cells by layer.

    Args:
        out: the results folder.
        found: a `MaskComparison`.
        caption: what it shows.

    Returns:
        The files, in the results folder.
    """
    table, per_query, text, cells = (
        f"{TABLES}/compare_masks{end}" for end in (".csv", "_per_query.csv", ".md", "_cells.csv")
    )
    write_frame(out / table, found.table, index=False)
    write_frame(out / per_query, found.per_query)
    write_atomic(out / text, f"{masks_markdown(found.table, found.cutoff)}\n{markdown(caption)}\n")
    if found.existing_cells is None:
        return [table, per_query, text]
    write_frame(out / cells, found.existing_cells, index=False)
    return [table, per_query, text, cells]
