"""Families: what a kind of checkpoint differs in, each as data in one file.

In: a configuration. Out: the `Family` whose checkpoint it describes, with the model's shape by it and the names of its weights.

A new family is a module with a `Family` in it, and its name in `FAMILIES`.
"""

from __future__ import annotations

from typing import Any

from tl_crossenc.checkpoints.config_fields import architectures
from tl_crossenc.checkpoints.families.bert import BERT
from tl_crossenc.checkpoints.families.deberta import DEBERTA
from tl_crossenc.checkpoints.families.distilbert import DISTILBERT
from tl_crossenc.checkpoints.families.electra import ELECTRA
from tl_crossenc.checkpoints.families.ernie import ERNIE
from tl_crossenc.checkpoints.families.family import Family
from tl_crossenc.checkpoints.families.gte import GTE
from tl_crossenc.checkpoints.families.lightning import LIGHTNING
from tl_crossenc.checkpoints.families.modernbert import MODERNBERT
from tl_crossenc.checkpoints.families.roberta import ROBERTA
from tl_crossenc.console.shown import listed, quoted

FAMILIES: tuple[Family, ...] = (BERT, ROBERTA, ELECTRA, LIGHTNING, DISTILBERT, MODERNBERT, GTE, DEBERTA, ERNIE)


def family_of(config: dict[str, Any], name: str) -> Family:
    """The family of the model that a configuration describes: by its `model_type`, where it has none by its classes.

    A configuration that names neither, as some of 2020 do, is taken for BERT's.

    Raises:
        ValueError: a decoder, an encoder-decoder, or a family that is not covered.
    """
    classes = architectures(config, name)
    kind = config.get("model_type")
    if config.get("is_encoder_decoder") or config.get("is_decoder") or any("Causal" in one for one in classes):
        raise ValueError(
            f"expected an encoder with a classification head (such as BertForSequenceClassification), got {name!r}, a "
            f"{'decoder' if not config.get('is_encoder_decoder') else 'encoder-decoder'} model "
            f"({listed(classes) or quoted(kind)}): attention that looks both ways is what this tool reads"
        )
    for family in FAMILIES:
        named = kind in family.model_types if kind is not None else all(map(family.is_class, classes)) and bool(classes)
        if named and all(map(family.is_class, classes)):
            return family
    if kind is None and not classes:
        return BERT
    covered = listed([family.name for family in FAMILIES], len(FAMILIES))
    raise ValueError(
        f"expected a model of a family that is covered ({covered}), got {name!r}, which is {quoted(kind)} "
        f"({listed(classes) or 'no architecture named'}): other families are not supported"
    )
