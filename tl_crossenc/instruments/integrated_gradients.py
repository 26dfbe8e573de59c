"""Integrated gradients of the score at any stage of the residual stream: which positions a score's difference to a baseline is at.

**Formula.** x is the stream of a pair at a stage of layer l, x' that of its baseline (`baselines.py`), F(y) the score of a run that
goes on from y. The attribution of position p is

    IG[p] = sum_d (x - x')[p, d] * integral_0^1  dF/dy[p, d] (x' + t (x - x'))  dt,          sum_p IG[p] = F(x) - F(x') = s - s'

Sundararajan, Taly & Yan, *Axiomatic Attribution for Deep Networks* (2017). **The path is a straight line in that layer's space**,
as in Zhan et al. 2020, so that the layers of one pair are attributions along different paths with the same sum; `conductance.py`
has the one path of the inputs. The integral is taken by Gauss-Legendre quadrature.

**Stages.** "pre", "mid" and "post" are a layer's `hook_resid_pre`, `hook_resid_mid` and `hook_resid_post`; in a post-LN layer the
latter two come before their LayerNorm. Layer 0 at "pre" is the output of the embeddings past their LayerNorm, positions and types
in it (`hook_full_embed`), and layer L of a model of L layers is what the head reads.

**Limits.** A path through places that no text leads to may not converge: the error is always in the result, and one above 5 % is
warned of. What is attributed is the difference to this baseline, not the score; where a position's stream holds what was moved
there from others, its attribution is theirs too. A probability saturates, which is why the default is the score itself.

**Why not captum's class.** `captum.attr.IntegratedGradients` computes the same and is the oracle of the tests, but rounds the
weights of the quadrature to float32, which leaves an error of 1e-8 in float64.

>>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
>>> pairs = model.encode_pairs("tune a guitar", ["a guitar garden"])
>>> found = integrated_gradients(model, pairs, "query:pad", layers=[0, model.cfg.n_layers])
>>> found.by_part().round(2)[:, 0, 1]  # of QUERY, before layer 0 and where the head reads CLS alone
array([5.75, 0.  ])
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import run_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.inputs.parts import N_PARTS, REAL_PART_NAMES
from tl_crossenc.instruments.attributed_difference import (
    NODES,
    attributed_score,
    check_path,
    relative,
    tell_errors,
)
from tl_crossenc.instruments.baselines import Baseline, BaselineLike, as_baseline, same_pairs
from tl_crossenc.instruments.gradient_paths import path_integral, streams_and_score
from tl_crossenc.interventions.indices import Indices, within
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.block import Stage
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.gradients import activations_only
from tl_crossenc.model.made_by import recorded
from tl_crossenc.model.resumed_run import finish_logits


@dataclass(frozen=True)
class IntegratedGradients(Framed):
    """Attributions of pairs, by layer and token.

    Attributes:
        pairs: what is attributed.
        layers: that the paths are at, `n_layers` being what the head reads.
        stage: of those layers.
        baseline: where the paths begin.
        nodes: of the quadrature.
        values: `[layer, token]`, the tokens of all pairs end to end as in `pairs`, in the unit of the score.
        scores, baseline_scores: `[pair]`, s and s'.
        same: `[pair]`, whether the baseline is the pair itself: then all values are 0.
    """

    pairs: EncodedPairs
    layers: tuple[int, ...]
    stage: Stage
    baseline: Baseline
    nodes: int
    values: Float[np.ndarray, "layer token"]
    scores: Float[np.ndarray, "pair"]
    baseline_scores: Float[np.ndarray, "pair"]
    same: Bool[np.ndarray, "pair"]

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Layers and tokens by their names."""
        return {"layer": self.layers, "token": self.pairs.token_labels()}

    MAIN = "values"

    @property
    def difference(self) -> Float[np.ndarray, "pair"]:
        """s - s', what the values of a pair add up to at every layer but for `error`."""
        return self.scores - self.baseline_scores

    @property
    def error(self) -> Float[np.ndarray, "layer pair"]:
        """The sum of a pair's values less s - s'."""
        return self.sums() - self.difference

    @property
    def relative_error(self) -> Float[np.ndarray, "layer pair"]:
        """|error| as a share of |s - s'|; 0 where both are 0, infinite where s = s' is missed."""
        return relative(self.error, self.difference)

    def of(self, pair: int) -> Float[np.ndarray, "layer pos"]:
        """One pair's values."""
        return self.values[:, self.pairs.offsets[pair] : self.pairs.offsets[pair + 1]]

    def sums(self, tokens: Bool[np.ndarray, "token"] | None = None) -> Float[np.ndarray, "layer pair"]:
        """The values of each pair added up, of all tokens or of those chosen."""
        kept = self.values if tokens is None else self.values * tokens
        return np.add.reduceat(kept, self.pairs.offsets[:-1], axis=1)

    def by_part(self) -> Float[np.ndarray, "layer pair part"]:
        """The values added up by part."""
        return np.stack([self.sums(self.pairs.parts == part) for part in range(N_PARTS)], axis=-1)

    def frame(self, labels: Sequence[Hashable] | None = None) -> pd.DataFrame:
        """A row a (layer, pair): `pair` (its label, or number), `score`, `baseline_score`, a column a part, `relative_error`.

        Raises:
            ValueError: not one label a pair.
        """
        names = list(range(len(self.pairs)) if labels is None else labels)
        if len(names) != len(self.pairs):
            raise ValueError(f"expected a label for each of {len(self.pairs)} pairs, got {len(names)}")
        frame = pd.MultiIndex.from_product([self.layers, names], names=["layer", "pair"]).to_frame(index=False)
        for name, column in (("score", self.scores), ("baseline_score", self.baseline_scores)):
            frame[name] = np.tile(column, len(self.layers))
        frame[list(REAL_PART_NAMES)] = self.by_part().reshape(-1, N_PARTS)
        frame["relative_error"] = self.relative_error.reshape(-1)
        return frame


