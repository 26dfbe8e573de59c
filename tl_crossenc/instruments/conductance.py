"""Conductance of MLP neurons and of heads: how much of a score's difference to a baseline flows through each of them.

**Formula.** The path is that of the inputs: e(t) = e' + t (e - e') between the embeddings (`hook_full_embed`) of the baseline and
of the pair. With F the score and h_j(t) a neuron's activations on that path,

    cond_j = integral_0^1  sum_p dF/dh_j[p] * dh_j[p]/dt  dt   ~   sum_k sum_p 1/2 (g_k + g_{k+1})[p] * (h_{k+1} - h_k)[p]

over K equal steps, g being dF/dh_j: of second order, so that twice the steps leave a quarter of the error. Dhamdhere, Sundararajan
& Yan, *How Important Is a Neuron?* (2018); Shrikumar, Su & Kundaje (2018). It is the neuron attribution with which Vast et al. 2024
prune MonoBERT.

**Cuts.** The residual stream goes round heads and MLPs, so that the neurons of a layer alone add up to nothing in particular. What
adds up to F(e) - F(e') is a cut: the neurons (`mlp.hook_post`) and what is added to the MLP's write at `hook_resid_post`; or the
heads (`attn.hook_z`) and what is added to their write at `hook_resid_mid`, the stream before the layer. `around_neurons` and
`around_heads` are those, and the error of every cut is in the result.

**Limits.** Integrated gradients at a layer (`integrated_gradients.py`) have the same sum and another path: two quantities. What a
neuron passes on may have been computed below it; a neuron can have a large conductance that another one undoes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import run_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.instruments.attributed_difference import (
    NODES,
    Attributed,
    Edits,
    attributed_score,
    check_path,
    relative,
    tell_errors,
)
from tl_crossenc.instruments.baselines import Baseline, BaselineLike, as_baseline, same_pairs
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.gradients import activations_only
from tl_crossenc.model.hook_points import FwdHooks
from tl_crossenc.model.made_by import recorded

CUTS = ("neurons", "heads")
HELD = 4
"""A batch has this many times fewer tokens than a pass of scores: two nodes' activations of all layers are held, and gradients."""
_NEURONS, _HEADS, _ATTN, _MLP = "mlp.hook_post", "attn.hook_z", "hook_attn_out", "hook_mlp_out"


@dataclass(frozen=True)
class Conductance(Framed):
    """Conductance of pairs.

    Attributes:
        baseline: where the path begins.
        nodes: steps of the path.
        neurons: `[pair, layer, neuron]`, summed over positions, in the unit of the score.
        heads: `[pair, layer, head]`.
        around_neurons, around_heads: `[pair, layer]`, what goes round the MLP, and round the heads.
        activity: `[pair, layer, neuron]`, the root mean square of the neuron's activations on the pair itself, over the positions
            that the score depends on (in the last layer the first alone, where the head reads no other).
        scores, baseline_scores: `[pair]`, s and s'.
        same: `[pair]`, whether the baseline is the pair itself: then all is 0.
    """

    baseline: Baseline
    nodes: int
    neurons: Float[np.ndarray, "pair layer neuron"]
    heads: Float[np.ndarray, "pair layer head"]
    around_neurons: Float[np.ndarray, "pair layer"]
    around_heads: Float[np.ndarray, "pair layer"]
    activity: Float[np.ndarray, "pair layer neuron"]
    scores: Float[np.ndarray, "pair"]
    baseline_scores: Float[np.ndarray, "pair"]
    same: Bool[np.ndarray, "pair"]

    __repr__ = short_repr

    @property
    def difference(self) -> Float[np.ndarray, "pair"]:
        """s - s', what each cut adds up to but for its error."""
        return self.scores - self.baseline_scores

    @property
    def relative_error(self) -> Float[np.ndarray, "cut layer pair"]:
        """By how much each cut of `CUTS` misses s - s', as a share of it."""
        sums = (self.neurons.sum(-1) + self.around_neurons, self.heads.sum(-1) + self.around_heads)
        return relative(np.stack(sums).transpose(0, 2, 1) - self.difference, self.difference)


