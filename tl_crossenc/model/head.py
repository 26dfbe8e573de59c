"""The head: from the residual stream after the last layer to logits, and from a score back to the rows that it is read from.

`BertPooler` and `Classifier` are the model's modules, with the weights and the hook points; `Head` is what the rest of the package
asks: which rows are read, logits, how large a score's terms are, what the stream is worth at a point. The activation of the dense
layer is the family's (`cfg.head_act`), and so is a norm after it; a head without a dense layer has no pooler. A head of another
kind (a final norm, the mean of all rows: `normed_head`) is another class with the same attributes and methods.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tl_crossenc.model.activations import BY_NAME, TANH, Activation
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.held_run import HeadWorth, HeldRun
from tl_crossenc.model.hook_points import HookPoint, SharedHookPoint, is_hooked
from tl_crossenc.model.norms import WeightedNorm
from tl_crossenc.model.score_rule import score_from_logits

POOLED = ("pooler.", "classifier.")
"""How the names of hook points begin that hold one vector a pair, without positions."""


class BertPooler(nn.Module):
    """The dense layer and its activation: `tanh(W x_CLS + b)` in BERT. Hooks before and after the activation."""

    activation: Activation = TANH

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        if cfg.head_act != "tanh":  # else no attribute of its own, as in the keys of stored results of BERT
            self.activation = BY_NAME[cfg.head_act]
        self.weight = nn.Parameter(torch.empty(cfg.d_model, cfg.d_model, dtype=cfg.dtype))
        self.bias = nn.Parameter(torch.empty(cfg.d_model, dtype=cfg.dtype))
        self.hook_pre = HookPoint()
        eps = cfg.eps if cfg.head_eps is None else cfg.head_eps
        self.ln = WeightedNorm(eps, cfg.d_model, cfg.dtype) if cfg.head_norm else None
        self.hook_pooler_out = SharedHookPoint()

    @property
    def W(self) -> Float[Tensor, "d_model d_model"]:
        """Weights as (in, out), a view."""
        return self.weight.detach().T

    def forward(self, resid: Float[Tensor, "pair pos d_model"]) -> Float[Tensor, "pair d_model"]:
        """The pooled CLS position."""
        bent = self.activation.function(self.hook_pre(F.linear(resid[:, 0], self.weight, self.bias)))
        return self.hook_pooler_out(bent if self.ln is None else self.ln(bent))


class Classifier(nn.Module):
    """The linear head: pooled CLS, or CLS itself where there is no pooler, to logits."""

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
        EDITABLE: the hook points, as far as the model has them, whose hooks `carry_back` counts as edits.

    Args:
        pooler: the model's; None where the classifier reads the stream itself.
        classifier: the model's.
        rule: what a score is of the logits, canonical (`score_rule`).
        norm: weight and bias of the norm whose output is read, by which `score_scale` is told where nothing bounds what is pooled.
    """

    HELD: tuple[str, ...] = ("pooler.hook_pre",)
    EDITABLE: tuple[str, ...] = (
        *("pooler.hook_pre", "pooler.ln.hook_scale", "pooler.ln.hook_normalized", "pooler.hook_pooler_out"),
        "classifier.hook_logits",
    )
    reads_only_first_row = True

    def __init__(
        self, pooler: BertPooler | None, classifier: Classifier, rule: str, norm: tuple[Tensor, Tensor] | None = None
    ):
        self.pooler, self.classifier, self.rule, self.norm = pooler, classifier, rule, norm
        if pooler is None:
            self.HELD = ("classifier.hook_logits",)

    @property
    def biased(self) -> str:
        """What may have a bias, which `carry_back` counts as the head's own, in words."""
        return "classifier" if self.pooler is None else "pooler and classifier"

    def logits(
        self, resid: Float[Tensor, "pair row d_model"], attention_mask: Bool[Tensor, "pair pos"] | None = None
    ) -> Float[Tensor, "pair label"]:
        """Logits from the residual stream after the last layer.

        Args:
            resid: all positions; the first alone where no other is read.
            attention_mask: True at real tokens; needed where more than the first row is read.
        """
        return self.classifier(resid[:, 0] if self.pooler is None else self.pooler(resid))

    @property
    def score_scale(self) -> float:
        """The size of the terms that a score is a sum of: over labels, the norm of `w * pooled_sizes` and the size of the bias.

        Rounding errors of size e, relative to the size of what is pooled, move a score by about e times this: they are as good as
        independent, so that squares add up. It is a number of the weights alone, so that ties do not depend on the passages.
        """
        weight, bias = self.classifier.weight.detach().double(), self.classifier.bias.detach().double()
        return float((weight * self.pooled_sizes()).norm(dim=1).sum() + bias.abs().sum())

    def pooled_sizes(self) -> Float[Tensor, "d_model"]:
        """The size of each number that the classifier reads, float64.

        A tanh's is 1, its bound. GELU and ReLU have none, and the largest that could come of a row past a norm, all of it along
        one row of P, is some sqrt(d_model) times what does. So it is the root mean square over what a norm gives,
        x = weight * n + bias where n has mean 0 and mean square 1: sqrt(weight^2 + bias^2) without a dense layer, and with one
        that of P x + p, of which GELU and ReLU leave no more. A factor that moves from P to the classifier, which changes no score
        of a ReLU head, so changes no tie either.
        """
        if self.pooler is not None and self.pooler.ln is not None:
            return torch.hypot(self.pooler.ln.weight.detach().double(), self.pooler.ln.bias.detach().double())
        if self.pooler is not None and self.pooler.activation.bounded:
            return torch.ones_like(self.classifier.weight[0], dtype=torch.float64)
        if self.norm is None:
            raise ValueError("expected a head of which something bounds what is pooled, or the norm that it reads")
        weight, bias = (tensor.detach().double() for tensor in self.norm)
        if self.pooler is None:
            return torch.hypot(weight, bias)
        P, p = self.pooler.weight.detach().double(), self.pooler.bias.detach().double()
        return torch.hypot((P * weight).norm(dim=1), P @ bias + p)

    def carry_back(self, held: HeldRun, way: str, attention_mask: Bool[Tensor, "pair pos"] | None = None) -> HeadWorth:
        """What the stream is worth at the rows that are read, and what the head adds by itself: score = g . x + constant + r.

        With w the classifier's weights of the score, c its bias, P and p the pooler's and s the activation's slope at the point,
        g = (w s) P and constant = (w s) . p + c, and what hooks on the head's points left minus what they got. r is 0 by the
        secant; by the tangent g is the score's gradient at the point. Without a pooler g = w and constant = c, whatever the way.

        Args:
            held: the run.
            way: "secant" or "tangent", see `Activation.slope`.
            attention_mask: True at real tokens; needed where more than the first row is read.
        """
        pooler, classifier = self.pooler, self.classifier
        w = self._score(classifier.weight.detach().double().T)
        constant = self._score(classifier.bias.detach().double()[None])
        if pooler is None:
            resid = w.expand(len(held["classifier.hook_logits"]), -1)
            constant = constant.expand(len(resid))
        else:
            pre, read = held["pooler.hook_pre"], w
            constant = constant + held.edit(w, "pooler.hook_pooler_out")
            if pooler.ln is not None:
                out = pooler.activation.function(pre)
                read, inside = pooler.ln.carry_back(held, "pooler.ln", w.expand_as(out), out, pooler.ln.weight)
                constant = constant + w @ pooler.ln.bias.detach().double() + inside
            bent = read * pooler.activation.slope(pre, way)
            resid = bent @ pooler.weight.detach().double()
            constant = bent @ pooler.bias.detach().double() + constant
            constant = constant + held.edit(bent, "pooler.hook_pre")
        before = held.before("classifier.hook_logits")
        if before is not None:
            constant = constant + self._score(held["classifier.hook_logits"]) - self._score(before)
        return HeadWorth(resid[:, None], constant)

    def _score(self, logits: Float[Tensor, "row label"]) -> Float[Tensor, "row"]:
        return score_from_logits(logits, self.rule)
