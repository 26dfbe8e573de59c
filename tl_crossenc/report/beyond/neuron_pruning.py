"""The figure of pruned neurons, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tl_crossenc.report.figures.neuron_pruning import neuron_pruning
from tl_crossenc.report.run_record import Run
from tl_crossenc.report.tables import NO_TEST, queries_text
from tl_crossenc.results.artefacts import load_scalars, load_table

KEY = "neuron_pruning"


def _draw(folder: Path) -> Callable[[bool], Figure]:
    rankings, contrasts = (load_table(folder, KEY, name) for name in ("rankings", "contrasts"))
    scalars, cutoff = load_scalars(folder, KEY), Run.read(folder).cutoff
    levels = {"unpruned": scalars["unpruned"], "random": scalars["random_ranking"]}
    return lambda narrow: neuron_pruning(rankings, contrasts, cutoff=cutoff, narrow=narrow, **levels)


def _caption(folder: Path, scalars: dict[str, Any], run: Run) -> str:
    contrasts = load_table(folder, KEY, "contrasts")
    marks = (
        f"Filled: different from random neurons, paired t-test over queries with Holm's correction over {len(contrasts)} tests, "
        "p ≤ .05."
    )
    shared = "; ".join(f"{scalars['shared'][k]} of {k}" for k in sorted(scalars["shared"], key=int))
    tested = marks if scalars["n_queries"] > 3 else NO_TEST
    return (
        f"{run.measure} of {run.where} ({_sample(scalars, run)}) with MLP neurons of all layers pruned, "
        f"of {scalars['n_neurons']:,}: those of the largest mean absolute conductance on {scalars['n_pairs']} relevant pairs from "
        f"the baseline {scalars['baseline']}, those of the largest activations, and {scalars['n_draws']} random draws. Neurons are "
        f"chosen on one half of the queries and pruned in rankings of the other, both ways; both halves choose {shared}. Unpruned: "
        f"{scalars['unpruned']:.3f}; random ranking {scalars['random_ranking']:.3f}. {tested} {scalars['missed']:.1%} of the "
        f"conductances' sums miss s − s′ by more than 5 %.{run.one_gain}"
    )


def _sample(scalars: dict[str, Any], run: Run) -> str:
    """The queries and passages that are ranked; a run may have more."""
    n, of = scalars["n_queries"], scalars.get("n_all_queries", scalars["n_queries"])
    if n == of:
        return f"{queries_text(n)}{run.ranked}"
    return f"{n:,} of {of:,} queries, drawn at random with seed {scalars['seed']}, {scalars['n_ranked']:,} {run.graded}"


DRAWERS = {KEY: _draw}
CAPTIONS = {KEY: _caption}
