"""RoBERTa, XLM-R and CamemBERT, and jina-reranker-v2's names of an XLM-R.

BERT's layers (Liu et al. 2019; Conneau et al. 2020; Martin et al. 2020) with positions that count from `pad_token_id + 1`, one
token type, two separators between the texts (`<s> query </s></s> passage </s>`), and the dense layer and tanh of BERT's pooler
inside of the classifier. The rows of the position table that no position reads are left where they are.

jina-reranker-v2 names no `model_type` and code of its own, which is not run: it is known by its keys.
"""

from __future__ import annotations

from typing import Any

from tl_crossenc.checkpoints.config_fields import whole
from tl_crossenc.checkpoints.families.bert import EMBEDDINGS, LAYER, bert_shape
from tl_crossenc.checkpoints.families.family import Config, Family, Layout, Target

HEADS = {"classifier.dense": (Target("pooler"),), "classifier.out_proj": (Target("classifier"),)}


def roberta_shape(config: Config, name: str) -> dict[str, Any]:
    """BERT's sizes, less the positions that are not read.

    Raises:
        ValueError: a setting that the model does not compute, or positions of which none is left.
    """
    sizes = bert_shape(config, name)
    offset = whole(config, "pad_token_id", name, 1, least=0) + 1
    if sizes["n_ctx"] <= offset:
        raise ValueError(
            f"cannot port {name!r}: expected more than {offset} as max_position_embeddings, since positions count from "
            f"pad_token_id + 1, got {sizes['n_ctx']}"
        )
    return sizes | {"n_ctx": sizes["n_ctx"] - offset, "position_offset": offset}


ROBERTA = Family(
    name="RoBERTa, XLM-R, CamemBERT",
    model_types=("roberta", "xlm-roberta", "camembert"),
    classes=("Roberta", "XLMRoberta", "Camembert"),
    bases=("roberta.",),
    shape=roberta_shape,
    layouts=(
        Layout(tables=EMBEDDINGS, modules={}, layers="encoder.layer", layer=LAYER, heads=HEADS),
        Layout(
            tables={name: target for name, target in EMBEDDINGS.items() if "LayerNorm" not in name}
            | {f"emb_ln.{leaf}": Target(f"embed.ln_{leaf}") for leaf in ("weight", "bias")},
            modules={},
            layers="encoder.layers",
            layer={
                "mixer.Wqkv": tuple(Target("qkv", index) for index in range(3)),
                "mixer.out_proj": (Target("out"),),
                "norm1": (Target("ln1"),),
                "mlp.fc1": (Target("mlp_in"),),
                "mlp.fc2": (Target("mlp_out"),),
                "norm2": (Target("ln2"),),
            },
            heads=HEADS,
        ),
    ),
    ignored=(
        "roberta.embeddings.position_ids",
        "roberta.embeddings.token_type_ids",
        "roberta.pooler.",  # of the pre-trained model, which the classifier does not read
        "lm_head.",
    ),
)
