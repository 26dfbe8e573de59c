"""What each figure of a report shows: what was measured, on what, and with which test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tl_crossenc.pools.grades import listed
from tl_crossenc.report import beyond
from tl_crossenc.report.captions_matching import ALPHA_TEXT, figure1b, figure1b_control, figure1b_counts
from tl_crossenc.report.figures.ablation import SPAN_LABELS
from tl_crossenc.report.figures.alignment import CEILING, FLOOR
from tl_crossenc.report.figures.distributions import GROUP_NAMES, KIND_NAMES, ordered_groups
from tl_crossenc.report.figures.style import signed
from tl_crossenc.report.run_record import Run
from tl_crossenc.report.table1_files import EXISTING_CELLS
from tl_crossenc.report.tables import (
    NO_TEST,
    OURS_MARK,
    PAPER_MARK,
    interval_text,
    queries_text,
    windows_text,
)
from tl_crossenc.results.artefacts import drawn_kinds, load_scalars, load_table, load_unavailable
from tl_crossenc.results.outputs import read_frame
from tl_crossenc.statistics.published import VAST_2025, ZHAN_2020


def caption(folder: Path, key: str, run: Run) -> str:
    """The caption of a drawn figure or of Table 1, from its saved numbers."""
    return CAPTIONS[key](Path(folder), load_scalars(folder, key), run)


def _table1(folder: Path, _: dict, run: Run) -> str:
    per_query = load_table(folder, "table1", "per_query")
    marks = (
        f"{PAPER_MARK} {ALPHA_TEXT} under an unpaired two-tailed Student's t-test (the paper's); {OURS_MARK} under a paired one "
        "with Holm's correction over the 36 directions."
    )
    return (
        f"{run.measure} of {run.where} ({queries_text(len(per_query))}{run.ranked}) with one direction of attention removed in "
        f"every layer and head (mode {run.mode}). Rows attend, columns are attended. Unablated {per_query['none'].mean():.3f}, "
        f"random ranking {per_query['random'].mean():.3f}. Bold: a decrease. {marks if len(per_query) > 1 else NO_TEST} The shade "
        f"is the change from the unablated model, the row ALL is ours.{run.one_gain}{_windows(folder, run)}"
    )


def _figure1a(folder: Path, scalars: dict, run: Run) -> str:
    curve, tested = load_table(folder, "figure1a", "curve"), scalars["n_queries"] > 1
    bands = (
        " Bands: 95 % t-intervals of the paired difference from the unablated model over queries, drawn from its mean."
    )
    marked = (
        f"Filled points: a decrease with {ALPHA_TEXT}, paired t-test over queries with Holm's correction over all "
        f"{len(curve)} points."
    )
    return (
        f"{run.measure} of {run.where} ({queries_text(scalars['n_queries'])}{run.ranked}) with one direction "
        f"{SPAN_LABELS[scalars.get('span', 'up_to')].rstrip(' …')} the one on the axis, in every head."
        f"{bands if tested else ''} Dashed: unablated, {_interval(scalars)}; dotted: random ranking, {scalars['random']:.3f}. "
        f"{marked if tested else NO_TEST}{run.one_gain}"
        + (
            f" Shared prefixes: {scalars['layers_shared']:,} layers of a pair run, {scalars['layers_alone']:,} without sharing."
            if scalars.get("layers_shared")
            else ""
        )
        + _windows(folder, run, marks=False)
    )


def _figure1c(folder: Path, scalars: dict, run: Run) -> str:
    token_pairs, distance = (load_table(folder, "figure1c", name) for name in ("token_pairs", "distance"))
    shown = str(distance["comparison"].iloc[-1]).split(" - ")
    kinds = drawn_kinds(token_pairs[token_pairs["group"].isin(shown)])
    left_out = [KIND_NAMES.get(kind, kind) for kind in dict.fromkeys(token_pairs["kind"]) if kind not in kinds]
    rows = distance[distance["comparison"] == " - ".join(shown)]
    return (
        f"Attention weights between QUERY and DOC tokens, all heads of a layer together, in {_groups(scalars, shown)}: "
        f"{run.where}, "
        f"{queries_text(int(rows['n_queries'].max()))} with both. Heights are shares of a layer's weights per decade, the first "
        f"bin all below 10⁻⁸. W₁: first Wasserstein "
        f"distance of the two distributions in decades, bold where p ≤ .05 against {scalars['n_permutations']:,} permutations "
        f"of the labels "
        f"within queries (max-statistic over layers and directions; seed {scalars['seed']})."
        + (f" Too few token pairs to draw: {', '.join(left_out)}." if left_out else "")
        + (" Token pairs beyond a layer's window have no weight and are not counted." if run.windows else "")
        + (run.hard if "hard" in shown else "")
    )


def _matches(folder: Path, scalars: dict, run: Run) -> str:
    mass = load_table(folder, "matches", "mass")
    counts = mass.drop_duplicates("group").set_index("group")["n_pairs"]
    passages = ", ".join(
        f"{counts[name]:,} {GROUP_NAMES.get(name, name)}" for name in ordered_groups(counts.index) if name in counts
    )
    return (
        f"What a token attends to on the other side, mean of all heads: {run.where}; passages: {passages}. Top: tokens of the "
        f"same word "
        "piece; middle: tokens that share neither piece nor word; bottom: the first as a share of all attention between QUERY "
        "and "
        "DOC, dotted the share that equal attention to every token would give."
        + (" In a layer with a window that is a share of all tokens, seen or not." if run.windows else "")
        + (" Bands: 95 % t-intervals over queries." if mass["mass_low"].notna().any() else "")
        + (run.hard if "hard" in counts else "")
    )


def _sinks(folder: Path, _: dict, run: Run) -> str:
    by_layer = load_table(folder, "sinks", "by_layer")
    every = by_layer[by_layer["attender"] == "ALL"]
    highest = every[every["sink"] == "SEP"].nlargest(1, "mass").iloc[0]
    return (
        f"Attention mass on the positions where heads look when they have nothing to do, mean over heads and pairs: "
        f"{run.where}, "
        f"{int(by_layer['n_pairs'].max()):,} pairs of all grades. Attention from every position to both separators is highest "
        f"in layer "
        f"{int(highest['layer'])}, {highest['mass']:.0%}. Circles: {ZHAN_2020}, layers at the same relative depth; triangles: "
        f"at most so "
        "much. A text without full stops gives them 0. No test."
    )


def _figure2(folder: Path, scalars: dict, run: Run) -> str:
    heads = load_table(folder, "figure2", "heads")
    both = int(((heads["contrast"] > 0) & (heads["trace"] > 0)).sum())
    rotary, relative = _positions(folder)
    read = "what attention reads" if rotary else "the block's input"
    return (
        "Does a head favour attention across query and passage (up), and attention between what is alike (right)? A point a "
        "head of "
        f"{run.where}; q and d are the means of {read} over QUERY and DOC tokens of {scalars['pairs']:,} pairs, A "
        f"= W_Q W_Kᵀ "
        f"without biases. Raw, as in the paper, and free of scale: the contrast in standard deviations of the head's "
        f"own logits "
        f"over {scalars['sampled']:,} pairs (seed {scalars['seed']}). Both positive in QUERY→DOC: {both} of {len(heads)} heads. "
        f"Named: the "
        "largest differences of Figure 1b that pass its test. Colours end where those of Figure 1b do."
        + (
            " Rotary positions: the alignment is that of the weights, at offset 0; the contrast is the mean over the offsets "
            "that occur between the tokens, in a layer with a window of those in it (the table has the alignment over them, too)."
            if rotary
            else ""
        )
        + (CONTENT if relative else "")
    )


CONTENT = " The terms of the score that relative positions add are no part of A."


def _positions(folder: Path) -> tuple[bool, bool]:
    """Whether positions are rotary, and whether they are relative, by the columns of the tables."""
    if "decomposition" in load_unavailable(folder):
        return False, False
    columns = load_table(folder, "decomposition", "decomposition").columns
    return "variance_share_constant" in columns, "share_position" in columns


def _spectrum(folder: Path, scalars: dict, run: Run) -> str:
    rotary, relative = _positions(folder)
    return (
        f"Singular values σₖ of A = W_Q W_Kᵀ relative to the largest, and the alignment Σ σₖ uₖ·vₖ / Σ σₖ of the first k "
        f"directions: "
        f"all heads of {run.name}, with the heads of the largest passing differences in Figure 1b. Weights only, no test."
        + (" Rotary positions turn nothing at offset 0, which this is." if rotary else "")
        + (CONTENT if relative else "")
    )


def _decomposition(folder: Path, scalars: dict, run: Run) -> str:
    frame = load_table(folder, "decomposition", "decomposition")
    median = float(np.nanmedian(frame["epsilon_ratio"]))
    rotary, relative = _positions(folder)
    return (
        "The paper takes the attention logit as qᵀA d + xᵀA y + ε with ε near 0. Shares of the mean square of real logits "
        "that the two "
        "terms explain; the size of ε relative to the logit (root mean square); and the R² of the interaction alone for the "
        "differences "
        f"within a row, which is what the softmax sees. A dot a head, a line through the medians: {run.where}, "
        f"{scalars['sampled']:,} pairs "
        f"(seed {scalars['seed']}). Median ε: {median:.2f} of the logit. Values outside of −{abs(FLOOR):g} to "
        f"{CEILING:g} are drawn "
        f"on "
        "the edge. No test."
        + (" Rotary positions are in all terms, each token pair's at its own distance." if rotary else "")
        + (
            " What relative positions add to the logit is a term of its own, beside the paper's; the logit is the sum of all."
            if relative
            else ""
        )
    )


def _head_ablation(folder: Path, scalars: dict, run: Run) -> str:
    curve = load_table(folder, "head_ablation", "curve")
    random = curve[curve["kind"] == "random"]
    drawn_queries = scalars.get("drawn_queries")
    sample = f" on {len(drawn_queries or ())} of the queries, drawn at random (diamonds: the ranked heads on these)"
    where = sample if drawn_queries else ""
    bands = " Bands: 95 % t-intervals of the paired change over queries."
    return (
        f"Change of {run.measure} of {run.where} ({queries_text(scalars['n_queries'])}{run.ranked}) with the k highest-ranked "
        f"heads removed, in the directions between QUERY and DOC only, and wholly."
        f"{bands if scalars['n_queries'] > 1 else ''} Unablated {_interval(scalars)}, random ranking {scalars['random']:.3f}. "
        + (
            f"Dots: {int(random['n_draws'].max())} draws of k other heads with as many in each layer, each a mean{where}; seed "
            f"{scalars['seed']}. {_draw_tests(curve)} Heads are ranked and removed on the same queries."
            if len(random)
            else "No layer has enough other heads to draw from, so nothing is tested."
        )
        + _halves(folder)
        + run.one_gain
    )


def _halves(folder: Path) -> str:
    """What heads do to queries that did not rank them, or why that is not known."""
    key = "head_ablation_folds"
    reason = load_unavailable(folder).get(key)
    if reason is not None:
        return f" On queries that did not rank them: {reason}"
    folds, scalars = load_table(folder, key, "folds"), load_scalars(folder, key)
    first, second = scalars["fold_sizes"]
    both = folds[folds["fold"].astype(str) == "both"]
    largest = both[both["k"] == both["k"].max()]
    changes = "; ".join(
        f"{row['scope'].replace('<->', '↔')} {signed(row['difference'])}"
        f"{interval_text(row['diff_low'], row['diff_high'], '+').replace('-', '−')}, p = {row['p_holm']:.3f}, against "
        f"{signed(row['all_difference'])}"
        for row in largest.to_dict("records")
    )
    return (
        f" Blue: ranked anew on one half of the queries and removed on the other ({first} and {second}, drawn with seed "
        f"{scalars['seed']}; triangles: each half). With k = {int(both['k'].max())}, against the same with heads that all queries "
        f"rank: {changes} (paired t-test, Holm's correction over all {len(both)})."
    )


CAPTIONS = {
    "table1": _table1,
    "figure1a": _figure1a,
    "figure1b": lambda folder, scalars, run: figure1b(folder, scalars, run),
    "figure1b_control": lambda folder, _, run: figure1b_control(folder, run.where, run.record),
    "figure1b_counts": lambda folder, _, run: figure1b_counts(folder, run),
    "figure1c": _figure1c,
    "matches": _matches,
    "sinks": _sinks,
    "figure2": _figure2,
    "spectrum": _spectrum,
    "decomposition": _decomposition,
    "head_ablation": _head_ablation,
    **beyond.CAPTIONS,
}
PAPER = VAST_2025.partition(",")[0]


def _draw_tests(curve: pd.DataFrame) -> str:
    """What the ranks among the draws say."""
    tested = curve[(curve["kind"] == "ranked") & np.isfinite(curve["p_random"])]
    draws = int(curve.loc[curve["kind"] == "random", "n_draws"].max())
    corrected = "p_family" in tested
    named = [
        f"k = {int(row['k'])}, {row['scope'].replace('<->', '↔')}: p = {row['p_random']:.3f}"
        + (f" ({row['p_family']:.3f})" if corrected else "")
        for _, row in tested.iterrows()
    ]
    how = f" (in brackets corrected over all {len(tested)}, Westfall and Young)" if corrected else ", not corrected"
    least = 1 / (1 + draws)
    too_few = f", so that {draws} draws can show nothing at .05" if least > 0.05 + 1e-9 else ""
    return f"Rank among the draws, ties counted{how}: {'; '.join(named)}; the least possible is {least:.3f}{too_few}."


def _windows(folder: Path, run: Run, *, marks: bool = True) -> str:
    """The sentence on what windows leave, where the run has that table."""
    if EXISTING_CELLS not in run.record.get("files", ()):
        return ""
    return windows_text(read_frame(folder / EXISTING_CELLS), marks=marks)


def _interval(scalars: dict) -> str:
    mean, low, high = (scalars["unablated"][name] for name in ("mean", "low", "high"))
    return f"{mean:.3f}{interval_text(low, high)}"


def _groups(scalars: dict, shown: list[str]) -> str:
    grades = scalars.get("groups", {})
    return " and ".join(
        f"{GROUP_NAMES.get(name, name)}{' passages' if name == 'relevant' else ''} (grade "
        f"{listed(grades.get(name, []), ' or ')})".replace("-1", "−1")
        for name in shown
    )
