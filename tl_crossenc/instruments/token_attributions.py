"""Attributions by name: a number for every token of a passage, or of a query, whichever method it comes from.

    bottleneck       bits of the token after one layer (`bottleneck.py`), by default the middle one; needs the layers' distribution
                     over other pairs
    gradients        integrated gradients before layer 0 from the text emptied (`integrated_gradients.py`): adds up to s - s'
    attention        mean over layers and heads of what the rows that the head reads give the token: CLS, or all rows where the head
                     reads their mean (`token_reads.py`)
    direct           what those rows read of the token, in the unit of the score (`token_reads.py`)
    leave-one-out    the score less the score without this one token
    random           uniform numbers by the seed and the pair's tokens

Gradients, direct and leave-one-out are signed: a token that lowers the score has a negative value. Bits and attention are not. The
removal says what takes a token's place where a text is emptied or a token left out; of "delete", gradients begin at the padding
token. Whatever the method, a pair's values do not depend on the other pairs, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.console.shown import quoted
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.instruments.baselines import Baseline
from tl_crossenc.instruments.bottleneck import fit_bottlenecks
from tl_crossenc.instruments.fitting import Fitting
from tl_crossenc.instruments.integrated_gradients import NODES, integrated_gradients, integration_cost
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.instruments.removal import (
    Removal,
    Removed,
    as_removal,
    model_scorer,
    pair_generator,
    removal_scores,
    text_tokens,
)
from tl_crossenc.instruments.token_reads import token_reads
from tl_crossenc.interventions.indices import within
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

BOTTLENECK, GRADIENTS, LEAVE_ONE_OUT, RANDOM = "bottleneck", "gradients", "leave-one-out", "random"
ATTRIBUTIONS = (BOTTLENECK, GRADIENTS, "attention", "direct", LEAVE_ONE_OUT, RANDOM)
"""The names, wherever one is asked for."""


@dataclass(frozen=True)
class Attributing:
    """What the methods are given.

    Attributes:
        removal: of which text, and what stands for a token that is not there.
        layer: after which bits are measured; None for the middle, the last one of the lower half.
        fitting: of bottlenecks.
        nodes: of integrated gradients.
        seed: of random numbers.
        token_budget: padded tokens a batch.
    """

    removal: Removal
    layer: int | None = None
    fitting: Fitting = Fitting()  # noqa: RUF009
    nodes: int = NODES
    seed: int = 0
    token_budget: int | None = None

    __repr__ = short_repr

    def bottleneck_layer(self, n_layers: int) -> int:
        """After which bits are measured.

        Raises:
            ValueError: a layer that the model does not have.
        """
        return (n_layers - 1) // 2 if self.layer is None else within([self.layer], n_layers, "layer")[0]

    def baseline(self) -> Baseline:
        """Where integrated gradients begin."""
        return Baseline(self.removal.text, "pad" if self.removal.token is None else self.removal.way)


Advance = Callable[[int], object]
"""Called with layer runs newly done."""


def check_attributions(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once, in the order given.

    Raises:
        ValueError: none, or a name that there is not.
    """
    unknown = [name for name in names if name not in ATTRIBUTIONS]
    if unknown or not names or isinstance(names, str):
        raise ValueError(
            f"expected attributions among {', '.join(ATTRIBUTIONS)}, got {quoted(', '.join(unknown or names))}"
        )
    return tuple(dict.fromkeys(names))


