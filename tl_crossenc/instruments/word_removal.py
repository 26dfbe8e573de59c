"""Words of a pair removed, whole, from either text or from both: what a score is worth without them.

The ways are those of `removal`: by "delete" the word's tokens are gone, with the mark of the space before it, and what follows
moves up; by "mask" or "pad" each of them becomes that token. So a pair without a word is that of the text with the word cut out,
and with it the white space before it, as long as what then stands side by side does not run together (of `ab日cd` without 日 the
pieces of `ab` and `cd` stay what they are). What truncation cut stays cut: no word comes in at the end for one that is left out.

All sets of words are scored in one batched pass, of both texts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from tl_crossenc.inputs.pair_words import PairWord
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.instruments.removal import Removal, Removed, as_removal, model_scorer, removal_scores
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

DELETE = "delete"
"""How words are removed unless another way is asked for."""


def word_removal(model: HookedCrossEncoder, pairs: EncodedPairs, way: str | None = None) -> Removal:
    """The removal of words of both texts.

    Raises:
        ValueError: another way, or one that the model's vocabulary has no token for.
    """
    return as_removal(model, pairs, DELETE if way is None else way).of_both()


def scores_without(
    model: HookedCrossEncoder,
    pair: EncodedPairs,
    sets: Sequence[Sequence[PairWord]],
    removal: Removal,
    *,
    token_budget: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Float[np.ndarray, "set"]:
    """The score of one pair without each set of its words; an empty set is the pair as it is.

    Args:
        model: the model, with what it ablates at the moment.
        pair: the only pair, as `model.encode_pairs` gives it.
        sets: words of it (`inputs.pair_words`).
        removal: from `word_removal`.
        token_budget: padded tokens a batch.
        progress: called with the number of sets newly scored.

    Raises:
        ValueError: not one pair, or a score that is no finite number.
    """
    if len(pair) != 1:
        raise ValueError(f"expected one pair to remove words from, got {len(pair)}")
    wanted = [
        Removed(0, np.array(sorted(at for word in words for at in word.tokens), dtype=np.int64)) for words in sets
    ]
    return removal_scores(model_scorer(model, token_budget, progress), pair, wanted, removal)
