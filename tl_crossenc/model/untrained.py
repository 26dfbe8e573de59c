"""The untrained twin of a model: the same shape and tokenizer, weights as before any training. What it shows, nothing has learnt.

Weights are drawn as BERT's are (Devlin et al. 2019; `initializer_range` in Hugging Face): every matrix and embedding from a normal
distribution with mean 0 and standard deviation 0.02, biases 0, LayerNorm weights 1. So are those of the other post-LN
families. ModernBERT (Warner et al. 2024; Hugging Face's `initializer_cutoff_factor`) cuts the distribution at two standard
deviations, takes 0.02 / sqrt(2 layers) for what is written to the residual stream and for the head's dense layer, and
1 / sqrt(d_model) for the classifier.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import torch

from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.norms import LayerNorm

STANDARD_DEVIATION = 0.02
CUTOFF = 2.0
"""Of ModernBERT, in standard deviations."""


def untrained_twin(model: HookedCrossEncoder, seed: int = 0) -> HookedCrossEncoder:
    """A model of the same sizes, dtype, device and tokenizer, whose weights depend on the seed and the shapes alone.

    It takes as much memory as the model does. No hook and no ablation of the model is on it.

    Raises:
        ValueError: a seed below 0.
    """
    if seed < 0:
        raise ValueError(f"expected a seed from 0 on, got {seed}")
    cfg = replace(model.cfg, model_name=f"{model.cfg.model_name}, untrained", revision=f"untrained:{seed}")
    twin = HookedCrossEncoder(cfg, model.tokenizer)
    twin.encoder = model.encoder  # pairs are cut as the model's are
    with torch.no_grad():
        norms = {name for name, module in twin.named_modules() if isinstance(module, LayerNorm)}
        for name, weight in twin.named_parameters():
            module, _, kind = name.rpartition(".")
            if kind.endswith("bias"):
                weight.zero_()
            elif kind.startswith("ln") or module in norms:
                weight.fill_(1)
            else:
                generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
                drawn = torch.empty(weight.shape, dtype=torch.float32)
                if cfg.norm_order == "pre":
                    std = _modernbert(name, cfg)
                    torch.nn.init.trunc_normal_(drawn, 0, std, -CUTOFF * std, CUTOFF * std, generator=generator)
                else:
                    drawn.normal_(0, STANDARD_DEVIATION, generator=generator)
                weight.copy_(drawn)
    return twin.to(model.device).eval()


def _modernbert(name: str, cfg: CrossEncoderConfig) -> float:
    """The standard deviation of one of ModernBERT's weights."""
    if name.startswith("classifier."):
        return float(cfg.d_model**-0.5)
    writes = name in ("stack.out_weight", "stack.mlp_out_weight") or name.startswith("pooler.")
    return STANDARD_DEVIATION / (2 * cfg.n_layers) ** 0.5 if writes else STANDARD_DEVIATION
