"""Published numbers to hold results against. Facts from the papers named, nothing computed here."""

from __future__ import annotations

from pathlib import Path

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


def is_monobert(model_name: str) -> bool:
    """Whether the paper's numbers are this model's."""
    return model_name in MONOBERT_MODELS or "monobert-large" in Path(model_name).name


ZHAN_2020 = "Zhan et al. 2020 (BERT-base, MS MARCO passage dev)"
ZHAN_2020_SEP_MASS = (0.03, 0.06, 0.08, 0.20, 0.43, 0.54, 0.49, 0.56, 0.53, 0.53, 0.21, 0.16)
"""Mean attention mass on both separators in each of the 12 layers, first to last."""

ZHAN_2020_CLS_MASS = (0.08, 0.24, 0.22, 0.13)
ZHAN_2020_CLS_MASS_LATER = 0.03
"""Mean attention mass on CLS in the first four layers; in each later one it is at most `ZHAN_2020_CLS_MASS_LATER`."""

ZHAN_2020_CUT_LAYERS = (0, 2, 4, 6, 8, 10, 11)
ZHAN_2020_MRR: dict[str, tuple[float, ...]] = {
    "query-to-document": (0.334, 0.336, 0.334, 0.327, 0.327, 0.321, 0.314),
    "document-to-query": (0.334, 0.334, 0.317, 0.309, 0.307, 0.298, 0.293),
    "both": (0.334, 0.335, 0.307, 0.286, 0.283, 0.253, 0.200),
}
"""MRR@10 with the mask in the first n layers, for each n of `ZHAN_2020_CUT_LAYERS`; after the softmax, not renormalized. The names
say where information flows: query-to-document cuts the rows of the document, of CLS and the separators too (see `presets`)."""

ZHAN_2020_PROBES: dict[str, tuple[float, ...]] = {
    "CLS": (0.023, 0.043, 0.049, 0.084, 0.216, 0.252, 0.264, 0.273, 0.269, 0.268, 0.271, 0.294, 0.322),
    "QUERY": (0.023, 0.064, 0.210, 0.230, 0.242, 0.260, 0.273, 0.279, 0.279, 0.281, 0.298, 0.311),
    "SEP": (0.025, 0.040, 0.046, 0.088, 0.120, 0.161, 0.198, 0.174, 0.197, 0.196, 0.255, 0.299),
    "DOC": (0.039, 0.052, 0.086, 0.116, 0.118, 0.138, 0.153, 0.161, 0.172, 0.176, 0.211, 0.257),
    "MATCHED": (0.087, 0.102, 0.115, 0.144, 0.151, 0.177, 0.188, 0.196, 0.203, 0.200, 0.215, 0.257),
    "STOPS": (0.023, 0.051, 0.058, 0.087, 0.111, 0.132, 0.142, 0.154, 0.159, 0.154, 0.154, 0.254),
    "STOP_WORDS": (0.035, 0.062, 0.069, 0.118, 0.130, 0.155, 0.175, 0.195, 0.204, 0.203, 0.231, 0.263),
}
"""MRR@10 of a probe on the states after 0, 1, ... layers, over BM25's top 100. Their DOC is ten random passage tokens, their
MATCHED up to twenty passage tokens that are query terms and no stop words, their STOP_WORDS up to fifteen of the fifty pieces that
most passages have. Their batches were padded with zero vectors that took
part in the maximum over tokens, so a pair without a token of the set was scored from its padding."""
ZHAN_2020_PROBE_FLOOR = 0.023
"""What CLS gives at layer 0, where it is a constant: the random ranking."""

ZHAN_2020_GRADIENTS: dict[str, dict[str, tuple[float, ...]]] = {
    "query:pad": {
        "CLS": (0.0, 0.0, -0.002, 0.0, 0.003, 0.021, 0.025, 0.021, 0.019, 0.013, 0.028, 0.126),
        "SEP": (0.0, 0.0, -0.001, -0.001, -0.001, 0.0, 0.0, 0.0, 0.0, 0.002, -0.011, 0.014),
        "QUERY": (0.978, 0.983, 0.936, 0.873, 0.881, 0.884, 0.871, 0.878, 0.879, 0.869, 0.734, 0.425),
        "DOC": (0.0, -0.005, 0.044, 0.105, 0.095, 0.073, 0.082, 0.079, 0.080, 0.094, 0.226, 0.413),
        "STOPS": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.001, -0.001, 0.001, 0.003),
    },
    "passage:pad": {
        "CLS": (0.0, 0.017, -0.004, -0.005, -0.005, 0.036, 0.041, 0.037, 0.041, 0.046, 0.046, 0.133),
        "SEP": (0.0, 0.001, 0.001, 0.0, 0.002, -0.001, 0.0, -0.002, -0.003, -0.002, 0.012, 0.013),
        "QUERY": (0.0, -0.013, 0.065, 0.156, 0.220, 0.215, 0.234, 0.238, 0.240, 0.255, 0.334, 0.602),
        "DOC": (0.976, 0.970, 0.913, 0.825, 0.759, 0.725, 0.701, 0.703, 0.697, 0.677, 0.584, 0.227),
        "STOPS": (0.044, 0.032, 0.022, 0.019, 0.020, 0.022, 0.032, 0.032, 0.018, 0.009, -0.008, 0.0),
    },
}
"""Baseline -> part -> mean integrated gradients of the probability before each of the 12 layers, of relevant pairs. CLS, SEP, QUERY
and DOC add up to .978 and .976 in every layer; full stops are of the passage and in DOC too. Read off figures, to .0005."""

LU_2025 = "Lu et al. 2025 (MiniLM-L12)"
LU_2025_SEMANTIC_BM25, LU_2025_TUNED_BM25 = 0.8157, 0.4200
"""Pearson's r with the model's score, of a linear model of 13 heads' soft-TF and idf and of tuned BM25, on held-out pairs; other
pairs of the same queries were fitted on."""

MICE_2026 = "Vast et al. 2026, MICE (MiniLM-L12, TREC DL 2019, BM25 top 1000)"
MICE_2026_UNABLATED = 0.755
MICE_2026_NDCG: dict[str, float] = {"mask0": 0.743, "mask1": 0.734, "mask2": 0.615}
"""nDCG@10 under each of the cumulative masks, in every layer, before the softmax."""
