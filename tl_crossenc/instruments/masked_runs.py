"""Runs of masked copies of some pairs from a layer on: what a bottleneck is fitted by (`bottleneck.py` has the formulas)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.instruments.fitting import Fitting
from tl_crossenc.instruments.noise_mask import PairNoise, information, masked
from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.resumed_run import finish_logits, select_pairs


class MaskedRuns:
    """One batch of pairs: its run to the end, and runs of masked copies of it from a layer on."""

    def __init__(self, model: HookedCrossEncoder, batch: PairBatch, fitting: Fitting, score_sd: float) -> None:
        self.model, self.batch, self.fitting, self.score_sd = model, batch, fitting, score_sd
        self.edits: tuple[LayerEdits | None, ...] = model.active_condition.compile(
            model.cfg.n_layers, model.cfg.n_heads
        )
        self.given = model.attention_input(batch.attention_mask, batch.parts)
        self.copied = select_pairs(self.given, torch.arange(len(batch)).repeat_interleave(fitting.copies))
        self.precise = torch.promote_types(model.dtype, torch.float32)

    def streams(self, layers: Sequence[int]) -> list[Tensor]:
        """The streams after the layers, of one run to the end, whose scores are kept."""
        model, last, held = self.model, self.model.cfg.n_layers - 1, {}
        with torch.no_grad():
            resid = model.run_embed(self.batch.tokens, self.batch.token_type_ids)
            for layer in range(last + 1):
                alone = layer == last and layer not in layers
                resid = model.run_layer(layer, resid, self.given, self.edits[layer], only_cls=alone)
                if layer in layers:
                    held[layer] = resid
            self.scores = model.score_of(model.read_out(resid, self.given.attention_mask)).to(self.precise)
        return [held[layer] for layer in layers]

    def fit(
        self, layer: int, stream: Tensor, mean: Tensor, sigma: Tensor, noise: PairNoise
    ) -> tuple[Float[Tensor, "pair pos"], Float[Tensor, "pair copy"]]:
        """(bits of the final mask, scores under it), float64; bits at padding mean nothing."""
        stream, fitting = stream.to(self.precise), self.fitting
        group = self.batch.parts.codes.long().clamp(max=len(mean) - 1)
        mean, sigma = (table.to(self.precise)[group] for table in (mean, sigma))
        r = (stream - mean) / sigma
        real = self.batch.attention_mask
        elements = real.sum(1) * stream.shape[2]
        alpha = torch.full_like(stream, fitting.alpha0, requires_grad=True)
        adam = torch.optim.Adam([alpha], lr=fitting.lr)
        for _ in range(fitting.steps):
            with torch.enable_grad():
                task = self._task(*self._run(layer, alpha, stream, mean, sigma, noise.draw()))
                cost = (information(alpha, r).sum(2) * real).sum(1) / elements
                (alpha.grad,) = torch.autograd.grad((task + fitting.beta * cost).sum(), [alpha])
            adam.step()
        with torch.no_grad():
            _, scores = self._run(layer, alpha, stream, mean, sigma, noise.draw())
            bits = information(alpha.double(), r.double()).sum(2) / math.log(2)
        return bits, scores.double()

    def _run(
        self, layer: int, alpha: Tensor, stream: Tensor, mean: Tensor, sigma: Tensor, noise: Tensor
    ) -> tuple[Float[Tensor, "pair copy label"], Float[Tensor, "pair copy"]]:
        """Logits and scores of copies of the masked stream after a layer."""
        model, last = self.model, self.model.cfg.n_layers - 1
        rows = 1 if layer == last and model.reads_only_first_row else None
        alpha, stream, mean, sigma = (tensor[:, :rows] for tensor in (alpha, stream, mean, sigma))
        copies = masked(alpha, stream, mean, sigma, noise[:, :, :rows].to(stream.device, self.precise))
        resid = copies.flatten(0, 1).to(model.dtype)
        logits = finish_logits(model, layer + 1, "pre", resid, self.copied, self.edits)
        scores = model.score_of(logits).to(self.precise)
        return logits.to(self.precise).unflatten(0, (-1, self.fitting.copies)), scores.unflatten(
            0, (-1, self.fitting.copies)
        )

    def _task(self, logits: Tensor, scores: Tensor) -> Float[Tensor, "pair"]:
        """The task's loss, mean over copies."""
        rule = str(self.model.cfg.score)
        if self.fitting.objective == "keep":
            loss = ((scores - self.scores[:, None]) / self.score_sd) ** 2
        elif rule.startswith("index:") and logits.shape[2] > 1:
            loss = -F.log_softmax(logits, 2)[..., int(rule.removeprefix("index:"))]
        else:  # of two labels the cross-entropy, too: the score is their difference
            loss = F.softplus(-scores)
        return loss.mean(1)
