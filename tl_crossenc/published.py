"""Published numbers to hold results against. Facts from the papers named, nothing computed here."""

from __future__ import annotations

MONOBERT_MODELS = ("castorini/monobert-large-msmarco",)
"""Hub names that the paper's MonoBERT most likely is; the paper names no checkpoint."""

VAST_2025 = "Vast et al. 2025, Table 1"
VAST_2025_UNABLATED = 0.81
VAST_2025_RANDOM = 0.48
_COLUMNS = ("CLS", "QUERY", "SEP1", "DOC", "SEP2", "ALL")
_ROWS: dict[str, tuple[float, ...]] = {
    "CLS": (0.82, 0.79, 0.81, 0.81, 0.81, 0.48),
    "QUERY": (0.82, 0.78, 0.81, 0.80, 0.81, 0.66),
    "SEP1": (0.81, 0.81, 0.81, 0.81, 0.81, 0.81),
    "DOC": (0.81, 0.79, 0.81, 0.67, 0.82, 0.62),
    "SEP2": (0.81, 0.81, 0.81, 0.81, 0.81, 0.81),
}
VAST_2025_TABLE_1: dict[str, float] = {
    f"{attender}->{attended}": value
    for attender, row in _ROWS.items()
    for attended, value in zip(_COLUMNS, row, strict=True)
}
"""nDCG@10 of MonoBERT on TREC Deep Learning 2019-2022 with the direction removed in every layer."""

VAST_2025_SIGNIFICANT = frozenset({"CLS->ALL", "QUERY->ALL", "DOC->DOC", "DOC->ALL"})
"""Directions starred there: a decrease with p <= .05 under the two-tailed Student's t-test."""
