"""GTE multilingual: BERT's order of norms with rotary positions and gated MLPs (Zhang et al. 2024, mGTE).

The hub's files come with code of their own, which is not run: `model_type` "new", keys under `new.`. transformers writes the same
under `gte.`, and reads its modules' own names (`layers.0.self_attn.q_proj`) too.
"""

from __future__ import annotations

from typing import Any

from tl_crossenc.checkpoints.config_fields import MOST_LAYERS, accept, number, whole
from tl_crossenc.checkpoints.families.family import Config, Family, Layout, Target
from tl_crossenc.checkpoints.families.modernbert import plain_rotary
from tl_crossenc.console.shown import quoted

BASE = 160_000.0
"""The rotary base where none is named."""

EMBEDDINGS = {
    "embeddings.word_embeddings.weight": Target("embed.W_E"),
    "embeddings.token_type_embeddings.weight": Target("embed.W_token_type"),
    "embeddings.LayerNorm.weight": Target("embed.ln_weight"),
    "embeddings.LayerNorm.bias": Target("embed.ln_bias"),
}
HEADS = {"classifier": (Target("classifier"),)}
POOLER = {"pooler.dense": (Target("pooler"),)}


def gte_shape(config: Config, name: str) -> dict[str, Any]:
    """The sizes and the rotary positions.

    Raises:
        ValueError: a setting that the model does not compute.
    """
    for field, values in (
        ("position_embedding_type", ("rope",)),
        ("layer_norm_type", ("layer_norm",)),
        ("logn_attention_scale", (False,)),
        ("logn_attention_clip1", (False,)),
    ):
        accept(config, field, values, name)
    n_layers, n_heads = whole(config, "num_hidden_layers", name, 12, most=MOST_LAYERS), 12
    n_heads = whole(config, "num_attention_heads", name, n_heads)
    d_model = whole(config, "hidden_size", name, 768)
    base, factor = rotary(config, name, max(d_model // n_heads, 1))
    return {
        "d_model": d_model,
        "n_heads": n_heads,
        "n_layers": n_layers,
        "n_ctx": whole(config, "max_position_embeddings", name, 8192),
        "d_mlp": whole(config, "intermediate_size", name, 3072),
        "d_vocab": whole(config, "vocab_size", name, 250048),
        "d_vocab_types": whole(config, "type_vocab_size", name, 1, least=0),
        "eps": number(config, "layer_norm_eps", name, 1e-12),
        "act_fn": accept(config, "hidden_act", ("gelu", "gelu_new", "relu"), name),
        "positional_embedding_type": "rotary",
        "rotary_bases": (base,) * n_layers,
        "rotary_factor": factor,
        "gated_mlp": True,
        "unbiased": ("mlp_in",),
    }


def rotary(config: Config, name: str, d_head: int) -> tuple[float, float]:
    """(base, what the frequencies are divided by).

    `rope_scaling` of the type "ntk" and a factor s, of the hub's files, holds at all lengths there: a base s times as large, and
    frequencies divided by s^(2 / d_head).

    Raises:
        ValueError: another type of rotary positions.
    """
    if config.get("model_type") == "new":
        settings = {**plain_rotary(config.get("rope_scaling"), name, "ntk", "linear")}
        settings.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
    else:
        settings = plain_rotary(config.get("rope_parameters"), name, "linear")
        if config.get("rope_scaling") is not None:
            raise ValueError(
                f"expected rope_parameters in the configuration of {name!r}, which is of the type 'gte', got rope_scaling "
                f"{quoted(config['rope_scaling'])}, which is of the type 'new': which of the two is it?"
            )
    base = number(settings, "rope_theta", name, BASE)
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind == "default":
        return base, 1.0
    factor = number(settings, "factor", name, 0.0)
    if factor <= 0:
        raise ValueError(
            f"expected a factor above 0 of rotary positions of the type {kind} in the configuration of {name!r}, got "
            f"{quoted(settings.get('factor'))}"
        )
    return (base * factor, factor ** (2 / d_head)) if kind == "ntk" else (base, factor)


def todays(config: Config, name: str) -> dict[str, Any]:
    """The configuration with the rotary positions of the hub's files as transformers' own class has them."""
    if config.get("model_type") != "new":
        return config
    n_heads = whole(config, "num_attention_heads", name, 12)
    base, factor = rotary(config, name, whole(config, "hidden_size", name, 768) // n_heads)
    kept = {key: value for key, value in config.items() if key not in ("rope_scaling", "rope_theta")}
    return kept | {"rope_parameters": {"rope_type": "linear", "rope_theta": base, "factor": factor}}


GTE = Family(
    name="GTE",
    model_types=("gte", "new"),
    classes=("Gte", "New"),
    bases=("gte.", "new."),
    shape=gte_shape,
    layouts=(
        Layout(
            tables=EMBEDDINGS,
            modules=POOLER,
            layers="encoder.layer",
            layer={
                "attention.qkv_proj": tuple(Target("qkv", index) for index in range(3)),
                "attention.o_proj": (Target("out"),),
                "attn_ln": (Target("ln1"),),
                "mlp.up_gate_proj": (Target("mlp_in", 1), Target("mlp_in", 0)),
                "mlp.down_proj": (Target("mlp_out"),),
                "mlp_ln": (Target("ln2"),),
            },
            heads=HEADS,
        ),
        Layout(
            tables=EMBEDDINGS,
            modules=POOLER,
            layers="layers",
            layer={
                "self_attn.q_proj": (Target("qkv", 0),),
                "self_attn.k_proj": (Target("qkv", 1),),
                "self_attn.v_proj": (Target("qkv", 2),),
                "self_attn.o_proj": (Target("out"),),
                "post_attention_layernorm": (Target("ln1"),),
                "mlp.gate_proj": (Target("mlp_in", 0),),
                "mlp.up_proj": (Target("mlp_in", 1),),
                "mlp.down_proj": (Target("mlp_out"),),
                "post_mlp_layernorm": (Target("ln2"),),
            },
            heads=HEADS,
        ),
    ),
    ignored=("lm_head.",),
    todays=todays,
)
