"""Where two models of one shape part: how far their residual streams are from each other, by layer and part.

With x and y the streams of a token in the two models after a layer (layer 0: the embeddings), and the sums over a pair's tokens
of a part,

    distance = sqrt( sum ||x − y||² / ( (sum ||x||² + sum ||y||²) / 2 ) )

0 for the same states, sqrt(2) for unrelated ones of one length, 2 for opposite ones. Pairs are averaged within a query, then
queries; intervals are over queries. The linear CKA (`statistics.similarity`) of all tokens together says how alike two streams are
whatever rotation and scale lie between them: a large distance with a CKA near 1 is a change of basis.

Of a part with more than 20 tokens 20 are drawn (`layer_tokens`), the same ones in both models, as they are drawn by the tokens. The
states are the cells of the probes (`probe_cells`), a model's own: a third model is compared with what is stored of the first two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_crossenc.executors.executor import IN_PROCESS, Executor
from tl_crossenc.experiments.paper import ProgressFactory, no_progress
from tl_crossenc.experiments.probe_cells import StateCells
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.significance import mean_interval
from tl_crossenc.statistics.similarity import linear_cka
from tl_crossenc.store.cells import Store

PARTS = ("CLS", "QUERY", "DOC")
SAMPLE = 32
"""Pairs whose states are compared, where nobody says: of BERT-base 50 MB a model."""


def other_shape(models: Sequence[HookedCrossEncoder], executor: Executor = IN_PROCESS) -> str | None:
    """Why the states of two models cannot be compared token by token; None where they can."""
    a, b = models
    if a.cfg.n_layers != b.cfg.n_layers:
        return f"one has {a.cfg.n_layers} layers, the other {b.cfg.n_layers}"
    if a.cfg.d_model != b.cfg.d_model:
        return f"the states of one have {a.cfg.d_model} numbers, those of the other {b.cfg.d_model}"
    if executor.identity(a)["tokenizer"] != executor.identity(b)["tokenizer"]:
        return "their tokenizers, or the lengths that they cut a pair to, are not the same"
    return None


def run_divergence(
    models: Sequence[HookedCrossEncoder],
    pools: Sequence[Pool],
    store: Store,
    *,
    sample: int = SAMPLE,
    seed: int = 0,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: ProgressFactory = no_progress,
    names: Sequence[str] = ("A", "B"),
) -> pd.DataFrame:
    """The distance of two models' residual streams.

    Args:
        models: two, of as many layers, one width and one tokenizer, with nothing ablated.
        pools: of different names; their ranked pairs are drawn from.
        store: of the cells.
        sample: pairs, drawn at random from all pools.
        seed: of the draws of pairs and of tokens.
        names: of the models, for the bars.

    Returns:
        A row a part and layer: `part`, `layer`, `distance` (mean over queries), `low`, `high` (95 % t-interval), `cka`,
        `n_queries`, `n_pairs`, `n_tokens`; NaN where no pair has a token of the part.

    Raises:
        Unavailable: the models are of two shapes; or see `Executor.run`.
        ValueError: no pair, or a sample below 1.
    """
    reason = other_shape(models, executor)
    if reason is not None:
        raise Unavailable(f"the layers of two models are compared where they share a shape, and {reason}")
    drawn = draw_pairs(pools, sample, seed)
    found: list[list[StateCells]] = []
    failed: list[Unavailable] = []
    for model, name in zip(models, names, strict=True):
        try:
            with progress(f"States of {name}") as advance:
                how: dict[str, Any] = {
                    "pooling": None,
                    "seed": seed,
                    "token_budget": token_budget,
                    "executor": executor,
                    "tell": model is models[0],  # what is stored then is A's
                }
                cells = [StateCells(model, pool, store, PARTS, progress=advance, **how) for pool in drawn]
                found.append(cells)
        except Unavailable as error:
            failed.append(error)
    if failed:
        raise failed[0]
    rows = [row for part in PARTS for row in _rows(part, drawn, found[0], found[1])]
    return pd.DataFrame(rows)


def draw_pairs(pools: Sequence[Pool], sample: int, seed: int) -> list[Pool]:
    """The pools with some of their ranked pairs, drawn at random from all of them; those without any are left out.

    Raises:
        ValueError: a sample below 1, or no pair.
    """
    ranked = [pool.ranked for pool in pools]
    places = [(i, j) for i, pool in enumerate(ranked) for j in range(len(pool))]
    if isinstance(sample, bool) or sample < 1 or not places:
        raise ValueError(f"expected a sample of at least one pair of at least one, got {sample} of {len(places)}")
    order = np.random.default_rng(seed).permutation(len(places))[:sample]
    chosen: dict[int, list[int]] = {}
    for i, j in sorted(places[k] for k in order):
        chosen.setdefault(i, []).append(j)
    return [replace(ranked[i], pairs=tuple(ranked[i].pairs[j] for j in own)) for i, own in chosen.items()]


def _rows(
    part: str, pools: Sequence[Pool], a: Sequence[StateCells], b: Sequence[StateCells]
) -> list[Mapping[str, object]]:
    """Of a part, a row a layer."""
    distances, queries, tokens = [], [], []
    for pool, one, other in zip(pools, a, b, strict=True):
        x, y = one.tokens(part), other.tokens(part)
        distances.append(pair_distances(x.values, y.values, x.offsets))
        queries += [(pool.collection, pair.query_id) for pair in pool.pairs]
        tokens.append((x.values, y.values))
    by_pair = pd.DataFrame(np.concatenate(distances), index=pd.MultiIndex.from_tuples(queries)).dropna()
    by_query = by_pair.groupby(level=[0, 1], sort=False).mean()
    rows: list[Mapping[str, object]] = []
    for layer in range(by_pair.shape[1]):
        values = by_query[layer].to_numpy(dtype=np.float64)
        low, high = mean_interval(values)
        cka = linear_cka(*(np.concatenate([pair[side][:, layer] for pair in tokens]) for side in (0, 1)))
        rows.append(
            {
                "part": part,
                "layer": layer,
                "distance": float(values.mean()) if len(values) else float("nan"),
                "low": low,
                "high": high,
                "cka": cka,
                "n_queries": len(values),
                "n_pairs": len(by_pair),
                "n_tokens": sum(len(x) for x, _ in tokens),
            }
        )
    return rows


def pair_distances(
    x: Float[np.ndarray, "token layer d_model"],
    y: Float[np.ndarray, "token layer d_model"],
    offsets: Int[np.ndarray, "pairs_and_one"],
) -> Float[np.ndarray, "pair layer"]:
    """The distance of every pair, from the states of its tokens in two models, pair i's being `offsets[i]:offsets[i + 1]`.

    NaN where a pair has no token, 0 where all its states are 0 in both.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    apart, size = ((x - y) ** 2).sum(-1), ((x**2).sum(-1) + (y**2).sum(-1)) / 2
    found = np.full((len(offsets) - 1, x.shape[1]), np.nan)
    for i, (start, end) in enumerate(pairwise(offsets)):
        if end > start:
            total = size[start:end].sum(0)
            apart_here = apart[start:end].sum(0)
            found[i] = np.sqrt(np.divide(apart_here, total, out=np.zeros_like(total), where=total > 0))
    return found
