"""The sizes and conventions of a hooked encoder, in TransformerLens's own configuration class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformer_lens.config.transformer_lens_config import TransformerLensConfig

from tl_crossenc.model.score_rule import canonical_rule

ACTIVATIONS = ("gelu", "gelu_new", "relu")
"""`hidden_act` of a BERT checkpoint, as Hugging Face names them."""


@dataclass
class CrossEncoderConfig(TransformerLensConfig):
    """`TransformerLensConfig` with what a cross-encoder adds.

    Attributes:
        n_labels: logits of the head: 1 or 2, or more with a score of the kind `index:K`.
        score: what a score is of the logits (`score_rule`); None for the one logit, or `logit[1] - logit[0]`.
        d_vocab_types: rows of the token-type embedding.
        model_name: what the user called the model.
        revision: what identifies its weights: a hub commit, or `sha256:...` of the files.
    """

    n_labels: int = 1
    score: str | None = None
    d_vocab_types: int = 2
    model_name: str = "unnamed"
    revision: str = "unknown"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_labels < 1:
            raise ValueError(f"expected a head with 1 or 2 logits, got {self.n_labels}: this is no reranker's head")
        self.score = canonical_rule(self.score, self.n_labels)
        if self.act_fn not in ACTIVATIONS:
            raise ValueError(f"expected an activation among {', '.join(ACTIVATIONS)}, got {self.act_fn!r}")
        if self.d_head * self.n_heads != self.d_model:
            raise ValueError(
                f"expected n_heads x d_head = d_model, got {self.n_heads} x {self.d_head} against {self.d_model}"
            )

    @property
    def token_bytes(self) -> int:
        """Bytes that a padded token takes while conditions run, at most: the activations of a layer at work, a pattern where one is
        looked at, and the residual streams that a walk over conditions holds, two a level.

        `(2 n_layers d_model + 8 d_model + 2 d_mlp + 3 n_heads n_ctx) x bytes of the dtype`.
        """
        held = 2 * self.n_layers * self.d_model
        at_work = 8 * self.d_model + 2 * (self.d_mlp or 4 * self.d_model) + 3 * self.n_heads * self.n_ctx
        return (held + at_work) * torch.finfo(self.dtype).bits // 8
