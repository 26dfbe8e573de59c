"""Text pairs to token batches whose parts are known. The only module that calls a tokenizer.

Texts are tokenized once; the encoded pairs are kept unpadded and batches are cut from them as often as needed. Only the
passage is ever truncated (`only_second`). sentence-transformers' CrossEncoder cuts the longer text first, which gives the same
tokens as long as the query has at most half of the places that the special tokens leave; where it has more and its passage is cut,
that is warned of.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_crossenc.console.shown import quoted
from tl_crossenc.inputs.parts import Part, PartMasks, parts_of_sequence

logger = logging.getLogger(__name__)

TYPES = "token_type_ids"
"""What a tokenizer that wants its token types fed names among its `model_input_names`."""

Texts = str | Iterable[str]
"""One text or several; of passages also a mapping of their ids to them."""
_SURROGATE = re.compile("[\ud800-\udfff]")
BLOCK = 4096
"""Pairs tokenized at a time, so that the tokenizer's own records never fill the memory."""


@dataclass(frozen=True)
class PairBatch:
    """Pairs as the model takes them, padded on the right to one length.

    Attributes:
        tokens: `[pair, pos]` token ids.
        token_type_ids: `[pair, pos]` 0 up to the first separator, 1 after it (all 0 where they are not fed).
        attention_mask: `[pair, pos]` True at real tokens.
        parts: the part of each position.
    """

    tokens: Int[Tensor, "pair pos"]
    token_type_ids: Int[Tensor, "pair pos"]
    attention_mask: Bool[Tensor, "pair pos"]
    parts: PartMasks

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __repr__(self) -> str:
        return f"PairBatch({len(self)} pairs of up to {self.tokens.shape[1]} tokens)"

    def __getitem__(self, rows: int | slice | Sequence[int] | np.ndarray) -> PairBatch:
        """Some of the pairs, a batch of the same width; one for a number."""
        chosen = np.atleast_1d(
            np.arange(len(self))[np.asarray(rows, np.int64) if isinstance(rows, list | tuple) else rows]
        )
        index = torch.from_numpy(chosen).to(self.tokens.device)
        columns = (self.tokens, self.token_type_ids, self.attention_mask, self.parts.codes)
        tokens, types, mask, codes = (column[index] for column in columns)
        return PairBatch(tokens, types, mask, PartMasks(codes))

    def to(self, device: torch.device | str) -> PairBatch:
        """The same batch on another device."""
        return PairBatch(
            self.tokens.to(device, non_blocking=True),
            self.token_type_ids.to(device, non_blocking=True),
            self.attention_mask.to(device, non_blocking=True),
            self.parts.to(device),
        )


@dataclass(frozen=True)
class EncodedPairs:
    """Many encoded pairs, end to end without padding.

    Attributes:
        tokens, token_type_ids, parts: one entry a token.
        offsets: `[pair + 1]`; pair i has the tokens `offsets[i]:offsets[i + 1]`.
        truncated: `[pair]`, whether the passage lost tokens.
        pad_token_id: what fills up a batch.
    """

    tokens: np.ndarray
    token_type_ids: np.ndarray
    parts: np.ndarray
    offsets: np.ndarray
    truncated: np.ndarray
    pad_token_id: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """`[pair]`, the number of tokens."""
        return np.diff(self.offsets)

    def batch(self, indices: Sequence[int] | np.ndarray | None = None) -> PairBatch:
        """The pairs at `indices` (all by default) as one padded batch."""
        chosen = np.arange(len(self)) if indices is None else np.asarray(indices)
        if not len(chosen):
            chosen = chosen.astype(np.int64)
        starts, lengths = self.offsets[:-1][chosen], self.lengths[chosen]
        width = int(lengths.max(initial=0))
        columns = np.arange(width)
        real = columns < lengths[:, None]
        source = np.where(real, starts[:, None] + columns, 0)
        return PairBatch(
            torch.from_numpy(np.where(real, self.tokens[source], self.pad_token_id).astype(np.int64)),
            torch.from_numpy(np.where(real, self.token_type_ids[source], 0).astype(np.int64)),
            torch.from_numpy(real),
            PartMasks(torch.from_numpy(np.where(real, self.parts[source], 5).astype(np.int8))),
        )


