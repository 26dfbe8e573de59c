"""Editing what token embeddings hold along their first singular direction, where rerankers keep a token's rarity.

With the token embeddings W_E = U S V^T, the largest singular value s_0 and its right singular vector v_0,

    w_t = u_t0 s_0 v_0 + the rest        the row of token t, with u_t0 s_0 = w_t · v_0
    w_t + (scale - 1) (w_t · v_0) v_0    what it is made: u_t0 times `scale`, the rest as it was

Lu, Chen & Eickhoff 2025 (arXiv 2502.04645) find u_0 of a reranker to follow the inverse document frequency, and edit it so. A
singular vector's sign is arbitrary: v_0 is taken with a sum of entries that is not negative. What an edit does is free of it, since
the sign enters twice; a scale above 1 makes larger what a token has there, of either sign, a negative one turns it round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.console.shown import quoted
from tl_crossenc.model.cross_encoder import HookedCrossEncoder


def singular_directions(W_E: Float[Tensor, "token d_embed"]) -> tuple[Float[Tensor, "k"], Float[Tensor, "d_embed k"]]:
    """(singular values, largest first; right singular vectors in columns) of token embeddings, in float64 on their device.

    From the eigenvectors of W_E^T W_E, which is no larger than the model is wide whatever the vocabulary is. The sum of a vector's
    entries is not negative.

    Raises:
        ValueError: weights that are no finite numbers.
    """
    wide = W_E.detach().double()
    if not bool(wide.isfinite().all()):
        raise ValueError(
            "expected finite token embeddings, but some are NaN or infinite: check the checkpoint's weights"
        )
    squares, vectors = torch.linalg.eigh(wide.T @ wide)
    vectors = vectors.flip(1)
    signs = torch.where(vectors.sum(0) < 0, -1.0, 1.0)
    return squares.flip(0).clamp(min=0).sqrt(), vectors * signs


@contextmanager
def editing_idf(model: HookedCrossEncoder, tokens: Sequence[Any], scale: float) -> Iterator[HookedCrossEncoder]:
    """The model with some tokens' component along the first singular direction of W_E times `scale`, inside of the block.

    In place; the rows have their former bytes after the block, and after an error in it. Where the scale is 1 nothing is touched.
    Inside of it stored results are found by the edited weights, so that none of the unedited model's is taken for one of these.

    Args:
        model: the model.
        tokens: word pieces as the tokenizer's vocabulary has them ("flea", "##ing"), or token ids; one named twice is edited once.
        scale: what the component is multiplied by; 1 leaves it, 0 takes it out.

    Raises:
        ValueError: no tokens, a token that the vocabulary does not have, or a scale that is not finite or makes a weight so.
        TypeError: something that is neither a piece nor an id.
    """
    rows = _rows(model, tokens)
    if not isfinite(scale):
        raise ValueError(f"expected a finite scale, got {scale}: 1 leaves the component as it is")
    if scale == 1:
        yield model
        return
    W_E = model.embed.W_E
    _, vectors = singular_directions(W_E)
    at = torch.tensor(rows, device=W_E.device)
    before = W_E.detach()[at].clone()
    wide, direction = before.double(), vectors[:, 0]
    edited = (wide + (scale - 1) * (wide @ direction)[:, None] * direction).to(W_E.dtype)
    if not bool(edited.isfinite().all()):
        raise ValueError(f"expected a scale that {W_E.dtype} can hold, got {scale}: take a smaller one")
    try:
        with torch.no_grad():
            W_E[at] = edited
        yield model
    finally:
        with torch.no_grad():
            model.embed.W_E[at.to(model.embed.W_E.device)] = before.to(model.embed.W_E)


def _rows(model: HookedCrossEncoder, tokens: Sequence[Any]) -> list[int]:
    """Token ids, each once."""
    if isinstance(tokens, str) or not len(tokens):
        came = f"the text {quoted(tokens)}" if isinstance(tokens, str) and tokens else "none"
        raise ValueError(f"expected a list of tokens to edit, got {came}: name pieces of the vocabulary, or token ids")
    found: dict[int, None] = {}
    for token in tokens:
        if isinstance(token, bool) or not isinstance(token, str | Integral):
            raise TypeError(f"expected word pieces or token ids, got {token!r} of type {type(token).__name__}")
        found[_piece_id(model, token) if isinstance(token, str) else int(token)] = None
    rows, size = list(found), model.embed.W_E.shape[0]
    outside = [row for row in rows if not 0 <= row < size]
    if outside:
        raise ValueError(f"expected token ids from 0 to {size - 1}, got {outside[0]}")
    return rows


def _piece_id(model: HookedCrossEncoder, piece: str) -> int:
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError(f"expected token ids for a model without a tokenizer, got {quoted(piece)}")
    known = tokenizer.get_vocab()
    if piece in known:
        return int(known[piece])
    pieces = tokenizer.tokenize(piece)
    hint = f": it is read as {', '.join(map(quoted, pieces))}, name those" if pieces else ""
    raise ValueError(f"expected word pieces of the tokenizer's vocabulary, got {quoted(piece)}{hint}")
