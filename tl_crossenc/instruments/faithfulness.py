"""How faithful an attribution is to a score: what the score does when the tokens that it ranks are removed.

For one pair with n tokens of a text, s(S) the score with the tokens S removed, and the order of `removal_orders`:

    curves              s after the k = ceil(f n) most important tokens are removed, and after the k least important ones, at
                        fractions f from 0 to 1. All attributions share both ends: s() and s(all)
    area                integral over f of (least first - most first), of scores normalised (s - s(all)) / (s() - s(all)): 1 where
                        one token is all, 0 in expectation for a random order, negative for one that is the wrong way round
    comprehensiveness   s() - s(top k), mean over the bins k = ceil(b n), b = 1, 5, 10, 20, 50 %: large is faithful
    sufficiency         s() - s(all but the top k), mean over the same bins: small is faithful
    sensitivity-n       Pearson's r over random sets S of n tokens of sum_{i in S} a_i and s() - s(S); 1 for a linear score

after Samek et al. 2017 (both orders), DeYoung et al. 2020 (ERASER, the bins and their mean) and Ancona et al. 2018. By definition
the comprehensiveness of a set is the sufficiency of its complement.

**Left out.** A pair without a token of the text has none of these. One whose score without all of them is not lower than its score
has no span to normalise by: its area is NaN, while the area in the unit of the score (`raw_area`) stands. So it is with a span that
is too small to divide by, of which `least_span` says what is. Sets of tokens have no correlation where attributions, or scores, do
not differ among them.

**Limits.** A model was trained on no text with holes: what removal does to its score is partly its surprise, and each way has its
own. Retraining on what is left (ROAR; Madsen et al. 2021 recursively) would tell these apart, and is not done here. These numbers
can be raised without being more faithful: they are to be reported, never to be optimised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.instruments.removal import (
    Removal,
    Removed,
    Scorer,
    pair_generator,
    removal_orders,
    removal_scores,
    text_tokens,
)
from tl_crossenc.model.made_by import recorded

FRACTIONS = tuple(i / 10 for i in range(11))
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""ERASER's."""
ROUNDING = 1e-6
"""Of the largest of some numbers: what float32 leaves between equal ones."""


@dataclass(frozen=True)
class Curves(Framed):
    """Scores of pairs with tokens removed in the order of one attribution.

    Attributes:
        fractions: of the text's tokens that are removed, from 0 to 1.
        bins: of comprehensiveness and sufficiency.
        n_tokens: `[pair]`, of the text.
        most, least: `[pair, fraction]`, scores with the most, and with the least, important tokens removed.
        without_top, only_top: `[pair, bin]`, scores without the most important tokens, and with them alone.
        least_span: what the score must fall by, without all tokens, for a pair to have a span.
    """

    fractions: tuple[float, ...]
    bins: tuple[float, ...]
    n_tokens: Int[np.ndarray, "pair"]
    most: Float[np.ndarray, "pair fraction"]
    least: Float[np.ndarray, "pair fraction"]
    without_top: Float[np.ndarray, "pair bin"]
    only_top: Float[np.ndarray, "pair bin"]
    least_span: float = 0.0

    __repr__ = short_repr

    def axes(self) -> Mapping[str, Labels]:
        """Fractions and bins by their sizes."""
        return {"fraction": self.fractions, "bin": self.bins}

    MAIN = "most"

    @property
    def span(self) -> Float[np.ndarray, "pair"]:
        """s() - s(all)."""
        return self.most[:, 0] - self.most[:, -1]

    @property
    def has_span(self) -> Bool[np.ndarray, "pair"]:
        """Whether there is anything to normalise by: a score that falls by `least_span`, and by more than rounding."""
        size = np.maximum(np.abs(self.most[:, 0]), np.abs(self.most[:, -1]))
        return (self.n_tokens > 0) & (self.span > np.maximum(ROUNDING * size, self.least_span))

    @property
    def normalised(self) -> tuple[Float[np.ndarray, "pair fraction"], Float[np.ndarray, "pair fraction"]]:
        """`most` and `least` from 1 (nothing removed) to 0 (everything); NaN without span."""
        span = np.where(self.has_span, self.span, np.nan)[:, None]
        end = self.most[:, -1:]
        return (self.most - end) / span, (self.least - end) / span

    @property
    def area(self) -> Float[np.ndarray, "pair"]:
        """Between the normalised curves; NaN without span."""
        return self.raw_area / np.where(self.has_span, self.span, np.nan)

    @property
    def raw_area(self) -> Float[np.ndarray, "pair"]:
        """Between the curves, in the unit of the score; NaN without tokens."""
        area = np.trapezoid(self.least - self.most, self.fractions, axis=1)
        return np.where(self.n_tokens > 0, area, np.nan)

    @property
    def comprehensiveness(self) -> Float[np.ndarray, "pair"]:
        """Mean over the bins; NaN without tokens."""
        return self._mean_drop(self.without_top)

    @property
    def sufficiency(self) -> Float[np.ndarray, "pair"]:
        """Mean over the bins; NaN without tokens."""
        return self._mean_drop(self.only_top)

    def _mean_drop(self, scores: Float[np.ndarray, "pair bin"]) -> Float[np.ndarray, "pair"]:
        return np.where(self.n_tokens > 0, (self.most[:, :1] - scores).mean(1), np.nan)


