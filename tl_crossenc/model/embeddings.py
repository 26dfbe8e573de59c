"""The embeddings: tokens to the residual stream before layer 0."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.held_run import EmbeddingShares, HeldRun
from tl_crossenc.model.hook_points import HookPoint, SharedHookPoint
from tl_crossenc.model.norms import LayerNorm


class BertEmbed(nn.Module):
    """Token, position and token-type embeddings, and the LayerNorm after their sum.

    `HELD` are the hook points whose activations `carry_back` needs, `EDITABLE` those whose hooks it counts as edits.
    """

    HELD = ("embed.hook_embed", "embed.hook_pos_embed", "embed.hook_token_type_embed")
    EDITABLE = ("embed.ln.hook_scale", "embed.ln.hook_normalized")

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model, dtype=cfg.dtype))
        self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model, dtype=cfg.dtype))
        self.W_token_type = nn.Parameter(torch.empty(cfg.d_vocab_types, cfg.d_model, dtype=cfg.dtype))
        self.ln_weight = nn.Parameter(torch.empty(cfg.d_model, dtype=cfg.dtype))
        self.ln_bias = nn.Parameter(torch.empty(cfg.d_model, dtype=cfg.dtype))
        self.hook_embed = HookPoint()
        self.hook_pos_embed = SharedHookPoint()  # a view of the weights
        self.hook_token_type_embed = HookPoint()
        self.ln = LayerNorm(cfg.eps)

    def forward(
        self, tokens: Int[Tensor, "pair pos"], token_type_ids: Int[Tensor, "pair pos"]
    ) -> Float[Tensor, "pair pos d_model"]:
        """The normalized sum of the three embeddings."""
        embed = self.hook_embed(F.embedding(tokens, self.W_E))
        pos_embed = self.hook_pos_embed(self.W_pos[: tokens.shape[1]].expand(*tokens.shape, -1))
        type_embed = self.hook_token_type_embed(F.embedding(token_type_ids, self.W_token_type))
        return self.ln(embed + pos_embed + type_embed, self.ln_weight, self.ln_bias)

    def carry_back(self, held: HeldRun, g: Float[Tensor, "row d_model"]) -> EmbeddingShares:
        """What embeddings, their LayerNorm's bias and hooks in between add to the score, their output being worth `g`."""
        written = sum((held[name] for name in self.HELD), torch.zeros((), dtype=torch.float64, device=g.device))
        bias = g @ self.ln_bias.detach().double()
        g, edit = self.ln.carry_back(held, "embed.ln", g, written, self.ln_weight)
        return EmbeddingShares((g * written).sum(-1), bias, edit)
