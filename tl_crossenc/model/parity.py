"""Parity: does the ported model compute what Hugging Face computes from the same checkpoint?

Hugging Face's own tokenizer, loaded by it from the same files, makes what its model is fed; the port reads the texts by itself.
Compared are the token ids and types of texts that tokenizers differ on; and on padded pairs of unequal length the logits, every
hidden state and every attention pattern at real positions, and the logits of both attention paths (fused, and in the open while
everything is cached).
"""

from __future__ import annotations

import logging
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from tl_crossenc.checkpoints.embedded import open_model
from tl_crossenc.inputs.encoder import TYPES
from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.hidden_states import hidden_states, stream_names
from tl_crossenc.model.parity_tokens import TEXTS, reference_tokenizer, tokenized
from tl_crossenc.model.reference import reference_model
from tl_crossenc.model.score_rule import describe_rule

logger = logging.getLogger(__name__)

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2}
"""The largest difference that counts as the same, relative to the largest value compared where that is above 1: rounding grows
with a residual stream that grows from layer to layer, as in pre-LN. `tolerance` says which holds."""

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
        what: "token ids and types" (where `max_abs` is the number of positions that differ), "logits", "hidden states" or
            "attention patterns".
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
    """What was compared, on what, and how far apart it was.

    `types_fed` and `score` say what the model is fed and what its score is: whether token types, and what of the logits.
    """

    model: str
    revision: str
    dtype: str
    device: str
    shape: str
    versions: dict[str, str]
    tolerance: float
    differences: tuple[Difference, ...]
    types_fed: bool | None = None
    score: str = ""

    @property
    def passed(self) -> bool:
        """Whether every difference is within `tolerance * max(1, scale)`. NaN and infinity are not."""
        return all(
            math.isfinite(d.max_abs) and d.max_abs <= self.tolerance * max(1.0, d.scale) for d in self.differences
        )

    def to_frame(self) -> pd.DataFrame:
        """A row a difference; `attrs` have all else that the certificate says, and whether it `passed`."""
        frame = pd.DataFrame([asdict(difference) for difference in self.differences])
        about = {own.name: getattr(self, own.name) for own in fields(self) if own.name != "differences"}
        frame.attrs = about | {"versions": dict(self.versions), "passed": self.passed}
        return frame


def certify(
    model: HookedCrossEncoder, reference: Any, pairs: PairBatch, theirs_fed: Mapping[str, Tensor] | None = None
) -> ParityCertificate:
    """Compare `model` with Hugging Face's sequence classifier of the same weights on `pairs`.

    Args:
        model: the ported model.
        reference: the Hugging Face model, loaded with `attn_implementation="eager"`, in eval mode; of float32 where float64 is not
            what it computes in (`rounded`).
        pairs: padded pairs.
        theirs_fed: what the reference is fed instead of the tensors of `pairs`, of the same shape.
    """
    ours_fed = {"input_ids": pairs.tokens, "attention_mask": pairs.attention_mask.long()}
    if model.cfg.d_vocab_types > 1:
        ours_fed[TYPES] = pairs.token_type_ids
    with torch.no_grad():
        theirs = reference(
            **(ours_fed if theirs_fed is None else theirs_fed),
            output_hidden_states=True,
            output_attentions=True,
        )
        fused = model(pairs, return_type="logits")
        opened_at = [model.block(layer).name_of("attn.hook_pattern") for layer in range(model.cfg.n_layers)]
        names = [*stream_names(model), *opened_at]
        opened, cache = model.run_with_cache(pairs, return_type="logits", names_filter=names)
    real = pairs.attention_mask
    hidden = [state[real] for state in hidden_states(model, cache)]
    rows = real[:, None, :, None].expand(-1, model.cfg.n_heads, -1, real.shape[1])
    patterns = [cache[name][rows] for name in opened_at]
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
        tolerance=tolerance(model.cfg),
        differences=(
            _difference("logits", [fused], [theirs.logits]),
            _difference("logits, all cached", [opened], [theirs.logits]),
            _difference("hidden states", hidden, [state[real] for state in theirs.hidden_states]),
            _difference("attention patterns", patterns, [pattern[rows] for pattern in theirs.attentions]),
        ),
        types_fed=model.types_fed,
        score=describe_rule(str(model.cfg.score)),
    )


def rounded(cfg: CrossEncoderConfig) -> bool:
    """Whether Hugging Face rounds to float32 whatever the dtype: angles of rotary positions, what scores of relative ones are
    divided by, softmaxes. Its float64 is no better then (and NaN where a window has padding alone): it is run in float32."""
    return cfg.positional_embedding_type == "rotary" or cfg.relative is not None


def tolerance(cfg: CrossEncoderConfig) -> float:
    """The largest difference that counts as the same: `TOLERANCE` of the dtype, or where Hugging Face rounds to float32 three times
    float32's, since angles that differ by a rounding differ by more the further the position."""
    if rounded(cfg) and cfg.dtype != torch.bfloat16:
        return 3 * TOLERANCE[torch.float32]
    return TOLERANCE[cfg.dtype]


def _difference(what: str, ours: list[Tensor], theirs: list[Tensor]) -> Difference:
    worst, scale, compared = 0.0, 0.0, 0
    for mine, other in zip(ours, theirs, strict=True):
        difference = float((mine.double() - other.double()).abs().max())
        worst = difference if difference != difference else max(worst, difference)  # NaN stays
        scale = max(scale, float(other.double().abs().max()))
        compared += mine.numel()
    return Difference(what, compared, worst, worst / scale if scale else worst, scale)


def check_parity(
    name: str | os.PathLike[str] | nn.Module,
    *,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    score: str | int | None = None,
) -> ParityCertificate:
    """Port the model of this name, or a model in memory, and compare it with Hugging Face.

    Its tokenizer's ids are compared on `TEXTS`, all else on `PAIRS`.

    Raises:
        ValueError: the model cannot be ported.
    """
    model = HookedCrossEncoder.from_pretrained(
        name, device=device, dtype=dtype, revision=revision, tokenizer=tokenizer, max_length=max_length, score=score
    )
    checkpoint = open_model(name, revision)
    reference = reference_tokenizer(checkpoint, tokenizer)
    if reference is None:
        logger.warning(
            "%s has no tokenizer of its own for Hugging Face to load: the ids compared are the port's", checkpoint.name
        )
        reference = model.tokenizer
    refused = {reference.pad_token} if model.cfg.position_offset else set()  # inside of a text
    added = [token for token in reference.get_added_vocab() if token not in refused]
    texts = [*TEXTS, " ".join(f"flea {token} egg{token}" for token in added)]
    queries, passages = zip(*PAIRS, strict=True)
    starts = [text[:12] for text in texts]  # short enough for a query of any model
    probed = tokenized(model, reference, starts, texts)
    fed = tokenized(model, reference, queries, passages)
    pairs = model.to_pairs(queries, passages)
    same = fed.tensors["input_ids"].shape == pairs.tokens.shape
    kind = torch.float32 if rounded(model.cfg) and model.dtype == torch.float64 else model.dtype
    found = certify(model, reference_model(checkpoint, kind, model.device), pairs, fed.tensors if same else None)
    wrong = float(probed.wrong + fed.wrong)
    tokens = Difference("token ids and types", probed.compared + fed.compared, wrong, wrong, 0.0)
    return replace(found, differences=(tokens, *found.differences))
