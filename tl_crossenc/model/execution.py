"""Many conditions over many pairs, with nothing computed twice.

Conditions that edit the first l layers alike share those layers: for each batch the conditions are walked as a tree over
layers, depth first, and each layer of each distinct prefix is run once. One residual stream a level is held, so memory does
not grow with conditions or pairs. Ablating one direction in layers 0..l for every l of L layers costs L + L(L-1)/2 layer runs
in place of L^2.

Branches of one residual stream share its queries, keys and values. A condition's first edit is run on top of the unedited layer
where it leaves the passage's rows alone: then only the rows edited are run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import run_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.interventions.conditions import Condition, LayerEdits
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.ablations import Ablation, as_condition
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import made_by

Progress = Callable[[int], object]
LayerPlan = tuple[LayerEdits | None, ...]


@dataclass(frozen=True)
class Scores(Framed):
    """Scores of every condition and what they cost.

    Attributes:
        values: `[condition, pair]`, in the order of the conditions and pairs given.
        layers_run: layers run, a layer of a batch counted once for each pair in it.
        layers_alone: the same had every condition been run by itself.
    """

    values: Float[np.ndarray, "condition pair"]
    layers_run: int
    layers_alone: int

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Conditions by their texts, where it is known which they were."""
        return {"condition": self.made["conditions"]} if "conditions" in self.made else {}


def run_conditions(
    model: HookedCrossEncoder,
    pairs: EncodedPairs | PairBatch,
    conditions: Ablation | Sequence[Ablation],
    *,
    token_budget: int | None = None,
    progress: Progress | None = None,
    ran: Callable[[np.ndarray], object] | None = None,
) -> Scores:
    """Score every pair under every condition (on top of what `model.ablating` removes at the moment).

    Args:
        model: the model.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        conditions: what to ablate, one or several, as conditions, directions or their texts; "none", the empty condition, is the
            unablated model.
        token_budget: padded tokens a batch; by default what suits the device (`HookedEncoder.token_budget`). A batch that its
            memory does not hold is run in halves. Under hooks, batches are of consecutive pairs, see `HookedCrossEncoder.score`.
        progress: called after each batch with the number of layer runs (times pairs) done.
        ran: called after each batch with the places of its pairs.

    Raises:
        ValueError: no conditions, text that is none, or a layer or head that the model does not have.
    """
    given = [conditions] if isinstance(conditions, Condition | Direction | str) else conditions
    if not given:
        raise ValueError("expected at least one condition to score under, got none")
    pairs = as_encoded(pairs)
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    chosen = [as_condition(condition) for condition in given]
    plans = [(model.active_condition + condition).compile(n_layers, n_heads) for condition in chosen]
    runs = count_layer_runs(plans)
    dtype = np.float64 if model.dtype == torch.float64 else np.float32
    values = np.zeros((len(plans), len(pairs)), dtype=dtype)
    budget = model.token_budget(token_budget)

    def run(indices: np.ndarray) -> None:
        batch = pairs.batch(indices).to(model.device)
        given = model.attention_input(batch.attention_mask, batch.parts)
        resid = model.run_embed(batch.tokens, batch.token_type_ids)
        for members, scores in _walk(model, given, plans, 0, resid, list(range(len(plans)))):
            values[np.ix_(np.asarray(members), indices)] = scores.to("cpu", torch.float64).numpy()

    with torch.no_grad():
        for indices, _ in run_batches(pairs.lengths, budget, run, in_order=model.hooked):
            if progress is not None:
                progress(runs * len(indices))
            if ran is not None:
                ran(indices)
    made = made_by(model, function="model.execution.run_conditions", conditions=chosen, token_budget=budget)
    return Scores(values, runs * len(pairs), n_layers * len(plans) * len(pairs), made=made)


def _walk(
    model: HookedCrossEncoder,
    given: AttentionInput,
    plans: Sequence[LayerPlan],
    layer: int,
    resid: Tensor,
    members: list[int],
) -> list[tuple[list[int], Tensor]]:
    """(conditions, their scores `[pair]`) for all `members`, whose residual stream before `layer` is the same."""
    if layer == model.cfg.n_layers:
        return [(members, model.score_of(model.read_out(resid, given.attention_mask)))]
    found = []
    branches = _branches(plans, layer, members)
    unedited = all(edits is None for edits in plans[members[0]][:layer])
    streams = model.run_branches(
        layer,
        resid,
        given,
        [edits for edits, _ in branches],
        only_cls=layer == model.cfg.n_layers - 1,
        from_unedited=unedited,
    )
    del resid  # held by the generator for as long as a branch is to come
    for _, group in branches:
        found.extend(_walk(model, given, plans, layer + 1, next(streams), group))
    return found


def _branches(
    plans: Sequence[LayerPlan], layer: int, members: Sequence[int]
) -> list[tuple[LayerEdits | None, list[int]]]:
    """The edits of a layer and the conditions that share them; the most shared last, since the walk ends at what it holds."""
    groups: dict[LayerEdits | None, list[int]] = {}
    for member in members:
        groups.setdefault(plans[member][layer], []).append(member)
    return sorted(groups.items(), key=lambda branch: len(branch[1]))


def count_layer_runs(plans: Sequence[LayerPlan]) -> int:
    """The layers that the tree runs for one batch, the few rows of a branch counted as a layer.

    Where a condition's first edit leaves the passage's rows alone, that layer is run unedited, too, for its other rows.
    """
    prefixes = {plan[: layer + 1] for plan in plans for layer in range(len(plan))}
    for plan in plans:
        for layer, edits in enumerate(plan[:-1]):  # of the last layer only CLS is run, edited or not
            if edits is not None:
                if edits.spares_passage:
                    prefixes.add((*plan[:layer], None))
                break
    return len(prefixes)
