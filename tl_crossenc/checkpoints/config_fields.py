"""Fields of a checkpoint's configuration, checked before anything is allocated by them.

A configuration is anybody's file: a field may be of any type and any size. Each is read by one function here, which gives a
value of the type and range that the model can have, or says what came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tl_crossenc.console.shown import quoted

MOST_LAYERS = 1_000
MOST = (1 << 31) - 1
SIZES = {
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_layers": "num_hidden_layers",
    "n_ctx": "max_position_embeddings",
    "d_mlp": "intermediate_size",
    "d_vocab": "vocab_size",
}
"""Of a model -> the fields that say them in most configurations."""


def whole(
    config: dict[str, Any], key: str, name: str, default: int | None = None, most: int = MOST, least: int = 1
) -> int:
    """A whole number from `least`; `default` where the field is absent."""
    if key not in config and default is None:
        raise ValueError(f"expected {key} in the configuration of {name!r}; it is not there")
    value = config.get(key, default)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(
            f"cannot port {name!r}: expected {key} as a whole number from {least} to {most} in its configuration, "
            f"got {quoted(value)}"
        )
    return value


def sizes(
    config: dict[str, Any], name: str, defaults: Mapping[str, int] | None = None, fields: Mapping[str, str] = SIZES
) -> dict[str, int]:
    """The sizes that every model has, each in the field of its name in `fields`; `defaults` are of fields that may be absent."""
    most = {"n_layers": MOST_LAYERS}
    return {
        size: whole(config, field, name, (defaults or {}).get(field), most.get(size, MOST))
        for size, field in fields.items()
    }


def accept(config: dict[str, Any], key: str, values: tuple[Any, ...], name: str, default: Any = None) -> Any:
    """A field that has to have one of a few values; where it is absent, `default`, or the first of them."""
    value = config.get(key, values[0] if default is None else default)
    if value not in values:
        raise ValueError(
            f"expected {key} among {', '.join(map(str, values))} in the configuration of {name!r}, got {quoted(value)}"
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