def removed_count(fraction: float, n: int) -> int:
    """ceil(f n), the f n that is whole but for rounding being whole.

    >>> removed_count(0.07, 100), removed_count(0.01, 30), removed_count(1.0, 7)  # 0.07 * 100 is a little more than 7
    (7, 1, 7)
    """
    return int(np.ceil(round(fraction * n, 9)))


@recorded
def removal_curves(
    score: Scorer,
    pairs: EncodedPairs,
    values: Float[np.ndarray, "token"],
    removal: Removal,
    *,
    fractions: Sequence[float] = FRACTIONS,
    bins: Sequence[float] = BINS,
    seed: int = 0,
) -> Curves:
    """Remove the tokens of each pair by their values, most and least important first.

    Args:
        score: of pairs, such as `model_scorer(model)`.
        pairs: the pairs.
        values: of all their tokens, end to end; those of other parts than the removal's do not count.
        removal: how, and of which text.
        fractions: rising from 0 to 1.
        bins: between 0 and 1.
        seed: of the order of tied tokens.

    Raises:
        ValueError: fractions or bins that are not such, or see `removal_orders`.
    """
    fractions, bins = check_fractions(fractions, bins)
    orders = removal_orders(pairs, values, removal.part, seed)
    wanted: list[Removed] = []
    for i, order in enumerate(orders):
        n = len(order)
        counts = [removed_count(fraction, n) for fraction in fractions]
        tops = [removed_count(share, n) for share in bins]
        sets = [order[:k] for k in counts] + [order[n - k :] for k in counts]
        sets += [order[:k] for k in tops] + [order[k:] for k in tops]
        wanted += [Removed(i, own) for own in sets]
    scores = removal_scores(score, pairs, wanted, removal).reshape(len(pairs), -1)
    n_fractions, n_bins = len(fractions), len(bins)
    cuts = np.cumsum([n_fractions, n_fractions, n_bins])
    parts: Any = np.split(scores, cuts, axis=1)
    return Curves(fractions, bins, np.array([len(order) for order in orders], np.int64), *parts)


