"""The fits of probes: pairs with their labels, features and folds, and what is predicted of one state of them after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tl_crossenc.experiments.probe_cells import StateCells
from tl_crossenc.experiments.probe_frames import Rankings
from tl_crossenc.experiments.query_folds import of_queries
from tl_crossenc.experiments.ranking import one_ideal
from tl_crossenc.instruments.token_probe import TokenProbeSettings, fit_token_probe, token_probe_scores
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.grades import listed
from tl_crossenc.pools.pool import Pool, require_distinct
from tl_crossenc.pools.retrieval_features import FEATURES
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.explained import explained
from tl_crossenc.statistics.folds import query_folds, shuffled_within
from tl_crossenc.statistics.probes import logistic_probe, ridge_probe

MODEL, SHUFFLED, UNTRAINED, LENS = "model", "shuffled", "untrained", "lens"
SOURCES = (MODEL, SHUFFLED, UNTRAINED, LENS)
PROBES = ("ridge", "logistic", "tokens")

Place = tuple[str, str, int]
"""(source, set, layer)"""
Reader = Callable[[int, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(layer, places among the pairs that are kept) -> (states `[token, d_model]`, offsets) of these pairs' tokens."""


class ProbeWork:
    """The pairs of some pools, one pool after another.

    Args:
        pools: of graded pairs.
        features: `[pair, feature]`, NaN where a pair has none.
        grades: collection -> the grades of relevant passages.
        cutoff, gain, n_folds, n_shuffles, probe, settings, seed: see `probes.run_probes`.

    Attributes:
        queries: `[pair]`, (collection, query_id).
        relevant: `[pair]`.

    Raises:
        Unavailable: no relevant passage, or no other; too few queries for the folds.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        features: np.ndarray,
        grades: Mapping[str, Sequence[int]],
        *,
        cutoff: int,
        gain: str,
        n_folds: int,
        n_shuffles: int,
        probe: str,
        settings: TokenProbeSettings | None,
        seed: int,
    ) -> None:
        self._features, self._probe, self._settings, self._seed = features, probe, settings, seed
        self._n_shuffles = n_shuffles
        every = [(pool.collection, pair) for pool in pools for pair in pool.pairs]
        self.queries = [(name, pair.query_id) for name, pair in every]
        self.relevant = np.array([pair.grade in grades[name] for name, pair in every])
        if self.relevant.all() or not self.relevant.any():
            wanted = listed({grade for own in grades.values() for grade in own}, " or ")
            raise Unavailable(
                f"probes of relevance need relevant passages (grade {wanted}) and others, but {int(self.relevant.sum())} of "
                f"{len(self.relevant)} are relevant: choose other grades."
            )
        try:
            self._folds = query_folds(self.queries, n_folds, seed)
        except ValueError as reason:
            raise Unavailable(f"probes are asked about queries that they were not fitted on: {reason}") from reason
        self._rankings = Rankings(tuple(pools), self.relevant, cutoff, gain)

    def can_fit(self, rows: np.ndarray) -> bool:
        """Whether outside of each fold there are two queries with a pair among the rows."""
        of_fold = {self.queries[i]: int(self._folds[i]) for i in rows}
        per_fold = np.bincount(list(of_fold.values())) if of_fold else np.zeros(1, int)
        return bool(len(of_fold) - per_fold.max() >= 2)

    def measured(
        self, place: Place, states: np.ndarray, rows: np.ndarray, reader: Reader | None = None, *, shuffled: bool
    ) -> tuple[list[pd.DataFrame], list[dict[str, object]]]:
        """How a probe of these states ranks each query, by shuffled labels too where asked; and a row a feature.

        Args:
            place: where the states are from.
            states: `[row, d_model]`.
            rows: the pairs that they are of.
            reader: of these pairs' tokens, for the probe of single tokens.
            shuffled: whether to fit shuffled labels as well.
        """
        queries, folds = [self.queries[i] for i in rows], self._folds[rows]
        at = np.arange(len(rows))
        orders = [shuffled_within(at, queries, self._seed + 1 + draw) for draw in range(self._n_shuffles * shuffled)]
        labels = self.relevant[rows].astype(np.float64)
        targets = np.stack([labels, *(labels[order] for order in orders)], 1)
        asked = self._features[rows]
        whole = ~np.isnan(asked).any(1)
        together = self._probe == "ridge" and bool(whole.all())  # one decomposition of the states for all
        n = targets.shape[1]
        if together:
            found = ridge_probe(states, np.concatenate([targets, asked], 1), queries, folds)
            predictions, scale, of_features = found.predictions[:, :n], found.scale[:n], found.predictions[:, n:]
        else:
            predictions, scale = self._predicted(states, targets, queries, folds, place[2], reader)
            of_features = np.full(asked.shape, np.nan)
            if self.can_fit(rows[whole]):
                own = [query for query, known in zip(queries, whole, strict=True) if known]
                of_features[whole] = ridge_probe(states[whole], asked[whole], own, folds[whole]).predictions
        return self._ranked(place, predictions, scale, rows, orders), self._explained(place, of_features, rows)

    def lens(self, model: HookedCrossEncoder, lens: np.ndarray) -> list[pd.DataFrame]:
        """Per query, how the head ranks by the stream at each layer, `[pair, layer]`."""
        name, rows = "CLS" if model.reads_only_first_row else "ALL", np.arange(len(lens))
        about: dict[str, Any] = {"dtype": str(model.dtype).removeprefix("torch."), "scale": model.score_scale}
        return [
            self._rankings.per_query(scores, rows, **about).assign(source=LENS, set=name, layer=layer)
            for layer, scores in enumerate(lens.T)
        ]

    def _ranked(
        self, place: Place, predictions: np.ndarray, scale: np.ndarray, rows: np.ndarray, orders: Sequence[np.ndarray]
    ) -> list[pd.DataFrame]:
        source, name, layer = place
        tables = {source: self._rankings.per_query(predictions[:, 0], rows, scale=float(scale[0]))}
        draws = []
        for i, order in enumerate(orders, 1):
            of_label = np.empty(len(rows))
            of_label[order] = predictions[:, i]  # the passage whose label a pair was given stands where that pair does
            draws.append(self._rankings.per_query(of_label, rows, scale=float(scale[i])))
        if draws:
            means = {m: np.mean([draw[m] for draw in draws], axis=0) for m in ("ndcg", "mrr")}
            tables[SHUFFLED] = draws[0].assign(**means)
        return [table.assign(source=of, set=name, layer=layer) for of, table in tables.items()]

    def _explained(self, place: Place, predicted: np.ndarray, rows: np.ndarray) -> list[dict[str, object]]:
        whole = ~np.isnan(predicted).any(1)
        queries, found = [self.queries[i] for i in rows[whole]], []
        for i, feature in enumerate(FEATURES):
            row: dict[str, object] = dict(zip(("source", "set", "layer"), place, strict=True)) | {"feature": feature}
            r2: tuple[float, ...] = (float("nan"),) * 4
            if queries:
                r2 = explained(self._features[rows[whole], i], predicted[whole, i], queries, seed=self._seed)
            found.append(row | dict(zip(("r2", "low", "high", "within"), r2, strict=True)) | {"n_pairs": len(queries)})
        return found

    def _predicted(
        self,
        states: np.ndarray,
        targets: np.ndarray,
        queries: Sequence[tuple[str, str]],
        folds: np.ndarray,
        layer: int,
        reader: Reader | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predictions `[row, target]` and the scale of each target's."""
        if reader is None:
            if self._probe == "ridge":
                found = ridge_probe(states, targets, queries, folds)
            else:
                found = logistic_probe(states, targets, queries, folds, seed=self._seed)
            return found.predictions, found.scale
        predictions = np.zeros_like(targets)
        for fold in np.unique(folds):
            asked, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            to_predict, to_fit = reader(layer, asked), reader(layer, others)
            for column in range(targets.shape[1]):
                labels = targets[others, column].astype(np.int64)
                fitted = fit_token_probe(*to_fit, labels, self._settings, seed=self._seed)
                predictions[asked, column] = token_probe_scores(fitted, *to_predict)
        return predictions, np.abs(predictions).max(0)