def as_encoded(pairs: Any) -> EncodedPairs:
    """Encoded pairs from `model.encode_pairs` as they are; a padded batch from `model.to_pairs` without its padding.

    Of a batch it is not known which passages were cut: none counts as `truncated`.

    Raises:
        TypeError: something else.
        ValueError: a batch that is not padded on the right alone.
    """
    if isinstance(pairs, EncodedPairs):
        return pairs
    if not isinstance(pairs, PairBatch):
        hint = "pass its .clean and its .corrupted" if hasattr(pairs, "corrupted") else "encode the texts first"
        raise TypeError(
            f"expected pairs from model.encode_pairs(query, passages) or model.to_pairs(...), got {type(pairs).__name__}: {hint}"
        )
    batch = pairs.to("cpu")
    real = batch.attention_mask.numpy().astype(bool)
    if (real[:, 1:] & ~real[:, :-1]).any():
        raise ValueError(
            "expected a batch padded on the right alone, got padding before a real token: use model.to_pairs"
        )
    padding = batch.tokens.numpy()[~real]
    offsets = np.concatenate([[0], np.cumsum(real.sum(1), dtype=np.int64)]).astype(np.int64)
    columns = (batch.tokens, batch.token_type_ids, batch.parts.codes)
    tokens, types, parts = (
        column.numpy()[real].astype(kind) for column, kind in zip(columns, (np.int32, np.int8, np.int8), strict=True)
    )
    cut = np.zeros(len(batch), dtype=bool)
    return EncodedPairs(tokens, types, parts, offsets, cut, int(padding[0]) if padding.size else 0)


class PairEncoder:
    """A tokenizer with the model's length limit.

    Args:
        tokenizer: a fast Hugging Face tokenizer that knows how to frame a pair.
        max_length: the most tokens that the model takes, special tokens included.
        use_types: whether the model has token types; without, all are 0.
    """

    def __init__(self, tokenizer: Any, max_length: int, *, use_types: bool = True):
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"expected a fast tokenizer (its sequence_ids tell query from passage), got {type(tokenizer).__name__}: "
                "load it with AutoTokenizer.from_pretrained(..., use_fast=True)"
            )
        self.tokenizer = tokenizer
        self.n_positions = max_length
        self.use_types = use_types
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
        columns: tuple[list[np.ndarray], ...] = ([], [], [])
        lengths: list[int] = []
        truncated: list[bool] = []
        for row in self._rows(queries, passages, limit):
            for column, values in zip(columns, row[:3], strict=True):
                column.append(values)
            lengths.append(len(row[0]))
            truncated.append(row[3])
        tokens, types, parts = (
            np.concatenate(column) if column else np.zeros(0, dtype)
            for column, dtype in zip(columns, "iii", strict=True)
        )
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        pad = self.tokenizer.pad_token_id or 0
        return EncodedPairs(tokens, types, parts, offsets, np.asarray(truncated, dtype=bool), pad)

    def _rows(
        self, queries: Sequence[str], passages: Sequence[str], limit: int
    ) -> Iterator[tuple[Any, Any, Any, bool]]:
        for start in range(0, len(queries), BLOCK):
            encoded = self.tokenizer(
                list(queries[start : start + BLOCK]),
                list(passages[start : start + BLOCK]),
                truncation="only_second",
                max_length=limit,
                padding=False,
                return_token_type_ids=self.types_fed,
                return_attention_mask=False,
            )
            for i, ids in enumerate(encoded["input_ids"]):
                types = encoded[TYPES][i] if self.types_fed else [0] * len(ids)
                parts = parts_of_sequence(encoded.sequence_ids(i))
                cut = bool(encoded.encodings[i].overflowing)
                if cut and not self._said_longest_first:
                    self._compare_longest_first(parts.count(int(Part.QUERY)), limit)
                yield (
                    np.asarray(ids, dtype=np.int32),
                    np.asarray(types, dtype=np.int8),
                    np.asarray(parts, dtype=np.int8),
                    cut,
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
        distinct = list(has_passage)
        for start in range(0, len(distinct), BLOCK):
            block = distinct[start : start + BLOCK]
            encoded = self.tokenizer(block, add_special_tokens=False, verbose=False)
            for query, ids in zip(block, encoded["input_ids"], strict=True):
                room = limit - n_special - len(ids)
                if room < int(has_passage[query]):
                    raise ValueError(
                        f"expected a query of at most {limit - n_special - 1} tokens, so that the "
                        f"{limit}-token input has room for a passage; got {len(ids)} tokens in "
                        f"{query[:60]!r}: shorten the query"
                    )


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


def _texts(given: Any, what: str) -> list[str]:
    if isinstance(given, str):
        return [given]
    if (isinstance(given, Set) and not isinstance(given, KeysView)) or not isinstance(given, Iterable):
        raise TypeError(f"expected {what} as a text or a list of texts, got {type(given).__name__}: pass them in order")
    return list(given)


def broadcast_texts(query: Texts, passages: Texts) -> tuple[list[str], list[str]]:
    """One query against many passages, or lists of equal length, as two lists of equal length.

    Passages may be a mapping of ids to texts, in its order; queries may not, since theirs would have to be the passages'.

    Raises:
        TypeError: what has no order, or is neither a text nor several.
        ValueError: lists of different lengths.
    """
    if isinstance(query, Mapping):
        raise TypeError("expected one query, or a list of as many queries as passages, got a mapping: pass its texts")
    texts = _texts(passages.values() if isinstance(passages, Mapping) else passages, "passages")
    queries = [query] * len(texts) if isinstance(query, str) else _texts(query, "queries")
    if len(queries) != len(texts):
        raise ValueError(f"expected one query, or as many queries as passages, got {len(queries)} and {len(texts)}")
    return queries, texts
