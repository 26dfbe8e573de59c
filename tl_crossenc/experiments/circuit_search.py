"""The search for a circuit: greedy, by real ablations of everything else (`circuits`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tl_crossenc.executors.executor import Executor, Progress
from tl_crossenc.experiments.circuit_units import Unit, keep_only
from tl_crossenc.experiments.ranking import rank_under
from tl_crossenc.interventions.conditions import Condition, Mode
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store


class Lab:
    """How a set of queries is ranked under conditions, and how far the search is."""

    def __init__(
        self,
        model: HookedCrossEncoder,
        store: Store,
        mode: Mode,
        cutoff: int,
        gain: str,
        token_budget: int | None,
        executor: Executor,
        progress: Progress | None,
        total: int,
    ) -> None:
        self.model, self.store, self.mode, self.executor, self.token_budget = model, store, mode, executor, token_budget
        self.ranking: dict[str, Any] = {
            "cutoff": cutoff,
            "gain": gain,
            "token_budget": token_budget,
            "executor": executor,
        }
        self.progress, self.done, self.total = progress, 0, total

    def values(self, pools: Sequence[Pool], conditions: Sequence[Condition]) -> pd.DataFrame:
        """`[query x (value, condition)]`, as `Ranked.values` has them: `ndcg`, and `random`, the same under every condition."""
        found = rank_under(self.model, pools, self.store, conditions, **self.ranking)
        self.done += len(conditions)
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)
        return found.values

    def ndcg(self, pools: Sequence[Pool], conditions: Sequence[Condition]) -> pd.DataFrame:
        """`[query x condition]`."""
        return self.values(pools, conditions)["ndcg"]


class Found(NamedTuple):
    """A circuit.

    Attributes:
        units: in it.
        ndcg: the mean on the queries that it was found on, all else removed.
        minimal: whether none of its units can be left out by itself.
        runs: ablations taken.
    """

    units: tuple[Unit, ...]
    ndcg: float
    minimal: bool
    runs: int


def search(
    lab: Lab, pools: Sequence[Pool], order: Sequence[Unit], least: float, most_runs: int, known: Sequence[Unit] = ()
) -> Found:
    """The greedy search of `circuits`: a beginning of `order` whose nDCG is at least that, and blocks left out of it.

    Blocks are left out of `known`, a set that suffices, where that is the smaller.
    """
    runs, tried = 0, {frozenset(order): np.inf}

    def worth(units: Sequence[Unit]) -> float:
        nonlocal runs
        key = frozenset(units)
        if key not in tried:
            condition = keep_only(units, order, lab.mode)
            tried[key], runs = float(lab.ndcg(pools, [condition])[str(condition)].mean()), runs + 1
        return tried[key]

    low, high = 0, len(order)
    size = 1
    while size < high and runs < most_runs:
        if worth(order[:size]) >= least:
            high = size
            break
        low, size = size, size * 2
    while high - low > 1 and runs < most_runs:
        middle = (low + high) // 2
        low, high = (low, middle) if worth(order[:middle]) >= least else (middle, high)
    kept = [unit for unit in order if unit in known] if 0 < len(known) < high else list(order[:high])
    block, minimal = max(1, len(kept) // 2), False
    while runs < most_runs:
        start, before = len(kept), len(kept)
        while start > 0 and runs < most_runs:
            start = max(0, start - block)
            rest = kept[:start] + kept[start + block :]
            if worth(rest) >= least:
                kept = rest
        if block == 1 and len(kept) == before and start == 0:
            minimal = True
            break
        block = max(1, block // 2)
    final = lab.ndcg(pools, [keep_only(kept, order, lab.mode)]).iloc[:, 0].mean()
    return Found(tuple(kept), float(final), minimal, runs)
