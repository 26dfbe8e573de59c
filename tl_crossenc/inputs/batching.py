"""Length buckets: which pairs are run together, and what to do when they do not fit.

Pairs are sorted by length and cut into batches whose padded size stays under a token budget, so that almost no padding is
computed and memory is bounded whatever the number of pairs. A batch that the device has no memory for is halved.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

logger = logging.getLogger(__name__)

DEFAULT_TOKEN_BUDGET = 2048
"""On a CPU, where larger batches fall out of its caches."""
LARGEST_BUDGET = 1 << 16
"""On a device: what comes on top of this does not make it faster."""
MOST_TOKENS = 1 << 24
"""A batch of so many padded tokens fits no device; a larger budget is a slip."""
_T = TypeVar("_T")


def default_token_budget(device: torch.device | str, *, token_bytes: int, n_ctx: int) -> int:
    """Padded tokens a batch on a device, for a model whose pairs have up to `n_ctx` tokens of `token_bytes` each.

    On a CPU `DEFAULT_TOKEN_BUDGET`. On a CUDA device what half of its free memory holds, rounded down to a power of two (so that a
    rerun finds the same stored results though a little less is free) and at most `LARGEST_BUDGET`; at least `n_ctx`, one pair.
    """
    place = torch.device(device)
    if place.type != "cuda":
        return DEFAULT_TOKEN_BUDGET
    free, _ = torch.cuda.mem_get_info(place)
    fits = max(free // 2 // token_bytes, 1)
    return int(max(min(1 << (fits.bit_length() - 1), LARGEST_BUDGET), n_ctx))


def length_batches(
    lengths: Sequence[int] | np.ndarray, token_budget: int = DEFAULT_TOKEN_BUDGET, *, in_order: bool = False
) -> list[np.ndarray]:
    """Indices of the pairs of each batch, longest batch first (so that a memory that will not do shows at once).

    With `in_order`, runs of consecutive pairs as they are given, for hooks that tell pairs apart by their place: a single batch
    if all fit into one.

    A batch's pairs x its longest pair is at most `token_budget`; a single pair longer than that is a batch of its own.
    Deterministic: equal lengths keep their order.

    Raises:
        ValueError: the budget is not positive, or larger than `MOST_TOKENS`.
    """
    if token_budget < 1:
        raise ValueError(f"expected a token budget of at least 1, got {token_budget}")
    if token_budget > MOST_TOKENS:
        raise ValueError(
            f"expected a token budget of at most {MOST_TOKENS:,}, got {token_budget:,}: no device holds more"
        )
    sizes = np.asarray(lengths, dtype=np.int64)
    batches: list[np.ndarray] = []
    start = 0
    if in_order:
        for stop in range(1, len(sizes) + 1):
            if stop == len(sizes) or (stop - start + 1) * int(sizes[start : stop + 1].max()) > token_budget:
                batches.append(np.arange(start, stop))
                start = stop
        return batches
    order = np.argsort(-sizes, kind="stable")
    while start < len(order):
        width = max(int(lengths[order[start]]), 1)
        stop = start + max(token_budget // width, 1)
        batches.append(order[start:stop])
        start = stop
    return batches


def run_batches(
    lengths: Sequence[int] | np.ndarray,
    token_budget: int,
    run: Callable[[np.ndarray], _T],
    *,
    in_order: bool = False,
) -> Iterator[tuple[np.ndarray, _T]]:
    """(indices, `run(indices)`) of every batch of `length_batches`; one that the device has no memory for is run in halves.

    Once a batch did not fit, later ones are halved before they are tried, until they are no larger than what it was halved to.
    Halves give what the whole would, to rounding.

    Raises:
        torch.OutOfMemoryError: there is no memory for a single pair.
        ValueError: the budget is not positive.
    """
    queue = deque(length_batches(lengths, token_budget, in_order=in_order))
    limit: int | None = None
    while queue:
        indices = queue.popleft()
        size = len(indices) * int(np.asarray(lengths)[indices].max())
        failure: str | None = None
        if limit is None or size <= limit or len(indices) == 1:
            try:
                found = run(indices)
            except torch.OutOfMemoryError as error:
                if len(indices) == 1:
                    raise
                failure = str(error).partition("\n")[0]
            else:
                yield indices, found
                del found
                continue
        if failure is not None:  # out of the handler, whose traceback holds what the failed run held
            if limit is None:
                logger.warning(
                    "no memory for a batch of %d tokens (%s); going on with half: a smaller token_budget avoids the failed try",
                    size,
                    failure,
                )
            limit = size // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        half = (len(indices) + 1) // 2
        queue.extendleft((indices[half:], indices[:half]))
