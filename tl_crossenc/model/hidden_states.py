"""Hidden states as Hugging Face gives them: what enters layer 0, what leaves each layer, the last as the head reads it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.model.activation_cache import EncoderCache
from tl_crossenc.model.cross_encoder import HookedCrossEncoder


def stream_names(model: HookedCrossEncoder) -> list[str]:
    """The hook points of what enters layer 0 and of what leaves each layer."""
    return ["hook_full_embed", *(model.block(layer).stream_name("after") for layer in range(model.cfg.n_layers))]


def hidden_states(model: HookedCrossEncoder, cache: EncoderCache) -> list[Float[Tensor, "pair pos d_model"]]:
    """Layers + 1 states of a run that cached `stream_names`, as `output_hidden_states=True` gives them.

    Where the head reads through a norm of its own, Hugging Face's last state is behind it.
    """
    states = [cache[name] for name in stream_names(model)]
    if model.ln_final is not None:
        with torch.no_grad():
            states[-1] = model.ln_final(states[-1])
    return states
