"""The encoder that reads texts: a hooked encoder and the tokenizer that makes pairs of a query and its passages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from tl_crossenc.inputs.encoder import PairEncoder
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch
from tl_crossenc.inputs.texts import Texts, broadcast_texts
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.hooked_encoder import HookedEncoder


class ReadingEncoder(HookedEncoder):
    """A hooked encoder with a tokenizer.

    Args:
        cfg: sizes and conventions.
        tokenizer: a fast Hugging Face tokenizer; None leaves a model that takes raw tensors only.
    """

    def __init__(self, cfg: CrossEncoderConfig, tokenizer: Any = None):
        super().__init__(cfg)
        self.tokenizer = tokenizer

    @property
    def tokenizer(self) -> Any:
        """What reads texts, up to its `model_max_length` of that moment; None in a model that takes raw tensors only."""
        return None if self.encoder is None else self.encoder.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        cfg = self.cfg
        self.encoder: PairEncoder | None = None
        if tokenizer is not None:
            use_types, counts_padding = cfg.d_vocab_types > 1, cfg.position_offset > 0
            self.encoder = PairEncoder(tokenizer, cfg.n_ctx, use_types=use_types, counts_padding=counts_padding)

    @property
    def types_fed(self) -> bool:
        """Whether texts' token types are fed, which needs a tokenizer that names them among its inputs; else type 0 everywhere."""
        return self.encoder is not None and self.encoder.types_fed

    def _text_encoder(self) -> PairEncoder:
        if self.encoder is None:
            raise ValueError(
                "expected a model with a tokenizer to read texts; this one was made without: pass tokenizer= when it is made, or "
                "raw tensors"
            )
        return self.encoder

    def encode_pairs(self, query: Texts, passages: Texts, *, max_length: int | None = None) -> EncodedPairs:
        """Tokenize one query against many passages, or as many queries as passages, without padding.

        A pair has at most `max_length` tokens, by default the tokenizer's `model_max_length` or the model's positions.
        """
        return self._text_encoder().encode(*broadcast_texts(query, passages), max_length=max_length)

    def pair_sizes(
        self, query: Texts, passages: Texts, *, max_length: int | None = None
    ) -> Int64[np.ndarray, "pair 2"]:
        """How many tokens each pair has as `encode_pairs` gives it, and how many its passage lost: `[pair, (tokens, lost)]`."""
        return self._text_encoder().sizes(*broadcast_texts(query, passages), max_length=max_length)

    def to_pairs(self, query: Texts, passages: Texts) -> PairBatch:
        """One padded batch of pairs, on the model's device, with the part of every position.

        Raises:
            ValueError: no passages, or a query so long that it leaves no room for its passage.
        """
        encoded = self.encode_pairs(query, passages)
        if len(encoded) == 0:
            raise ValueError("expected at least one passage, got none")
        return encoded.batch().to(self.device)

    def to_tokens(self, query: Texts, passages: Texts) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens, token_type_ids, attention_mask) of the pairs, as TransformerLens 3.9's encoder gives them."""
        pairs = self.to_pairs(query, passages)
        return pairs.tokens, pairs.token_type_ids, pairs.attention_mask

    def to_str_tokens(self, query: str, passage: str) -> list[str]:
        """The word pieces of one pair, special tokens included."""
        tokens = self.to_pairs(query, passage).tokens[0].tolist()
        return self._text_encoder().tokenizer.convert_ids_to_tokens(tokens)

    def _as_input(self, given: Any, passages: Any) -> PairBatch | Tensor:
        """Pairs and tensors as they are, texts as pairs."""
        if isinstance(given, PairBatch | Tensor):
            if passages is not None:
                raise ValueError(
                    f"expected no passages beside a {type(given).__name__}, which has its own; leave them out"
                )
            return given
        texts = isinstance(given, str) or (
            isinstance(given, Sequence) and bool(given) and all(isinstance(text, str) for text in given)
        )
        if not texts or passages is None:
            if isinstance(given, str):
                came = f"a query of {len(given)} characters without passages"
            else:
                came = f"{len(given)} texts without passages" if texts else type(given).__name__
            raise TypeError(
                f"expected a query and its passages, pairs from model.to_pairs(query, passages), or token ids, got {came}: "
                "call model(query, passages), or model.score(query, passages) for many"
            )
        return self.to_pairs(given, passages)
