"""Porting: the checkpoint of a sequence classifier → the weights of a hooked cross-encoder.

What a checkpoint's weights are called and where they go is its family's (`checkpoints.families`). Every key of the checkpoint is
either used or on the family's short list of keys that are ignored; every weight of the model is filled exactly once, those that
the family has not (biases) with 0; a configuration that the model would compute differently is refused. Tensors are copied one at
a time into place, so that no second copy of the model is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.checkpoints.config_fields import n_labels, refuse_quantized
from tl_crossenc.checkpoints.families import family_of
from tl_crossenc.checkpoints.families.family import Family, Place, Target
from tl_crossenc.checkpoints.head_modules import EPS
from tl_crossenc.checkpoints.weight_files import FLOATS
from tl_crossenc.checkpoints.weight_names import WeightNames
from tl_crossenc.console.shown import listed
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.hooked_encoder import HookedEncoder
from tl_crossenc.model.relative_positions import RelativePositions
from tl_crossenc.model.score_rule import canonical_rule, rule_of_labels

_SMALLEST = 1
"""Bytes of the smallest type that a weight is stored in."""


def config_from_checkpoint(
    checkpoint: Checkpoint, dtype: torch.dtype, score: str | int | None = None
) -> CrossEncoderConfig:
    """The hooked encoder's configuration for a sequence classifier of a family that is covered.

    A configuration without `model_type`, as MonoBERT's of 2020, is known by its classes, else taken for BERT's. The score is
    `score`, else what the labels' names say, else the default (`score_rule`).

    Raises:
        ValueError: another architecture, a decoder, or a setting that the hooked encoder does not compute.
    """
    config, name = checkpoint.config, checkpoint.name
    family = family_of(config, name)
    refuse_quantized(config, name)
    shape = {"n_labels": n_labels(config, name)} | family.shape(config, name)
    if checkpoint.head is not None:
        shape |= _head_of_modules(checkpoint, family, shape)
    rule = rule_of_labels(config, shape["n_labels"], name) if score is None else score
    try:
        cfg = CrossEncoderConfig(
            **shape,
            d_head=shape["d_model"] // shape["n_heads"],
            family=family.model_types[0],
            score=canonical_rule(rule, shape["n_labels"]),
            normalization_type="LN",
            dtype=dtype,
            device="cpu",
            model_name=name,
            revision=checkpoint.revision,
        )
    except ValueError as error:
        raise ValueError(f"cannot port {name!r}: {error}") from None
    _check_stored(cfg, checkpoint)
    return cfg


def port_weights(model: HookedEncoder, checkpoint: Checkpoint) -> None:
    """Fill every weight of `model` from the checkpoint.

    Raises:
        ValueError: keys that are missing, unknown, twice there, or of another shape or no float type, listed.
    """
    family = family_of(checkpoint.config, checkpoint.name)
    layouts = [weight_slots(model, places) for places in family.places(model.cfg.n_layers)]
    slots = {name: slot for layout in reversed(layouts) for name, slot in layout.items()}
    names = WeightNames(family)
    filled: set[str] = set()
    touched: set[tuple[int, torch.Size]] = set()
    found: dict[str, list[str]] = {}
    with torch.no_grad():
        _fill_unstored(model)
        for key, tensor in stored_tensors(checkpoint, family):
            name = names(key)
            slot = None if name is None else slots.get(name)
            if name is not None and slot is None and name.startswith(family.ignored):
                continue
            if name is None or slot is None:
                found.setdefault("not known", []).append(key)
                continue
            if name in filled or slot.views & touched:
                found.setdefault("twice there", []).append(key)
            elif tensor.dtype not in FLOATS:
                found.setdefault("of another kind", []).append(f"{key} of {tensor.dtype}, no float that is read here")
            elif slot.shape != tuple(tensor.shape):
                found.setdefault("of another kind", []).append(f"{key} {tuple(tensor.shape)} instead of {slot.shape}")
            elif not _is_finite(tensor):
                found.setdefault("NaN or infinite", []).append(key)
            else:
                slot.fill(tensor)
            touched |= slot.views
            filled.add(name)
    # Of several ways to name the weights the one that is meant is the one with the most of them.
    meant = max(layouts, key=lambda layout: len(layout.keys() & filled))
    missing = sorted(meant.keys() - filled)
    kinds = ("missing", "not known", "twice there", "of another kind", "NaN or infinite")
    found = {kind: keys for kind in kinds if (keys := missing if kind == "missing" else found.get(kind, []))}
    problems = [f"{what}: {listed(keys, 6 if len(found) == 1 else 3)}" for what, keys in found.items()]
    if len(names.prefixes) > 1:
        problems.append(f"under several prefixes ({listed(map(repr, names.prefixes))})")
    if problems:
        article = "an" if family.name[0] in "AEIOU" else "a"
        raise ValueError(
            f"expected exactly the weights of {article} {family.name} sequence classifier with {model.cfg.n_labels} label(s) in "
            f"{checkpoint.name!r}; {'; '.join(problems)}: is it a trained reranker, whole, and of this configuration?"
        )


def _head_of_modules(checkpoint: Checkpoint, family: Family, shape: dict[str, Any]) -> dict[str, Any]:
    """The fields that a head in modules says."""
    head = checkpoint.head
    if head is None or family.head_modules is None:
        raise ValueError(
            f"expected a ModernBERT encoder before a head in modules, got {checkpoint.name!r}, a {family.name} model: save it as a "
            "sequence classifier"
        )
    without = {"dense": "pooler", "scores": "classifier"}
    own = ("pooler", "pooler.ln", "classifier")
    return {
        "n_labels": head.n_labels,
        "pooling": head.pooling,
        "head_act": head.activation,
        "head_eps": EPS,
        "unbiased": (
            *(path for path in shape["unbiased"] if path not in own),
            *(without[role] for role in head.unbiased),
        ),
    }


def stored_tensors(checkpoint: Checkpoint, family: Family) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of every weight, those of a head in modules under the family's names."""
    yield from checkpoint.read_tensors()
    if checkpoint.head is not None and family.head_modules is not None:
        yield from checkpoint.head.read_tensors(family.head_modules)


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite, by the extremes: a large vocabulary is not held several times for it."""
    return bool(torch.stack((tensor.float() if tensor.itemsize == 1 else tensor).aminmax()).isfinite().all())


@dataclass(frozen=True)
class WeightSlot:
    """Where one weight of a checkpoint goes: views into the model, which take its rows in their order.

    Attributes:
        parts: the views.
        skipped: rows at its beginning that are left.
    """

    parts: tuple[Tensor, ...]
    skipped: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the checkpoint's tensor."""
        first = self.parts[0].shape
        return (sum(part.shape[0] for part in self.parts) + self.skipped, *first[1:])

    @property
    def views(self) -> set[tuple[int, torch.Size]]:
        """What tells the views from others."""
        return {(part.data_ptr(), part.shape) for part in self.parts}

    def fill(self, tensor: Tensor) -> None:
        """Copy the checkpoint's tensor into the model."""
        sizes = [self.skipped, *(part.shape[0] for part in self.parts)]
        for part, rows in zip(self.parts, tensor.split(sizes)[1:], strict=True):
            part.copy_(rows)


