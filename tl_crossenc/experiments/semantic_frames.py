"""The tables of semantic BM25: correlations by split, system and fold, their differences, heads, and idf in the embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from tl_crossenc.experiments.semantic_fits import SYSTEMS, TUNED, Fields, Predicted, within_queries
from tl_crossenc.experiments.soft_tf_cells import SoftTFSums
from tl_crossenc.instruments.idf_in_embeddings import PieceFrequencies, idf_in_embeddings, piece_frequencies
from tl_crossenc.instruments.soft_tf import ATTENDED_PARTS
from tl_crossenc.model.adapter_updates import unadapted_model
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.statistics.correlated import correlated
from tl_crossenc.statistics.explained import explained

BY_QUERY, BY_PAIR = "query", "pair"
WHOLE = "all"
PIECE_DRAWS = 200
"""Resamples of word pieces, of which there are tens of thousands."""


def correlation_frame(
    fields: Fields, folds: dict[str, np.ndarray], found: dict[str, dict[str, Predicted]], seed: int
) -> pd.DataFrame:
    """How every system's held-out predictions go with the scores, fold by fold and over all pairs."""
    rows = []
    for split, systems in found.items():
        for system, predicted in systems.items():
            n_folds = len(predicted.chosen)
            for fold in (*range(n_folds), WHOLE):
                own = np.ones(len(fields.scores), bool) if fold == WHOLE else folds[split] == fold
                queries = [query for query, kept in zip(fields.queries, own, strict=True) if kept]
                y, p = fields.scores[own], predicted.values[own]
                together, share = correlated(y, p, queries, seed=seed), explained(y, p, queries, seed=seed)
                low, high = together.interval(0)
                rows.append(
                    {
                        "split": split,
                        "system": system,
                        "fold": str(fold),
                        "n_queries": len(set(queries)),
                        "n_pairs": len(y),
                        "r": float(together.r[0]),
                        "r_low": low,
                        "r_high": high,
                        "r_within": float(together.within[0]),
                        "r2": share.r2,
                        "r2_low": share.low,
                        "r2_high": share.high,
                        "r2_within": share.within,
                        "chosen": "" if fold == WHOLE else predicted.chosen[int(fold)],
                    }
                )
    return pd.DataFrame(rows)


def comparison_frame(fields: Fields, found: dict[str, dict[str, Predicted]], seed: int) -> pd.DataFrame:
    """Each system by query less tuned BM25 by query, and by pair less by query: the leak."""
    places = [(system, split) for split in found for system in SYSTEMS]
    together = correlated(
        fields.scores, [found[split][system].values for system, split in places], fields.queries, seed=seed
    )
    asked = [((system, BY_QUERY), (TUNED, BY_QUERY)) for system in SYSTEMS if system != TUNED]
    asked += [((system, BY_PAIR), (system, BY_QUERY)) for system in SYSTEMS]
    rows = []
    for one, other in asked:
        difference, (low, high) = together.difference(places.index(one), places.index(other))
        rows.append((*one, *other, difference, low, high))
    return pd.DataFrame(rows, columns=["system", "split", "against", "against_split", "difference", "low", "high"])


def head_frame(fields: Fields, sums: Sequence[SoftTFSums], predicted: Predicted) -> pd.DataFrame:
    """A row a head: how well it goes with the score, how often it was chosen, where its query tokens' attention goes."""
    strengths = within_queries(fields.weighted[0], fields.scores, fields.queries)
    means = np.concatenate([own.parts for own in sums]).mean(0).reshape(-1, len(ATTENDED_PARTS))
    rows = []
    for head in range(len(means)):
        layer, number = divmod(head, fields.shape[1])
        chosen = sum(head in own for own in predicted.heads)
        given = {part.name: float(mean) for part, mean in zip(ATTENDED_PARTS, means[head], strict=True)}
        rows.append({"layer": layer, "head": number, "r_within": float(strengths[head]), "chosen": chosen} | given)
    return pd.DataFrame(rows)


def embedding_frame(
    model: HookedCrossEncoder, passages: Sequence[str], seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """R² of idf in the token embeddings of the model and of its base, and what else is known of them."""
    frequencies = piece_frequencies(model, passages)
    try:
        other = unadapted_model(model)
    except (ValueError, OSError):  # of no checkpoint that can be read again
        other = None
    weights = {"model": model.embed.W_E.detach()}
    base = "none"
    if other is not None:
        base = "same" if torch.equal(other.embed.W_E.cpu(), weights["model"].cpu()) else "other"
        if base == "other":
            weights["base"] = other.embed.W_E.detach()
    rows: list[dict[str, Any]] = []
    about: dict[str, Any] = {"base": base, "idf_passages": frequencies.passages, "correlation": {}, "no_embeddings": ""}
    try:
        for name, W_E in weights.items():
            for seen_rows in (False, True):
                rows += _of_weights(name, W_E, frequencies, seen_rows, seed, about)
    except ValueError as reason:
        about["no_embeddings"] = str(reason)
    columns = ["weights", "rows", "feature", "r2", "low", "high", "decomposed"]
    return pd.DataFrame(rows, columns=columns), about


def _of_weights(
    name: str, W_E: torch.Tensor, frequencies: PieceFrequencies, seen_rows: bool, seed: int, about: dict[str, Any]
) -> list[dict[str, Any]]:
    found = idf_in_embeddings(W_E, frequencies, seen_rows=seen_rows, seed=seed)
    place = {"weights": name, "rows": "passages'" if seen_rows else "all"}
    about["correlation"]["; ".join(place.values())] = found.correlation
    about |= {"n_pieces": len(found.pieces), "left_out_pieces": found.left_out}
    rows = []
    for feature, predictions in zip(found.features, found.predictions, strict=True):
        share = explained(found.idf, predictions, found.pieces.tolist(), seed=seed, draws=PIECE_DRAWS)
        known = {"r2": share.r2, "low": share.low, "high": share.high, "decomposed": found.decomposed}
        rows.append(place | {"feature": feature} | known)
    return rows
