"""The head: from the residual stream after the last layer to logits, and from a score back to the rows that it is read from.

`BertPooler` and `Classifier` are the model's modules, with the weights and the hook points; `Head` is what the rest of the package
asks: which rows are read, logits, how large a score's terms are, what the stream is worth at a point. A head of another kind (mean
of all rows, another activation, a norm before the classifier) is another class with the same attributes and methods.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tl_crossenc.model.activations import TANH
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.held_run import HeadWorth, HeldRun
from tl_crossenc.model.hook_points import HookPoint, SharedHookPoint, is_hooked
from tl_crossenc.model.score_rule import score_from_logits

POOLED = ("pooler.", "classifier.")
"""How the names of hook points begin that hold one vector a pair, without positions."""


class BertPooler(nn.Module):
    """`tanh(W x_CLS + b)`, with hooks before and after the tanh."""

    activation = TANH

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
        return self.hook_pooler_out(self.activation.function(pre))


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


class Head:
    """Pooling, dense layer, activation and linear layer as one thing, which refers to the model's modules and has no weights.

    Attributes:
        reads_only_first_row: whether nothing but CLS is read of the stream after the last layer; else all real positions are.
        HELD: the hook points whose activations `carry_back` needs.
        EDITABLE: the hook points whose hooks `carry_back` counts as edits.

    Args:
        pooler, classifier: the model's.
        rule: what a score is of the logits, canonical (`score_rule`).
    """

    HELD = ("pooler.hook_pre",)
    EDITABLE = ("pooler.hook_pre", "pooler.hook_pooler_out", "classifier.hook_logits")
    reads_only_first_row = True

    def __init__(self, pooler: BertPooler, classifier: Classifier, rule: str):
        self.pooler, self.classifier, self.rule = pooler, classifier, rule

    def logits(
        self, resid: Float[Tensor, "pair row d_model"], attention_mask: Bool[Tensor, "pair pos"] | None = None
    ) -> Float[Tensor, "pair label"]:
        """Logits from the residual stream after the last layer.

        Args:
            resid: all positions; the first alone where no other is read.
            attention_mask: True at real tokens; needed where more than the first row is read.
        """
        return self.classifier(self.pooler(resid))

    @property
    def score_scale(self) -> float:
        """The size of the terms that a score is a sum of: the norm of each label's weights and the size of its bias, summed.

        The pooler's outputs are at most 1 in size, so that rounding errors of size e in them move a score by about e times this.
        """
        weight, bias = self.classifier.weight.detach().double(), self.classifier.bias.detach().double()
        return float(weight.norm(dim=1).sum() + bias.abs().sum())

    def slope(self, pre: Float[Tensor, "pair d_model"], way: str) -> Float[Tensor, "pair d_model"]:
        """s of activation(pre) = s pre + r, by way of the "secant" (r = 0) or the "tangent" (`Activation.slope`)."""
        return self.pooler.activation.slope(pre, way)

    def carry_back(self, held: HeldRun, way: str, attention_mask: Bool[Tensor, "pair pos"] | None = None) -> HeadWorth:
        """What the stream is worth at the rows that are read, and what the head adds by itself: score = g . x + constant + r.

        With w the classifier's weights of the score, c its bias, P and p the pooler's and s the activation's slope at the point,
        g = (w s) P and constant = (w s) . p + c, and what hooks on the head's points left minus what they got. r is 0 by the
        secant; by the tangent g is the score's gradient at the point.

        Args:
            held: the run.
            way: "secant" or "tangent".
            attention_mask: True at real tokens; needed where more than the first row is read.
        """
        pooler, classifier = self.pooler, self.classifier
        w = self._score(classifier.weight.detach().double().T)
        bent = w * self.slope(held["pooler.hook_pre"], way)
        constant = bent @ pooler.bias.detach().double()
        constant = constant + self._score(classifier.bias.detach().double()[None])
        constant = constant + held.edit(bent, "pooler.hook_pre") + held.edit(w, "pooler.hook_pooler_out")
        before = held.before("classifier.hook_logits")
        if before is not None:
            constant = constant + self._score(held["classifier.hook_logits"]) - self._score(before)
        return HeadWorth((bent @ pooler.weight.detach().double())[:, None], constant)

    def _score(self, logits: Float[Tensor, "row label"]) -> Float[Tensor, "row"]:
        return score_from_logits(logits, self.rule)