@recorded
def conductance(
    model: HookedCrossEncoder,
    pairs: EncodedPairs | PairBatch,
    baseline: BaselineLike = "both:pad",
    *,
    nodes: int = NODES,
    score: str | None = None,
    token_budget: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Conductance:
    """The conductance of every MLP neuron and head, of all layers in one forward and backward pass a node.

    Args:
        model: the model, with what it ablates at the moment.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        baseline: where the path begins, see `baselines.py`; Vast et al. 2024 take padding tokens.
        nodes: steps of the path, 32 at least; there is a run more than steps.
        score: what is attributed, as in `integrated_gradients`.
        token_budget: padded tokens of a pass of scores; a batch here has a `HELD`th of them.
        progress: called after each batch with the layer runs done, as `conductance_cost` counts them.

    Raises:
        ValueError: no pairs, too few nodes, a token or score that there is not, or hooks on the model.
    """
    pairs, chosen = as_encoded(pairs), as_baseline(baseline)
    check_path(model, pairs, nodes)
    attributed, others = attributed_score(model, score), chosen.of(model, pairs)
    cfg, n = model.cfg, len(pairs)
    shape = (n, cfg.n_layers)
    found: dict[str, Any] = {
        "neurons": np.zeros((*shape, cfg.d_mlp or 0)),
        "heads": np.zeros((*shape, cfg.n_heads)),
        "around_neurons": np.zeros(shape),
        "around_heads": np.zeros(shape),
        "activity": np.zeros((*shape, cfg.d_mlp or 0)),
    }
    ends = np.zeros((2, n))

    def run(indices: np.ndarray) -> None:
        sides = [side.batch(indices).to(model.device) for side in (pairs, others)]
        path = _Path(model, sides[0], sides[1], attributed)
        for name, value in path.integrate(nodes).items():
            found[name][indices] = value.double().cpu().numpy()
        ends[:, indices] = path.scores

    with activations_only(model):
        budget = -(-model.token_budget(token_budget) // HELD)
        for indices, _ in run_batches(pairs.lengths, budget, run):
            if progress is not None:
                progress(conductance_cost(model, nodes) * len(indices))
    result = Conductance(
        chosen, nodes, **found, scores=ends[1], baseline_scores=ends[0], same=same_pairs(pairs, others)
    )
    tell_errors(result.relative_error.reshape(-1, n), result.same, chosen, nodes)
    return result


def conductance_cost(model: HookedCrossEncoder, nodes: int) -> int:
    """Layer runs for one pair, a layer forward or backward counting 1."""
    return 2 * (nodes + 1) * model.cfg.n_layers


Held = list[dict[str, Tensor]]
"""For each layer what is held of a node."""


class _Path:
    """The path of a batch, walked node by node; of two nodes activations and gradients are held."""

    def __init__(self, model: HookedCrossEncoder, batch: PairBatch, start: PairBatch, attributed: Attributed):
        self.model, self.attributed = model, attributed
        self.given: AttentionInput = model.attention_input(batch.attention_mask, batch.parts)
        self.edits: Edits = model.active_condition.compile(model.cfg.n_layers, model.cfg.n_heads)
        with torch.no_grad():
            self.end, self.start = (model.run_embed(side.tokens, side.token_type_ids) for side in (batch, start))
        self.scores = np.zeros((2, len(batch)))

    def integrate(self, nodes: int) -> dict[str, Tensor]:
        """Name -> `[pair, layer]` or `[pair, layer, neuron or head]`."""
        activations, gradients = self._node(0.0, 0)
        totals: list[dict[str, Tensor]] = [{} for _ in activations]
        for k in range(1, nodes + 1):
            here, slopes = self._node(k / nodes, 1)
            for layer, total in enumerate(totals):
                for name, reduce in _REDUCE.items():
                    step = here[layer][name] - activations[layer][name]
                    part = reduce(step * (gradients[layer][name] + slopes[layer][name]))
                    total[name] = total[name] + part if name in total else part
            activations, gradients = here, slopes
        found = {name: torch.stack([0.5 * total[name] for total in totals], 1) for name in _REDUCE}
        found["activity"] = torch.stack([self._activity(held["neurons"]) for held in activations], 1)
        return found

    def _node(self, t: float, end: int) -> tuple[Held, Held]:
        """Activations and gradients at one place of the path; the score is kept as that of an end."""
        model = self.model
        kept: dict[tuple[int, str], Tensor] = {}
        last = model.cfg.n_layers - 1
        resid = (self.start + t * (self.end - self.start)).requires_grad_()
        for layer in range(model.cfg.n_layers):
            block = model.block(layer)
            names = {
                name: block.name_of(name) for name in (_NEURONS, _HEADS, _ATTN, _MLP)
            } | {stage: block.stream_name(stage) for stage in ("mid", "post")}  # fmt: skip
            hooks: FwdHooks = [(full, _keeper(kept, (layer, name))) for name, full in names.items()]
            rows = 1 if layer == last and model.reads_only_first_row else None
            with model.hooks(fwd_hooks=hooks):
                resid = block(resid, self.given, self.edits[layer], rows)
        scores = self.attributed(model.read_out(resid, self.given.attention_mask))
        self.scores[end] = scores.detach().to("cpu", torch.float64).numpy()
        wanted = {"neurons": _NEURONS, "heads": _HEADS, "around_neurons": "post", "around_heads": "mid"}
        followed = [kept[layer, name] for layer in range(last + 1) for name in wanted.values()]
        slopes = torch.autograd.grad(scores.sum(), followed)
        with torch.no_grad():
            for layer in range(last + 1):
                kept[layer, "post"] = kept[layer, "post"] - kept[layer, _MLP]
                kept[layer, "mid"] = kept[layer, "mid"] - kept[layer, _ATTN]
        activations = [{to: kept[layer, name].detach() for to, name in wanted.items()} for layer in range(last + 1)]
        width = len(wanted)
        gradients = [dict(zip(wanted, slopes[i * width : (i + 1) * width], strict=True)) for i in range(last + 1)]
        return activations, gradients

    def _activity(self, post: Float[Tensor, "pair row neuron"]) -> Float[Tensor, "pair neuron"]:
        real = self.given.attention_mask[:, : post.shape[1], None]
        return ((post.double() ** 2 * real).sum(1) / real.sum(1)).sqrt()


_REDUCE: dict[str, Callable[[Tensor], Tensor]] = {
    "neurons": lambda product: product.double().sum(1),
    "heads": lambda product: product.double().sum((1, 3)),
    "around_neurons": lambda product: product.double().sum((1, 2)),
    "around_heads": lambda product: product.double().sum((1, 2)),
}


def _keeper(kept: dict, key: tuple[int, str]) -> Callable:
    def keep(activation: Tensor, hook: object) -> None:
        kept[key] = activation

    return keep
