"""Semantic BM25: how far is a reranker's score a BM25 of its heads, rarity times how much a term's occurrences are attended to?

Lu, Chen & Eickhoff 2025 (arXiv 2502.04645) regress the score on what heads find of each query token: with soft-TF (`soft_tf`) and
the idf of its word piece, for query tokens i and heads h of a choice H, here summed over the query,

    score ≈ a + b sum_i idf_i + sum_{h in H} (c_h sum_i softTF_ih + d_h sum_i idf_i softTF_ih)

as BM25 is a sum over the query. Theirs has coefficients of its own for each of five places of the query, 5 (1 + 2 |H|) = 135
features with their 13 heads: queries of fewer tokens are dropped and longer ones cut to five, whose passages then lose as many
first tokens as were cut. Here there are 1 + 2 |H|, and any number of tokens. Systems, each with an intercept, by least squares:

    BM25                      of words in the pool's passages (`pools.bm25`), k1 = .9, b = .4
    BM25, tuned               k1 and b of a grid by their correlation with the score on the pairs fitted on
    soft-TF                   sum_i softTF_ih alone: no rarity in it
    semantic BM25             the formula
    semantic BM25, SEP2 in    soft-TF with the last separator, where heads attend that find nothing, as published

Heads are the n whose feature goes best with the score within queries, by the pairs fitted on alone. **By query**: all pairs of a
query are in one fold. **By pair**: pairs are dealt out one by one, as published; then a query's level is known from its other
pairs, and correlations look better than they would be for a query never seen. The difference is the leak.

Idf is BM25's, of word pieces in the pool's distinct passages, easy negatives included, cut where the model cuts them. The same idf
is looked for in the model's token embeddings (`idf_in_embeddings`), beside those of the base of an adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.executors.task import Waiting
from tl_crossenc.experiments.probe_frames import rows_of
from tl_crossenc.experiments.query_folds import sampled_pools
from tl_crossenc.experiments.ranking import one_ideal
from tl_crossenc.experiments.scoring import score_pools
from tl_crossenc.experiments.semantic_fits import SEMANTIC, SYSTEMS, Fields, predict
from tl_crossenc.experiments.semantic_frames import (
    BY_PAIR,
    BY_QUERY,
    comparison_frame,
    correlation_frame,
    embedding_frame,
    head_frame,
)
from tl_crossenc.experiments.soft_tf_cells import SoftTFSums, soft_tf_sums
from tl_crossenc.instruments.idf_in_embeddings import piece_frequencies
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.interventions.heads import check_heads, format_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.bm25 import K1, B, bm25_scores
from tl_crossenc.pools.pool import Pool, require_distinct
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.folds import FOLDS, dealt, numbered
from tl_crossenc.store.cells import Store

SAMPLED_QUERIES = 40
"""Of a run of minutes."""
N_HEADS = 13
"""As many as Lu et al. found by path patching."""
GRID = ((K1, B), *((k1, b) for k1 in (0.5, 0.9, 1.5) for b in (0.4, 0.75, 0.9) if (k1, b) != (K1, B)))
"""(k1, b) to tune over; the usual first. Theirs, .5 and .9, are among them."""


@dataclass(frozen=True)
class SemanticBM25(Framed):
    """How well a score is a BM25 of heads.

    Attributes:
        correlations: a row a (split, system, fold), the fold `all` of all pairs: n_queries, n_pairs; Pearson's `r` of held-out
            predictions with the score, `r_low`, `r_high`, `r_within` queries; `r2` likewise; `chosen` on the other folds.
        comparisons: a row a (system, split, against, against_split): `difference` of r over all pairs, `low`, `high`.
        heads: a row a head: `r_within` of idf times soft-TF with the score over all pairs, `chosen` in how many folds of queries by
            semantic BM25, and the mean attention of a query token to DOC, SEP2, SEP1, CLS.
        embeddings: a row a (weights, rows, feature): `r2` of idf on held-out pieces, `low`, `high`, `decomposed` rows of W_E.
        per_pair: collection, query_id, doc_id, score, and every system's prediction by query.
        scalars: counts, settings, the idf's collection; `correlation` of the first singular vector with idf; `base`, what is known
            of an adapter's base; `no_embeddings`, why there are no rows of them.
    """

    correlations: pd.DataFrame
    comparisons: pd.DataFrame
    heads: pd.DataFrame
    embeddings: pd.DataFrame
    per_pair: pd.DataFrame
    scalars: dict[str, Any]

    __repr__ = short_repr


@recorded
def run_semantic_bm25(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    n_heads: int = N_HEADS,
    heads: Sequence[tuple[int, int]] | None = None,
    n_folds: int = FOLDS,
    queries: int | None = None,
    seed: int = 0,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> SemanticBM25:
    """Regress the scores of the pools' graded passages on what heads find, computing only missing cells.

    Args:
        model, pools, store: as `rank_under` takes them.
        n_heads: how many heads to choose, at most; fewer where pairs are few.
        heads: (layer, head) of those to take in place of a choice.
        n_folds: from 2 on.
        queries: on how many, drawn at random; None for all.
        seed: of sample, folds and resamples.
        token_budget, executor, progress: as `rank_under` takes them.

    Raises:
        Unavailable: fewer queries than folds, or scores that do not vary.
        ValueError: no head, one twice or that the model does not have, too few folds, less than one query; no pool,
            two of one name, one without graded passages; an active ablation, or a model that no key can name (see `identity`).
        CellsFailed, Waiting: see `Executor.run`.
    """
    _check(model, pools, n_heads, heads, n_folds)
    used = sampled_pools(pools, queries, seed) or [pool.ranked for pool in pools]
    used = [pool.ranked for pool in used]
    wholes = {pool.collection: pool for pool in pools}
    asked = [(pool.collection, pair.query_id) for pool in used for pair in pool.pairs]
    n_queries = len(set(asked))
    if n_queries < max(n_folds, 2):
        raise Unavailable(f"semantic BM25 needs a query for each of {n_folds} folds, got {n_queries}: take fewer folds")
    run: dict[str, Any] = {"token_budget": token_budget, "executor": executor, "progress": progress}
    waiting: Waiting | None = None
    try:
        scored = score_pools(model, [(pool, [UNABLATED]) for pool in used], store, **run)
    except Waiting as reason:  # a shard's part of the soft-TF can be computed all the same
        waiting = reason
    frequencies = {name: piece_frequencies(model, [pair.text for pair in pool.pairs]) for name, pool in wholes.items()}
    sums = soft_tf_sums(model, used, [frequencies[pool.collection].idf for pool in used], store, **run)
    if waiting is not None:
        raise waiting
    scores = np.concatenate([found.values[0] for found in scored]).astype(np.float64)
    if np.ptp(scores) <= 1e-12 * np.abs(scores).max():
        raise Unavailable(f"semantic BM25 needs scores that differ, but those of all {len(scores)} pairs are the same")
    fields = _fields(model, scores, asked, sums, _bm25(used, wholes))
    numbers = None if heads is None else [layer * model.cfg.n_heads + head for layer, head in heads]
    folds = {
        BY_QUERY: dealt(numbered(asked), n_folds, seed),
        BY_PAIR: np.random.default_rng([seed, len(asked), 3]).permutation(len(asked)) % n_folds,
    }
    found = {
        split: {system: predict(system, fields, own, n_heads, numbers) for system in SYSTEMS}
        for split, own in folds.items()
    }
    embeddings, about = embedding_frame(model, [pair.text for pool in pools for pair in pool.pairs], seed)
    pairs = [(pool.collection, pair.query_id, pair.doc_id) for pool in used for pair in pool.pairs]
    per_pair = pd.DataFrame(pairs, columns=["collection", "query_id", "doc_id"]).assign(
        score=scores, **{system: found[BY_QUERY][system].values for system in SYSTEMS}
    )
    return SemanticBM25(
        correlations=correlation_frame(fields, folds, found, seed),
        comparisons=comparison_frame(fields, found, seed),
        heads=head_frame(fields, sums, found[BY_QUERY][SEMANTIC]),
        embeddings=embeddings,
        per_pair=per_pair,
        scalars={
            "n_queries": n_queries,
            "n_all_queries": sum(len(pool.ranked.by_query()) for pool in pools),
            "n_pairs": len(scores),
            "n_heads": max(map(len, found[BY_QUERY][SEMANTIC].heads)),
            "given_heads": heads is not None,
            "n_folds": n_folds,
            "seed": seed,
            "passages": {name: of.passages for name, of in frequencies.items()},
            **about,
        },
    )


def _check(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    n_heads: int,
    heads: Sequence[tuple[int, int]] | None,
    n_folds: int,
) -> None:
    if n_heads < 1 or n_folds < 2 or (heads is not None and not len(heads)):
        raise ValueError(f"expected heads and at least 2 folds, got {n_heads if heads is None else 0} and {n_folds}")
    if heads is not None:
        if len(set(heads)) < len(heads):
            raise ValueError(f"expected each head once, got {format_heads(heads)}")
        check_heads(heads, model.cfg.n_layers, model.cfg.n_heads)
    if not pools or any(len(pool.ranked) == 0 for pool in pools):
        raise ValueError(f"expected pools with passages to rank, got {[pool.collection for pool in pools]}")
    require_distinct([pool.collection for pool in pools])
    one_ideal(pools)


def _bm25(used: Sequence[Pool], wholes: dict[str, Pool]) -> dict[tuple[float, float], np.ndarray]:
    """Of every pair under every setting; words are counted in the whole pools."""
    columns = [
        rows_of(pool, whole, np.stack([bm25_scores(whole, k1, b) for k1, b in GRID], axis=1))
        for pool in used
        for whole in [wholes[pool.collection]]
    ]
    return dict(zip(GRID, np.concatenate(columns).T, strict=True))


def _fields(
    model: HookedCrossEncoder,
    scores: np.ndarray,
    queries: Sequence[tuple[str, str]],
    sums: Sequence[SoftTFSums],
    bm25: dict[tuple[float, float], np.ndarray],
) -> Fields:
    plain, weighted = (
        np.concatenate([getattr(own, name) for own in sums], axis=1).reshape(2, len(scores), -1)
        for name in ("plain", "weighted")
    )
    idf = np.concatenate([own.idf for own in sums])
    return Fields(scores, queries, idf, plain, weighted, bm25, (model.cfg.n_layers, model.cfg.n_heads))
