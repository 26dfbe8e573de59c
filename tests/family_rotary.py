"""Builders of the families with rotary positions: ModernBERT, whole and modular, and GTE."""

from dataclasses import replace
from functools import partial

import family_texts as texts
import transformers as hf
from family_modular import modernbert_modular
from family_world import SIZES, config_of, fill, fused, plain_world, renamed, special_tokens

ROTARY_SIZES = {**SIZES, "hidden_size": 30}
MODERN_LAYERS = ("full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention")
MODERN_THETAS = {"full_attention": 911.0, "sliding_attention": 13.0}
HALF_WINDOW = 7


def modernbert_config(tokenizer, n_labels, **changes):
    """Pre-LN, rotary positions with two bases, windowed layers between global ones, no biases."""
    settings = {
        **ROTARY_SIZES,
        "num_hidden_layers": len(MODERN_LAYERS),
        "layer_types": list(MODERN_LAYERS),
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in MODERN_THETAS.items()
        },
        "local_attention": 2 * HALF_WINDOW,
        **special_tokens(tokenizer),
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        **changes,
    }
    return hf.ModernBertConfig(**settings, num_labels=n_labels, attn_implementation="eager")


def modernbert(n_labels=1, seed=0, *, pooling="cls", names="new", layer_types=MODERN_LAYERS):
    """`ModernBertForSequenceClassification`, with today's configuration names or the older ones."""
    tokenizer = texts.modernbert()
    settings = modernbert_config(tokenizer, n_labels, classifier_pooling=pooling, layer_types=list(layer_types))
    model = fill(hf.ModernBertForSequenceClassification(settings), seed)
    old = {
        "layer_types": None,
        "rope_parameters": None,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": MODERN_THETAS["full_attention"],
        "local_rope_theta": MODERN_THETAS["sliding_attention"],
    }
    return plain_world(
        "modernbert-old" if names == "old" else f"modernbert-{pooling}",
        model,
        tokenizer,
        texts.BERT_FRAME,
        "model.layers",
        "classifier",
        attn="attn.Wo",
        mlp="mlp",
        config=config_of(model, **(old if names == "old" else {})),
        half_windows=tuple(HALF_WINDOW if kind == "sliding_attention" else None for kind in layer_types),
    )


def gte(n_labels=1, seed=0, *, keys="gte", scaling=1.0):
    """Post-LN, rotary positions, a gated MLP, a tanh pooler; `scaling` above 1 is the NTK scaling of the multilingual ones.

    A factor s there is a base of theta * s whose frequencies are divided by s^(2 / d_head): today's `linear`. Keys are "gte", as
    `save_pretrained` writes them; "new", those under the older prefix and configuration; or "split", as the modules are named.
    """
    tokenizer, theta = texts.xlm_roberta(), 911.0
    rope = {"rope_type": "default", "rope_theta": theta}
    if scaling != 1:
        rope = {"rope_type": "linear", "rope_theta": theta * scaling, "factor": scaling ** (2 / 10)}
    config = hf.GteConfig(
        **ROTARY_SIZES,
        **special_tokens(tokenizer),
        type_vocab_size=1,
        rope_parameters=rope,
        num_labels=n_labels,
        attn_implementation="eager",
    )
    model = fill(hf.GteForSequenceClassification(config), seed)
    world = plain_world(
        "gte" + ("-ntk" if scaling != 1 else "") + {"gte": "", "new": "-old", "split": "-split"}[keys],
        model,
        tokenizer,
        texts.ROBERTA_FRAME,
        "gte.layers",
        "classifier",
        attn="self_attn.o_proj",
        mlp="mlp",
    )
    if keys == "split":
        return world
    state = fused(world.state, [f"self_attn.{kind}_proj." for kind in "qkv"], "attention.qkv_proj.")
    state = fused(state, ["mlp.up_proj.", "mlp.gate_proj."], "mlp.up_gate_proj.")
    state = renamed(
        state,
        ("gte.layers.", "gte.encoder.layer."),
        ("self_attn.o_proj", "attention.o_proj"),
        ("post_attention_layernorm", "attn_ln"),
        ("post_mlp_layernorm", "mlp_ln"),
    )
    world = replace(world, state=state)
    return world if keys == "gte" else _old_gte(world, theta, scaling)


def _old_gte(world, theta, scaling):
    """The same under `new.` and the configuration that the hub's files have; code of its own is named but not needed."""
    config = config_of(
        world.model,
        model_type="new",
        architectures=["NewForSequenceClassification"],
        auto_map={
            "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
            "AutoModelForSequenceClassification": "Alibaba-NLP/new-impl--modeling.NewForSequenceClassification",
        },
        rope_parameters=None,
        rope_theta=theta,
        rope_scaling={"type": "ntk", "factor": scaling} if scaling != 1 else None,
        position_embedding_type="rope",
        layer_norm_type="layer_norm",
        pack_qkv=True,
        unpad_inputs=False,
        use_memory_efficient_attention=False,
        logn_attention_scale=False,
        logn_attention_clip1=False,
    )
    return replace(world, state=renamed(world.state, ("gte.", "new.")), config=config)


def modular(n_labels=1, seed=0):
    """ModernBERT in the modular form of sentence-transformers."""
    tokenizer = texts.modernbert()
    half_windows = tuple(HALF_WINDOW if kind == "sliding_attention" else None for kind in MODERN_LAYERS)
    return modernbert_modular(modernbert_config(tokenizer, n_labels), tokenizer, half_windows, n_labels, seed)


ROTARY = {
    "modernbert-cls": modernbert,
    "modernbert-mean": partial(
        modernbert,
        pooling="mean",
        layer_types=("sliding_attention", "full_attention", "full_attention", "sliding_attention", "sliding_attention"),
    ),
    "modernbert-old": partial(modernbert, names="old"),
    "modernbert-modular": modular,
    "gte": gte,
    "gte-split": partial(gte, keys="split"),
    "gte-old": partial(gte, keys="new"),
    "gte-ntk": partial(gte, scaling=8.0),
    "gte-ntk-old": partial(gte, keys="new", scaling=8.0),
}
