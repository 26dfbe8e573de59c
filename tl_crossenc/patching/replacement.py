"""Ablation beyond zero: activations replaced by their mean over reference pairs, or by those of another pair.

**Formula.** A target (see `targets`) has an activation a[p] at every position p of its rows. With P(p) the position's part, R the
reference pairs, and for a direction X->Y of a head a[x] = sum_{y in Y} A[x, y] v[y] for x in X:

    zero        a[p] <- 0
    mean        a[p] <- mean of a over all positions of part P(p) of all pairs in R
    resample    a[p] <- a'[p'], a' the activations of a pair drawn from R, p' its position of part P(p): the j-th of its part
                for the j-th, counting again from the first where the drawn pair has fewer

A direction is replaced inside of its head's z: z[x] <- z[x] - a[x] + new; the head's other reads stay. Positions differ between
pairs, parts do not: that is why means are taken by part. Mean ablation: Wang et al. 2022 (arXiv:2211.00593); resampling: Chan et
al. 2022 (Causal Scrubbing).

**Decisions.** Every position of R counts alike in a mean, not every pair. The drawn pair depends on the seed and the pair's
tokens alone, never on its batch; a pair is not drawn for itself.

What a direction reads is taken from the run as it is: with what `model.ablating` removes, and with hooks of your own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tl_crossenc.interventions.targets import Target, TargetLike, as_targets, check_apart, check_targets
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.replacement_values import ZERO, Values
from tl_crossenc.patching.taps import RunningBatch, visiting


@contextmanager
def replacing(
    model: HookedCrossEncoder, targets: TargetLike | Iterable[TargetLike], values: Values = ZERO
) -> Iterator[HookedCrossEncoder]:
    """Replace the targets' activations in every run inside of the `with` block; the model is restored after it, come what may.

    Args:
        model: the model; scoring, `run_with_cache`, `run_conditions` and further ablations all work inside of the block.
        targets: such as "3.7", "mlp.2", "DOC->QUERY@3.7", or several; see `targets`.
        values: `ZERO`, `ReplacementMeans` or `ReplacementSamples` fitted for these targets.

    Raises:
        ValueError: targets that the model or `values` does not have, or that share something.
    """
    wanted = as_targets(targets)
    check_targets(wanted, model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_mlp)
    check_apart(wanted)
    values.check(wanted)

    def replace(target: Target, activation: Tensor, batch: RunningBatch) -> Tensor:
        n_rows = activation.shape[1]
        new = values.values(target, batch)
        new = new[:, :n_rows] if new.ndim else new
        return torch.where(batch.rows_of(target.rows)[:, :n_rows, None], new.to(activation.dtype), activation)

    with visiting(model, wanted, replace):
        yield model
