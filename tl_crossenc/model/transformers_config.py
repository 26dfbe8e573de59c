"""A checkpoint's configuration as transformers' own class: what its models and tokenizers are told apart by."""

from __future__ import annotations

from typing import Any

from tl_crossenc.checkpoints.families.family import Family


def transformers_config(config: dict[str, Any], family: Family) -> Any:
    """The configuration, of the class that it names, or of the family's first where it names none that transformers has."""
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if kind not in family.model_types or kind not in CONFIG_MAPPING or family.encoder_of is not None:
        kind = family.encoder_of or family.model_types[0]
    return CONFIG_MAPPING[kind].from_dict({**config, "model_type": kind})
