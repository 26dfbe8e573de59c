"""ELECTRA: BERT's layers, embeddings that a projection may widen, and a GELU head on CLS (Clark et al. 2020)."""

from __future__ import annotations

from typing import Any

from tl_crossenc.checkpoints.config_fields import whole
from tl_crossenc.checkpoints.families.bert import EMBEDDINGS, LAYER, bert_shape
from tl_crossenc.checkpoints.families.family import Config, Family, Layout, Target


def electra_shape(config: Config, name: str) -> dict[str, Any]:
    """BERT's sizes, and the width of the embeddings where it is not the stream's.

    Raises:
        ValueError: a setting that the model does not compute.
    """
    sizes = bert_shape(config, name)
    width = whole(config, "embedding_size", name, 128)
    return sizes | {"d_embed": None if width == sizes["d_model"] else width, "head_act": "gelu"}


ELECTRA = Family(
    name="ELECTRA",
    model_types=("electra",),
    classes=("Electra",),
    bases=("electra.",),
    shape=electra_shape,
    layouts=(
        Layout(
            tables=EMBEDDINGS,
            modules={"embeddings_project": (Target("embed.project"),)},
            layers="encoder.layer",
            layer=LAYER,
            heads={"classifier.dense": (Target("pooler"),), "classifier.out_proj": (Target("classifier"),)},
        ),
    ),
    ignored=(
        "electra.embeddings.position_ids",
        "electra.embeddings.token_type_ids",
        "discriminator_predictions.",  # the pre-training heads, which a classifier does not use
        "generator_predictions.",
        "generator_lm_head.",
    ),
)
