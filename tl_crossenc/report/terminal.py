"""What is shown in a terminal: tables and progress, through rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from tl_crossenc.console.shown import shown
from tl_crossenc.report.masks import masks_cells
from tl_crossenc.report.model_comparison import HEADERS, layer_rows, mean_rows, query_header, query_rows
from tl_crossenc.report.tables import SIDES, cell_text, published_text


class RateColumn(ProgressColumn):
    """Work done a second.

    Args:
        unit: of the work.
    """

    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True))  # the bar gives way
        self._unit = unit

    def render(self, task: Task) -> Text:
        """The rate, or nothing before there is one."""
        return Text("" if task.speed is None else f"{task.speed:,.0f} {self._unit}/s", style="progress.data.speed")


@contextmanager
def progress_bar(console: Console, what: str, unit: str = "pair-layers") -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and remaining time; yields what to call with (done, total). Nothing is drawn when nothing is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, RateColumn(unit), TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(what, total=None, visible=False)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield advance


def table1_for_terminal(
    comparison: pd.DataFrame,
    unablated: float,
    title: str,
    caption: str,
    published: Mapping[str, float] | None = None,
) -> Table:
    """Table 1 as a rich table: decreases bold, marks as in `tables`, published values in brackets."""
    table = Table(title=Text(shown(title)), caption=Text(shown(caption)), caption_justify="left", title_justify="left")
    table.add_column("attender \\ attended", style="bold")
    for side in SIDES:
        table.add_column(side, justify="right")
    for attender in SIDES:
        cells = []
        for attended in SIDES:
            value, marks, decrease = cell_text(comparison.loc[f"{attender}->{attended}"], unablated)
            known = published_text(published, f"{attender}->{attended}")
            cells.append(Text(value, style="bold" if decrease else "").append(f"{marks:<2}{known}"))
        table.add_row(attender, *cells, end_section=attender == SIDES[-2])
    return table


def masks_for_terminal(comparison: pd.DataFrame, cutoff: int, title: str, caption: str) -> Table:
    """The comparison of masks as a rich table of 80 columns or more; decreases that hold after Holm's correction are bold.

    Names and numbers are never cut; what was published is folded where there is no room beside them.
    """
    header, rows = masks_cells(comparison, cutoff)
    table = Table(
        title=Text(shown(title)), caption=Text(shown(caption)), caption_justify="left", title_justify="left",
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0),
    )  # fmt: skip
    for name in ("change" if column == "difference" else column for column in header):
        left, folded = name in ("mask", "mode", "published"), name == "published"
        table.add_column(name, justify="left" if left else "right", no_wrap=not folded, overflow="fold")
    for cells, significant in zip(rows, comparison["decrease_holm"], strict=True):
        table.add_row(*(Text(shown(cell), style="bold" if significant else "") for cell in cells))
    return table


def comparison_for_terminal(found: Any) -> list[Table]:
    """The tables of a `ModelComparison`, of 80 columns or more: means where there are several conditions, the queries that differ
    most, and the layers; conditions and texts are folded where there is no room.
    """
    layers = [] if found.layers is None else layer_rows(found.layers)
    parts = (
        ("The two under each condition", HEADERS["means"], mean_rows(found.table)),
        ("The queries that differ most", query_header(found.per_query), query_rows(found.per_query)),
        ("Where the two part", HEADERS["layers"], layers),
    )
    tables = []
    for title, header, lines in parts:
        if not lines:
            continue
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        if "condition" in header:
            table.padding = (0, 0)
        for column in header:
            left, folded = column in ("condition", "measure", "query", "text"), column in ("condition", "text")
            table.add_column(column, justify="left" if left else "right", no_wrap=not folded, overflow="fold")
        for line in lines:
            table.add_row(*map(Text, line))
        tables.append(table)
    return tables
