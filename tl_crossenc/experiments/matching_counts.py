"""How many heads pass Figure 1b's test under each quantity and each kind of negatives, of a model and of its untrained twin.

What a head does is one thing, what a choice of ours makes of it another. A count that stands under one choice alone is of that
choice: of length, most of all, where negatives are not as long as relevant passages. What the twin passes, no training made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from tl_crossenc.experiments.attention import Attention
from tl_crossenc.experiments.matching import MATCHING_DIRECTIONS, matching_heads, passing_heads
from tl_crossenc.instruments.attention_flow import QUANTITIES
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.pools.spec import EASY_NEGATIVE
from tl_crossenc.results.unavailable import Unavailable

NEGATIVES = {"easy": EASY_NEGATIVE, "hard": 0}
EACH = "each"
"""In place of a quantity: what is significant, in the same direction and the same sense, under every one of them."""
COLUMNS = ["model", "against", "quantity", "n_queries", "heads", "n_heads", "more", "less", "cells"]


def matching_counts(
    models: Mapping[str, Attention],
    *,
    relevant_grades: Iterable[int] | None = None,
    directions: Sequence[Direction | str] = MATCHING_DIRECTIONS,
) -> pd.DataFrame:
    """Count what is significant.

    Args:
        models: name → the attention of that model on the same pools.
        relevant_grades, directions: as `matching_heads` takes them.

    Returns:
        A row a model, kind of negatives ("easy", "hard") and quantity ("mass", "density", "excess", and "each"): `heads` of
        `n_heads` that pass in any direction; `more` and `less`, the (direction, layer, head) of `cells` that are significantly more
        or less in relevant passages; `n_queries`. Kinds of negatives that cannot be compared have no rows.

    Raises:
        Unavailable: neither kind can be compared, with the reason of the first.
    """
    grades = None if relevant_grades is None else tuple(relevant_grades)
    rows, reasons = [], []
    for name, attention in models.items():
        for kind, grade in NEGATIVES.items():
            try:
                frames = {
                    quantity: matching_heads(
                        attention, relevant_grades=grades, against=grade, directions=directions, quantity=quantity
                    )
                    for quantity in QUANTITIES
                }
            except Unavailable as reason:
                reasons.append(reason)
                continue
            every = next(iter(frames.values())).copy()
            for mark in ("passes", "less"):
                every[mark] = pd.concat([frame[mark] for frame in frames.values()], axis=1).all(axis=1)
            for quantity, frame in (frames | {EACH: every}).items():
                heads = len(passing_heads(frame)), attention.n_layers * attention.n_heads
                cells = int(frame["passes"].sum()), int(frame["less"].sum()), len(frame)
                rows.append((name, kind, quantity, int(frame["n_queries"].max()), *heads, *cells))
    if not rows:
        raise (
            reasons[0] if reasons else ValueError("expected the attention of at least one model to count in, got none")
        )
    return pd.DataFrame(rows, columns=COLUMNS)