def weight_slots(model: HookedEncoder, places: Mapping[str, Place]) -> dict[str, WeightSlot]:
    """Name in the checkpoint -> where it goes, of every weight that this model has."""
    slots = {}
    for name, (targets, layer, leaf) in places.items():
        parts = [_view(model, target, layer, leaf) for target in targets]
        if all(part is not None for part in parts):
            skipped = model.cfg.position_offset if targets[0].skips else 0
            slots[name] = WeightSlot(tuple(part for part in parts if part is not None), skipped)
    return slots


def _view(model: HookedEncoder, target: Target, layer: int | None, leaf: str) -> Tensor | None:
    """A weight of the model, a view; None where the model has none, or its checkpoint stores none."""
    cfg = model.cfg
    if leaf in ("bias", "") and target.path in cfg.unbiased:
        return None
    if layer is not None:
        if target.path == "ln1" and layer == 0 and not cfg.first_norm:
            return None
        stacked = getattr(model.stack, f"{target.path}_{leaf}", None)
        if stacked is None:
            return None
        slot = stacked.detach()[layer]
        return slot if target.which is None else slot[target.which]
    found = _at(model, f"{target.path}.{leaf}" if leaf else target.path)
    return None if found is None else found.detach()


def _at(model: HookedEncoder, path: str) -> Tensor | None:
    found: Any = model
    for attribute in path.split("."):
        found = getattr(found, attribute, None)
    return found if isinstance(found, Tensor) else None


def _fill_unstored(model: HookedEncoder) -> None:
    """Weights that no checkpoint of this configuration stores: biases of 0; a norm that is not there, and so not read."""
    for path in model.cfg.unbiased:
        for bias in (_at(model, f"stack.{path}_bias"), _at(model, f"{path}.bias"), _at(model, path)):
            if bias is not None:
                bias.zero_()
    if not model.cfg.first_norm:
        model.stack.ln1_weight[0], model.stack.ln1_bias[0] = 1, 0


def _check_stored(cfg: CrossEncoderConfig, checkpoint: Checkpoint) -> None:
    """Refuse a configuration with more weights than the files can hold, before the model is allocated.

    Weights of a sequence classifier with d = d_model, e of its embeddings, m = d_mlp, times two where it is gated:
    `(vocabulary + positions + types + 2) e + layers (4 d^2 + 2 d m + m + 9 d) + d^2 + d + labels (d + 1)`, and d (e + 1) of a
    projection, and the embeddings of distances. Where some kinds of weights have no bias, the tables and the layers' matrices
    alone: there are no fewer, whichever kinds they are.
    """
    d, m, e = cfg.d_model, cfg.d_mlp or 0, cfg.d_embed or cfg.d_model
    positions = cfg.n_ctx + cfg.position_offset if cfg.positional_embedding_type == "standard" else 0
    n_weights = (cfg.d_vocab + positions) * e + cfg.n_layers * (4 * d * d + (3 if cfg.gated_mlp else 2) * d * m)
    if not cfg.unbiased:
        n_weights += (cfg.d_vocab_types + 2) * e + cfg.n_layers * (m + 9 * d) + cfg.n_labels * (d + 1)
        n_weights += (d * (d + 1) if cfg.head_dense else 0) + (d * (e + 1) if cfg.d_embed else 0)
        n_weights += 2 * RelativePositions.of(cfg.relative).span * d
    if checkpoint.stored_bytes is not None and n_weights * _SMALLEST > checkpoint.stored_bytes:
        raise ValueError(
            f"cannot port {checkpoint.name!r}: its configuration describes {n_weights:,} weights, and its weight files have "
            f"{checkpoint.stored_bytes:,} bytes, too few: is it the configuration of these weights, and are they whole? "
            "Download them again"
        )
