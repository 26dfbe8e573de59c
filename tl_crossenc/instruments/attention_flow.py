"""How much attention each head gives by direction: streaming, mergeable, and no pattern is ever built.

For one pair, one head and its pattern A, the attender part X with rows R_X and the attended part Y with columns C_Y:

    mass(X->Y)    = 1/|R_X| sum_{r in R_X} sum_{c in C_Y} A[r, c]      what a row of X gives to Y, averaged over the rows
    density(X->Y) = mass(X->Y) / |C_Y|                                 the same for a position of Y: documents differ in length
    excess(X->Y)  = mass(X->Y) - |C_Y| / n                             the mass less what equal attention to all n positions gives

In a layer with a window, equal attention is that to all positions that a row sees: there |C_Y| / n is the mean over the rows r of
|C_Y seen by r| / |positions seen by r|.

A head that looks at nothing in particular gives a longer passage more mass, and each of its positions less density: both follow
the length. The excess of such a head is 0 for every length.

Vast et al. 2025 (section 3) compare these between grades; Zhan et al. 2020 look at the masses of CLS, SEP and full stops.

Pairs are gathered in groups (a query and a grade, say). Of each group the count n, the mean and M2 = sum (x - mean)^2 over
its pairs are kept in float64. Groups merge exactly (Chan, Golub & LeVeque 1979; for two groups it is Welford's update):

    n = sum n_i      mean = sum n_i mean_i / n      M2 = sum M2_i + sum n_i (mean_i - mean)^2

so that what is kept does not depend on how the pairs are cut into batches and shards, nor does it grow with their number.

What counts. A pair whose X or Y has no position (an empty passage) does not count for X->Y. Full stops are no part but some
positions of one: a pair without full stops gives them the mass and the excess 0, which count, and has no density.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from tl_crossenc.console.framed import Made, array_frame
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.inputs.parts import N_PARTS, REAL_PART_NAMES, Part
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.interventions.directions import ALL
from tl_crossenc.model.attention_input import columns_seen
from tl_crossenc.model.hook_points import FwdHooks
from tl_crossenc.model.hooked_encoder import HookedEncoder
from tl_crossenc.model.made_by import recorded

QUANTITIES = ("mass", "density", "excess")
ATTENDERS = (*REAL_PART_NAMES, ALL)
"""The `attender` axis: the five parts, and every real position."""

QUERY_STOPS, DOC_STOPS = "QUERY_STOPS", "DOC_STOPS"
ATTENDED = (*REAL_PART_NAMES, QUERY_STOPS, DOC_STOPS)
"""The `attended` axis: the five parts, and the full stops in QUERY and in DOC."""

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Moments:
    """Count, mean and M2 of the pairs of each group.

    Attributes:
        count: `[group, 1, 1, quantity, attender, attended]`, the pairs that count; the same for every layer and head.
        mean: `[group, layer, head, quantity, attender, attended]`; 0 where nothing counts.
        m2: as `mean`, the sum of squared deviations from it.
    """

    count: Int[np.ndarray, "group 1 1 quantity attender attended"]
    mean: Float[np.ndarray, "group layer head quantity attender attended"]
    m2: Float[np.ndarray, "group layer head quantity attender attended"]

    __repr__ = short_repr

    @property
    def observed_mean(self) -> Float[np.ndarray, "group layer head quantity attender attended"]:
        """The mean, NaN where nothing counts."""
        return np.where(self.count > 0, self.mean, np.nan)

    @property
    def variance(self) -> Float[np.ndarray, "group layer head quantity attender attended"]:
        """The sample variance, with denominator n - 1; NaN for fewer than two pairs."""
        return np.where(self.count > 1, self.m2 / np.maximum(self.count - 1, 1), np.nan)

    def merged(self, target: Sequence[int] | np.ndarray, n_targets: int) -> Moments:
        """The groups merged into `n_targets` new ones: old group i goes into `target[i]`; -1 leaves it out.

        Raises:
            ValueError: not one target a group, or a target outside of -1..n_targets - 1.
        """
        index = np.asarray(target, dtype=np.int64)
        if index.shape != (len(self.count),) or ((index < -1) | (index >= n_targets)).any():
            raise ValueError(
                f"expected for each of {len(self.count)} groups a target in -1..{n_targets - 1}, got {index.tolist()}"
            )
        order = np.argsort(index, kind="stable")
        order = order[index[order] >= 0]
        present, starts, inverse = np.unique(index[order], return_index=True, return_inverse=True)
        old = Moments(self.count[order], self.mean[order], self.m2[order])
        new = _zeros(n_targets, *self.mean.shape[1:])
        if len(order):
            count = np.add.reduceat(old.count, starts, axis=0)
            mean = np.add.reduceat(old.count * old.mean, starts, axis=0) / np.maximum(count, 1)
            between = old.count * (old.mean - mean[inverse]) ** 2
            new.count[present], new.mean[present] = count, mean
            new.m2[present] = np.add.reduceat(old.m2 + between, starts, axis=0)
        return new


def _zeros(n_groups: int, n_layers: int, n_heads: int, *cells: int) -> Moments:
    shape = (n_groups, n_layers, n_heads, *cells)
    return Moments(np.zeros((n_groups, 1, 1, *cells), np.int64), np.zeros(shape), np.zeros(shape))


@dataclass(frozen=True)
class AttentionFlow(Made):
    """The moments of some groups of pairs.

    Attributes:
        groups: the name of each group, no name twice.
        moments: theirs, in the same order.
    """

    groups: tuple[Hashable, ...]
    moments: Moments

    __repr__ = short_repr

    def to_frame(self) -> pd.DataFrame:
        """A row a (group, layer, head, quantity, attender, attended): `count`, `mean` and `variance`, NaN where too few count."""
        moments = self.moments
        axes = ("group", "layer", "head", "quantity", "attender", "attended")
        names = {"group": self.groups, "quantity": QUANTITIES, "attender": ATTENDERS, "attended": ATTENDED}
        sizes = zip(axes, moments.mean.shape, strict=True)  # of one direction and quantity 1, see `Attention.only`
        labels = {axis: names[axis] for axis, size in sizes if len(names.get(axis, ())) == size}
        values = {"count": np.broadcast_to(moments.count, moments.mean.shape), "mean": moments.observed_mean}
        return self.told(array_frame(values | {"variance": moments.variance}, axes, labels))

    @classmethod
    def empty(cls, n_layers: int, n_heads: int) -> AttentionFlow:
        """No groups: what merging starts from."""
        return cls((), _zeros(0, n_layers, n_heads, len(QUANTITIES), len(ATTENDERS), len(ATTENDED)))

    @classmethod
    def gather(cls, groups: Sequence[Hashable], moments: Moments) -> AttentionFlow:
        """Merge what has the same name; names in the order of their first appearance."""
        names = tuple(dict.fromkeys(groups))
        place = {name: i for i, name in enumerate(names)}
        return cls(names, moments.merged([place[group] for group in groups], len(names)))

    @classmethod
    def join(cls, flows: Iterable[AttentionFlow]) -> AttentionFlow:
        """All of them merged into one; equal to having measured their pairs together.

        Raises:
            ValueError: nothing to join, or models of different sizes.
        """
        found = list(flows)
        sizes = sorted({flow.moments.mean.shape[1:3] for flow in found})
        if len(sizes) != 1:
            raise ValueError(f"expected flows of one number of layers and heads, got {sizes}: join those of one model")
        parts = [flow.moments for flow in found]
        moments = Moments(
            np.concatenate([part.count for part in parts]),
            np.concatenate([part.mean for part in parts]),
            np.concatenate([part.m2 for part in parts]),
        )
        return cls.gather([group for flow in found for group in flow.groups], moments)

    def regroup(self, name: Callable[[Hashable], Hashable | None]) -> AttentionFlow:
        """The groups merged under new names, such as the grade alone; those named None are left out."""
        named = [name(group) for group in self.groups]
        names = tuple(dict.fromkeys(new for new in named if new is not None))
        place = {new: i for i, new in enumerate(names)}
        targets = [-1 if new is None else place[new] for new in named]
        return AttentionFlow(names, self.moments.merged(targets, len(names)), made=self.made)


def require_unablated(model: HookedEncoder) -> None:
    """Raise ValueError where an ablation is active: this is measured of the model as it is, stored or not."""
    if model.active_condition != UNABLATED:
        raise ValueError(
            f"expected a model with nothing ablated, but {model.active_condition} is active: measure outside of `ablating`"
        )


@recorded
def measure_attention(
    model: HookedEncoder,
    pairs: EncodedPairs | PairBatch,
    groups: Sequence[Hashable],
    *,
    full_stops: Sequence[int] = (),
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Progress | None = None,
) -> AttentionFlow:
    """Mass, density and excess of every direction in every layer and head, over the pairs of each group.

    Args:
        model: the model, with nothing ablated.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        groups: the name of each pair's group.
        full_stops: the token ids that are full stops.
        token_budget: padded tokens a batch.
        progress: called after each batch with the number of pairs done.

    Raises:
        ValueError: not one group a pair, an ablation is active, or attention that is no finite number.
    """
    pairs = as_encoded(pairs)
    if len(groups) != len(pairs):
        raise ValueError(f"expected the group of each of {len(pairs)} pairs, got {len(groups)}")
    require_unablated(model)
    flow = AttentionFlow.empty(model.cfg.n_layers, model.cfg.n_heads)
    for indices in length_batches(pairs.lengths, token_budget, in_order=model.hooked):
        moments = pair_moments(model, pairs.batch(indices).to(model.device), full_stops)
        flow = AttentionFlow.join([flow, AttentionFlow.gather([groups[i] for i in indices], moments)])
        if progress is not None:
            progress(len(indices))
    return flow


def pair_moments(model: HookedEncoder, batch: PairBatch, full_stops: Sequence[int] = ()) -> Moments:
    """The moments of every pair of a batch as a group of its own.

    Raises:
        ValueError: attention that is no finite number.
    """
    columns = attended_columns(batch, full_stops)
    rows = torch.cat([columns[:, :, :N_PARTS], batch.attention_mask[:, :, None]], dim=-1)
    masses = _row_means(model, batch, rows, columns).to("cpu", torch.float64).numpy()
    if not np.isfinite(masses).all():
        raise ValueError(
            "expected finite attention, but some is NaN or infinite: check the checkpoint's weights, or use dtype float32"
        )
    n_rows, n_columns = (sets.sum(1).cpu().numpy() for sets in (rows, columns))
    present = n_columns > 0
    any_count = present.copy()
    any_count[:, N_PARTS:] = True  # no full stop: a mass of 0
    by_quantity = {"mass": any_count, "density": present, "excess": any_count}
    counted = np.stack([by_quantity[quantity] for quantity in QUANTITIES], axis=1)
    counted = counted[:, :, None, :] & (n_rows > 0)[:, None, :, None]
    counts = counted[:, None, None].astype(np.int64)
    sizes = n_columns[:, None, None, None]
    even = _even(model, batch, rows, columns)
    found = {"mass": masses, "density": masses / np.maximum(sizes, 1), "excess": masses - even}
    values = np.stack([found[quantity] for quantity in QUANTITIES], axis=3) * counts
    return Moments(counts, values, np.zeros_like(values))


def _even(
    model: HookedEncoder, batch: PairBatch, rows: Tensor, columns: Tensor
) -> Float[np.ndarray, "pair layer_or_1 1 attender attended"]:
    """The masses of equal attention to all that a row sees; the same for all layers where none has a window."""
    given = model.attention_input(batch.attention_mask, batch.parts)
    means = rows.double() / rows.sum(1, keepdim=True).clamp(min=1)
    kept = {}
    for window in dict.fromkeys(model.cfg.windows or (None,)):
        seen, real = (columns_seen(given, window, sets).double() for sets in (columns, batch.attention_mask[..., None]))
        even = seen / real.clamp(min=1)
        unlimited = even.shape[1] == 1
        kept[window] = even.expand(-1, rows.shape[2], -1) if unlimited else torch.einsum("pra,prc->pac", means, even)
    found = torch.stack([kept[window] for window in model.cfg.windows or (None,)], dim=1)
    return found[:, :, None].cpu().numpy()


def attended_columns(batch: PairBatch, full_stops: Sequence[int] = ()) -> Bool[Tensor, "pair pos attended"]:
    """Which positions each entry of the `attended` axis covers."""
    stops = torch.isin(batch.tokens, torch.tensor(list(full_stops), dtype=torch.long, device=batch.tokens.device))
    sides = [stops & batch.parts[part] for part in (Part.QUERY, Part.DOC)]
    return torch.cat([batch.parts.one_hot, torch.stack(sides, dim=-1)], dim=-1)


def _row_means(
    model: HookedEncoder, batch: PairBatch, rows: Tensor, columns: Tensor
) -> Float[Tensor, "pair layer head attender attended"]:
    """The masses on `columns`, averaged over each attender's rows, from the queries and keys of one plain run."""
    precise = torch.promote_types(model.dtype, torch.float32)
    given = replace(model.attention_input(batch.attention_mask, batch.parts), dtype=precise)
    shares = rows.to(precise) / rows.sum(1, keepdim=True).clamp(min=1)
    held: list[Tensor] = []
    found: list[Tensor] = []

    def hold(q: Tensor, hook: HookPoint) -> None:
        held.append(q)

    def measure(k: Tensor, hook: HookPoint) -> None:
        attn = model.block(hook.layer()).attn
        masses = attn.masses(held.pop().to(precise), k.to(precise), given, columns)
        found.append(torch.einsum("prhc,pra->phac", masses, shares))

    hooks: FwdHooks = []
    for layer in range(model.cfg.n_layers):
        hooks += zip(model.block(layer).attn.scored_points, (hold, measure), strict=True)
    with torch.no_grad():
        model.run_with_hooks(batch, fwd_hooks=hooks)
    return torch.stack(found, dim=1)
