"""A reranked run (`experiments.reranking`) as texts and files: its tables, what is to be known of it, runs that trec_eval reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tl_crossenc.console.shown import listed, shown
from tl_crossenc.report.tables import DIGITS, NO_TEST, interval_text, markdown, p_text, queries_text, text_lines
from tl_crossenc.results.layout import RUNS, TABLES
from tl_crossenc.results.outputs import file_name, run_files, write_frame
from tl_crossenc.statistics.measures import BY_DOC_ID, EXPECTED
from tl_crossenc.statistics.trec_run import trec_run_lines
from tl_crossenc.store.files import write_atomic

HEADER = ("ranking", "mean", "95 % interval", "− none", "p", "− first", "p")
FIRST = "first stage"


def reranked_rows(table: pd.DataFrame, measure: str) -> list[list[str]]:
    """The cells under `HEADER` of each ranking under a measure."""
    return [
        [
            row["ranking"],
            f"{row['mean']:.{DIGITS}f}",
            interval_text(row["mean_low"], row["mean_high"]).strip() or "–",
            *_change(row["difference"], row["p_holm"]),
            *_change(row["first_difference"], row["first_p_holm"]),
        ]
        for _, row in table[table["measure"] == measure].iterrows()
    ]


def _change(difference: float, p: float) -> tuple[str, str]:
    if pd.isna(difference):
        return "", ""
    return f"{difference:+.{DIGITS}f}", p_text(p)


def reranked_for_terminal(found: Any) -> list[Table]:
    """A rich table a measure, of 80 columns or more; rankings are folded where there is no room."""
    tables = []
    for measure in dict.fromkeys(found.table["measure"]):
        count = int(found.table["n_queries"].iloc[0])
        table = Table(
            title=Text(shown(f"{measure}, {queries_text(count)}")), title_justify="left",
            box=SIMPLE_HEAD, show_edge=False, pad_edge=False,
        )  # fmt: skip
        for i, name in enumerate(HEADER):
            table.add_column(name, justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
        for cells in reranked_rows(found.table, measure):
            table.add_row(*(Text(shown(cell)) for cell in cells))
        tables.append(table)
    return tables


def reranked_notes(found: Any) -> list[str]:
    """What is to be known beside the numbers, a sentence or two each."""
    pairs, stage, pool = found.rankings.pairs, found.stage, found.pool
    notes = []
    if len(found.table):
        notes.append(_of_the_numbers(found))
        held, relevant = int(pool["relevant_in_pool"].sum()), found.relevant
        notes.append(
            f"Recall: the first {stage.depth:,} passages of the first stage hold {held:,} of {relevant:,} relevant ones"
            + (f" ({held / relevant:.1%}; grade 1 and more)" if relevant else "")
            + ". What it missed is not credited: ideals and counts are of all judgments."
        )
        unjudged = found.table.drop_duplicates("ranking").set_index("ranking")["unjudged"]
        notes.append(
            "Nobody judged, of a query's first ten passages, "
            + " and ".join(f"{unjudged[name]:.1f} ({name})" for name in (FIRST, "none"))
            + " in the mean: they count as not relevant, but for measures with judged_only."
        )
    else:
        notes.append("No query of the run is judged: nothing is evaluated.")
    cut = int(pool["cut_passages"].sum())
    notes.append(
        f"Cut: {cut:,} of {len(pairs):,} pairs, which lose {int(pool['cut_tokens'].sum()):,} tokens of their passages."
        if cut
        else f"Cut: none of {len(pairs):,} pairs."
    )
    return notes


def _of_the_numbers(found: Any) -> str:
    table = found.table
    by_doc_id = list(dict.fromkeys(table.loc[table["ties"] == BY_DOC_ID, "measure"]))
    expected = list(dict.fromkeys(table.loc[table["ties"] == EXPECTED, "measure"]))
    tests = (
        "p: paired t-tests over queries, with Holm's correction over a column."
        if table["n_queries"].iloc[0] > 1
        else NO_TEST
    )
    ties = [f"{listed(expected)}: expected over the orders of passages that tie."] if expected else []
    ties += [f"{listed(by_doc_id)}: ties broken by doc_id, as trec_eval breaks them."] if by_doc_id else []
    return " ".join([tests, *ties])


def reranked_markdown(found: Any) -> str:
    """The tables and notes in Markdown."""
    blocks = []
    for measure in dict.fromkeys(found.table["measure"]):
        blocks.append(f"{markdown(measure)}\n\n{text_lines(HEADER, reranked_rows(found.table, measure))}")
    return "\n".join(
        [*blocks, *(f"{markdown(note)}\n" for note in [*reranked_notes(found), *found.rankings.pairs.left_out()])]
    )


def write_reranked(out: Path, found: Any) -> list[str]:
    """Write tables and runs, one file a ranking; what an earlier run left of other rankings goes.

    Args:
        out: the results folder.
        found: a `Reranked`.

    Returns:
        The files, in the results folder.
    """
    text, means, per_query, pool = (f"{TABLES}/rerank{end}" for end in (".md", ".csv", "_per_query.csv", "_pool.csv"))
    write_frame(out / means, found.table, index=False)
    write_frame(out / per_query, found.per_query)
    write_frame(out / pool, found.pool, index=False)
    write_atomic(out / text, reranked_markdown(found))
    folder = f"{RUNS}/{file_name(found.stage.collection.name)}"
    files = run_files([FIRST, *found.rankings.conditions])
    for ranking, name in files.items():
        tag, lines = name.removesuffix(".run"), list[str]()
        for query_id, doc_ids, scores in found.rankings.by_query(ranking):
            lines += trec_run_lines(query_id, doc_ids, scores, tag)
        write_atomic(out / folder / name, "\n".join(lines) + "\n")
    for path in (out / folder).glob("*.run"):
        if path.name not in files.values():
            path.unlink()
    return [means, per_query, pool, text, *(f"{folder}/{name}" for name in files.values())]
