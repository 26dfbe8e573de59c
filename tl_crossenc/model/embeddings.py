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
    """Token, position and token-type embeddings, the LayerNorm after their sum, and the projection that may widen it.

    A family without a table of positions or of token types has no hook point for them, and None for the table. All are of width
    `cfg.d_embed` where there is a projection.
    """

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        width, dtype = cfg.d_embed or cfg.d_model, cfg.dtype
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, width, dtype=dtype))
        positions = cfg.positional_embedding_type == "standard"
        self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, width, dtype=dtype)) if positions else None
        types = cfg.d_vocab_types
        self.W_token_type = nn.Parameter(torch.empty(types, width, dtype=dtype)) if types else None
        self.ln_weight = nn.Parameter(torch.empty(width, dtype=dtype))
        self.ln_bias = nn.Parameter(torch.empty(width, dtype=dtype))
        self.hook_embed = HookPoint()
        if positions:
            self.hook_pos_embed = SharedHookPoint()  # a view of the weights
        if types:
            self.hook_token_type_embed = HookPoint()
        self.ln = LayerNorm(cfg.eps)
        self.project = EmbedProjection(cfg) if cfg.d_embed else None

    @property
    def HELD(self) -> tuple[str, ...]:
        """The hook points whose activations `carry_back` needs."""
        pos = () if self.W_pos is None else ("embed.hook_pos_embed",)
        types = () if self.W_token_type is None else ("embed.hook_token_type_embed",)
        return ("embed.hook_embed", *pos, *types)

    @property
    def EDITABLE(self) -> tuple[str, ...]:
        """The hook points whose hooks `carry_back` counts as edits."""
        inside = ("embed.ln.hook_scale", "embed.ln.hook_normalized")
        return inside if self.project is None else (*inside, "embed.project.hook_in")

    def forward(
        self, tokens: Int[Tensor, "pair pos"], token_type_ids: Int[Tensor, "pair pos"]
    ) -> Float[Tensor, "pair pos d_model"]:
        """The normalized sum of the embeddings that there are, projected where the model does so."""
        embed = self.hook_embed(F.embedding(tokens, self.W_E))
        if self.W_pos is not None:
            embed = embed + self.hook_pos_embed(self.W_pos[: tokens.shape[1]].expand(*tokens.shape, -1))
        if self.W_token_type is not None:
            embed = embed + self.hook_token_type_embed(F.embedding(token_type_ids, self.W_token_type))
        embed = self.ln(embed, self.ln_weight, self.ln_bias)
        return embed if self.project is None else self.project(embed)

    def carry_back(self, held: HeldRun, g: Float[Tensor, "row d_model"]) -> EmbeddingShares:
        """What embeddings, the biases after them and hooks in between add to the score, their output being worth `g`."""
        written = sum((held[name] for name in self.HELD), torch.zeros((), dtype=torch.float64, device=g.device))
        bias, edit = torch.zeros_like(g[:, 0]), torch.zeros_like(g[:, 0])
        if self.project is not None:
            bias = g @ self.project.bias.detach().double()
            g = g @ self.project.weight.detach().double()
            edit = held.edit(g, "embed.project.hook_in")
        bias = bias + g @ self.ln_bias.detach().double()
        g, inside = self.ln.carry_back(held, "embed.ln", g, written, self.ln_weight)
        return EmbeddingShares((g * written).sum(-1), bias, edit + inside)


class EmbedProjection(nn.Module):
    """The linear map from embeddings of another width into the residual stream.

    `hook_in`, as TransformerLens calls what enters a module, has what it reads, `[pair, pos, d_embed]`. What it gives is what
    `hook_full_embed` has.
    """

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cfg.d_model, cfg.d_embed or 0, dtype=cfg.dtype))
        self.bias = nn.Parameter(torch.empty(cfg.d_model, dtype=cfg.dtype))
        self.hook_in = HookPoint()

    @property
    def W(self) -> Float[Tensor, "d_embed d_model"]:
        """Weights as (in, out), a view."""
        return self.weight.detach().T

    def forward(self, embed: Float[Tensor, "pair pos d_embed"]) -> Float[Tensor, "pair pos d_model"]:
        """The residual stream before layer 0."""
        return F.linear(self.hook_in(embed), self.weight, self.bias)