def token_attributions(
    model: HookedCrossEncoder,
    pairs: EncodedPairs | PairBatch,
    name: str,
    given: Attributing | None = None,
    *,
    statistics: LayerStatistics | None = None,
    progress: Advance | None = None,
) -> Float[np.ndarray, "token"]:
    """A value for every token of the text, the tokens of all pairs end to end as in `pairs`; NaN for all other tokens.

    Args:
        model: the model, with what it ablates at the moment.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        name: of `ATTRIBUTIONS`.
        given: of the method; by default tokens of the passage, removed by the first way that the model has.
        statistics: the layers' distribution over other pairs, for bottlenecks.
        progress: called with layer runs newly done, as `attribution_cost` counts them.

    Raises:
        ValueError: no pairs, another name, bottlenecks without statistics, or see the methods.
    """
    pairs = as_encoded(pairs)
    (name,) = check_attributions([name])
    if not len(pairs):
        raise ValueError("expected at least one pair to attribute, got none")
    chosen = given or Attributing(as_removal(model, pairs))
    if name == BOTTLENECK:
        values = _bits(model, pairs, chosen, statistics, progress)
    elif name == GRADIENTS:
        found = integrated_gradients(
            model,
            pairs,
            chosen.baseline(),
            layers=[0],
            nodes=chosen.nodes,
            token_budget=chosen.token_budget,
            progress=progress,
        )
        values = found.values[0]
    elif name in ("attention", "direct"):
        values = getattr(
            token_reads(model, pairs, token_budget=chosen.token_budget, progress=_runs(model, 2, progress)), name
        )
    elif name == LEAVE_ONE_OUT:
        values = _left_out(model, pairs, chosen, progress)
    else:
        values = np.concatenate(
            [pair_generator(pairs, i, chosen.seed, 1).random(length) for i, length in enumerate(pairs.lengths)]
        )
    return np.where(np.isin(pairs.parts, chosen.removal.parts), values, np.nan)


def attribution_cost(model: HookedCrossEncoder, pairs: EncodedPairs, name: str, given: Attributing) -> int:
    """Layer runs of all pairs, as `progress` counts them."""
    n_layers = model.cfg.n_layers
    if name == BOTTLENECK:
        return given.fitting.layer_runs(n_layers, [given.bottleneck_layer(n_layers)]) * len(pairs)
    if name == GRADIENTS:
        return integration_cost(model, [0], "pre", given.nodes) * len(pairs)
    if name == LEAVE_ONE_OUT:
        return n_layers * (len(pairs) + int(np.isin(pairs.parts, given.removal.parts).sum()))
    return 0 if name == RANDOM else 2 * n_layers * len(pairs)


def _bits(
    model: HookedCrossEncoder,
    pairs: EncodedPairs,
    given: Attributing,
    statistics: LayerStatistics | None,
    progress: Advance | None,
) -> Float[np.ndarray, "token"]:
    if statistics is None:
        raise ValueError(
            "expected statistics of other pairs to measure bits with (LayerStatistics.fit), got none: give them, or take another "
            "attribution"
        )
    layer = given.bottleneck_layer(model.cfg.n_layers)
    budget = given.token_budget
    return fit_bottlenecks(
        model, pairs, statistics, given.fitting, layers=[layer], token_budget=budget, progress=progress
    ).bits[0]


def _left_out(
    model: HookedCrossEncoder, pairs: EncodedPairs, given: Attributing, progress: Advance | None
) -> Float[np.ndarray, "token"]:
    """s less the score without each token of the text, one at a time; 0 for other tokens."""
    score = model_scorer(model, given.token_budget, _runs(model, 1, progress))
    own = text_tokens(pairs, *given.removal.parts)
    one_by_one = [Removed(i, np.array([at])) for i, places in enumerate(own) for at in places]
    wanted = [Removed(i, np.zeros(0, np.int64)) for i in range(len(pairs))] + one_by_one
    scores = removal_scores(score, pairs, wanted, given.removal)
    values = np.zeros(len(pairs.tokens))
    for (pair, places), without in zip(one_by_one, scores[len(pairs) :], strict=True):
        values[places] = scores[pair] - without
    return values


def _runs(model: HookedCrossEncoder, runs: int, progress: Advance | None) -> Callable[[int], object] | None:
    """Progress in pairs as progress in layer runs."""
    return None if progress is None else lambda done: progress(done * runs * model.cfg.n_layers)
