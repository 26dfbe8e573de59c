"""GTE multilingual: BERT's order of norms with rotary positions and gated MLPs (Zhang et al. 2024, mGTE).

The hub's files come with code of their own, which is not run: `model_type` "new", keys under `new.`. transformers writes the same
under `gte.`, and reads its modules' own names (`layers.0.self_attn.q_proj`) too.
"""

from __future__ import annotations

from typing import Any

from tl_crossenc.checkpoints.config_fields import accept, number, sizes, whole
from tl_crossenc.checkpoints.families.bert import EMBEDDINGS
from tl_crossenc.checkpoints.families.family import ACTIVATIONS, Config, Family, Layout, Target
from tl_crossenc.checkpoints.families.modernbert import plain_rotary
from tl_crossenc.console.shown import quoted

BASE = 160_000.0
"""The rotary base where none is named."""

DEFAULTS = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "max_position_embeddings": 8192,
    "intermediate_size": 3072,
    "vocab_size": 250048,
}
TABLES = {name: target for name, target in EMBEDDINGS.items() if "position" not in name}
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
    common = sizes(config, name, DEFAULTS)
    base, factor = rotary(config, name, max(common["d_model"] // common["n_heads"], 1))
    return {
        **common,
        "d_vocab_types": whole(config, "type_vocab_size", name, 1, least=0),
        "eps": number(config, "layer_norm_eps", name, 1e-12),
        "act_fn": accept(config, "hidden_act", ACTIVATIONS, name),
        "positional_embedding_type": "rotary",
        "rotary_bases": (base,) * common["n_layers"],
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
    shape = gte_shape(config, name)
    kept = {key: value for key, value in config.items() if key not in ("rope_scaling", "rope_theta")}
    rope = {"rope_type": "linear", "rope_theta": shape["rotary_bases"][0], "factor": shape["rotary_factor"]}
    return kept | {"rope_parameters": rope}


GTE = Family(
    name="GTE",
    model_types=("gte", "new"),
    classes=("Gte", "New"),
    bases=("gte.", "new."),
    shape=gte_shape,
    layouts=(
        Layout(
            tables=TABLES,
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
            tables=TABLES,
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
