"""What a probe reads: the stream's mean, or its elementwise maximum, over some tokens of a pair, at every layer.

Layer 0 is the stream before the first layer, what the embeddings give; layer l is the stream after l layers, up to the last one.
(In a pre-LN model that is the sum of all writes, before the final norm.) For a pair with stream x and a set S of its positions,

    mean    1/|S| sum_{i in S} x_i            max    elementwise, max_{i in S} x_i

Sets are those of `token_sets`. Padding is in none and takes no part. A set without positions (a passage without a match, an empty
one) has no state: its row is NaN and its count 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.instruments.attention_flow import require_unablated
from tl_crossenc.instruments.token_sets import SETS, TokenSets
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded

Pooling = Literal["mean", "max"]
POOLINGS: tuple[str, ...] = get_args(Pooling)


@dataclass(frozen=True)
class LayerFeatures(Framed):
    """Pooled states of every pair, layer and set.

    Attributes:
        sets: names of the sets.
        pooling: "mean" or "max".
        values: layer 0 is the embeddings; NaN where a set has no tokens. float32, of a float64 model float64.
        counts: tokens of each set.
        lens: the score that the head makes of the stream at each layer, `direct_attribution.score_lens` from layer 1 on.
    """

    sets: tuple[str, ...]
    pooling: str
    values: Float[np.ndarray, "pair layer set d_model"]
    counts: Int[np.ndarray, "pair set"]
    lens: Float[np.ndarray, "pair layer"]

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Sets by their names."""
        return {"set": self.sets}


@recorded
def layer_features(
    model: HookedCrossEncoder,
    pairs: EncodedPairs | PairBatch,
    *,
    sets: Sequence[str] = SETS,
    pooling: str = "mean",
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Callable[[int], object] | None = None,
) -> LayerFeatures:
    """Pooled states of every pair at every layer, from one run.

    Args:
        model: the model, with nothing ablated.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        sets: of `token_sets.ALL_SETS`.
        pooling: "mean" or "max".
        token_budget: padded tokens a batch.
        progress: called after each batch with the number of pairs done.

    Raises:
        ValueError: no pairs, an unknown set or pooling, a set that the model cannot tell (`TokenSets`), an active ablation, or
            states that are no finite numbers.
    """
    chosen = TokenSets(model, sets)
    if pooling not in POOLINGS:
        raise ValueError(f"expected a pooling among {', '.join(POOLINGS)}, got {pooling!r}")
    encoded = some_pairs(model, pairs)
    n_layers = model.cfg.n_layers + 1
    kind = np.float64 if model.dtype == torch.float64 else np.float32
    values = np.zeros((len(encoded), n_layers, len(chosen.names), model.cfg.d_model), kind)
    counts, lens = np.zeros((len(encoded), len(chosen.names)), np.int64), np.zeros((len(encoded), n_layers))
    with torch.no_grad():
        for indices in length_batches(encoded.lengths, token_budget, in_order=model.hooked):
            batch = encoded.batch(indices).to(model.device)
            members = chosen.members(batch)
            counts[indices] = members.sum(-1).cpu().numpy()
            for layer, stream in enumerate(streams(model, batch)):
                values[indices, layer] = _pooled(stream, members, pooling).cpu().numpy()
                scores = model.score_of(model.read_out(stream, batch.attention_mask))
                lens[indices, layer] = scores.double().cpu().numpy()
            if progress is not None:
                progress(len(indices))
    require_finite(values)
    values[np.broadcast_to((counts == 0)[:, None], values.shape[:3])] = np.nan
    return LayerFeatures(chosen.names, pooling, values, counts, lens)


def streams(model: HookedCrossEncoder, batch: PairBatch) -> Iterator[Float[Tensor, "pair pos d_model"]]:
    """The stream of a batch before the first layer, then after each."""
    given = model.attention_input(batch.attention_mask, batch.parts)
    resid = model.run_embed(batch.tokens, batch.token_type_ids)
    yield resid
    for layer in range(model.cfg.n_layers):
        resid = model.run_layer(layer, resid, given)
        yield resid


def some_pairs(model: HookedCrossEncoder, pairs: EncodedPairs | PairBatch) -> EncodedPairs:
    """The pairs, of which there are some, for a model with nothing ablated; else a ValueError."""
    encoded = as_encoded(pairs)
    require_unablated(model)
    if not len(encoded):
        raise ValueError("expected at least one pair to read states of, got none")
    return encoded


def require_finite(values: np.ndarray) -> None:
    """Raise ValueError where a state is NaN or infinite."""
    if not np.isfinite(values).all():
        raise ValueError(
            "expected finite states, but some are NaN or infinite: check the checkpoint's weights, or use dtype float32"
        )


def _pooled(
    stream: Float[Tensor, "pair pos d_model"], members: Bool[Tensor, "pair set pos"], pooling: str
) -> Float[Tensor, "pair set d_model"]:
    """The pooled states; 0 where a set is empty. Each set by itself: its bits do not depend on which others are asked for."""
    precise = torch.promote_types(stream.dtype, torch.float32)
    found = []
    for own in members.unbind(1):
        if pooling == "max":
            found.append(stream.masked_fill(~own[..., None], -torch.inf).amax(1).to(precise))
        else:  # what stands elsewhere takes no part, be it infinite
            shares = own.to(precise) / own.sum(-1, keepdim=True).clamp(min=1)
            found.append(torch.einsum("pr,prd->pd", shares, stream.to(precise).masked_fill(~own[..., None], 0)))
    return torch.stack(found, 1).masked_fill(~members.any(-1, keepdim=True), 0)
