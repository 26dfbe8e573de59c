"""The tokens of a pair as its views show them."""

from __future__ import annotations

import numpy as np

from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.model.cross_encoder import HookedCrossEncoder


def shown_tokens(model: HookedCrossEncoder, query: str, passage: str) -> list[str]:
    """The pieces of a pair: WordPiece's as they are, others' as text, with `##` before those that go on with a word.

    `model.to_str_tokens` has them as the vocabulary writes them.
    """
    names = model.to_str_tokens(query, passage)
    if model.tokenizer is None:
        return names
    pieces, encoded = Pieces(model.tokenizer), model.encode_pairs(query, passage)
    if not pieces.spaced:
        return names
    for part in (Part.QUERY, Part.DOC):
        positions = np.flatnonzero(encoded.parts == part)
        for at, name in zip(positions, pieces.shown(encoded.tokens[positions].tolist()), strict=True):
            names[at] = name
    return names
