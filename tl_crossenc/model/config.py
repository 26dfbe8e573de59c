"""The sizes and conventions of a hooked encoder, in TransformerLens's own configuration class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformer_lens.config.transformer_lens_config import TransformerLensConfig

from tl_crossenc.model.rotary import Rotary
from tl_crossenc.model.score_rule import canonical_rule

ACTIVATIONS = ("gelu", "gelu_new", "relu")
"""Of the MLPs, as Hugging Face names them (`hidden_act`)."""


@dataclass
class CrossEncoderConfig(TransformerLensConfig):
    """`TransformerLensConfig` with what a cross-encoder adds.

    Attributes:
        n_labels: logits of the head: 1 or 2, or more with a score of the kind `index:K`.
        score: what a score is of the logits (`score_rule`); None for the one logit, or `logit[1] - logit[0]`.
        d_vocab_types: rows of the token-type embedding; 0 where there is none.
        family: what kind of checkpoint it was (`checkpoints.families`), by its `model_type`.
        norm_order: "post" (norms after what is added, as in BERT) or "pre" (before what reads).
        first_norm: of "pre", whether attention in layer 0 reads through a norm.
        final_norm: whether the head reads through a norm of its own, as with "pre".
        position_offset: first rows of the checkpoint's table of positions that no position reads.
        rotary_bases: of rotary positions (`positional_embedding_type` "rotary"), the base in each layer.
        rotary_factor: what their frequencies are divided by.
        windows: in each layer, how far a position sees to either side, or None for all; None where all layers see all.
        relative: of relative positions, (buckets, largest distance, content-to-position, position-to-content); a model may have a
            table of positions as well, unless `positional_embedding_type` is "relative".
        relative_norm: whether the table of relative positions is read through a norm.
        unbiased: kinds of weights, by their place in the model, whose checkpoint has no bias, which is 0 then.
        d_embed: width of the embeddings where a projection widens them, else None.
        pooling: what the head reads: "cls" or "mean" of all real positions.
        head_dense, head_act, head_norm: whether there is a dense layer before the classifier, its activation, a norm after it.
        head_eps: that norm's epsilon where it is not `eps`.
        model_name: what the user called the model.
        revision: what identifies its weights: a hub commit, or `sha256:...` of the files.
    """

    n_labels: int = 1
    score: str | None = None
    d_vocab_types: int = 2
    family: str = "bert"
    norm_order: str = "post"
    first_norm: bool = True
    final_norm: bool = False
    position_offset: int = 0
    rotary_bases: tuple[float, ...] | None = None
    rotary_factor: float = 1.0
    windows: tuple[int | None, ...] | None = None
    relative: tuple[int, int, bool, bool] | None = None
    relative_norm: bool = False
    unbiased: tuple[str, ...] = ()
    d_embed: int | None = None
    pooling: str = "cls"
    head_dense: bool = True
    head_act: str = "tanh"
    head_norm: bool = False
    head_eps: float | None = None
    model_name: str = "unnamed"
    revision: str = "unknown"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_labels < 1:
            raise ValueError(f"expected a head with 1 or 2 logits, got {self.n_labels}: this is no reranker's head")
        self.score = canonical_rule(self.score, self.n_labels)
        if self.act_fn not in ACTIVATIONS:
            raise ValueError(f"expected an activation among {', '.join(ACTIVATIONS)}, got {self.act_fn!r}")
        for name, by_layer in (("rotary_bases", self.rotary_bases), ("windows", self.windows)):
            if by_layer is not None and len(by_layer) != self.n_layers:
                raise ValueError(f"expected {name} of each of {self.n_layers} layers, got {len(by_layer)}")
        for base in set(self.rotary_bases or ()):
            Rotary(base, self.d_head, self.rotary_factor)
        if self.d_head * self.n_heads != self.d_model:
            raise ValueError(
                f"expected n_heads x d_head = d_model, got {self.n_heads} x {self.d_head} against {self.d_model}"
            )

    @property
    def token_bytes(self) -> int:
        """Bytes that a padded token takes while conditions run, at most: the activations of a layer at work, a pattern where one is
        looked at, what relative positions add to scores, and the residual streams that a walk over conditions holds, two a level.

        `(2 n_layers d_model + 8 d_model + 2 d_mlp + 3 n_heads n_ctx) x bytes of the dtype`; 3 d_mlp where the MLP is gated, and 5
        n_heads n_ctx where positions are relative.
        """
        held = 2 * self.n_layers * self.d_model
        at_work = (
            8 * self.d_model
            + (3 if self.gated_mlp else 2) * (self.d_mlp or 4 * self.d_model)
            + (3 if self.relative is None else 5) * self.n_heads * self.n_ctx
        )
        return (held + at_work) * torch.finfo(self.dtype).bits // 8
