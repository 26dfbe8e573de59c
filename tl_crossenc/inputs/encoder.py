"""Text pairs to token batches whose parts are known. Whatever is scored goes through here.

Texts are tokenized once; the encoded pairs are kept unpadded and batches are cut from them as often as needed. Only the
passage is ever truncated (`only_second`). sentence-transformers' CrossEncoder cuts the longer text first, which gives the same
tokens as long as the query has at most half of the places that the special tokens leave; where it has more and its passage is cut,
that is warned of.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Int64

from tl_crossenc.console.shown import quoted
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.parts import Part, parts_of_sequence

logger = logging.getLogger(__name__)

TYPES = "token_type_ids"
"""What a tokenizer that wants its token types fed names among its `model_input_names`."""

_SURROGATE = re.compile("[\ud800-\udfff]")
BLOCK = 512
"""Pairs tokenized at a time: the tokenizer's own records of a pair weigh a hundred times its tokens."""


class PairEncoder:
    """A tokenizer with the model's length limit.

    Args:
        tokenizer: a fast Hugging Face tokenizer that knows how to frame a pair.
        max_length: the most tokens that the model takes, special tokens included.
        use_types: whether the model has token types; without, all are 0.
        counts_padding: whether the model's positions count tokens but the padding token, so that one inside of a text would move
            what follows; such a text is refused.
    """

    def __init__(self, tokenizer: Any, max_length: int, *, use_types: bool = True, counts_padding: bool = False):
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"expected a fast tokenizer (its sequence_ids tell query from passage), got {type(tokenizer).__name__}: "
                "load it with AutoTokenizer.from_pretrained(..., use_fast=True)"
            )
        self.tokenizer = tokenizer
        self.n_positions = max_length
        self.use_types = use_types
        self.counts_padding = counts_padding
        self._said_longest_first = False

    @property
    def max_length(self) -> int:
        """The longest input, special tokens included: the model's, or the tokenizer's own limit of now where that is smaller."""
        return min(self.n_positions, token_limit(self.tokenizer))

    @max_length.setter
    def max_length(self, length: int) -> None:
        self.tokenizer.model_max_length = self.length_limit(length)

    @property
    def types_fed(self) -> bool:
        """Whether the model is fed the tokenizer's token types: where it names them among its inputs, as Hugging Face does."""
        return self.use_types and TYPES in self.tokenizer.model_input_names

    @property
    def cuts_left(self) -> bool:
        """Whether a passage that is too long loses its beginning."""
        return self.tokenizer.truncation_side == "left"

    @property
    def n_special(self) -> int:
        """Special tokens of a pair."""
        return int(self.tokenizer.num_special_tokens_to_add(pair=True))

    def length_limit(self, max_length: int | None) -> int:
        """The limit asked for, or the encoder's own.

        Raises:
            ValueError: a limit that leaves no room for a query and a passage, or that the model has no positions for.
        """
        if max_length is None:
            limit = self.max_length
            if limit > self.n_special:
                return limit
            raise ValueError(
                f"expected a limit of at least {self.n_special + 1} tokens, got {limit} from the tokenizer: set its "
                "model_max_length"
            )
        if isinstance(max_length, bool) or not isinstance(max_length, int):
            raise TypeError(f"expected max_length as a whole number of tokens, got {max_length!r}")
        if not self.n_special < max_length <= self.n_positions:
            raise ValueError(
                f"expected max_length from {self.n_special + 1} tokens, with room for a passage, to the model's {self.n_positions} "
                f"positions, got {max_length}"
            )
        return max_length

    def encode(self, queries: Sequence[str], passages: Sequence[str], *, max_length: int | None = None) -> EncodedPairs:
        """Encode `queries[i]` with `passages[i]`, in at most `max_length` tokens (the encoder's own limit by default).

        Raises:
            ValueError: the lists differ in length, a text is no valid Unicode, a query leaves no room for its passage, or the
                limit is none that the model has.
            TypeError: something that is no text.
        """
        return self._encoded(queries, passages, self._checked(queries, passages, max_length))

    def encode_whole(self, queries: Sequence[str], passages: Sequence[str]) -> EncodedPairs:
        """Encode `queries[i]` with `passages[i]` without a limit of length; the model may not take all of it."""
        return self._encoded(queries, passages, None)

    def _encoded(self, queries: Sequence[str], passages: Sequence[str], limit: int | None) -> EncodedPairs:
        columns: tuple[list[np.ndarray], ...] = ([], [], [])
        lengths: list[int] = []
        truncated: list[bool] = []
        rows = self._rows(queries, passages, limit)
        while block := list(islice(rows, BLOCK)):  # an array a pair would weigh more than its tokens
            for column, values in zip(columns, zip(*(row[:3] for row in block), strict=True), strict=True):
                column.append(np.concatenate(values))
            lengths += [len(row[0]) for row in block]
            truncated += [row[3] for row in block]
        tokens, types, parts = (
            np.concatenate(column) if column else np.zeros(0, dtype)
            for column, dtype in zip(columns, "iii", strict=True)
        )
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        pad = self.tokenizer.pad_token_id or 0
        return EncodedPairs(tokens, types, parts, offsets, np.asarray(truncated, dtype=bool), pad)

    def sizes(
        self, queries: Sequence[str], passages: Sequence[str], *, max_length: int | None = None
    ) -> Int64[np.ndarray, "pair 2"]:
        """(tokens, tokens that the passage loses to the limit) of `queries[i]` with `passages[i]`; texts and limit as for `encode`.

        Raises:
            ValueError, TypeError: see `encode`.
        """
        limit = self._checked(queries, passages, max_length)
        whole = self._counts(queries) + self._counts(passages) + self.n_special
        return np.stack([np.minimum(whole, limit), np.maximum(whole - limit, 0)], 1)

    def _counts(self, texts: Sequence[str]) -> Int64[np.ndarray, "text"]:
        """Tokens of each text."""
        distinct, counts = list(dict.fromkeys(texts)), dict[str, int]()
        for start in range(0, len(distinct), BLOCK):
            block = distinct[start : start + BLOCK]
            encoded = self.tokenizer(block, add_special_tokens=False, return_attention_mask=False, verbose=False)
            counts.update((text, len(ids)) for text, ids in zip(block, encoded["input_ids"], strict=True))
        return np.array([counts[text] for text in texts], np.int64)

    def _checked(self, queries: Sequence[str], passages: Sequence[str], max_length: int | None) -> int:
        """The limit, where the texts can be encoded under it."""
        limit = self.length_limit(max_length)
        if len(queries) != len(passages):
            raise ValueError(f"expected as many queries as passages, got {len(queries)} and {len(passages)}")
        for text in (*queries, *passages):
            if not isinstance(text, str):
                raise TypeError(f"expected texts, got {text!r} of type {type(text).__name__}")
            if _SURROGATE.search(text):
                raise ValueError(
                    f"expected valid Unicode, got half a surrogate pair in {text[:60]!r}: decode the text's file as UTF-8"
                )
        self._check_room(queries, passages, limit)
        return limit

    def locate(self, query: str, passage: str) -> tuple[np.ndarray, np.ndarray]:
        """One pair without a limit of length: `[token]`, the part of each token, and `[token, 2]`, its characters in its text.

        The characters are a half-open range, as the tokenizer gives it: a piece of white space may have none, or have the space.
        """
        encoded = self.tokenizer(
            [query],
            [passage],
            truncation=False,
            padding=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        parts = np.asarray(parts_of_sequence(encoded.sequence_ids(0)), np.int64)
        return parts, np.asarray(encoded["offset_mapping"][0], np.int64).reshape(-1, 2)

    def _rows(
        self, queries: Sequence[str], passages: Sequence[str], limit: int | None
    ) -> Iterator[tuple[Any, Any, Any, bool]]:
        cut = (
            {"truncation": False, "verbose": False}
            if limit is None
            else {"truncation": "only_second", "max_length": limit}
        )
        for start in range(0, len(queries), BLOCK):
            encoded = self.tokenizer(
                list(queries[start : start + BLOCK]),
                list(passages[start : start + BLOCK]),
                **cut,
                padding=False,
                return_token_type_ids=self.types_fed,
                return_attention_mask=False,
            )
            for i, ids in enumerate(encoded["input_ids"]):
                if self.counts_padding and self.tokenizer.pad_token_id in ids:
                    raise ValueError(
                        f"expected texts without {self.tokenizer.pad_token}, the padding token, since the model counts positions "
                        f"without it, got it in {_around(self.tokenizer.pad_token, queries[start + i], passages[start + i])}: take "
                        "it out of the text"
                    )
                types = encoded[TYPES][i] if self.types_fed else [0] * len(ids)
                parts = parts_of_sequence(encoded.sequence_ids(i))
                lost = bool(encoded.encodings[i].overflowing)
                if lost and limit is not None and not self._said_longest_first:
                    self._compare_longest_first(parts.count(int(Part.QUERY)), limit)
                yield (
                    np.asarray(ids, dtype=np.int32),
                    np.asarray(types, dtype=np.int8),
                    np.asarray(parts, dtype=np.int8),
                    lost,
                )

    def _compare_longest_first(self, query: int, limit: int) -> None:
        """Say once where sentence-transformers' way to cut, the longer text first, would have cut the query too."""
        half = (limit - self.n_special) // 2
        if query > half:
            self._said_longest_first = True
            logger.warning(
                "a query of %d tokens has more than half of the %d-token input, and its passage was cut: sentence-transformers' "
                "CrossEncoder would cut such queries too, and its scores differ",
                query,
                limit,
            )

    def _check_room(self, queries: Sequence[str], passages: Sequence[str], limit: int) -> None:
        """A query that leaves its passage no token would be scored without it: that is an error, not a score."""
        n_special = self.n_special
        has_passage: dict[str, bool] = {}
        for query, passage in zip(queries, passages, strict=True):
            has_passage[query] = has_passage.get(query, False) or bool(passage.strip())
        for query, count in zip(has_passage, self._counts(list(has_passage)).tolist(), strict=True):
            if limit - n_special - count < int(has_passage[query]):
                raise ValueError(
                    f"expected a query of at most {limit - n_special - 1} tokens, so that the {limit}-token input has room for a "
                    f"passage; got {count} tokens in {query[:60]!r}: shorten the query"
                )


def _around(token: str, *texts: str) -> str:
    """The first of the texts with a token in it, cut to what is around it."""
    text = next((text for text in texts if token in text), texts[-1])
    at = max(text.find(token) - 20, 0)
    return quoted(text[at : at + 60])


def token_limit(tokenizer: Any) -> int:
    """A tokenizer's own limit, `model_max_length`, as a whole number; text that is one is taken for it from here on.

    Raises:
        ValueError: it is no whole number.
    """
    given = getattr(tokenizer, "model_max_length", None)
    if given is None:
        return sys.maxsize
    try:
        limit = int(given)
        if isinstance(given, bool) or (isinstance(given, float) and limit != given):
            raise ValueError
    except OverflowError:  # infinity, which the files of some tokenizers have
        return sys.maxsize
    except (TypeError, ValueError):
        raise ValueError(
            f"expected a whole number of tokens as the tokenizer's model_max_length, got {quoted(given)}: write one, such as 512, "
            "into its tokenizer_config.json"
        ) from None
    if not isinstance(given, int):
        tokenizer.model_max_length = limit
    return limit
