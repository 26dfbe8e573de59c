"""lightning-ir's layout of ELECTRA, as in webis/monoelectra-base: keys without a prefix, and one linear layer on CLS.

Its head is `linear`, of 1 output ("rank", and all of the older model type "cross-encoder") or 2 ("mono", whose score, the
log-softmax of the second, ranks as their difference does), mostly without a bias. The base of its keys is nothing.
"""

from __future__ import annotations

import logging
from typing import Any

from tl_crossenc.checkpoints.config_fields import accept
from tl_crossenc.checkpoints.families.electra import ELECTRA, electra_shape
from tl_crossenc.checkpoints.families.family import Config, Family, Layout, Target

logger = logging.getLogger(__name__)

SCORES = {"rank": 1, "mono": 2}
"""`scoring_strategy` -> outputs."""


def lightning_shape(config: Config, name: str) -> dict[str, Any]:
    """ELECTRA's sizes with lightning-ir's head.

    Raises:
        ValueError: a setting that the model does not compute.
    """
    accept(config, "backbone_model_type", ("electra",), name)
    accept(config, "pooling_strategy", ("first",), name)
    accept(config, "_bert_pool", (False,), name)
    accept(config, "tokenizer_pattern", (None,), name)
    strategy = accept(config, "scoring_strategy", (*SCORES, None), name)
    biased = accept(config, "linear_bias", (False, True), name)
    cut = [f"{key} {config[key]}" for key in ("query_length", "doc_length") if config.get(key) is not None]
    if cut:
        logger.warning(
            "lightning-ir cuts each text of %s by itself (%s), which is not done here: a pair is cut as a whole, and scores of "
            "longer texts differ",
            name,
            ", ".join(cut),
        )
    n_labels = SCORES[strategy] if strategy is not None and config.get("model_type") == "mono" else 1
    return electra_shape(config, name) | {
        "n_labels": n_labels,
        "head_dense": False,
        "unbiased": () if biased else ("classifier",),
    }


LIGHTNING = Family(
    name="ELECTRA (lightning-ir)",
    model_types=("mono", "cross-encoder"),
    classes=("MonoElectra", "CrossEncoderElectra"),
    bases=("",),
    shape=lightning_shape,
    layouts=tuple(
        Layout(
            tables=layout.tables,
            modules=layout.modules,
            layers=layout.layers,
            layer=layout.layer,
            heads={"linear": (Target("classifier"),)},
        )
        for layout in ELECTRA.layouts
    ),
    ignored=("embeddings.position_ids", "embeddings.token_type_ids"),
    encoder_of="electra",
)