def check_fractions(fractions: Sequence[float], bins: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Both as tuples.

    Raises:
        ValueError: fractions that do not rise from 0 to 1, with none between, where all orders are alike, or a bin that is not
            between 0 and 1.
    """
    rising = len(fractions) > 2 and fractions[0] == 0 and fractions[-1] == 1 and bool((np.diff(fractions) > 0).all())
    if not rising or not bins or not all(0 < share < 1 for share in bins):
        raise ValueError(
            "expected fractions that rise from 0 to 1 and bins between 0 and 1, at least one fraction between the ends and one "
            f"bin, got {list(fractions)} and {list(bins)}"
        )
    return tuple(fractions), tuple(bins)


def comprehensiveness(
    score: Scorer, pairs: EncodedPairs, chosen: Bool[np.ndarray, "token"], removal: Removal
) -> Float[np.ndarray, "pair"]:
    """s() - s(chosen): what the score loses without the chosen tokens of each pair.

    Raises:
        ValueError: not true or false for each token, or a chosen token that is not the text's.
    """
    return _drop(score, pairs, _of_text(pairs, chosen, removal), removal)


def sufficiency(
    score: Scorer, pairs: EncodedPairs, chosen: Bool[np.ndarray, "token"], removal: Removal
) -> Float[np.ndarray, "pair"]:
    """s() - s(all but chosen): what the score loses where the chosen tokens are all that is left of the text.

    Raises:
        ValueError: see `comprehensiveness`.
    """
    return _drop(score, pairs, ~_of_text(pairs, chosen, removal) & (pairs.parts == removal.part), removal)


def _of_text(pairs: EncodedPairs, chosen: Bool[np.ndarray, "token"], removal: Removal) -> Bool[np.ndarray, "token"]:
    """The chosen tokens, all of them the text's."""
    given = np.asarray(chosen)
    if given.dtype != bool or given.shape != pairs.tokens.shape or (given & (pairs.parts != removal.part)).any():
        raise ValueError(
            f"expected true or false for each of the {len(pairs.tokens)} tokens, and true for tokens of the {removal.text} alone, "
            f"got {given.dtype} of shape {given.shape}"
        )
    return given


def _drop(
    score: Scorer, pairs: EncodedPairs, without: Bool[np.ndarray, "token"], removal: Removal
) -> Float[np.ndarray, "pair"]:
    none = [Removed(i, np.zeros(0, np.int64)) for i in range(len(pairs))]
    places = [own[without[own]] for own in text_tokens(pairs, removal.part)]
    scores = removal_scores(score, pairs, none + [Removed(i, own) for i, own in enumerate(places)], removal)
    return scores[: len(pairs)] - scores[len(pairs) :]


@dataclass(frozen=True)
class Sets(Framed):
    """Random sets of tokens removed from each pair: the same for all attributions.

    Attributes:
        tokens: `[pair][draw]`, places among the tokens of all pairs.
        drops: `[pair, draw]`, s() - s(set).
    """

    tokens: list[list[Int[np.ndarray, "_"]]]
    drops: Float[np.ndarray, "pair draw"]

    __repr__ = short_repr

    def sensitivity(self, values: Float[np.ndarray, "token"]) -> Float[np.ndarray, "pair"]:
        """Pearson's r over the sets of the sum of their values and the drop; NaN where either does not vary but for rounding.

        Raises:
            ValueError: not one finite value a token of the sets.
        """
        used = np.concatenate([np.zeros(0, np.int64), *(own for sets in self.tokens for own in sets)])
        if np.ndim(values) != 1 or used.max(initial=-1) >= len(values) or not np.isfinite(values[used]).all():
            raise ValueError(f"expected a finite value for each token of the sets, got shape {np.shape(values)} or NaN")
        sums = np.array([[values[own].sum() for own in sets] for sets in self.tokens]).reshape(self.drops.shape)
        found = np.full(len(sums), np.nan)
        for i, (x, y) in enumerate(zip(sums, self.drops, strict=True)):
            if all(len(a) > 1 and np.ptp(a) > ROUNDING * np.abs(a).max() for a in (x, y)):
                found[i] = np.corrcoef(x, y)[0, 1]
        return found


@recorded
def random_sets(
    score: Scorer, pairs: EncodedPairs, removal: Removal, *, share: float = 0.2, draws: int = 32, seed: int = 0
) -> Sets:
    """Sets of n = ceil(share x tokens) tokens of each pair, drawn by the seed and the pair's own tokens, and what they cost.

    Raises:
        ValueError: a share that is not between 0 and 1, or fewer than two draws.
    """
    if not 0 < share < 1 or draws < 2:
        raise ValueError(f"expected a share between 0 and 1 and at least two draws, got {share} and {draws}")
    tokens, wanted = [], [Removed(i, np.zeros(0, np.int64)) for i in range(len(pairs))]
    for i, own in enumerate(text_tokens(pairs, removal.part)):
        rng = pair_generator(pairs, i, seed, 2)
        tokens.append([rng.permutation(own)[: removed_count(share, len(own))] for _ in range(draws)])
        wanted += [Removed(i, chosen) for chosen in tokens[-1]]
    scores = removal_scores(score, pairs, wanted, removal)
    return Sets(tokens, scores[: len(pairs), None] - scores[len(pairs) :].reshape(len(pairs), draws))
