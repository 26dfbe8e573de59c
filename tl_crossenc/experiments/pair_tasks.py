"""What tasks over pairs of a pool share: how the model reads the pairs, what their cells say, and tasks of one cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

from tl_crossenc.executors.task import Task
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool, PoolPair
from tl_crossenc.store.keys import CellKey

Own = TypeVar("Own", bound="OneCellTask")


@dataclass(frozen=True)
class OneCellTask(Task):
    """Some pairs that make one cell.

    Attributes:
        pairs: of the cell.
        keys: its key.
        runs: layer runs of a pair.
        token_budget: padded tokens a batch.
        meta: of the cell.
    """

    pairs: tuple[PoolPair, ...]
    keys: tuple[CellKey, ...]
    runs: int
    token_budget: int
    meta: Mapping[str, str]

    @property
    def cost(self) -> int:
        """See `Task`."""
        return self.runs * len(self.pairs)

    def only(self: Own, keys: Set[CellKey]) -> Own | None:
        """See `Task`."""
        return self if self.keys[0] in keys else None


def encode(model: HookedCrossEncoder, pairs: Sequence[PoolPair]) -> EncodedPairs:
    """The pairs as the model reads them."""
    return model.encode_pairs([pair.query for pair in pairs], [pair.text for pair in pairs])


def cell_meta(model: HookedCrossEncoder, pool: Pool) -> dict[str, str]:
    """What a cell says of where it is from, beside its key."""
    return {"model": str(model.cfg.model_name), "collection": pool.collection}
