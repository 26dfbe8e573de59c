"""Heads as rankers: how much of its attention each head puts between a query and a passage, passage by passage.

For one pair, one head and its pattern A, with QUERY positions Q and DOC positions D, a token t of D gets

    QUERY->DOC    a_t = 1/|Q| sum_{r in Q} A[r, t]        what the query attends to it
    DOC->QUERY    a_t = 1/|D| sum_{c in Q} A[t, c]        what it attends to the query

    mass       = sum_t a_t                                the attention mass of the direction
    calibrated = sum_{t kept} (a_t - a'_t)                a' is a of the same passage with the query "N/A"

where a token is dropped that lies below the passage's mean - 2 sd of a_t - a'_t (sd with n - 1). The first is how the CoRe heads
are found (Tran et al. 2025, arXiv 2510.02219), the second how QRHead (Zhang et al. 2025, arXiv 2506.09944) and in-context
reranking (Chen et al. 2024, arXiv 2410.02642) score. Those are of decoders, where the query reads all candidates in one context and
they share its attention; here every pair is alone. From these scores of all passages of a query, with R relevant ones and N hard
negatives:

    QR score     mean_{d in R} s_d                                             how much attention relevant passages get
    CoRe score   mean_{d in R} exp(s_d / t) / (exp(s_d / t) + sum_{n in N} exp(s_n / t))     how a head ranks them against N

What differs from the published code. It sums the heads token by token and drops tokens of the sum; here every head is a ranker of
its own and drops its own. There tokens that are all alike are dropped, all of them; here one must be below by more than rounding.

What counts. In a layer with a window, the rows and tokens that have a cell of the direction at all. A pair without one has scores
of 0. Where one of the two queries leaves less room for the passage, tokens that only one of the runs has are not calibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments.attention_flow import require_unablated
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.attention_input import columns_seen
from tl_crossenc.model.hook_points import FwdHooks
from tl_crossenc.model.hooked_encoder import HookedEncoder
from tl_crossenc.model.made_by import recorded

CONTENT_FREE = "N/A"
"""The query that asks for nothing, as published."""
RANKER_DIRECTIONS = (Direction(Part.QUERY, Part.DOC), Direction(Part.DOC, Part.QUERY))
TEMPERATURES = (0.001, 0.1)
"""Of the CoRe score, as published: for Mistral and Granite, and for Llama."""
DROPPED_BELOW = 2.0
"""Standard deviations below the mean from which a token is dropped."""
_ROUNDING = 64
"""Machine epsilons within which a token is at the threshold and not below."""


@dataclass(frozen=True)
class HeadScores(Framed):
    """What each head scores each pair.

    Attributes:
        mass: 0 to 1.
        calibrated: -1 to 1; None where no content-free query was run.
    """

    mass: Float[np.ndarray, "pair direction layer head"]
    calibrated: Float[np.ndarray, "pair direction layer head"] | None

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Directions by their names."""
        return {"direction": tuple(map(str, RANKER_DIRECTIONS))}


@recorded
def measure_head_scores(
    model: HookedEncoder,
    pairs: EncodedPairs | PairBatch,
    content_free: EncodedPairs | PairBatch | None = None,
    *,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Callable[[int], object] | None = None,
) -> HeadScores:
    """Mass and calibrated score of every pair, in both of `RANKER_DIRECTIONS`, of every head.

    Args:
        model: the model, with nothing ablated.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        content_free: the same passages with the query `CONTENT_FREE`, in the same order; None for no calibration.
        token_budget: padded tokens a batch.
        progress: called after each run of a batch with the number of its pairs: twice a batch where there is a calibration.

    Raises:
        ValueError: an ablation is active, other passages on the two sides, or attention that is no finite number.
    """
    sides = [as_encoded(pairs), *([] if content_free is None else [as_encoded(content_free)])]
    if len(sides) > 1:
        _check_same_passages(*sides)
    require_unablated(model)
    shape = len(sides[0]), len(RANKER_DIRECTIONS), model.cfg.n_layers, model.cfg.n_heads
    mass, calibrated = np.zeros(shape), np.zeros(shape)
    for indices in length_batches(sides[0].lengths, token_budget, in_order=model.hooked):
        found = []
        for side in sides:
            found.append(_token_attention(model, side.batch(indices).to(model.device)))
            if progress is not None:
                progress(len(indices))
        mass[indices] = found[0].mass()
        if len(found) > 1:
            calibrated[indices] = found[0].calibrated(found[1], _ROUNDING * _epsilon(model))
    return HeadScores(mass, calibrated if len(sides) > 1 else None)


