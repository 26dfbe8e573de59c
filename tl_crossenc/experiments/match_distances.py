"""How far apart are the attention weights of relevant passages and of negatives, and is it more than chance?

For the distributions P and N of log10 weights (histograms pooled over the token pairs of some passages),

    distance = W_1(P, N) = integral of |F_P - F_N|         first Wasserstein distance, in decades of weight
    shift    = mean(P) - mean(N)                           its signed part: |shift| <= distance

where F are the cumulative distributions on the bins' centres; on equal bins this is what `scipy.stats.wasserstein_distance` gives.

**Null.** The labels relevant / negative are permuted among the passages of each query, which keeps what belongs to the query and
how many passages of each label it has; queries with one label only are left out, of the distance too. With B permutations,
p = (1 + #{null distance >= distance}) / (1 + B): never below 1 / (1 + B).

**Many heads.** `p_holm` is Holm's correction over a family (all heads and directions; or all layers and directions of one kind).
Its least value is (size of the family) / (1 + B), so that it needs many permutations. `p_max` (Westfall & Young 1993, single
step) compares each standardized distance with the largest one of the family under each permutation: the same guarantee, with few.

Limits. Weights of one passage are not independent, which permuting whole passages respects. A longer passage gives smaller
QUERY->DOC weights: where the groups differ in length, a distance says that too; compare the masses and lifts beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.instruments.token_matches import BIN_WIDTH, CENTRES
from tl_crossenc.statistics.significance import holm

ROUNDING = 1e-9
"""Distances nearer than this are equal."""


def wasserstein(a: Float[np.ndarray, "*rows bin"], b: Float[np.ndarray, "*rows bin"]) -> Float[np.ndarray, "*rows"]:
    """The first Wasserstein distance of two histograms on the bins' centres, in decades; NaN where one is empty."""
    gap = np.cumsum(_shares(a) - _shares(b), axis=-1)
    return np.asarray(np.abs(gap[..., :-1]).sum(-1) * BIN_WIDTH)


def mean_shift(a: Float[np.ndarray, "*rows bin"], b: Float[np.ndarray, "*rows bin"]) -> Float[np.ndarray, "*rows"]:
    """The mean log10 weight of `a` less that of `b`; NaN where one is empty."""
    return np.asarray((_shares(a) - _shares(b)) @ CENTRES)


def _shares(counts: Float[np.ndarray, "*rows bin"]) -> Float[np.ndarray, "*rows bin"]:
    total = counts.sum(-1, keepdims=True)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


@dataclass(frozen=True)
class Labels:
    """Which passages count as relevant in the data, and under each permutation.

    Attributes:
        used: passages whose query has both labels.
        relevant: row 0 as observed, the others permuted; False where a passage is not used.
        n_queries: queries that have both.
    """

    used: Bool[np.ndarray, "passage"]
    relevant: Bool[np.ndarray, "permutation passage"]
    n_queries: int

    __repr__ = short_repr


def permuted_labels(
    queries: Sequence[object], labels: Sequence[bool | None], *, n_permutations: int, seed: int
) -> Labels:
    """Permute the labels within each query.

    Args:
        queries: the query of each passage.
        labels: True for relevant, False for negative, None for neither.
        n_permutations: how many.
        seed: of the permutations.

    Raises:
        ValueError: fewer than 1 permutation, or not one label a passage.
    """
    if n_permutations < 1 or len(queries) != len(labels):
        raise ValueError(
            f"expected at least 1 permutation and a label for each of {len(queries)} passages, "
            f"got {n_permutations} and {len(labels)}"
        )
    rng = np.random.default_rng(seed)
    members: dict[object, list[int]] = {}
    for passage, (query, label) in enumerate(zip(queries, labels, strict=True)):
        if label is not None:
            members.setdefault(query, []).append(passage)
    used = np.zeros(len(labels), dtype=bool)
    relevant = np.zeros((n_permutations + 1, len(labels)), dtype=bool)
    n_queries = 0
    for passages in members.values():
        own = np.array([bool(labels[passage]) for passage in passages])
        if own.all() or not own.any():
            continue
        n_queries += 1
        used[passages] = True
        relevant[0, passages] = own
        relevant[1:, passages] = rng.permuted(np.tile(own, (n_permutations, 1)), axis=1)
    return Labels(used, relevant, n_queries)


def against_null(
    relevant: Float[np.ndarray, "permutation row bin"], total: Float[np.ndarray, "row bin"], families: Sequence[object]
) -> pd.DataFrame:
    """The distance of each row's two distributions against its null.

    Args:
        relevant: histograms of the passages labelled relevant: as observed, then under each permutation.
        total: histograms of all used passages; the negatives' are what is left.
        families: the name of each row's family, over which p is corrected.

    Returns:
        A row a row: distance, shift, null_mean, null_high (the null's 95 % quantile), p, p_holm, p_max; NaN where the data has no
        weights on one side.
    """
    distances = np.stack([wasserstein(one, total - one) for one in relevant])
    observed, null = distances[0], distances[1:]
    frame = pd.DataFrame({"distance": observed, "shift": mean_shift(relevant[0], total - relevant[0])})
    tested = np.isfinite(observed)
    # A permutation that leaves one side without weights says nothing against the null: it counts as far as any.
    far = np.where(np.isfinite(null), null, np.inf)
    frame["null_mean"] = np.where(tested, far.mean(0), np.nan)
    frame["null_high"] = np.where(tested, np.quantile(far, 0.95, axis=0, method="higher"), np.nan)
    beaten = (far >= observed - ROUNDING).sum(0)
    frame["p"] = np.where(tested, (1 + beaten) / (1 + len(far)), np.nan)
    frame["p_holm"], frame["p_max"] = np.nan, np.nan
    standard = _standardized(np.concatenate([observed[None], far]))
    for family in dict.fromkeys(families):
        rows = np.array([name == family for name in families]) & tested
        if not rows.any():
            continue
        frame.loc[rows, "p_holm"] = holm(frame.loc[rows, "p"])
        largest = standard[1:, rows].max(1)
        frame.loc[rows, "p_max"] = [
            (1 + (largest >= z - ROUNDING).sum()) / (1 + len(largest)) for z in standard[0, rows]
        ]
    return frame


def _standardized(
    distances: Float[np.ndarray, "permutation row"],
) -> Float[np.ndarray, "permutation row"]:
    """Each row's distances, the data's own among them, less their mean over their standard deviation; infinite ones stay so."""
    finite = np.where(np.isfinite(distances), distances, np.nan)
    known = np.maximum(np.isfinite(finite).sum(0), 1)
    mean = np.nansum(finite, axis=0) / known
    sd = np.sqrt(np.nansum((finite - mean) ** 2, axis=0) / known)
    z = np.divide(finite - mean, sd, out=np.zeros_like(finite), where=sd > ROUNDING)
    return np.where(np.isnan(finite), np.inf, z)
