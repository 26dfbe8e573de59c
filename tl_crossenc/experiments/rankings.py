"""The rankings of a run's pairs under conditions, read from the store when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.console.shown import listed
from tl_crossenc.experiments.run_tasks import RunTask
from tl_crossenc.experiments.scoring import shards_of, stored_scores
from tl_crossenc.pools.first_stage import RunPairs
from tl_crossenc.store.cells import Store

FIRST = "first stage"
"""The ranking that is reranked, among the conditions."""


@dataclass(frozen=True)
class Rankings:
    """The rankings of a run's pairs.

    Attributes:
        pairs: of the run.
        conditions: by their text, in the order asked for; the first is the unablated model's.
    """

    pairs: RunPairs
    conditions: tuple[str, ...]
    _store: Store
    _tasks: tuple[RunTask, ...]

    __repr__ = short_repr

    def scores(self, condition: str) -> np.ndarray:
        """`[pair]` under a condition, aligned with `pairs`.

        Raises:
            ValueError: the run was not reranked under it.
        """
        if condition not in self.conditions:
            raise ValueError(f"expected a condition among {listed(self.conditions)}, got {condition!r}")
        row = self.conditions.index(condition)
        return stored_scores(self._store, [task.keys[row] for task in self._tasks], shards_of(self.pairs.characters))

    def by_query(self, ranking: str) -> Iterator[tuple[str, tuple[str, ...], np.ndarray]]:
        """(query_id, doc_ids, scores) of each query under a condition, or of the first stage as far as it is reranked."""
        if ranking == FIRST:
            for query_id, (doc_ids, scores) in self.pairs.stage.top.items():
                yield query_id, doc_ids, scores
            return
        values = self.scores(ranking)
        for query_id in self.pairs.queries:
            own = self.pairs.of_query(query_id)
            yield query_id, self.pairs.doc_ids[own], values[own]
