"""DistilBERT: BERT's layers under names of its own, no token types, and a ReLU head on CLS (Sanh et al. 2019)."""

from __future__ import annotations

from typing import Any

from tl_crossenc.checkpoints.config_fields import SIZES, accept, sizes
from tl_crossenc.checkpoints.families.bert import EMBEDDINGS
from tl_crossenc.checkpoints.families.family import ACTIVATIONS, Config, Family, Layout, Target

FIELDS = SIZES | {"d_model": "dim", "n_heads": "n_heads", "n_layers": "n_layers", "d_mlp": "hidden_dim"}
EPS = 1e-12
"""Of every norm; its configurations have no field for it."""


def distilbert_shape(config: Config, name: str) -> dict[str, Any]:
    """Sizes by DistilBERT's names for them.

    Raises:
        ValueError: a setting that the model does not compute.
    """
    return {
        **sizes(config, name, fields=FIELDS),
        "d_vocab_types": 0,
        "eps": EPS,
        "act_fn": accept(config, "activation", ACTIVATIONS, name),
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