def qr_score(
    scores: Float[np.ndarray, "passage *head"], relevant: Bool[np.ndarray, "passage"]
) -> Float[np.ndarray, "*head"]:
    """The mean of the scores of a query's relevant passages, for each head.

    Raises:
        ValueError: no passage is relevant.
    """
    return _of(scores, relevant, "relevant").mean(0)


def core_score(
    scores: Float[np.ndarray, "passage *head"],
    relevant: Bool[np.ndarray, "passage"],
    negative: Bool[np.ndarray, "passage"],
    temperature: float,
) -> Float[np.ndarray, "*head"]:
    """The softmax over each relevant passage of a query and its hard negatives, at the relevant one, averaged over these.

    Args:
        scores: of one query's passages.
        relevant, negative: which are.
        temperature: t; the smaller, the more only the highest negative counts.

    Raises:
        ValueError: no passage is relevant or none negative, or a temperature that is not above 0.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"expected a temperature above 0, got {temperature}: .001 and .1 are published")
    ours, others = _of(scores, relevant, "relevant") / temperature, _of(scores, negative, "negative") / temperature
    against = np.logaddexp.reduce(others, axis=0)
    return np.exp(-np.logaddexp(0.0, against - ours)).mean(0)


def _of(scores: ArrayLike, chosen: ArrayLike, what: str) -> np.ndarray:
    own = np.asarray(scores, dtype=np.float64)[np.asarray(chosen, dtype=bool)]
    if not len(own):
        raise ValueError(f"expected a query with {what} passages, got none: leave it out")
    return own


@dataclass(frozen=True)
class _TokenAttention:
    """What DOC tokens give and get in a batch, on the host in float64.

    Attributes:
        values: `a` but for the 1/|D| of DOC->QUERY; 0 where a token has no cell.
        there: which tokens have a cell.
    """

    values: Float[Tensor, "pair direction layer head token"]
    there: Bool[Tensor, "pair layer token"]

    def mass(self) -> Float[np.ndarray, "pair direction layer head"]:
        return _averaged(self.values.sum(-1), self.there).numpy()

    def calibrated(self, other: _TokenAttention, rounding: float) -> Float[np.ndarray, "pair direction layer head"]:
        """Less `other`, that of the content-free query."""
        n = min(self.there.shape[-1], other.there.shape[-1])
        there = self.there[..., :n] & other.there[..., :n]
        shown = there[:, None, :, None]
        ours, theirs = (torch.where(shown, side.values[..., :n], 0.0) for side in (self, other))
        difference, count = ours - theirs, shown.sum(-1, keepdim=True)
        mean = difference.sum(-1, keepdim=True) / count.clamp(min=1)
        off = torch.where(shown, difference - mean, 0.0)
        sd = ((off**2).sum(-1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
        floor = rounding * torch.maximum(ours, theirs).amax(-1, keepdim=True) if n else 0.0
        kept = off >= -DROPPED_BELOW * sd - floor
        return _averaged(torch.where(kept, difference, 0.0).sum(-1), there).numpy()


def _averaged(sums: Float[Tensor, "pair direction layer head"], there: Tensor) -> Tensor:
    """The sums over tokens with DOC->QUERY averaged over those that have a cell."""
    found = sums.clone()
    found[:, 1] /= there.sum(-1).clamp(min=1)[:, :, None]
    return found


def _token_attention(model: HookedEncoder, batch: PairBatch) -> _TokenAttention:
    """What every DOC token of a batch gets from the query and gives to it, from the queries and keys of one plain run."""
    precise = torch.promote_types(model.dtype, torch.float32)
    given = replace(model.attention_input(batch.attention_mask, batch.parts), dtype=precise)
    query, doc = batch.parts[Part.QUERY], batch.parts[Part.DOC]
    last = max(batch.parts.spans[Part.QUERY][1], 1)
    at = _doc_positions(batch)
    cells: dict[int | None, tuple[Tensor, Tensor]] = {}
    for window in dict.fromkeys(model.cfg.windows or (None,)):
        sees_doc, sees_query = (columns_seen(given, window, side[..., None])[..., 0] > 0 for side in (doc, query))
        rows = (query & sees_doc)[:, :last].to(precise)
        cells[window] = rows / rows.sum(1, keepdim=True).clamp(min=1), doc & sees_query
    held: list[Tensor] = []
    values: list[Tensor] = []

    def hold(q: Tensor, hook: HookPoint) -> None:
        held.append(q)

    def measure(k: Tensor, hook: HookPoint) -> None:
        attn = model.block(hook.layer()).attn
        shares, there = cells[None if model.cfg.windows is None else model.cfg.windows[hook.layer()]]
        q, keys = held.pop().to(precise), k.to(precise)
        got = torch.einsum("phrt,pr->pht", attn.pattern(q[:, :last], keys, given), shares)
        given_to = attn.masses(q, keys, given, query[..., None])[..., 0].transpose(1, 2)
        both = torch.where(there[:, None, None], torch.stack([got, given_to], dim=1), 0.0)
        values.append(both.gather(-1, at[:, None, None].expand(*both.shape[:3], -1)))

    hooks: FwdHooks = []
    for layer in range(model.cfg.n_layers):
        hooks += zip(model.block(layer).attn.scored_points, (hold, measure), strict=True)
    with torch.no_grad():
        model.run_with_hooks(batch, fwd_hooks=hooks)
    found = torch.stack(values, dim=2).to("cpu", torch.float64)
    if not bool(found.isfinite().all()):
        raise ValueError(
            "expected finite attention, but some is NaN or infinite: check the checkpoint's weights, or use dtype float32"
        )
    windows = model.cfg.windows or (None,) * model.cfg.n_layers
    there = torch.stack([cells[window][1].gather(-1, at) for window in windows], dim=1)
    return _TokenAttention(found, there.cpu())


def _doc_positions(batch: PairBatch) -> Int[Tensor, "pair token"]:
    """Where the i-th DOC token of each pair is; where there is none, a position that is not DOC."""
    low, high = batch.parts.spans[Part.DOC]
    order = torch.argsort((~batch.parts[Part.DOC]).to(torch.int8), dim=1, stable=True)
    return order[:, : high - low]


def _epsilon(model: HookedEncoder) -> float:
    return torch.finfo(torch.promote_types(model.dtype, torch.float32)).eps


def _check_same_passages(pairs: EncodedPairs, content_free: EncodedPairs) -> None:
    if len(pairs) != len(content_free):
        raise ValueError(
            f"expected a content-free pair for each of {len(pairs)} pairs, got {len(content_free)}: encode the same passages"
        )
    for i in range(len(pairs)):
        ours, theirs = (
            side.tokens[side.offsets[i] : side.offsets[i + 1]][
                side.parts[side.offsets[i] : side.offsets[i + 1]] == Part.DOC
            ]
            for side in (pairs, content_free)
        )
        n = min(len(ours), len(theirs))
        if not np.array_equal(ours[:n], theirs[:n]) or (len(ours) == 0) != (len(theirs) == 0):
            raise ValueError(f"expected the passage of pair {i} with a content-free query, got another passage")
