"""Figure 2's frames: every column is an array with the axes of the index, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.instruments.qk import MATCHED_PARTS, MeanScores, PartMoments, Spectrum, divide
from tl_crossenc.instruments.qk_terms import TERM_DIRECTIONS, TermMoments
from tl_crossenc.interventions.directions import Direction


def head_frame(
    shape: Spectrum, found: MeanScores, terms: TermMoments, over_offsets: Spectrum | None = None
) -> pd.DataFrame:
    """A row a head: shape, of rotary positions also over the offsets that occur, contrasts and their scale."""
    score_sd = np.sqrt(terms.variance)
    columns = {"trace": shape.trace, "sum_sigma": shape.sum_sigma, "alignment": shape.alignment}
    if over_offsets is not None:
        names = ("trace", "sum_sigma", "alignment")
        columns |= {f"{name}_over_offsets": getattr(over_offsets, name) for name in names}
    for name, sd in (("contrast", score_sd[0]), ("other_contrast", score_sd[1])):
        for column in (name, f"{name}_biased"):
            raw = getattr(found, column)
            logit = raw / found.scale
            columns |= {column: raw, f"{column}_logit": logit, f"{column}_relative": divide(logit, sd)}
    return _frame(_heads(shape.trace), columns | {"score_sd": score_sd[0]})


def product_frame(found: MeanScores) -> pd.DataFrame:
    """A row a head, direction and with or without biases."""
    directions = [str(Direction(row, column)) for row in MATCHED_PARTS for column in MATCHED_PARTS]
    raw = np.stack([found.plain, found.biased], 2)
    axes = _heads(raw) | {"biases": [False, True], "direction": directions}
    return _frame(axes, {"raw": raw, "logit": raw / found.scale})


def spectrum_frame(shape: Spectrum) -> pd.DataFrame:
    """A row a head and number of directions kept."""
    axes = _heads(shape.sigma) | {"k": range(1, shape.sigma.shape[2] + 1)}
    names = ("sigma", "overlap", "cumulative", "cumulative_alignment")
    return _frame(axes, {name: getattr(shape, name) for name in names})


def decomposition_frame(terms: TermMoments) -> pd.DataFrame:
    """A row a direction and head: the terms of real logits."""
    columns = {
        "token_pairs": np.broadcast_to(terms.token_pairs, terms.variance.shape).astype(np.int64),
        "mean_square": terms.mean_square,
        "variance": terms.variance,
    }
    parts = {"share": terms.shares, "variance_share": terms.variance_shares, "square_ratio": terms.square_ratios}
    for name, values in parts.items():
        columns |= {f"{name}_{term}": values[..., i] for i, term in enumerate(terms.names)}
    if not terms.constant_varies:
        del columns["variance_share_constant"]  # always 0
    for name in ("epsilon_ratio", "two_term_r2", "row_r2", "match_lift"):
        columns[name] = getattr(terms, name)
    axes = {"direction": [str(direction) for direction in TERM_DIRECTIONS]} | _heads(terms.variance[0])
    return _frame(axes, columns)


def layer_frame(moments: PartMoments) -> pd.DataFrame:
    """A row a layer and part."""
    axes = {"layer": range(len(moments.mean)), "part": [part.name for part in MATCHED_PARTS]}
    tokens = np.broadcast_to(moments.tokens, moments.square.shape)
    norm = np.linalg.norm(moments.mean, axis=-1)
    return _frame(axes, {"tokens": tokens, "norm": norm, "spread": moments.spread})


def _frame(axes: dict[str, Sequence[Any]], columns: dict[str, np.ndarray]) -> pd.DataFrame:
    index = pd.MultiIndex.from_product(axes.values(), names=axes.keys())
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index=index).reset_index()


def _heads(like: np.ndarray) -> dict[str, Sequence[Any]]:
    return {"layer": range(like.shape[0]), "head": range(like.shape[1])}
