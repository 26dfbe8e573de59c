"""Figure 2 of Vast et al. 2025: does a head seek query-passage attention, and does it seek what is alike?

Per head, the contrast q^T A d - d^T A d of the part means against the alignment of A's singular vectors (`qk.py`), and the test
of the decomposition that both rest on (`qk_terms.py`). q and d are means over all pairs of all pools together; the decomposition
is measured on `max_pairs` of those pairs, drawn with a seed.

Relative contrasts are in standard deviations of that head's own score: contrast / sqrt(d_head) divided by the standard deviation
of E_i^T A E_j / sqrt(d_head) over the QUERY->DOC token pairs of the sample (DOC->QUERY for the other contrast), without biases.
So a contrast of 1 moves a score by as much as one token differs from another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.qk_cells import MEANS, METHOD, OFFSETS, TERMS, QKTask, stored_moments
from tl_crossenc.experiments.qk_frames import (
    decomposition_frame,
    head_frame,
    layer_frame,
    product_frame,
    spectrum_frame,
)
from tl_crossenc.experiments.scoring import SHARD
from tl_crossenc.instruments.qk import (
    MATCHED_PARTS,
    PartMoments,
    Weighting,
    check_weighting,
    mean_scores,
    spectrum,
)
from tl_crossenc.instruments.qk_offsets import OffsetCounts, mean_rotations, spectrum_over_offsets
from tl_crossenc.instruments.qk_terms import TermMoments
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.pool import Pool, PoolPair
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey


@dataclass(frozen=True)
class QKAlignment(Framed):
    """Figure 2 as data, a row a head unless said otherwise; raw values are those of A = W_Q W_K^T, logits those / sqrt(d_head).

    Attributes:
        heads: layer, head, trace, sum_sigma, alignment (trace / sum_sigma); for `contrast` and `other_contrast`, and for both
            with the biases (`contrast_biased`, ...): raw, `..._logit`, `..._relative` (see the module); `score_sd`, the
            QUERY->DOC standard deviation that `contrast_relative` divides by, in logits. With rotary positions `alignment` and the
            like are those at offset 0, and there are `..._over_offsets` of the mean over the offsets that occur.
        products: a row a head, direction (attender mean -> attended mean) and with or without biases: raw, logit.
        spectrum: a row a head and number k = 1.. of directions kept: sigma, overlap (u_k . v_k), cumulative, cumulative_alignment.
        decomposition: a row a direction and head: token_pairs, mean_square and variance (logits squared), then for each term
            `share_...`, `variance_share_...`, `square_ratio_...`, and epsilon_ratio, two_term_r2, row_r2, match_lift. With relative
            positions `position` is a term beside the four of the content, and the five sum to the logit. NaN where a layer's window
            has none of the direction's token pairs.
        layers: a row a layer and part: tokens, norm of the mean, spread (RMS distance from it).
        collections: of the pools.
        weighting: of the tokens in the means.
        pairs: pairs behind the means.
        sampled: pairs behind the decomposition.
        seed: of that sample.
    """

    heads: pd.DataFrame
    products: pd.DataFrame
    spectrum: pd.DataFrame
    decomposition: pd.DataFrame
    layers: pd.DataFrame
    collections: tuple[str, ...]
    weighting: str
    pairs: int
    sampled: int
    seed: int

    __repr__ = short_repr


@recorded
def run_qk_alignment(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    weighting: Weighting | str = "token",
    max_pairs: int = 512,
    seed: int = 0,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> QKAlignment:
    """Compute Figure 2 over all pairs of all pools together, easy negatives among them where a pool has them.

    Args:
        model: the model, with what it ablates at the moment.
        pools: one or more.
        store: for the sums of each shard of a pool.
        weighting: see `qk.part_moments`.
        max_pairs: pairs for the decomposition, at least 1; all where there are fewer.
        seed: of the draw of those.
        token_budget: padded tokens a batch.
        executor: of what is missing.
        progress: as in `scoring.py`; the last layer is never run.

    Raises:
        Unavailable: there are no pairs, or none of them has both query and passage tokens.
        ValueError: `max_pairs` is not positive, the weighting is unknown, the model gave numbers that are not finite, or no key can
            name it (see `identity`).
    """
    if max_pairs < 1:
        raise ValueError(f"expected max_pairs of at least 1, got {max_pairs}")
    check_weighting(weighting)
    everything = [pair for pool in pools for pair in pool.pairs]
    if not everything:
        raise Unavailable("the query-key contrasts need pairs of a query and a passage, and there are none.")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(everything))[:max_pairs])
    sample = [everything[i] for i in chosen]
    drawn = {"pools": "+".join(pool.digest for pool in pools), "max_pairs": max_pairs, "seed": seed}
    budget, identity = executor.token_budget(model, token_budget), executor.identity(model)
    given = {"condition": str(model.active_condition), "weighting": weighting, "token_budget": budget}
    cfg = model.cfg

    def task(key: CellKey, pairs: Sequence[PoolPair]) -> QKTask:
        meta = {"model": str(cfg.model_name)}
        return QKTask(tuple(pairs), (key,), cfg.n_layers - 1, budget, meta, weighting)

    mean_tasks = [
        task(_key(identity, MEANS, pool=pool.digest, shard=i, **given), pairs)
        for pool in pools
        for i, pairs in _shards(pool.pairs)
    ]
    term_tasks = [task(_key(identity, TERMS, shard=i, **drawn, **given), pairs) for i, pairs in _shards(sample)]
    offset_tasks = [
        task(_key(identity, OFFSETS, pool=pool.digest, shard=i, weighting=weighting), pairs)
        for pool in pools
        for i, pairs in (_shards(pool.pairs) if cfg.rotary_bases is not None else ())
    ]
    later = sum(task.cost for task in term_tasks if not store.has(task.keys[0]))
    ran = executor.run(model, [*mean_tasks, *offset_tasks], store, _stage(progress, 0, later))
    moments = stored_moments(store, mean_tasks, PartMoments.empty(cfg.n_layers, cfg.d_model))
    for part, weight in zip(MATCHED_PARTS, moments.weight, strict=True):
        if weight == 0:
            raise Unavailable(f"the query-key contrasts need {part.name} tokens, and no pair has any.")
    about_them = [replace(task, means=moments.mean) for task in term_tasks]
    executor.run(model, about_them, store, _stage(progress, sum(task.cost for task in ran), 0))
    terms = stored_moments(store, term_tasks, TermMoments.of(cfg))
    if not terms.count.reshape(len(terms.count), -1).any(1).all():
        raise Unavailable(
            f"the score decomposition needs pairs with both query and passage tokens, and none of {len(sample)} has both."
        )
    rotation = over_offsets = None
    if cfg.rotary_bases is not None:
        offsets = stored_moments(store, offset_tasks, OffsetCounts.empty(cfg.n_ctx))
        rotation = mean_rotations(model, offsets)
        over_offsets = spectrum_over_offsets(model, rotation)
    shape, found = spectrum(model.W_Q, model.W_K), mean_scores(model, moments.mean, rotation)
    return QKAlignment(
        heads=head_frame(shape, found, terms, over_offsets),
        products=product_frame(found),
        spectrum=spectrum_frame(shape),
        decomposition=decomposition_frame(terms),
        layers=layer_frame(moments),
        collections=tuple(pool.collection for pool in pools),
        weighting=weighting,
        pairs=len(everything),
        sampled=len(sample),
        seed=seed,
    )


def _shards(pairs: Sequence[PoolPair]) -> Iterator[tuple[int, Sequence[PoolPair]]]:
    for start in range(0, len(pairs), SHARD):
        yield start // SHARD, pairs[start : start + SHARD]


def _key(identity: Mapping[str, str], kind: str, **rest: Any) -> CellKey:
    return CellKey.of(kind, **identity, method=METHOD, shard_size=SHARD, **rest)


def _stage(progress: Progress | None, before: int, after: int) -> Progress | None:
    """Progress of a stage, so many layer runs being done before it and left for after it."""
    return progress and (lambda done, total: progress(before + done, before + total + after))
