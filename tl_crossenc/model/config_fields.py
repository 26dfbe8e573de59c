"""Fields of a checkpoint's configuration, checked before anything is allocated by them.

A configuration is anybody's file: a field may be of any type and any size. Each is read by one function here, which gives a
value of the type and range that the model can have, or says what came.
"""

from __future__ import annotations

import math
from typing import Any

from tl_crossenc.console.shown import quoted
from tl_crossenc.model.config import CrossEncoderConfig

MOST_LAYERS = 1_000
MOST = (1 << 31) - 1
_SMALLEST = 1
"""Bytes of the smallest type that a weight is stored in."""


def whole(config: dict[str, Any], key: str, name: str, default: int | None = None, most: int = MOST) -> int:
    """A whole number from 1; `default` where the field is absent."""
    if key not in config and default is None:
        raise ValueError(f"expected {key} in the configuration of {name!r}; it is not there")
    value = config.get(key, default)
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(
            f"cannot port {name!r}: expected {key} as a whole number from 1 to {most} in its configuration, got {quoted(value)}"
        )
    return value


def number(config: dict[str, Any], key: str, name: str, default: float) -> float:
    """A finite number from 0."""
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(
            f"cannot port {name!r}: expected {key} as a number from 0 in its configuration, got {quoted(value)}"
        )
    return float(value)


def architectures(config: dict[str, Any], name: str) -> list[str]:
    """The names of the classes that the weights are of; none where the field is absent or null."""
    value = config.get("architectures")
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(
            f"expected architectures as a list of names in the configuration of {name!r}, got {quoted(value)}: "
            'write ["BertForSequenceClassification"]'
        )
    return value


def n_labels(config: dict[str, Any], name: str) -> int:
    """Logits of the head: `num_labels`, or the number of `id2label`, which Hugging Face takes to be 2 where absent."""
    labels = config.get("id2label")
    if labels is not None and not isinstance(labels, dict):
        raise ValueError(
            f"expected id2label as an object of numbers and names in the configuration of {name!r}, got {quoted(labels)}"
        )
    if config.get("num_labels") is None:
        return len(labels or (0, 1))
    return whole(config, "num_labels", name)


def refuse_quantized(config: dict[str, Any], name: str) -> None:
    """Refuse weights that are no numbers without the scales beside them."""
    found = config.get("quantization_config")
    if found:
        method = found.get("quant_method", "unnamed") if isinstance(found, dict) else found
        raise ValueError(
            f"expected weights in a float type, got {name!r}, which is quantized ({quoted(method)}): load the model that it was "
            "made from, or save it with dequantized weights"
        )


def check_stored(cfg: CrossEncoderConfig, stored_bytes: int | None, name: str) -> None:
    """Refuse a configuration with more weights than the files can hold, before the model is allocated.

    Weights of a BERT sequence classifier with d = d_model, m = d_mlp:
    `(vocabulary + positions + types + 2) d + layers (4 d^2 + 2 d m + m + 9 d) + d^2 + d + labels (d + 1)`.
    """
    d, m = cfg.d_model, cfg.d_mlp or 0
    embeddings = (cfg.d_vocab + cfg.n_ctx + cfg.d_vocab_types + 2) * d
    layers = cfg.n_layers * (4 * d * d + 2 * d * m + m + 9 * d)
    n_weights = embeddings + layers + d * d + d + cfg.n_labels * (d + 1)
    if stored_bytes is not None and n_weights * _SMALLEST > stored_bytes:
        raise ValueError(
            f"cannot port {name!r}: its configuration describes {n_weights:,} weights, and its weight files have "
            f"{stored_bytes:,} bytes, too few: is it the configuration of these weights, and are they whole? Download them again"
        )
