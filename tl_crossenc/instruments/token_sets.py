"""Which tokens of a pair a probe reads: sets of its positions by name.

    CLS       the first position                   QUERY, DOC   the pieces of the query, of the passage
    SEP       all separators, after either text    MATCHED      the DOC positions whose piece is a piece of QUERY, too
                                                                (`token_matches`: same_piece)
    STOPS     the full stops of DOC                STOP_WORDS   the pieces of DOC's stop words

Padding is in no set. The first five (`SETS`) need no tokenizer and are read where nobody says which; the last two are read on
request. All are sets of Zhan et al. 2020, with these differences: their stop words are the fifty pieces that most passages have,
here the English words that BM25 leaves out (`bm25s`, after Lucene), in any case and whole, be they one piece or several; and
their matched tokens are no stop words.

MATCHED is found by comparing the texts: that its tokens match is our finding, and not the model's, from layer 0 on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

STOPS, STOP_WORDS = "STOPS", "STOP_WORDS"
SETS = ("CLS", "QUERY", "SEP", "DOC", "MATCHED")
"""Those that are read by default."""
ALL_SETS = (*SETS, STOPS, STOP_WORDS)
FULL_STOPS = (".", "Ġ.", "▁.")
"""A full stop in the vocabularies of BERT, byte-level BPE and SentencePiece."""
_PARTS = {"CLS": (Part.CLS,), "QUERY": (Part.QUERY,), "SEP": (Part.SEP1, Part.SEP2), "DOC": (Part.DOC,)}


class TokenSets:
    """Some sets of tokens of a model's pairs.

    Args:
        model: whose pairs they are.
        names: of `ALL_SETS`, each once.

    Raises:
        ValueError: no set, one twice or one that there is not; STOPS or STOP_WORDS of a model without a tokenizer, or STOPS of a
            vocabulary without a full stop.
    """

    def __init__(self, model: HookedCrossEncoder, names: Sequence[str]) -> None:
        self.names = check_sets(names)
        told = [name for name in self.names if name not in SETS]
        if told and model.tokenizer is None:
            raise ValueError(f"expected a model with a tokenizer to tell {' and '.join(told)} by, got one without")
        self._stops = torch.tensor(full_stop_ids(model), dtype=torch.long)
        if STOPS in told and not len(self._stops):
            raise ValueError(f"expected a vocabulary with a full stop to read {STOPS}, got one without: leave that set")
        self._pieces = Pieces(model.tokenizer) if STOP_WORDS in told else None

    def members(self, batch: PairBatch) -> Bool[Tensor, "pair set pos"]:
        """Which positions of a batch are in each set, on its device."""
        return torch.stack([self._positions(batch, name) for name in self.names], 1)

    def _positions(self, batch: PairBatch, name: str) -> Bool[Tensor, "pair pos"]:
        if name in _PARTS:
            return torch.stack([batch.parts[part] for part in _PARTS[name]]).any(0)
        doc = batch.parts[Part.DOC]
        if name == STOPS:
            return torch.isin(batch.tokens, self._stops.to(batch.tokens.device)) & doc
        if self._pieces is not None and name == STOP_WORDS:
            return torch.from_numpy(_in_words(batch, self._pieces, stop_words())).to(batch.tokens.device)
        equal = batch.tokens[:, :, None] == batch.tokens[:, None, :]
        return (equal & batch.parts[Part.QUERY][:, None, :]).any(-1) & doc


def _in_words(batch: PairBatch, pieces: Pieces, words: Collection[str]) -> Bool[np.ndarray, "pair pos"]:
    """Which positions of DOC are pieces of one of these words, whatever its case."""
    ids, doc = batch.tokens.cpu().numpy(), batch.parts[Part.DOC].cpu().numpy()
    found = np.zeros(ids.shape, dtype=bool)
    for row in range(len(ids)):
        positions = np.flatnonzero(doc[row])
        for word in pieces.words(ids[row, positions].tolist()):
            found[row, positions[word.start : word.stop]] = word.text.casefold() in words
    return found


def check_sets(names: Sequence[str]) -> tuple[str, ...]:
    """The sets as given, each once.

    Raises:
        ValueError: none, one twice, or one that is not in `ALL_SETS`.
    """
    given = (names,) if isinstance(names, str) else tuple(names)
    if not given or len(set(given)) < len(given) or set(given) - set(ALL_SETS):
        raise ValueError(
            f"expected sets among {', '.join(ALL_SETS)}, each once, got {', '.join(map(repr, given)) or 'none'}"
        )
    return given


def full_stop_ids(model: HookedCrossEncoder) -> tuple[int, ...]:
    """The token ids that are full stops in the model's vocabulary."""
    vocabulary = {} if model.tokenizer is None else model.tokenizer.get_vocab()
    return tuple(sorted(vocabulary[text] for text in FULL_STOPS if text in vocabulary))


def stop_words() -> frozenset[str]:
    """The English words that say nothing of a passage, as `pools.bm25` leaves them out; `bm25s` takes half a second to import."""
    from bm25s.stopwords import STOPWORDS_EN

    return frozenset(STOPWORDS_EN)
