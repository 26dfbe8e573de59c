"""The untrained twin of a model: the same shape and tokenizer, weights as before any training. What it shows, nothing has learnt.

Weights are drawn as BERT's are (Devlin et al. 2019; `initializer_range` in Hugging Face): every matrix and embedding from a normal
distribution with mean 0 and standard deviation 0.02, biases 0, LayerNorm weights 1.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import torch

from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.norms import LayerNorm

STANDARD_DEVIATION = 0.02


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
                drawn = torch.empty(weight.shape, dtype=torch.float32).normal_(
                    0, STANDARD_DEVIATION, generator=generator
                )
                weight.copy_(drawn)
    return twin.to(model.device).eval()
