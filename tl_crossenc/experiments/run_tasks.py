"""A run's pairs as tasks: texts are looked up a shard at a time, and the work is counted in tokens, in which it takes time.

The cells are those of `scoring`, by the same keys: a pool of the same pairs (`Pool.from_run`) finds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tl_crossenc.executors.executor import Executor
from tl_crossenc.executors.task import Advance
from tl_crossenc.experiments.scoring import ScoreTask, cell_key, layer_runs, shards_of
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.execution import Scores, run_conditions
from tl_crossenc.pools.first_stage import FirstStage, RunPairs, ShardPairs
from tl_crossenc.pools.spec import PoolPair

TOKENS, LOST = 0, 1
"""Columns of `RunPairs.numbers`, as `PairEncoder.sizes` has them."""


@dataclass(frozen=True)
class RunTask(ScoreTask):
    """A shard of a run under some conditions.

    Attributes:
        tokens: of the pairs as they are run, padding left out.
    """

    tokens: int

    @property
    def cost(self) -> int:
        """Layer runs times tokens."""
        return layer_runs(self.active, self.conditions, self.shape) * self.tokens

    def _scores(self, model: HookedCrossEncoder, encoded: EncodedPairs, advance: Advance) -> Scores:
        runs = layer_runs(self.active, self.conditions, self.shape)
        return run_conditions(
            model,
            encoded,
            self.conditions,
            token_budget=self.token_budget,
            ran=lambda indices: advance(runs * int(encoded.lengths[indices].sum())),
        )


def survey(model: HookedCrossEncoder, stage: FirstStage) -> RunPairs:
    """Look at every pair of a first stage: what the collection has of it, how long it is and what of it is cut.

    Raises:
        ValueError: see `RunPairs.of`; or a query leaves its passages no room.
    """

    def sizes(pairs: Sequence[PoolPair]) -> np.ndarray:
        return model.pair_sizes([pair.query for pair in pairs], [pair.text for pair in pairs])

    return RunPairs.of(stage, sizes)


def run_tasks(
    model: HookedCrossEncoder,
    pairs: RunPairs,
    conditions: Sequence[Condition],
    executor: Executor,
    token_budget: int | None = None,
) -> list[RunTask]:
    """A task a shard.

    Args:
        conditions: each once.

    Raises:
        ValueError: a model that no key can name, see `model.identity`.
    """
    budget, identity = executor.token_budget(model, token_budget), executor.identity(model)
    active, shape = model.active_condition, (model.cfg.n_layers, model.cfg.n_heads)
    meta = {"model": str(model.cfg.model_name), "collection": pairs.stage.collection.name}
    return [
        RunTask(
            ShardPairs(pairs, shard),
            tuple(conditions),
            tuple(cell_key(identity, pairs, active + condition, i, budget) for condition in conditions),
            active,
            shape,
            budget,
            meta,
            int(pairs.numbers[shard, TOKENS].sum()),
        )
        for i, shard in enumerate(shards_of(pairs.characters))
    ]
