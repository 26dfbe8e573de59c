"""Table 1 as a terminal table, CSV, Markdown and LaTeX, marked like the paper's.

Rows are attenders, columns attended parts. Bold: a decrease against the unablated model, at the precision shown. `*`: that
decrease is significant under the paper's test (two-tailed Student's t, unpaired, uncorrected, p <= .05). A dagger: it is
under ours (paired over queries, Holm-corrected over the 36 conditions, p <= .05).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from tl_crossenc.console.shown import shown
from tl_crossenc.results.layout import TABLES

SIDES = ("CLS", "QUERY", "SEP1", "DOC", "SEP2", "ALL")
PAPER_MARK, OURS_MARK = "*", "†"
NO_CELL_MARK = "∅"
"""Of a direction that has no cell in any layer, as windows leave none."""
DIGITS = 3
LATEX = {
    **{character: "\\" + character for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"→": r"$\to$", "†": r"$\dagger$", "≤": r"$\leq$", "∅": r"$\emptyset$"},
}


NO_TEST = "One query: there is no interval, and nothing is tested."


def interval_text(low: float | None, high: float | None, sign: str = "") -> str:
    """` [0.750, 0.850]`; nothing where there is none, as over one query."""
    missing = low is None or high is None or pd.isna(low) or pd.isna(high)
    return "" if missing else f" [{low:{sign}.{DIGITS}f}, {high:{sign}.{DIGITS}f}]"


def holm_text(p: float) -> str:
    """`, Holm p 0.0123`; nothing where nothing was tested."""
    return "" if pd.isna(p) else f", Holm p {p:.3g}"


def p_text(p: float) -> str:
    """`.012`, `<.001`; a dash where nothing was tested."""
    return "–" if pd.isna(p) else "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def queries_text(count: int) -> str:
    """`1 query`, `7 queries`."""
    return f"{count:,} {'query' if count == 1 else 'queries'}"


def cell_text(row: pd.Series, unablated: float, digits: int = DIGITS) -> tuple[str, str, bool]:
    """(value, marks, whether it is a decrease at the precision shown) of one row of `significance.compare`."""
    value = f"{row['mean']:.{digits}f}"
    marks = (PAPER_MARK if row["decrease_paper"] else "") + (OURS_MARK if row["decrease_holm"] else "")
    marks += NO_CELL_MARK if row.get("existing_cells") == 0 else ""
    return value, marks, float(value) < float(f"{unablated:.{digits}f}")  # numpy rounds ties other than text does


def _grid(comparison: pd.DataFrame, unablated: float) -> list[list[tuple[str, str, bool]]]:
    return [[cell_text(comparison.loc[f"{row}->{column}"], unablated) for column in SIDES] for row in SIDES]


def published_text(published: Mapping[str, float] | None, direction: str) -> str:
    """` (0.79)`, the published value of a direction; nothing where there is none."""
    return "" if published is None or direction not in published else f" ({published[direction]:.2f})"


def markdown_table(comparison: pd.DataFrame, unablated: float, published: Mapping[str, float] | None = None) -> str:
    """Table 1 in Markdown, published values in brackets."""
    rows = [
        [
            side,
            *(
                (f"**{value}**" if bold else value) + markdown(marks) + published_text(published, f"{side}->{column}")
                for column, (value, marks, bold) in zip(SIDES, cells, strict=True)
            ),
        ]
        for side, cells in zip(SIDES, _grid(comparison, unablated), strict=True)
    ]
    return markdown_lines(["attender \\ attended", *SIDES], rows)


def markdown_lines(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown, of cells that are Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def text_lines(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """The same, of cells that are text."""
    return markdown_lines(header, (map(markdown, row) for row in rows))


def markdown(text: str) -> str:
    """Text in which Markdown sees nothing but text: no emphasis, link, address, image, code, HTML or end of a cell.

    >>> markdown("[a](b) <i>*c*</i>")
    '\\\\[a\\\\](b) \\\\<i>\\\\*c\\\\*\\\\</i>'
    """
    escaped = re.sub(r"[\\`*_\[\]<&|~]", r"\\\g<0>", shown(text))
    return escaped.replace("://", "\\://").replace("www.", "www\\.")


def latex_table(
    comparison: pd.DataFrame, unablated: float, caption: str, published: Mapping[str, float] | None = None
) -> str:
    """Table 1 in LaTeX (booktabs), published values in brackets."""
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex(caption)}}}",
        r"  \begin{tabular}{l" + "c" * len(SIDES) + "}",
        r"    \toprule",
        "    attender & " + " & ".join(SIDES) + r" \\",
        r"    \midrule",
    ]
    for side, cells in zip(SIDES, _grid(comparison, unablated), strict=True):
        shown = [
            (rf"\textbf{{{value}}}" if bold else value)
            + (f"$^{{{_in_math(marks)}}}$" if marks else "")
            + published_text(published, f"{side}->{column}")
            for column, (value, marks, bold) in zip(SIDES, cells, strict=True)
        ]
        lines.append(f"    {side} & " + " & ".join(shown) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _in_math(marks: str) -> str:
    return marks.replace(OURS_MARK, r"\dagger").replace(NO_CELL_MARK, r"\emptyset")


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in shown(text).replace("->", "→"))


def windows_text(existing_cells: pd.DataFrame | None, *, marks: bool = True) -> str:
    """A sentence, with a space before it, on the cells that layers with windows have; nothing for a model without.

    Args:
        existing_cells: a row a direction and layer, with `cells`, `existing` and `share`.
        marks: whether it stands below a table that has `NO_CELL_MARK`.
    """
    if existing_cells is None:
        return ""
    every = existing_cells[existing_cells["direction"] == "ALL->ALL"]
    limited = every[every["existing"] < every["cells"]]
    if limited.empty:
        return " Windows leave no cell out: all passages are shorter."
    named = []
    for direction in ("ALL->ALL", "DOC->QUERY", "QUERY->DOC"):
        own = existing_cells[
            (existing_cells["direction"] == direction) & existing_cells["layer"].isin(limited["layer"])
        ]
        named.append(f"{own['existing'].sum() / max(own['cells'].sum(), 1):.0%} of {direction}")
    return (
        f" Layers with a window ({', '.join(map(str, limited['layer']))}) have some of the cells only: {', '.join(named)}; every "
        f"direction and layer is in {TABLES}/existing_cells.csv."
        + (f" {NO_CELL_MARK}: a direction that has no cell in any layer." if marks else "")
    )


def table1_csv(comparison: pd.DataFrame, published: Mapping[str, float] | None = None) -> pd.DataFrame:
    """A row a direction: attender, attended, everything `compare` gives, and the published value where there is one."""
    frame = comparison.copy()
    sides = frame.index.to_series().str.split("->", expand=True)
    frame.insert(0, "attender", sides[0])
    frame.insert(1, "attended", sides[1])
    if published is not None:
        frame["published"] = [published.get(direction, float("nan")) for direction in frame.index]
    frame.index.name = "direction"
    return frame


def measure_text(cutoff: int = 10, ideal: str = "pool", gain: str = "linear") -> str:
    """The measure with what its ideal ranking is taken over, "pool" or "qrels" (see `pools.Pool`)."""
    name = f"nDCG@{cutoff}" + ("" if gain == "linear" else f" with {gain} gains")
    return f"{name} over the pool (ideal: its passages)" if ideal == "pool" else f"{name} (ideal: all judgments)"


def one_gain_text(one_gain: int, n_queries: int) -> str:
    """A sentence on queries whose passages all gain the same, with a space before it; nothing where there are none."""
    if not one_gain:
        return ""
    which = f"{one_gain} of {n_queries} queries" if n_queries > 1 else "The query"
    said = f" {which} cannot be ranked wrongly: their passages all have one gain."
    return said + (" So these numbers tell no ranking from another." if one_gain == n_queries else "")


def caption(
    model: str,
    collections: str,
    n_queries: int,
    unablated: tuple[float, float, float],
    random: float,
    mode: str,
    published: str | None = None,
    *,
    measure: str = "nDCG@10",
    one_gain: int = 0,
    windows: str = "",
) -> str:
    """What was measured, on what, and what the marks mean.

    Args:
        model, collections, mode: names.
        n_queries: queries measured.
        unablated: (mean, low, high).
        random: mean of a random ranking.
        published: the source of the numbers in brackets.
        measure: as `measure_text` names it.
        one_gain: queries that cannot be ranked wrongly.
        windows: as `windows_text` says it.
    """
    mean, low, high = unablated
    marks = (
        f"{PAPER_MARK}: p ≤ .05 under an unpaired two-tailed Student's t-test (the paper's). "
        f"{OURS_MARK}: p ≤ .05 under a paired one with Holm's correction over 36 conditions."
    )
    return (
        f"{measure} of {model} on {collections} ({queries_text(n_queries)}) with one direction of attention removed in every layer "
        f"and head ({mode}). Unablated {mean:.3f}{interval_text(low, high)}, random ranking {random:.3f}. Bold: a decrease. "
        f"{marks if n_queries > 1 else NO_TEST}"
        + one_gain_text(one_gain, n_queries)
        + windows
        + (f" In brackets: {published}." if published else "")
    )
