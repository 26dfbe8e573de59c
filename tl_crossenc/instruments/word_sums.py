"""Values of tokens added up by word: what a reader sees of an attribution."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.interventions.indices import within
from tl_crossenc.model.cross_encoder import HookedCrossEncoder


def word_sums(
    model: HookedCrossEncoder, pairs: EncodedPairs, pair: int, values: Float[np.ndarray, "row pos"]
) -> pd.DataFrame:
    """The words of one pair, in order, with their values.

    Args:
        model: whose tokenizer made the pairs.
        pairs: the pairs.
        pair: which of them; a negative number counts from the end.
        values: of its tokens; a row a layer, say. `IntegratedGradients.of(pair)` is such.

    Returns:
        A row a word or special token: `word`, `part`, `start` and `stop` (positions of its tokens), and a column a row of values,
        named 0, 1, .... A word's value is the sum over its pieces, so that columns add up to what the tokens do.

    Raises:
        ValueError: a model without a tokenizer, a pair that there is not, or values that are not one a token.
    """
    if model.tokenizer is None:
        raise ValueError("expected a model with a tokenizer to tell words, got one without")
    (pair,) = within([pair], len(pairs), "pair")
    begin, end = pairs.offsets[pair], pairs.offsets[pair + 1]
    tokens, parts = pairs.tokens[begin:end].tolist(), pairs.parts[begin:end]
    if values.ndim != 2 or values.shape[1] != len(tokens):
        raise ValueError(f"expected values [row, {len(tokens)}], one a token of the pair, got {values.shape}")
    pieces, spans = Pieces(model.tokenizer), []
    for part in Part:
        at = np.flatnonzero(parts == part)
        if not at.size:
            continue
        if part in (Part.QUERY, Part.DOC):
            low = int(at[0])
            spans += [
                (word.text, part.name, low + word.start, low + word.stop)
                for word in pieces.words([tokens[i] for i in at])
            ]
        else:
            spans += [(pieces.name(tokens[i]), part.name, int(i), int(i) + 1) for i in at]
    frame = pd.DataFrame(spans, columns=["word", "part", "start", "stop"])
    sums = np.add.reduceat(values, frame["start"].to_numpy(), axis=1)
    return pd.concat([frame, pd.DataFrame(sums.T, columns=range(len(values)))], axis=1)
