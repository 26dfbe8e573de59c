"""The tokens of a pair as its views show them."""

from __future__ import annotations

import numpy as np

from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.model.cross_encoder import HookedCrossEncoder


def shown_tokens(model: HookedCrossEncoder, pair: EncodedPairs) -> list[str]:
    """The pieces of the only pair: WordPiece's as they are, others' as text, with `##` before those that go on with a word.

    `model.to_str_tokens` has them as the vocabulary writes them.
    """
    pieces, ids = Pieces(model.tokenizer), pair.tokens.tolist()
    names = [pieces.name(piece) for piece in ids]
    if not pieces.spaced:
        return names
    for part in (Part.QUERY, Part.DOC):
        positions = np.flatnonzero(pair.parts == part)
        for at, name in zip(positions, pieces.shown(pair.tokens[positions].tolist()), strict=True):
            names[at] = name
    return names
