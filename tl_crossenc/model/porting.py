"""Porting: a Hugging Face BERT sequence classifier's checkpoint → the weights of a hooked cross-encoder.

Every key of the checkpoint is either used or on the short list `IGNORED_KEYS`; every weight of the model is filled exactly
once; a configuration that the model would compute differently is refused. Tensors are copied one at a time into place, so
that no second copy of the model is ever held.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.checkpoints.weight_files import FLOATS
from tl_crossenc.checkpoints.weight_names import WeightNames
from tl_crossenc.console.shown import listed, quoted
from tl_crossenc.model.config import ACTIVATIONS, CrossEncoderConfig
from tl_crossenc.model.config_fields import (
    MOST_LAYERS,
    architectures,
    check_stored,
    n_labels,
    number,
    refuse_quantized,
    whole,
)
from tl_crossenc.model.head import BertPooler, Classifier
from tl_crossenc.model.hooked_encoder import HookedEncoder
from tl_crossenc.model.layer_stack import K, Q, V
from tl_crossenc.model.score_rule import canonical_rule, rule_of_labels

logger = logging.getLogger(__name__)

IGNORED_KEYS = (
    "bert.embeddings.position_ids",  # a constant 0, 1, 2, ... that older versions stored
    "bert.embeddings.token_type_ids",  # a constant 0 that older versions stored
    "cls.predictions.",  # the pre-training heads, which a classifier does not use
    "cls.seq_relationship.",
)

EMBEDDINGS = {
    "word_embeddings.weight": "W_E",
    "position_embeddings.weight": "W_pos",
    "token_type_embeddings.weight": "W_token_type",
    "LayerNorm.weight": "ln_weight",
    "LayerNorm.bias": "ln_bias",
}
LAYER: dict[str, tuple[str, int | None]] = {
    "attention.self.query": ("qkv", Q),
    "attention.self.key": ("qkv", K),
    "attention.self.value": ("qkv", V),
    "attention.output.dense": ("out", None),
    "attention.output.LayerNorm": ("ln1", None),
    "intermediate.dense": ("mlp_in", None),
    "output.dense": ("mlp_out", None),
    "output.LayerNorm": ("ln2", None),
}


def config_from_checkpoint(
    checkpoint: Checkpoint, dtype: torch.dtype, score: str | int | None = None
) -> CrossEncoderConfig:
    """The hooked encoder's configuration for a BERT sequence classifier.

    A configuration without `model_type`, as MonoBERT's of 2020, is taken for BERT's. The score is `score`, else what the labels'
    names say, else the default (`score_rule`).

    Raises:
        ValueError: another architecture, a decoder, or a setting that the hooked encoder does not compute.
    """
    config = checkpoint.config
    name = checkpoint.name
    family = config.get("model_type", "bert")
    classes = architectures(config, name)
    if config.get("is_encoder_decoder") or config.get("is_decoder") or any("Causal" in a for a in classes):
        raise ValueError(
            f"expected an encoder with a classification head (BertForSequenceClassification), got {name!r}, a "
            f"{'decoder' if not config.get('is_encoder_decoder') else 'encoder-decoder'} model "
            f"({listed(classes) or quoted(family)}): attention that looks both ways is what this tool reads"
        )
    if family != "bert" or any(not a.startswith("Bert") for a in classes):
        raise ValueError(
            f"expected a BERT model, got {name!r}, which is {quoted(family)} ({listed(classes) or 'no architecture named'}): "
            "other families are not supported yet"
        )
    refuse_quantized(config, name)
    refused = {
        "position_embedding_type": (config.get("position_embedding_type", "absolute"), ("absolute",)),
        "hidden_act": (config.get("hidden_act", "gelu"), ACTIVATIONS),
        "add_cross_attention": (config.get("add_cross_attention", False), (False,)),
    }
    for setting, (value, accepted) in refused.items():
        if value not in accepted:
            raise ValueError(
                f"expected {setting} among {', '.join(map(str, accepted))} in the configuration of {name!r}, "
                f"got {quoted(value)}"
            )
    d_model, n_heads = whole(config, "hidden_size", name), whole(config, "num_attention_heads", name)
    sizes: dict[str, Any] = {
        "n_layers": whole(config, "num_hidden_layers", name, most=MOST_LAYERS),
        "n_ctx": whole(config, "max_position_embeddings", name),
        "d_mlp": whole(config, "intermediate_size", name),
        "d_vocab": whole(config, "vocab_size", name),
        "d_vocab_types": whole(config, "type_vocab_size", name, 2),
        "n_labels": n_labels(config, name),
    }
    eps = number(config, "layer_norm_eps", name, 1e-12)
    rule = rule_of_labels(config, sizes["n_labels"], name) if score is None else score
    try:
        cfg = CrossEncoderConfig(
            d_model=d_model,
            d_head=d_model // n_heads,
            n_heads=n_heads,
            **sizes,
            score=canonical_rule(rule, sizes["n_labels"]),
            eps=eps,
            act_fn=config.get("hidden_act", "gelu"),
            normalization_type="LN",
            dtype=dtype,
            device="cpu",
            model_name=name,
            revision=checkpoint.revision,
        )
    except ValueError as error:
        raise ValueError(f"cannot port {name!r}: {error}") from None
    check_stored(cfg, checkpoint.stored_bytes, name)
    return cfg


def port_weights(model: HookedEncoder, checkpoint: Checkpoint) -> None:
    """Fill every weight of `model` from the checkpoint.

    Raises:
        ValueError: keys that are missing, unknown, twice there, or of another shape or no float type, listed.
    """
    slots = dict(weight_slots(model))
    names = WeightNames()
    filled: set[str] = set()
    unknown: list[str] = []
    twice: list[str] = []
    wrong: list[str] = []
    broken: list[str] = []
    with torch.no_grad():
        for key, tensor in checkpoint.read_tensors():
            name = names(key)
            if name is not None and name.startswith(IGNORED_KEYS):
                continue
            slot = None if name is None else slots.get(name)
            if name is None or slot is None:
                unknown.append(key)
                continue
            if name in filled:
                twice.append(key)
            elif tensor.dtype not in FLOATS:
                wrong.append(f"{key} of {tensor.dtype}, no float that is read here")
            elif slot.shape != tensor.shape:
                wrong.append(f"{key} {tuple(tensor.shape)} instead of {tuple(slot.shape)}")
            elif not bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all()):
                broken.append(key)
            else:
                slot.copy_(tensor)
            filled.add(name)
    missing = sorted(slots.keys() - filled)
    kinds = {
        "missing": missing,
        "not known": unknown,
        "twice there": twice,
        "of another kind": wrong,
        "NaN or infinite": broken,
    }
    found = {what: keys for what, keys in kinds.items() if keys}
    problems = [f"{what}: {listed(keys, 6 if len(found) == 1 else 3)}" for what, keys in found.items()]
    if len(names.prefixes) > 1:
        problems.append(f"under several prefixes ({listed(map(repr, names.prefixes))})")
    if problems:
        raise ValueError(
            f"expected exactly the weights of a BERT sequence classifier with {model.cfg.n_labels} label(s) in "
            f"{checkpoint.name!r}; {'; '.join(problems)}: is it a trained reranker, whole, and of this configuration?"
        )


def weight_slots(model: HookedEncoder) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face key, the tensor that it fills, a view into the model) for every weight of the model."""
    for key, attribute in EMBEDDINGS.items():
        yield f"bert.embeddings.{key}", getattr(model.embed, attribute).detach()
    for layer in range(model.cfg.n_layers):
        for key, (kind, index) in LAYER.items():
            for leaf in ("weight", "bias"):
                slot = getattr(model.stack, f"{kind}_{leaf}").detach()[layer]
                yield f"bert.encoder.layer.{layer}.{key}.{leaf}", slot if index is None else slot[index]
    for prefix, module in (("bert.pooler.dense", "pooler"), ("classifier", "classifier")):
        head: nn.Module | None = getattr(model, module, None)
        if isinstance(head, BertPooler | Classifier):
            yield f"{prefix}.weight", head.weight.detach()
            yield f"{prefix}.bias", head.bias.detach()
