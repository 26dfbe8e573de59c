"""Parity: does the ported model compute what Hugging Face computes from the same checkpoint?

Both run on the same padded pairs of unequal length. Compared are the logits, every hidden state and every attention pattern at
real positions, and the logits of both attention paths (fused, and in the open while everything is cached).
"""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from tl_crossenc.checkpoints import Checkpoint
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.embedded import open_model
from tl_crossenc.pairs import PairBatch
from tl_crossenc.porting import IGNORED_KEYS
from tl_crossenc.weight_names import WeightNames

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2}
"""The largest difference that counts as the same, relative to the largest value compared where that is above 1."""

PAIRS = (
    ("how do fleas reproduce", "Fleas lay eggs on their host; the eggs drop off and hatch in carpets and bedding."),
    ("capital of france", "Paris."),
    (
        "what makes bread rise",
        "Yeast feeds on the sugars in flour and gives off carbon dioxide. The gas is caught in the web of gluten that "
        "kneading has built, and the dough swells. In the oven the bubbles grow once more before the crumb sets.",
    ),
    ("why is the sky blue", ""),
)
"""Texts of unequal length, an empty passage among them."""


@dataclass(frozen=True)
class Difference:
    """How far two computations of one kind of activation are apart.

    Attributes:
        what: "logits", "hidden states" or "attention patterns".
        compared: the number of values.
        max_abs: the largest absolute difference.
        max_rel: that difference relative to the largest absolute value, `max|a - b| / max|b|`.
        scale: the largest absolute value.
    """

    what: str
    compared: int
    max_abs: float
    max_rel: float
    scale: float


@dataclass(frozen=True)
class ParityCertificate:
    """What was compared, on what, and how far apart it was."""

    model: str
    revision: str
    dtype: str
    device: str
    shape: str
    versions: dict[str, str]
    tolerance: float
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """Whether every difference is within `tolerance * max(1, scale)`. NaN and infinity are not."""
        return all(
            math.isfinite(d.max_abs) and d.max_abs <= self.tolerance * max(1.0, d.scale) for d in self.differences
        )


def certify(model: HookedCrossEncoder, reference: Any, pairs: PairBatch) -> ParityCertificate:
    """Compare `model` with a Hugging Face `BertForSequenceClassification` of the same weights and dtype on `pairs`.

    Args:
        model: the ported model.
        reference: the Hugging Face model, loaded with `attn_implementation="eager"`, in eval mode.
        pairs: padded pairs.
    """
    with torch.no_grad():
        theirs = reference(
            input_ids=pairs.tokens,
            attention_mask=pairs.attention_mask.long(),
            token_type_ids=pairs.token_type_ids,
            output_hidden_states=True,
            output_attentions=True,
        )
        fused = model(pairs, return_type="logits")
        names = ["hook_full_embed"]
        for layer in range(model.cfg.n_layers):
            names += [f"blocks.{layer}.hook_normalized_resid_post", f"blocks.{layer}.attn.hook_pattern"]
        opened, cache = model.run_with_cache(pairs, return_type="logits", names_filter=names)
    real = pairs.attention_mask
    hidden = [cache[name][real] for name in names if not name.endswith("pattern")]
    rows = real[:, None, :, None].expand(-1, model.cfg.n_heads, -1, real.shape[1])
    patterns = [cache[name][rows] for name in names if name.endswith("pattern")]
    return ParityCertificate(
        model=model.cfg.model_name,
        revision=model.cfg.revision,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        shape=f"{model.cfg.n_layers} layers, {model.cfg.n_heads} heads, d_model {model.cfg.d_model}; "
        f"{len(pairs)} pairs of {sorted(real.sum(1).tolist())} tokens",
        versions={
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "transformer-lens")},
        },
        tolerance=TOLERANCE[model.dtype],
        differences=(
            _difference("logits", [fused], [theirs.logits]),
            _difference("logits, all cached", [opened], [theirs.logits]),
            _difference("hidden states", hidden, [state[real] for state in theirs.hidden_states]),
            _difference("attention patterns", patterns, [pattern[rows] for pattern in theirs.attentions]),
        ),
    )


def _difference(what: str, ours: list[Tensor], theirs: list[Tensor]) -> Difference:
    worst, scale, compared = 0.0, 0.0, 0
    for mine, other in zip(ours, theirs, strict=True):
        difference = float((mine.double() - other.double()).abs().max())
        worst = difference if difference != difference else max(worst, difference)  # NaN stays
        scale = max(scale, float(other.double().abs().max()))
        compared += mine.numel()
    return Difference(what, compared, worst, worst / scale if scale else worst, scale)


def reference_model(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> Any:
    """Hugging Face's own model of the checkpoint, loaded by Hugging Face from the checkpoint's files where it has files.

    The configuration is read as BERT's without asking for a `model_type`. A model that is put together while loading (the
    demo), or was saved inside of a wrapper whose prefix Hugging Face does not read, is filled through `load_state_dict`, which
    wants every key exactly.
    """
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig.from_dict(checkpoint.config)
    config._attn_implementation = "eager"
    model: Any
    names = WeightNames()
    if checkpoint.folder is not None and not any(names.wrapped for key, _ in checkpoint.read_tensors() if names(key)):
        model = BertForSequenceClassification.from_pretrained(
            str(checkpoint.folder), config=config, dtype=dtype, attn_implementation="eager"
        )
    else:
        model = BertForSequenceClassification(config)
        names = WeightNames()
        state = {names(key) or key: tensor for key, tensor in checkpoint.read_tensors()}
        model.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith(IGNORED_KEYS)})
    return model.to(device=device, dtype=dtype).eval()


def check_parity(
    name: str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    tokenizer: Any = None,
) -> ParityCertificate:
    """Port the model of this name and compare it with Hugging Face on `PAIRS`.

    Raises:
        ValueError: the model cannot be ported.
    """
    model = HookedCrossEncoder.from_pretrained(name, device=device, dtype=dtype, revision=revision, tokenizer=tokenizer)
    queries, passages = zip(*PAIRS, strict=True)
    pairs = model.to_pairs(list(queries), list(passages))
    return certify(model, reference_model(open_model(name, revision), model.dtype, model.device), pairs)
