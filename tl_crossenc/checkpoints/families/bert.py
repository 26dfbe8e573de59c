"""BERT: post-LN, a table of positions, token types, a tanh pooler on CLS (Devlin et al. 2019)."""

from __future__ import annotations

from typing import Any

from tl_crossenc.checkpoints.config_fields import accept, number, sizes, whole
from tl_crossenc.checkpoints.families.family import ACTIVATIONS, Config, Family, Layout, Target

EMBEDDINGS = {
    "embeddings.word_embeddings.weight": Target("embed.W_E"),
    "embeddings.position_embeddings.weight": Target("embed.W_pos", skips=True),
    "embeddings.token_type_embeddings.weight": Target("embed.W_token_type"),
    "embeddings.LayerNorm.weight": Target("embed.ln_weight"),
    "embeddings.LayerNorm.bias": Target("embed.ln_bias"),
}

LAYER = {
    "attention.self.query": (Target("qkv", 0),),
    "attention.self.key": (Target("qkv", 1),),
    "attention.self.value": (Target("qkv", 2),),
    "attention.output.dense": (Target("out"),),
    "attention.output.LayerNorm": (Target("ln1"),),
    "intermediate.dense": (Target("mlp_in"),),
    "output.dense": (Target("mlp_out"),),
    "output.LayerNorm": (Target("ln2"),),
}


def bert_shape(config: Config, name: str, *, types: int = 2, eps: float = 1e-12) -> dict[str, Any]:
    """Sizes by BERT's names for them, with the default number of token types and the default epsilon of a class of its kind.

    Raises:
        ValueError: a setting that the model does not compute.
    """
    accept(config, "position_embedding_type", ("absolute",), name)
    act_fn = accept(config, "hidden_act", ACTIVATIONS, name)
    accept(config, "add_cross_attention", (False,), name)
    return {
        **sizes(config, name),
        "d_vocab_types": whole(config, "type_vocab_size", name, types, least=min(types, 1)),
        "eps": number(config, "layer_norm_eps", name, eps),
        "act_fn": act_fn,
    }


BERT = Family(
    name="BERT",
    model_types=("bert",),
    classes=("Bert",),
    bases=("bert.",),
    shape=bert_shape,
    layouts=(
        Layout(
            tables=EMBEDDINGS,
            modules={"pooler.dense": (Target("pooler"),)},
            layers="encoder.layer",
            layer=LAYER,
            heads={"classifier": (Target("classifier"),)},
        ),
    ),
    ignored=(
        "bert.embeddings.position_ids",  # a constant 0, 1, 2, ... that older versions stored
        "bert.embeddings.token_type_ids",  # a constant 0 that older versions stored
        "cls.predictions.",  # the pre-training heads, which a classifier does not use
        "cls.seq_relationship.",
    ),
)
