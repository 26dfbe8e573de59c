"""Probes by layer: from which layer on can relevance, and what classical retrieval measures, be read off the states of some tokens?

For every layer and set of tokens (`token_sets`) a probe is fitted on some queries' pairs and predicts the others' (`probes`).

**Relevance.** The target is 1 for passages of a relevant grade, else 0. A query's passages are ranked by their predictions and the
ranking measured by nDCG@k and MRR@k, ties expected. Beside it, in the column `source`:

    model       the probe of the model's states
    shuffled    the same, labels dealt out anew within every query before fitting and measuring, the mean of some draws: what the
                procedure gives where there is nothing to find
    untrained   the probe of the states of the model's untrained twin: what shape, tokenizer and texts give
    lens        no probe: what the model's own head makes of the stream at that layer (`direct_attribution.score_lens`)

and the random ranking of the same passages, the floor. CLS at layer 0 is the same vector for every pair, so its predictions tie and
its ranking is the floor exactly.

**Features.** R² by layer of ridge regression on what `retrieval_features` has: BM25, tf-idf, covered words, lengths, exact matches.

A set without tokens has no state. Such pairs are left out of fit and ranking, and counted; the floor is that of the others.

After Zhan et al. 2020 (relevance; `published.ZHAN_2020_PROBES`, MRR@10 on other candidates) and Chowdhury, Nijasure & Allan 2025
(features). A probe finds what is decodable. It does not say that the model uses it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.probe_cells import StateCells
from tl_crossenc.experiments.probe_frames import constant_features, relevance_frame, rows_of
from tl_crossenc.experiments.probe_work import (
    MODEL,
    PROBES,
    SOURCES,
    UNTRAINED,
    ProbeWork,
    sample_queries,
    token_reader,
)
from tl_crossenc.instruments.layer_features import POOLINGS
from tl_crossenc.instruments.token_probe import TokenProbeSettings
from tl_crossenc.instruments.token_sets import SETS, TokenSets
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.model.untrained import untrained_twin
from tl_crossenc.pools.grades import relevant_grades as by_scale
from tl_crossenc.pools.pool import Pool
from tl_crossenc.pools.retrieval_features import FEATURES, retrieval_features
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.folds import FOLDS
from tl_crossenc.store.cells import Store

logger = logging.getLogger(__name__)

SHUFFLES = 3
MOST_PAIRS = 2000
"""Pairs that are probed: whole queries, drawn with the seed, as many as fit."""
SAMPLED_PAIRS = 400
"""The same where a run is to take minutes."""


@dataclass(frozen=True)
class Probes(Framed):
    """What probes find by layer and set of tokens; layer 0 is the embeddings.

    Attributes:
        relevance: a row a (source, set, layer): ndcg and mrr with `_low` and `_high`, random_ndcg, random_mrr, n_queries, n_pairs,
            left_out (pairs without a token of the set).
        per_query: a row a (source, set, layer, collection, query_id): ndcg, mrr, random_ndcg, random_mrr, n_passages.
        features: a row a (source, set, layer, feature): r2 with `low` and `high`, `within` (R² within queries), n_pairs. NaN of a
            feature that does not vary.
        scalars: the probe, pooling, folds, seed, counts, grades, what BM25 was computed with, bytes a pair that are stored.
        pairs_run: pairs that the model ran for this, its twin's among them; 0 when everything was stored.
    """

    relevance: pd.DataFrame
    per_query: pd.DataFrame
    features: pd.DataFrame
    scalars: dict[str, Any]
    pairs_run: int

    __repr__ = short_repr


@recorded
def run_probes(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    sets: Sequence[str] = SETS,
    probe: str = "ridge",
    pooling: str = "mean",
    n_folds: int = FOLDS,
    relevant_grades: Sequence[int] | None = None,
    cutoff: int = 10,
    gain: str = "linear",
    n_shuffles: int = SHUFFLES,
    control: bool = True,
    max_pairs: int = MOST_PAIRS,
    settings: TokenProbeSettings | None = None,
    seed: int = 0,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> Probes:
    """Probe the graded pairs of the pools (easy negatives left out), computing only the states that are missing.

    Args:
        model: the model, with nothing ablated.
        pools: of one kind.
        store: of the cells.
        sets: of `token_sets.ALL_SETS`; five of them by default.
        probe: "ridge", "logistic", or "tokens", that of Zhan et al. on single tokens (minutes, and twenty times the states).
        pooling: of ridge and logistic, "mean" or "max".
        n_folds: folds of queries.
        relevant_grades: None for the upper half of each collection's scale.
        cutoff, gain: of nDCG@k and MRR@k.
        n_shuffles: draws of shuffled labels; 0 leaves that control.
        control: probe the untrained twin, too: its states are computed once more.
        max_pairs: most pairs: whole queries are drawn, but at least twice as many as folds.
        settings: how "tokens" is trained; the paper's by default.
        seed: of folds, shuffles, the sample, the twin, and of what "tokens" draws.
        token_budget: padded tokens a batch.
        executor: who computes.
        progress: of the states, of the model and then of the twin; then of the fits.

    Raises:
        Unavailable: the pools have no relevant passage, or no other; too few queries for the folds, or with tokens of any
            of the sets (one set of several is left, and said in the log).
        ValueError: an unknown probe, pooling or set, or a set that the model cannot tell (`TokenSets`); no room for a pair; no
            pool, two of one name, pools of two kinds; an active ablation, or a model that no key can name (see `identity`).
    """
    chosen = TokenSets(model, sets).names
    if probe not in PROBES or pooling not in POOLINGS or n_shuffles < 0:
        raise ValueError(
            f"expected a probe among {', '.join(PROBES)}, a pooling among {', '.join(POOLINGS)} and 0 or more shuffles, got "
            f"{probe!r}, {pooling!r}, {n_shuffles}"
        )
    sampled, of_queries = sample_queries(pools, max_pairs, 2 * n_folds, seed)
    wholes = {pool.collection: pool for pool in pools}
    features = {pool.collection: retrieval_features(wholes[pool.collection]) for pool in sampled}
    targets = np.concatenate(
        [rows_of(pool, wholes[pool.collection], features[pool.collection].values) for pool in sampled]
    )
    constant = constant_features(targets, FEATURES)
    grades = {
        name: list(by_scale(whole.highest_grade) if relevant_grades is None else relevant_grades)
        for name, whole in wholes.items()
        if name in features
    }  # a sample need not have the highest grade
    work = ProbeWork(
        sampled, targets, grades, cutoff=cutoff, gain=gain, n_folds=n_folds, n_shuffles=n_shuffles, probe=probe,
        settings=settings, seed=seed,
    )  # fmt: skip
    if constant:
        logger.warning("no R² of %s: the same for every pair", ", ".join(constant))

    states, run = {}, 0
    given: dict[str, Any] = {"seed": seed, "token_budget": token_budget, "executor": executor, "progress": progress}
    for source in (MODEL, UNTRAINED) if control else (MODEL,):
        which, tell = (model, True) if source == MODEL else (untrained_twin(model, seed), False)
        kinds = (pooling, None) if probe == "tokens" else (pooling,)
        cells = [
            [StateCells(which, pool, store, chosen, kind, tell=tell, **given) for pool in sampled] for kind in kinds
        ]
        states[source] = cells
        run += sum(one.pairs_run for pools_cells in cells for one in pools_cells)

    tables, rows, left_out, unread, done = [], [], {}, [], 0
    total = len(states) * len(chosen) * (model.cfg.n_layers + 1)
    for name in chosen:
        for source, cells in states.items():
            values, counts, lens = (
                np.concatenate(part) for part in zip(*(c.features(name) for c in cells[0]), strict=True)
            )
            kept = np.flatnonzero(counts)
            left_out[name] = len(counts) - len(kept)
            fits = work.can_fit(kept)
            if not fits and source == MODEL:
                unread.append(name)
                logger.warning(
                    "no probe of %s: %d of %d pairs have no token of it, and too few queries are left",
                    name, left_out[name], len(counts),
                )  # fmt: skip
            reader = token_reader(cells[-1], name, kept) if probe == "tokens" else None
            for layer in range(values.shape[1]):
                if fits:
                    place, shuffled = (source, name, layer), source == MODEL
                    found = work.measured(place, values[kept, layer], kept, reader, shuffled=shuffled)
                    tables += found[0]
                    rows += found[1]
                done += 1
                if progress is not None:
                    progress(done, total)
            if source == MODEL and name == chosen[0]:
                tables += work.lens(model, lens)
    if len(unread) == len(chosen):
        raise Unavailable(
            f"probes need queries with tokens of {' or '.join(chosen)} in {n_folds} folds, and there are too few."
        )
    per_query = pd.concat(tables, ignore_index=True)
    order = [s for s in SOURCES if (per_query["source"] == s).any()]
    per_query["source"] = pd.Categorical(per_query["source"], order)
    per_query = per_query.sort_values("source", kind="stable", ignore_index=True).astype({"source": object})
    scalars = {
        "probe": probe, "pooling": pooling, "n_folds": n_folds, "n_shuffles": n_shuffles, "seed": seed, "cutoff": cutoff,
        "gain": gain, "queries": len(set(work.queries)), "of_queries": of_queries, "pairs": len(work.queries),
        "relevant_grades": grades, "left_out": left_out, "constant_features": constant,
        "bm25": {pool.collection: features[pool.collection].about for pool in sampled},
        "bytes_per_pair": (model.cfg.n_layers + 1) * model.cfg.d_model * 4 * len(chosen),
    }  # fmt: skip
    columns = ["source", "set", "layer", "collection", "query_id"]
    per_query = per_query[[*columns, *(column for column in per_query if column not in columns)]]
    return Probes(relevance_frame(per_query, left_out), per_query, pd.DataFrame(rows), scalars, run)
