"""The head: pooler and classifier, from the residual stream after the last layer to logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.hook_points import HookPoint, SharedHookPoint, is_hooked


class BertPooler(nn.Module):
    """`tanh(W x_CLS + b)`, with hooks before and after the tanh."""

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cfg.d_model, cfg.d_model, dtype=cfg.dtype))
        self.bias = nn.Parameter(torch.empty(cfg.d_model, dtype=cfg.dtype))
        self.hook_pre = HookPoint()
        self.hook_pooler_out = SharedHookPoint()

    @property
    def W(self) -> Float[Tensor, "d_model d_model"]:
        """Weights as (in, out), a view."""
        return self.weight.detach().T

    def forward(self, resid: Float[Tensor, "pair pos d_model"]) -> Float[Tensor, "pair d_model"]:
        """The pooled CLS position."""
        pre = self.hook_pre(F.linear(resid[:, 0], self.weight, self.bias))
        return self.hook_pooler_out(pre.tanh())


class Classifier(nn.Module):
    """The linear head: pooled CLS to logits."""

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cfg.n_labels, cfg.d_model, dtype=cfg.dtype))
        self.bias = nn.Parameter(torch.empty(cfg.n_labels, dtype=cfg.dtype))
        self.hook_logits = HookPoint()

    @property
    def W(self) -> Float[Tensor, "d_model label"]:
        """Weights as (in, out), a view."""
        return self.weight.detach().T

    def forward(self, pooled: Float[Tensor, "pair d_model"]) -> Float[Tensor, "pair label"]:
        """The logits."""
        logits = self.hook_logits(F.linear(pooled, self.weight, self.bias))
        return (
            logits.clone() if is_hooked(self.hook_logits) else logits
        )  # the caller's, beside what a hook may have kept