@recorded
def integrated_gradients(
    model: HookedCrossEncoder,
    pairs: EncodedPairs | PairBatch,
    baseline: BaselineLike = "query:pad",
    *,
    layers: Indices = None,
    stage: str = "pre",
    nodes: int = NODES,
    score: str | None = None,
    token_budget: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> IntegratedGradients:
    """Attribute each pair's score, less its baseline's, to the positions of the stream at a stage of every layer.

    Args:
        model: the model, with what it ablates at the moment: then the ablated score is attributed.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        baseline: where the paths begin, see `baselines.py`.
        layers: whose stream; None for all. At "pre" there is one more than the model has, what the head reads.
        stage: "pre", "mid" or "post".
        nodes: of the quadrature, 32 at least.
        score: what is attributed: None for the model's score, "probability" for its sigmoid (of two labels, the softmax of the
            relevant one), or a rule of `score_rule`, such as "index:1" for one logit.
        token_budget: padded tokens a pass, nodes times pairs; by default what suits the device.
        progress: called after each batch with the layer runs done, as `integration_cost` counts them.

    Raises:
        ValueError: no pairs, too few nodes, a stage, layer, token or score that there is not, or hooks on the model.
    """
    pairs, chosen = as_encoded(pairs), as_baseline(baseline)
    check_path(model, pairs, nodes)
    entered = _stage(stage)
    wanted = within(layers, model.cfg.n_layers + (entered == "pre"), "layer")
    attributed = attributed_score(model, score)
    others = chosen.of(model, pairs)
    values, ends = np.zeros((len(wanted), len(pairs.tokens))), np.zeros((2, len(pairs)))
    budget = model.token_budget(token_budget)
    cost = integration_cost(model, wanted, entered, nodes)

    def run(indices: np.ndarray) -> None:
        batch = pairs.batch(indices).to(model.device)
        given = model.attention_input(batch.attention_mask, batch.parts)
        edits = model.active_condition.compile(model.cfg.n_layers, model.cfg.n_heads)
        with torch.no_grad():
            (streams, ends[0, indices]), (starts, ends[1, indices]) = (
                streams_and_score(
                    model, side.batch(indices).to(model.device), given, edits, wanted, entered, attributed
                )
                for side in (pairs, others)
            )
        real = batch.attention_mask.cpu().numpy()
        at = (pairs.offsets[indices][:, None] + np.arange(real.shape[1]))[real]
        for row, layer in enumerate(wanted):

            def onward(resid: Tensor, given: AttentionInput, layer: int = layer) -> Tensor:
                return attributed(finish_logits(model, layer, entered, resid, given, edits))

            found = path_integral(onward, streams[row], starts[row], given, nodes, budget)
            values[row, at] = found.sum(-1).to("cpu", torch.float64).numpy()[real]

    with activations_only(model):
        for indices, _ in run_batches(pairs.lengths, budget, run):
            if progress is not None:
                progress(cost * len(indices))
    found = IntegratedGradients(
        pairs, wanted, entered, chosen, nodes, values, ends[0], ends[1], same_pairs(pairs, others)
    )
    tell_errors(found.relative_error, found.same, chosen, nodes)
    return found


def integration_cost(model: HookedCrossEncoder, layers: Sequence[int], stage: Stage, nodes: int) -> int:
    """Layer runs for one pair, a layer forward or backward counting 1: both ends, and from each layer up for each node."""
    n = model.cfg.n_layers
    above = [n - layer - (stage != "pre") for layer in layers]
    return 2 * n + 2 * nodes * sum(above)


def _stage(stage: str) -> Stage:
    for known in get_args(Stage):
        if stage == known:
            return known
    raise ValueError(f"expected a stage among {', '.join(get_args(Stage))}, got {stage!r}")
