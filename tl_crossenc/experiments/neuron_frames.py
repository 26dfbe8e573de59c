"""The tables of neurons pruned by conductance: rankings, contrasts, the neurons themselves, and every query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_crossenc.experiments.conductance_cells import MEASURES, QueryConductance
from tl_crossenc.experiments.query_folds import Folds
from tl_crossenc.statistics.significance import holm, mean_interval, paired_t

RANDOM, UNPRUNED = "random", "unpruned"
KEPT = 256
"""Neurons in the list that is kept."""

Ranked = Mapping[tuple[str, int, str, int], pd.Series]
"""(values, k, choice, draw) -> nDCG of every query; the draw of a choice that is none is 0."""


def best_first(values: Float[np.ndarray, "neuron"]) -> Int[np.ndarray, "neuron"]:
    """The neurons by a measure, largest first; ties in the neurons' order."""
    return np.argsort(-values, kind="stable")


def _mean_of_draws(values: Ranked, kind: str, k: int, draws: int) -> pd.Series:
    return pd.concat([values[kind, k, RANDOM, draw] for draw in range(draws)], axis=1).mean(axis=1)


def ranking_frame(values: Ranked, kinds: Sequence[str], sizes: Sequence[int], draws: int) -> pd.DataFrame:
    """Mean nDCG by values, k and choice, of random the means over draws: `NeuronPruning.rankings`."""
    rows = []
    for kind in kinds:
        for k in sizes:
            for choice in (*MEASURES, RANDOM):
                own = _mean_of_draws(values, kind, k, draws) if choice == RANDOM else values[kind, k, choice, 0]
                means = (
                    [float(values[kind, k, RANDOM, draw].mean()) for draw in range(draws)]
                    if choice == RANDOM
                    else [np.nan]
                )
                rows.append((kind, k, choice, float(own.mean()), *mean_interval(own), min(means), max(means), len(own)))
    names = ["values", "k", "choice", "mean", "low", "high", "lowest_draw", "highest_draw", "n_queries"]
    return pd.DataFrame(rows, columns=names)


def contrast_frame(
    values: Ranked, unpruned: pd.Series, kinds: Sequence[str], sizes: Sequence[int], draws: int
) -> pd.DataFrame:
    """What conductance's neurons are worth against none, random ones and active ones: `NeuronPruning.contrasts`."""
    rows = []
    for kind in kinds:
        for k in sizes:
            own = values[kind, k, "conductance", 0]
            others = {
                UNPRUNED: unpruned,
                RANDOM: _mean_of_draws(values, kind, k, draws),
                "activity": values[kind, k, "activity", 0],
            }
            for against, other in others.items():
                change = own - other
                rows.append((kind, k, against, float(change.mean()), *mean_interval(change), paired_t(own, other)))
    frame = pd.DataFrame(rows, columns=["values", "k", "against", "difference", "low", "high", "p"])
    p = frame["p"].to_numpy(dtype=np.float64)
    frame["p_holm"] = p if np.isnan(p).any() else holm(p)
    return frame


def neuron_frame(found: QueryConductance, d_mlp: int) -> pd.DataFrame:
    """The `KEPT` neurons with the largest conductance over all queries: `NeuronPruning.neurons`."""
    means = {name: found.values[name].mean(0) for name in MEASURES}
    top = best_first(means["conductance"])[:KEPT]
    layers, neurons = np.divmod(top, d_mlp)
    return pd.DataFrame({"layer": layers, "neuron": neurons, **{name: means[name][top] for name in MEASURES}})


def query_frame(values: Ranked, unpruned: pd.Series, folds: Folds, draws: int) -> pd.DataFrame:
    """nDCG of every query under every choice: `NeuronPruning.per_query`."""
    columns = {"fold": pd.Series({query: str(i) for i, fold in enumerate(folds) for query in fold}), UNPRUNED: unpruned}
    for kind, k in dict.fromkeys((kind, k) for kind, k, _, _ in values):
        for choice in MEASURES:
            columns[f"{kind}; k={k}; {choice}"] = values[kind, k, choice, 0]
        columns[f"{kind}; k={k}; {RANDOM}"] = _mean_of_draws(values, kind, k, draws)
    frame = pd.concat([column.reindex(unpruned.index) for column in columns.values()], axis=1)
    frame.columns = list(columns)
    return frame
