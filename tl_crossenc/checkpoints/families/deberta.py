"""DeBERTa-v2 and v3: BERT's layers with relative attention, no token types, and a GELU pooler (He et al. 2021, 2023).

One table of embeddings of distances is read by all layers, through each layer's own query and key projections (`share_att_key`),
with or without a norm before them. Most have no table of absolute positions; what some store of one is not read.
"""

from __future__ import annotations

from typing import Any

from tl_crossenc.checkpoints.config_fields import accept, whole
from tl_crossenc.checkpoints.families.bert import EMBEDDINGS, LAYER, bert_shape
from tl_crossenc.checkpoints.families.family import HEAD_ACTIVATIONS, Config, Family, Layout, Target
from tl_crossenc.console.shown import quoted

TERMS = ("c2p", "p2c")
"""What `pos_att_type` may have: content to position, position to content."""


def deberta_shape(config: Config, name: str) -> dict[str, Any]:
    """BERT's sizes, and how distances are told apart.

    Raises:
        ValueError: a setting that the model does not compute, such as convolutions, or projections of distances of their own.
    """
    sizes = bert_shape(config, name, types=0, eps=1e-7)
    accept(config, "conv_kernel_size", (0,), name)
    for key, size in (
        ("attention_head_size", sizes["d_model"] // sizes["n_heads"]),
        ("embedding_size", sizes["d_model"]),
        ("pooler_hidden_size", sizes["d_model"]),
    ):
        accept(config, key, (size,), name)
    absolute = accept(config, "position_biased_input", (True, False), name)
    return sizes | {
        "positional_embedding_type": "standard" if absolute else "relative",
        "relative": _relative(config, name, sizes["n_ctx"]),
        "relative_norm": "layer_norm" in _listed(config, "norm_rel_ebd", ("none", "layer_norm"), name),
        "head_act": accept(config, "pooler_hidden_act", HEAD_ACTIVATIONS, name),
    }


def _relative(config: Config, name: str, n_positions: int) -> tuple[int, int, bool, bool] | None:
    """(buckets, largest distance, c2p, p2c); None without relative attention."""
    terms = _listed(config, "pos_att_type", TERMS, name)
    if not accept(config, "relative_attention", (False, True), name):
        if terms:
            raise ValueError(
                f"expected relative_attention where pos_att_type has {', '.join(terms)}, got none in the configuration of {name!r}"
            )
        return None
    if terms:
        accept(config, "share_att_key", (True,), name, False)
    furthest = whole(config, "max_relative_positions", name, -1, least=-1)
    buckets = whole(config, "position_buckets", name, -1, least=-1)
    return buckets, furthest if furthest > 0 else n_positions, "c2p" in terms, "p2c" in terms


def _listed(config: Config, key: str, known: tuple[str, ...], name: str) -> list[str]:
    """A field that is a list of names, or a text with `|` between them; empty where it is absent or null."""
    given = config.get(key)
    if isinstance(given, str):
        given = [one.strip() for one in given.lower().split("|") if one.strip()]
    if given is None:
        return []
    if not isinstance(given, list) or not all(one in known for one in given):
        raise ValueError(
            f"expected {key} of {', '.join(known)} in the configuration of {name!r}, got {quoted(config[key])}"
        )
    return given


DEBERTA = Family(
    name="DeBERTa-v2, DeBERTa-v3",
    model_types=("deberta-v2",),
    classes=("DebertaV2",),
    bases=("deberta.",),
    shape=deberta_shape,
    layouts=(
        Layout(
            tables=EMBEDDINGS
            | {
                "encoder.rel_embeddings.weight": Target("stack.relative.table"),
                "encoder.LayerNorm.weight": Target("stack.relative.ln_weight"),
                "encoder.LayerNorm.bias": Target("stack.relative.ln_bias"),
            },
            modules={},
            layers="encoder.layer",
            layer={
                f"{module}_proj" if module.startswith("attention.self.") else module: targets
                for module, targets in LAYER.items()
            },
            heads={"pooler.dense": (Target("pooler"),), "classifier": (Target("classifier"),)},
        ),
    ),
    ignored=(
        "deberta.embeddings.position_ids",
        "deberta.embeddings.position_embeddings.",  # where the configuration does not read them, neither does the model
        "lm_predictions.",  # the pre-training heads, which a classifier does not use
        "mask_predictions.",
        "cls.predictions.",
    ),
)
