"""The figure of semantic BM25, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tl_crossenc.report.figures.semantic_bm25 import MOST_HEADS, semantic_bm25
from tl_crossenc.report.figures.style import signed
from tl_crossenc.report.run_record import Run
from tl_crossenc.report.tables import interval_text, queries_text
from tl_crossenc.results.artefacts import load_table
from tl_crossenc.statistics.published import LU_2025, LU_2025_SEMANTIC_BM25, LU_2025_TUNED_BM25

KEY = "semantic_bm25"
SEMANTIC, TUNED = "semantic BM25", "BM25, tuned"


def _draw(folder: Path) -> Callable[[bool], Figure]:
    frames = [load_table(folder, KEY, name) for name in ("correlations", "heads", "embeddings")]
    return lambda narrow: semantic_bm25(*frames, narrow=narrow)


def _caption(folder: Path, scalars: dict[str, Any], run: Run) -> str:
    correlations, comparisons, heads_table = (
        load_table(folder, KEY, name) for name in ("correlations", "comparisons", "heads")
    )
    n, of = scalars["n_queries"], scalars["n_all_queries"]
    queries = queries_text(n) if n == of else f"{n} of {of} queries, drawn at random"
    whole = correlations[(correlations["fold"] == "all") & (correlations["split"] == "query")].set_index("system")
    levels = "; ".join(
        f"{name} {whole.loc[name, 'r']:.3f}{interval_text(whole.loc[name, 'r_low'], whole.loc[name, 'r_high'])}, "
        f"within queries {whole.loc[name, 'r_within']:.3f}"
        for name in (SEMANTIC, TUNED)
    )
    above, leak = (_difference(comparisons, SEMANTIC, split) for split in ("query", "pair"))
    heads = f"{scalars['n_heads']} given heads" if scalars["given_heads"] else (
        f"up to {scalars['n_heads']} heads, chosen on the pairs fitted on by their correlation with the score within queries"
    )  # fmt: skip
    return (
        f"The scores of {run.where} ({queries}, {scalars['n_pairs']:,} {run.graded}) by least squares on rarity and soft-TF, "
        f"what a query token's attention gives to DOC, summed over the query's tokens; {heads}; {scalars['n_folds']} folds, seed "
        f"{scalars['seed']}. Left: Pearson's r of held-out predictions with the score, 95 % bootstrap intervals over queries; "
        f"small dots: the folds. By query: {levels}; the difference is {above}. By pair, where other pairs of the same queries "
        f"are fitted on, r of {SEMANTIC} changes by {leak}. Published, by pair: {LU_2025_SEMANTIC_BM25:.3f} against "
        f"{LU_2025_TUNED_BM25:.3f} of BM25: {LU_2025}. Nothing is tested. {_embeddings(scalars)} Right: the mean "
        f"attention of a query token, in {_chosen(heads_table, scalars)}: what finds nothing in DOC goes to a separator or to CLS, "
        "and the rest of 100 % to QUERY."
    )


def _chosen(heads: pd.DataFrame, scalars: dict[str, Any]) -> str:
    """Whose attention is shown."""
    if scalars["given_heads"]:
        return "the given heads"
    chosen = int((heads["chosen"] > 0).sum())
    if chosen > MOST_HEADS:
        return f"the {MOST_HEADS} of {chosen} heads that most folds chose"
    return f"the {chosen} heads that any of the folds chose"


def _difference(comparisons: pd.DataFrame, system: str, split: str) -> str:
    row = comparisons[(comparisons["system"] == system) & (comparisons["split"] == split)].iloc[0]
    return f"{signed(row['difference'])}{interval_text(row['low'], row['high'], '+').replace('-', '−')}"


def _embeddings(scalars: dict[str, Any]) -> str:
    """What the middle panel shows, and of which pieces."""
    if scalars["no_embeddings"]:
        return f"Middle: idf in the token embeddings is not measured ({scalars['no_embeddings']})."
    base = {
        "none": "",
        "same": " The adapter leaves W_E as it was: the base's is the same.",
        "other": " Red: the base that the adapter changes.",
    }[scalars["base"]]
    first = scalars["correlation"]["model; all"]
    return (
        f"Middle: R² of idf (BM25's, of word pieces in the pools' {scalars['idf_passages']:,} distinct passages) on the first k "
        f"left singular vectors of W_E, on pieces that were not fitted on; {scalars['n_pieces']:,} pieces, the "
        f"{scalars['left_out_pieces']:,} that no passage has left out. The decomposition is of all rows of W_E, [unused] ones in; "
        f"dashed: of these pieces' rows alone. Dotted: on the row's length. Idf and the first vector correlate by {signed(first)}, "
        f"of which the sign means nothing. Bands: over pieces.{base}"
    )


DRAWERS = {KEY: _draw}
CAPTIONS = {KEY: _caption}