def token_reader(cells: Sequence[StateCells], name: str, kept: np.ndarray) -> Reader:
    """Reads the single tokens of some of the pairs `kept`, by their place among them."""
    parts = [one.tokens(name) for one in cells]
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    values = np.concatenate([part.values for part in parts])

    def read(layer: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.concatenate([np.arange(starts[pair], starts[pair + 1]) for pair in kept[rows]])
        return values[tokens, layer], np.concatenate([[0], np.cumsum(lengths[kept[rows]])]).astype(np.int64)

    return read


def sample_queries(pools: Sequence[Pool], max_pairs: int, least: int, seed: int) -> tuple[list[Pool], int]:
    """The pools' graded pairs, of whole queries: drawn with the seed until the next has no room, but no fewer than `least`.

    Returns:
        The pools of the sample, and how many queries there are in all.

    Raises:
        ValueError: no pool, two of one name, pools of two kinds, no pair to rank, or no room for a pair.
    """
    if not pools:
        raise ValueError("expected at least one pool, got none")
    if max_pairs < 1:
        raise ValueError(f"expected max_pairs of at least 1, got {max_pairs}")
    one_ideal(pools)
    require_distinct([pool.collection for pool in pools])
    ranked = [pool.ranked for pool in pools if len(pool.ranked)]
    every = [((pool.collection, query_id), len(own)) for pool in ranked for query_id, own in pool.by_query().items()]
    if not every:
        raise ValueError(f"expected passages to rank, got {len(pools)} pools without: check the qrels")
    order = np.random.default_rng([seed, len(every)]).permutation(len(every))
    fit = int((np.cumsum([every[place][1] for place in order]) <= max_pairs).sum())
    if fit == len(every):
        return ranked, len(every)
    return of_queries(ranked, [every[place][0] for place in order[: max(fit, least)]]), len(every)
