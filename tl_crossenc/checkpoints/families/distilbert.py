"""DistilBERT: BERT's layers under names of its own, no token types, and a ReLU head on CLS (Sanh et al. 2019)."""

from __future__ import annotations

from typing import Any

from tl_crossenc.checkpoints.config_fields import MOST_LAYERS, accept, whole
from tl_crossenc.checkpoints.families.bert import BERT_ACTIVATIONS, EMBEDDINGS
from tl_crossenc.checkpoints.families.family import Config, Family, Layout, Target

EPS = 1e-12
"""Of every norm; its configurations have no field for it."""


def distilbert_shape(config: Config, name: str) -> dict[str, Any]:
    """Sizes by DistilBERT's names for them.

    Raises:
        ValueError: a setting that the model does not compute.
    """
    return {
        "d_model": whole(config, "dim", name),
        "n_heads": whole(config, "n_heads", name),
        "n_layers": whole(config, "n_layers", name, most=MOST_LAYERS),
        "n_ctx": whole(config, "max_position_embeddings", name),
        "d_mlp": whole(config, "hidden_dim", name),
        "d_vocab": whole(config, "vocab_size", name),
        "d_vocab_types": 0,
        "eps": EPS,
        "act_fn": accept(config, "activation", BERT_ACTIVATIONS, name, "gelu"),
        "head_act": "relu",
    }


DISTILBERT = Family(
    name="DistilBERT",
    model_types=("distilbert",),
    classes=("DistilBert",),
    bases=("distilbert.",),
    shape=distilbert_shape,
    layouts=(
        Layout(
            tables={name: target for name, target in EMBEDDINGS.items() if "token_type" not in name},
            modules={},
            layers="transformer.layer",
            layer={
                "attention.q_lin": (Target("qkv", 0),),
                "attention.k_lin": (Target("qkv", 1),),
                "attention.v_lin": (Target("qkv", 2),),
                "attention.out_lin": (Target("out"),),
                "sa_layer_norm": (Target("ln1"),),
                "ffn.lin1": (Target("mlp_in"),),
                "ffn.lin2": (Target("mlp_out"),),
                "output_layer_norm": (Target("ln2"),),
            },
            heads={"pre_classifier": (Target("pooler"),), "classifier": (Target("classifier"),)},
        ),
    ),
    ignored=(
        "distilbert.embeddings.position_ids",
        "vocab_transform.",  # the pre-training head, which a classifier does not use
        "vocab_layer_norm.",
        "vocab_projector.",
    ),
)
