"""What is split by attributions along a path, s - s', and how far their sums may miss it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.instruments.baselines import Baseline
from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.resumed_run import check_unhooked
from tl_crossenc.model.score_rule import canonical_rule, score_from_logits

logger = logging.getLogger(__name__)

NODES = 64
FEWEST_NODES = 32
"""With fewer, the error on a trained reranker is several per cent: 16 nodes left 3.7 %, 8 nodes 51 %."""
LARGEST_ERROR = 0.05
"""Zhan et al.'s bound: a larger share of s - s' that is missed is warned of."""
PROBABILITY = "probability"

Attributed = Callable[[Tensor], Tensor]
"""Logits `[item, label]` -> what is attributed, `[item]`."""
Edits = tuple[LayerEdits | None, ...]


def attributed_score(model: HookedCrossEncoder, score: str | None) -> Attributed:
    """What makes of logits the number that is attributed.

    Raises:
        ValueError: no such score.
    """
    if score is None:
        return model.score_of
    if score == PROBABILITY:
        if model.cfg.n_labels > 1 and str(model.cfg.score).startswith("index:"):
            raise ValueError(
                f"expected a score whose sigmoid is a probability, but of {model.cfg.n_labels} labels {model.cfg.score} is one "
                "logit: leave score out, or load two labels by their difference"
            )
        return lambda logits: torch.sigmoid(model.score_of(logits))
    rule = canonical_rule(score, model.cfg.n_labels)
    return lambda logits: score_from_logits(logits, rule)


def check_path(model: HookedCrossEncoder, pairs: EncodedPairs, nodes: int) -> None:
    """Whether there is something to attribute, along nodes enough.

    Raises:
        ValueError: no pairs, fewer than `FEWEST_NODES` nodes, or hooks on the model.
    """
    if not len(pairs):
        raise ValueError("expected at least one pair to attribute, got none")
    check_nodes(nodes)
    check_unhooked(model)


def check_nodes(nodes: int) -> None:
    """Whether a path has nodes enough.

    Raises:
        ValueError: fewer than `FEWEST_NODES`, or no whole number.
    """
    if isinstance(nodes, bool) or not isinstance(nodes, Integral):
        raise ValueError(f"expected a whole number of nodes, {FEWEST_NODES} at least, got {nodes!r:.60}")
    if nodes < FEWEST_NODES:
        raise ValueError(
            f"expected at least {FEWEST_NODES} nodes, got {nodes}: with fewer the sum misses s - s' by per cents"
        )


def relative(error: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """|error| as a share of |difference|; 0 for 0 of 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.abs(error) / np.abs(difference)
    return np.where(error == 0, 0.0, share)


def tell_errors(
    errors: Float[np.ndarray, "place pair"], same: Bool[np.ndarray, "pair"], baseline: Baseline, nodes: int
) -> None:
    """Warn of sums that miss s - s' by more than `LARGEST_ERROR` of it, and of baselines that are the pairs themselves."""
    if same.any():
        logger.warning(
            "the baseline %s of %d of %d pairs is the pair itself: their attributions are all 0",
            *(baseline, int(same.sum()), len(same)),
        )
    missed = errors > LARGEST_ERROR
    if missed.any():
        finite = errors[np.isfinite(errors)]
        logger.warning(
            "%d of %d sums of attributions to the baseline %s miss s - s' by more than %.0f %% of it (median error %.2g %%): "
            "take more than %d nodes, or another baseline",
            *(int(missed.sum()), missed.size, baseline, 100 * LARGEST_ERROR),
            *(100 * float(np.median(finite)) if finite.size else float("nan"), nodes),
        )
