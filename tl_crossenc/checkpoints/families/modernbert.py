"""ModernBERT: pre-LN, rotary positions, layers with a window between layers without, gated MLPs, no biases (Warner et al. 2024).

A layer is of a type, "full_attention" or "sliding_attention", which says its window and its rotary base. Configurations of
before transformers 5 name an interval and two bases in their place. Layer 0 has no norm before attention, whatever its type.
"""

from __future__ import annotations

from typing import Any

from tl_crossenc.checkpoints.config_fields import accept, number, sizes, whole
from tl_crossenc.checkpoints.families.family import ACTIVATIONS, HEAD_ACTIVATIONS, Config, Family, Layout, Target
from tl_crossenc.console.shown import quoted

FULL, SLIDING = TYPES = ("full_attention", "sliding_attention")
BASES = {FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 10_000.0)}
"""What older configurations call the rotary base of layers of a type, and the base where none is named."""

DEFAULTS = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_hidden_layers": 22,
    "max_position_embeddings": 8192,
    "intermediate_size": 1152,
    "vocab_size": 50368,
}
BIASES = {
    "attention_bias": ("qkv", "out"),
    "mlp_bias": ("mlp_in", "mlp_out"),
    "norm_bias": ("ln1", "ln2", "embed.ln_bias", "ln_final", "pooler.ln"),
    "classifier_bias": ("pooler",),
}
"""Which field says whether a checkpoint has the biases of which kinds of weights."""


def modernbert_shape(config: Config, name: str) -> dict[str, Any]:
    """The sizes, and of each layer its window and rotary base.

    Raises:
        ValueError: a setting that the model does not compute.
    """
    common = sizes(config, name, DEFAULTS)
    accept(config, "head_dim", (None, common["d_model"] // common["n_heads"]), name)
    types, bases = _types(config, name, common["n_layers"]), _bases(config, name)
    window = whole(config, "local_attention", name, 128) // 2
    without = [field for field in BIASES if not accept(config, field, (False, True), name)]
    return {
        **common,
        "d_vocab_types": 0,
        "eps": number(config, "norm_eps", name, 1e-5),
        "act_fn": accept(config, "hidden_activation", ACTIVATIONS, name),
        "norm_order": "pre",
        "first_norm": False,
        "final_norm": True,
        "positional_embedding_type": "rotary",
        "rotary_bases": tuple(bases[kind] for kind in types),
        "windows": tuple(window if kind == SLIDING else None for kind in types),
        "gated_mlp": True,
        "unbiased": tuple(kind for field in without for kind in BIASES[field]),
        "pooling": accept(config, "classifier_pooling", ("cls", "mean"), name),
        "head_act": accept(config, "classifier_activation", HEAD_ACTIVATIONS, name),
        "head_norm": True,
    }


def _types(config: Config, name: str, n_layers: int) -> list[str]:
    """The type of each layer: by name, or one in `global_attn_every_n_layers` without a window."""
    types = config.get("layer_types")
    if types is None:
        every = whole(config, "global_attn_every_n_layers", name, 3)
        return [SLIDING if layer % every else FULL for layer in range(n_layers)]
    odd = [kind for kind in types if kind not in TYPES] if isinstance(types, list) else []
    if not isinstance(types, list) or len(types) != n_layers or odd:
        raise ValueError(
            f"expected layer_types with {' or '.join(TYPES)} for each of {n_layers} layers in the configuration of {name!r}, got "
            f"{quoted(odd or types)}: other windows are not computed here"
        )
    return types


def _bases(config: Config, name: str) -> dict[str, float]:
    """The rotary base of the layers of each type; one that is null is that of the layers without a window."""
    by_type = config.get("rope_parameters") or {}
    if not isinstance(by_type, dict) or any(kind not in TYPES for kind in by_type):
        raise ValueError(
            f"expected rope_parameters of {' and '.join(TYPES)} in the configuration of {name!r}, got {quoted(by_type)}"
        )
    found: dict[str, float] = {}
    for kind, (old, default) in BASES.items():
        settings = {"rope_theta": config.get(old, default), **plain_rotary(by_type.get(kind), name)}
        plain_rotary(config.get("rope_scaling"), name)
        if settings["rope_theta"] is None and found:
            settings["rope_theta"] = found[FULL]
        found[kind] = number(settings, "rope_theta", name, default)
    return found


def plain_rotary(settings: Any, name: str, *more: str) -> dict[str, Any]:
    """Rotary settings that change nothing but the base, by any of transformers' names.

    Args:
        settings: `rope_parameters`, or `rope_scaling` of older configurations; null is none.
        name: the model's.
        more: types besides "default" that the caller computes, with the field `factor`.

    Raises:
        ValueError: a type, or a field of it, that is not computed here.
    """
    if settings is None:
        return {}
    known = {"rope_type", "type", "rope_theta", *(("factor",) if more else ())}
    types = ("default", *more)
    if (
        not isinstance(settings, dict)
        or not settings.keys() <= known
        or settings.get("rope_type", settings.get("type", "default")) not in types
    ):
        raise ValueError(
            f"expected rotary positions of the type {' or '.join(types)} in the configuration of {name!r}, got "
            f"{quoted(settings)}: others are not computed here"
        )
    return settings


MODERNBERT = Family(
    name="ModernBERT",
    model_types=("modernbert",),
    classes=("ModernBert",),
    bases=("model.",),
    shape=modernbert_shape,
    layouts=(
        Layout(
            tables={
                "embeddings.tok_embeddings.weight": Target("embed.W_E"),
                "embeddings.norm.weight": Target("embed.ln_weight"),
                "embeddings.norm.bias": Target("embed.ln_bias"),
            },
            modules={"final_norm": (Target("ln_final"),)},
            layers="layers",
            layer={
                "attn_norm": (Target("ln1"),),
                "attn.Wqkv": tuple(Target("qkv", index) for index in range(3)),
                "attn.Wo": (Target("out"),),
                "mlp_norm": (Target("ln2"),),
                "mlp.Wi": (Target("mlp_in", 0), Target("mlp_in", 1)),
                "mlp.Wo": (Target("mlp_out"),),
            },
            heads={
                "head.dense": (Target("pooler"),),
                "head.norm": (Target("pooler.ln"),),
                "classifier": (Target("classifier"),),
            },
        ),
    ),
    ignored=("decoder.",),  # of the pre-trained model, which the classifier does not read
    head_modules=("head.dense", "head.norm", "classifier"),
)
