"""Table 1 and what stands behind it as files: CSV, Markdown and LaTeX, the values a query, the scores and the runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_crossenc.report.tables import latex_table, markdown, markdown_table, table1_csv
from tl_crossenc.results.layout import RUNS, SCORES, TABLES
from tl_crossenc.results.outputs import run_files, write_frame, write_runs
from tl_crossenc.store.files import write_atomic

TABLE1_FILES = (
    *(f"{TABLES}/{name}" for name in ("table1.csv", "table1.md", "table1.tex", "per_query.csv", "tie_rate.csv")),
    SCORES,
)
"""Beside the runs."""
EXISTING_CELLS = f"{TABLES}/existing_cells.csv"
"""Beside those where layers have windows."""


def write_table1(out: Path, table: Any, caption: str, published: Mapping[str, float] | None = None) -> None:
    """Write Table 1 in every form, the per-query values, the runs and the scores.

    Args:
        out: the results folder.
        table: a `Table1`.
        caption: what it shows.
        published: the paper's values, to stand beside.
    """
    tables = out / TABLES
    write_frame(tables / "table1.csv", table1_csv(table.comparison, published))
    text = markdown_table(table.comparison, table.unablated, published)
    write_atomic(tables / "table1.md", f"{text}\n{markdown(caption)}\n")
    write_atomic(tables / "table1.tex", latex_table(table.comparison, table.unablated, caption, published))
    per_query = table.per_query.copy()
    per_query.insert(0, "random", table.random)
    per_query.insert(1, "ideal_dcg", table.ideal_dcg)
    write_frame(tables / "per_query.csv", per_query)
    write_frame(tables / "tie_rate.csv", table.tie_rate)
    if table.existing_cells is not None:
        write_frame(out / EXISTING_CELLS, table.existing_cells, index=False)
    write_frame(out / SCORES, table.scores, index=False)
    write_runs(out / RUNS, table.scores, list(run_files(table.per_query.columns)))
