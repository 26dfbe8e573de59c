"""The head of a pre-LN encoder: a norm of the stream, the first row or the mean of all real ones, the pooler, a linear layer.

The stream after the last layer is what a run returns and a hook sees, before the norm; the norm, `ln_final`, is the head's.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.head import BertPooler, Classifier, Head
from tl_crossenc.model.held_run import HeadWorth, HeldRun
from tl_crossenc.model.hook_points import has_hooks
from tl_crossenc.model.norms import WeightedNorm


class NormedHead(Head):
    """`Head` past a final norm.

    Args:
        cfg: says what is pooled, and what a score is of the logits.
        pooler, classifier, ln_final: the model's.
        stream: the full name of the hook point that holds what the norm reads.
    """

    EDITABLE = ("ln_final.hook_scale", "ln_final.hook_normalized", *Head.EDITABLE)

    def __init__(
        self,
        cfg: CrossEncoderConfig,
        pooler: BertPooler | None,
        classifier: Classifier,
        ln_final: WeightedNorm,
        stream: str,
    ):
        super().__init__(pooler, classifier, str(cfg.score), (ln_final.weight, ln_final.bias))
        self.ln_final, self.stream = ln_final, stream
        self.reads_only_first_row = cfg.pooling == "cls"
        self.HELD = (*self.HELD, stream)

    @property
    def biased(self) -> str:
        """What may have a bias, which `carry_back` counts as the head's own, in words."""
        return f"norm, {super().biased}"

    def logits(
        self, resid: Float[Tensor, "pair row d_model"], attention_mask: Bool[Tensor, "pair pos"] | None = None
    ) -> Float[Tensor, "pair label"]:
        """Logits from the residual stream after the last layer."""
        if self.reads_only_first_row:
            return super().logits(self.ln_final(resid if has_hooks(self.ln_final) else resid[:, :1]))
        if attention_mask is None or attention_mask.shape != resid.shape[:2]:
            raise ValueError(
                "expected the residual stream at all positions beside their attention mask, since the head reads the mean of all "
                f"real ones, got {tuple(resid.shape)} and {None if attention_mask is None else tuple(attention_mask.shape)}"
            )
        real = attention_mask.to(resid.device, resid.dtype)
        mean = (self.ln_final(resid) * real[..., None]).sum(1, keepdim=True) / real.sum(1)[:, None, None]
        return super().logits(mean)

    def carry_back(self, held: HeldRun, way: str, attention_mask: Bool[Tensor, "pair pos"] | None = None) -> HeadWorth:
        """As `Head.carry_back`, and back through the pooling, whose rows have equal shares, and the norm with its scale held."""
        pooled = super().carry_back(held, way)
        rows = pooled.resid
        if not self.reads_only_first_row:
            if attention_mask is None:
                raise ValueError("expected the attention mask, since the head reads all real positions")
            real = attention_mask.to(rows.device, torch.float64)
            rows = rows * (real / real.sum(1, keepdim=True))[..., None]
        constant = pooled.constant + rows.sum(1) @ self.ln_final.bias.detach().double()
        g, inside = self.ln_final.carry_back(
            held, "ln_final", rows.flatten(0, 1), held[self.stream], self.ln_final.weight
        )
        shape = rows.shape[:2]
        return HeadWorth(g.unflatten(0, shape), constant + inside.unflatten(0, shape).sum(1))
