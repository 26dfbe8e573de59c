"""Soft term frequency: how much of its attention each query token puts on the passage, head by head.

For a pair, a head and its pattern A, a query token at position i of QUERY, and the positions D of DOC

    soft-TF(i) = sum_{t in D} A[i, t]        0 to 1

Lu, Chen & Eickhoff 2025 (arXiv 2502.04645) read such heads as counting a term, softly: the more positions of the passage match the
token, the more attention goes there. Their code sums from behind the first separator to the end, the last separator included; but
that is where heads attend that have nothing to look for. Here it is DOC alone, with SEP2, SEP1 and CLS beside it.
What is left of 1 goes to QUERY.

In a layer with a window, a row that sees no position of DOC has the soft-TF 0, as a pair without a passage has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments.attention_flow import require_unablated
from tl_crossenc.model.hook_points import FwdHooks
from tl_crossenc.model.hooked_encoder import HookedEncoder
from tl_crossenc.model.made_by import recorded

ATTENDED_PARTS = (Part.DOC, Part.SEP2, Part.SEP1, Part.CLS)
"""The `part` axis: DOC is the soft-TF, the others are where attention goes that finds nothing."""


@dataclass(frozen=True)
class SoftTF(Framed):
    """The soft-TF of every query token, pairs end to end.

    Attributes:
        values: 0 to 1; the part axis is `ATTENDED_PARTS`.
        tokens: the id of each query token.
        offsets: `[pair + 1]`; pair i has the query tokens `offsets[i]:offsets[i + 1]`.
    """

    values: Float[np.ndarray, "query_token layer head part"]
    tokens: Int[np.ndarray, "query_token"]
    offsets: Int[np.ndarray, "pair_and_1"]

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Query tokens by their pair and id, parts by their names."""
        pair = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return {
            "query_token": {"pair": pair, "token": self.tokens},
            "part": tuple(part.name for part in ATTENDED_PARTS),
        }

    @property
    def doc(self) -> Float[np.ndarray, "query_token layer head"]:
        """The soft-TF, a view."""
        return self.values[..., 0]

    def summed(
        self, values: Float[np.ndarray, "query_token *rest"], weights: Float[np.ndarray, "query_token"] | None = None
    ) -> Float[np.ndarray, "pair *rest"]:
        """The sum over each pair's query tokens, weighted or not; 0 where a query has none."""
        own = np.asarray(values, dtype=np.float64)
        if weights is not None:
            own = own * np.asarray(weights, dtype=np.float64).reshape(-1, *[1] * (own.ndim - 1))
        sums = np.zeros((len(self.offsets) - 1, *own.shape[1:]))
        np.add.at(sums, np.repeat(np.arange(len(sums)), np.diff(self.offsets)), own)
        return sums


@recorded
def measure_soft_tf(
    model: HookedEncoder,
    pairs: EncodedPairs | PairBatch,
    *,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Callable[[int], object] | None = None,
) -> SoftTF:
    """The soft-TF of every query token of every pair in every head, and what the token gives to the separators and CLS.

    No pattern is built: attending to the parts' positions as values gives the sums (`attention.column_masses`).

    Args:
        model: the model, with nothing ablated.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        token_budget: padded tokens a batch.
        progress: called after each batch with the number of its pairs.

    Raises:
        ValueError: an ablation is active, or attention that is no finite number.
    """
    pairs = as_encoded(pairs)
    require_unablated(model)
    in_query = pairs.parts == Part.QUERY
    pair_of = np.repeat(np.arange(len(pairs)), pairs.lengths)[in_query]
    counts = np.bincount(pair_of, minlength=len(pairs))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = np.zeros((int(offsets[-1]), model.cfg.n_layers, model.cfg.n_heads, len(ATTENDED_PARTS)))
    for indices in length_batches(pairs.lengths, token_budget, in_order=model.hooked):
        batch = pairs.batch(indices).to(model.device)
        found, own = _query_masses(model, batch), batch.parts[Part.QUERY].cpu().numpy()
        for row, index in enumerate(indices):
            low, high = offsets[index : index + 2]
            values[low:high] = found[row, own[row, : found.shape[1]]]
        if progress is not None:
            progress(len(indices))
    if not np.isfinite(values).all():
        raise ValueError(
            "expected finite attention, but some is NaN or infinite: check the checkpoint's weights, or use dtype float32"
        )
    return SoftTF(values, np.asarray(pairs.tokens[in_query], dtype=np.int64), offsets)


def _query_masses(model: HookedEncoder, batch: PairBatch) -> Float[np.ndarray, "pair row layer head part"]:
    """What the rows up to the last of QUERY give to each part, from the queries and keys of one plain run, on the host."""
    precise = torch.promote_types(model.dtype, torch.float32)
    given = replace(model.attention_input(batch.attention_mask, batch.parts), dtype=precise)
    last = max(batch.parts.spans[Part.QUERY][1], 1)
    columns = torch.stack([batch.parts[part] for part in ATTENDED_PARTS], dim=-1)
    held: list[Tensor] = []
    found: list[Tensor] = []

    def hold(q: Tensor, hook: HookPoint) -> None:
        held.append(q)

    def measure(k: Tensor, hook: HookPoint) -> None:
        attn = model.block(hook.layer()).attn
        masses = attn.masses(held.pop()[:, :last].to(precise), k.to(precise), given, columns)
        found.append(masses)

    hooks: FwdHooks = []
    for layer in range(model.cfg.n_layers):
        hooks += zip(model.block(layer).attn.scored_points, (hold, measure), strict=True)
    with torch.no_grad():
        model.run_with_hooks(batch, fwd_hooks=hooks)
    return torch.stack(found, dim=2).to("cpu", torch.float64).numpy()
