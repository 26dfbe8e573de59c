"""States of single tokens of a set at some layers, for a probe that pools by itself (`token_probe`).

Of a set with more than `most` tokens some are drawn. Which, depends on the seed and on the pair's own tokens and nothing else: not
on the pairs beside it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch
from tl_crossenc.instruments.layer_features import require_finite, some_pairs, streams
from tl_crossenc.instruments.token_sets import TokenSets
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded

MOST_TOKENS = 20
"""Tokens of a pair that a probe reads at most, as in Zhan et al. 2020."""


@dataclass(frozen=True)
class TokenStates(Framed):
    """States of single tokens, those of all pairs end to end.

    Attributes:
        values: layers as asked for.
        offsets: pair i has the tokens `offsets[i]:offsets[i + 1]`: none where its set is empty.
        positions: the place of each token in its pair.
    """

    values: Float[np.ndarray, "token layer d_model"]
    offsets: Int[np.ndarray, "pairs_and_one"]
    positions: Int[np.ndarray, "token"]

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Tokens by their pair and their place there."""
        pair = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return {"token": {"pair": pair, "pos": self.positions}}


@recorded
def layer_tokens(
    model: HookedCrossEncoder,
    pairs: EncodedPairs | PairBatch,
    name: str,
    *,
    layers: Sequence[int] | None = None,
    most: int = MOST_TOKENS,
    seed: int = 0,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Callable[[int], object] | None = None,
) -> TokenStates:
    """States of at most `most` tokens of one set of every pair.

    Args:
        model: the model, with nothing ablated.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        name: of `token_sets.ALL_SETS`.
        layers: from 0, the embeddings, to the number of layers; all by default.
        most: tokens of a pair.
        seed: of the choice where there are more.
        token_budget: padded tokens a batch.
        progress: called after each batch with the number of pairs done.

    Raises:
        ValueError: no pairs, an unknown set or one that the model cannot tell (`TokenSets`), no token to take, a layer that is not
            there, an active ablation, or states that are no finite numbers.
    """
    chosen = TokenSets(model, (name,))
    encoded = some_pairs(model, pairs)
    wanted = list(range(model.cfg.n_layers + 1)) if layers is None else list(layers)
    if not wanted or not set(wanted) <= set(range(model.cfg.n_layers + 1)):
        raise ValueError(f"expected layers in 0..{model.cfg.n_layers}, 0 being the embeddings, got {wanted}")
    if most < 1:
        raise ValueError(f"expected at least one token a pair, got most={most}")
    kind = np.float64 if model.dtype == torch.float64 else np.float32
    found: list[np.ndarray] = [np.zeros((0, len(wanted), model.cfg.d_model), kind)] * len(encoded)
    places: list[np.ndarray] = [np.zeros(0, np.int64)] * len(encoded)
    with torch.no_grad():
        for indices in length_batches(encoded.lengths, token_budget, in_order=model.hooked):
            batch = encoded.batch(indices)
            members, tokens = chosen.members(batch)[:, 0].numpy(), batch.tokens.numpy()
            for row, pair in enumerate(indices):
                own = tokens[row, : encoded.lengths[pair]]
                places[pair] = _drawn(np.flatnonzero(members[row]), own, most, seed)
            rows = np.repeat(np.arange(len(indices)), [len(places[pair]) for pair in indices])
            at = torch.from_numpy(rows), torch.from_numpy(np.concatenate([places[pair] for pair in indices]))
            states = [stream[at] for i, stream in enumerate(streams(model, batch.to(model.device))) if i in wanted]
            order = [sorted(set(wanted)).index(layer) for layer in wanted]
            taken = torch.stack(states, 1)[:, order].to("cpu", torch.float64).numpy().astype(kind)
            for row, pair in enumerate(indices):
                found[pair] = taken[rows == row]
            if progress is not None:
                progress(len(indices))
    values = np.concatenate(found)
    require_finite(values)
    offsets = np.concatenate([[0], np.cumsum([len(own) for own in places])]).astype(np.int64)
    return TokenStates(values, offsets, np.concatenate(places))


def _drawn(positions: np.ndarray, tokens: np.ndarray, most: int, seed: int) -> np.ndarray:
    if len(positions) <= most:
        return positions
    rng = np.random.default_rng([seed, zlib.crc32(np.ascontiguousarray(tokens, dtype=np.int64).tobytes())])
    return np.sort(rng.choice(positions, most, replace=False))
