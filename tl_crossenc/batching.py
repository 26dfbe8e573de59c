"""Length buckets: which pairs are run together.

Pairs are sorted by length and cut into batches whose padded size stays under a token budget, so that almost no padding is
computed and memory is bounded whatever the number of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DEFAULT_TOKEN_BUDGET = 2048


def length_batches(lengths: Sequence[int] | np.ndarray, token_budget: int = DEFAULT_TOKEN_BUDGET) -> list[np.ndarray]:
    """Indices of the pairs of each batch, longest batch first (so that a memory that will not do shows at once).

    A batch's pairs x its longest pair is at most `token_budget`; a single pair longer than that is a batch of its own.
    Deterministic: equal lengths keep their order.

    Raises:
        ValueError: the budget is not positive.
    """
    if token_budget < 1:
        raise ValueError(f"expected a token budget of at least 1, got {token_budget}")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    while start < len(order):
        width = max(int(lengths[order[start]]), 1)
        stop = start + max(token_budget // width, 1)
        batches.append(order[start:stop])
        start = stop
    return batches
