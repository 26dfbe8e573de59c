"""Scores by sentence-transformers' names: `predict(pairs)` and `rank(query, documents)`, with its CrossEncoder's numbers.

What differs: a passage that is too long is cut and a query never is, where `CrossEncoder` cuts whichever is longer; memory is
bounded by padded tokens a batch (`token_budget`), not by a number of pairs; and `rank` ranks by the score where a head has several
labels, where `CrossEncoder` refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tl_crossenc.console.progress import counted
from tl_crossenc.inputs.batching import run_batches
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.texts import Texts, broadcast_texts
from tl_crossenc.model.freed import give_back_now_and_then
from tl_crossenc.model.reading_encoder import ReadingEncoder
from tl_crossenc.model.score_activation import ScoreActivation
from tl_crossenc.model.score_rule import score_from_logits

Activation = Callable[[Tensor], Tensor]


class Predicting(ReadingEncoder):
    """A model with a head, that predicts as `CrossEncoder` does."""

    activation: ScoreActivation

    def predict(
        self,
        inputs: Any,
        *,
        activation_fn: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        max_length: int | None = None,
        token_budget: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> Any:
        """What sentence-transformers' `CrossEncoder.predict` gives: logits through the checkpoint's activation.

        Under `ablating`, of the ablated model. The score that all else here is about is `model.score`: of one label the logit.

        Args:
            inputs: pairs (query, passage), or one pair.
            activation_fn: what logits are put through; by default what the checkpoint names (`model.activation`), else a sigmoid of
                one label and nothing of more.
            apply_softmax: put several labels through a softmax after that.
            convert_to_numpy: give an array, else a list of tensors.
            convert_to_tensor: give a tensor, on the CPU.
            max_length, token_budget: as in `score`.
            show_progress_bar: whether to show a bar.

        Returns:
            `[pair]` for a head of one label, `[pair, label]` for one of more; of one pair its entry. float64 from a float64 model,
            else float32.

        Raises:
            TypeError: inputs that are no pairs of texts.
            ValueError: an activation that is named in the checkpoint and not computed here: give `activation_fn`.

        >>> from tl_crossenc import HookedCrossEncoder
        >>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
        >>> model.predict([("tune a guitar", "a guitar garden"), ("tune a guitar", "old piano")]).round(3)
        array([0.997, 0.5  ], dtype=float32)
        """
        pairs, alone = _pairs(inputs)
        activate = self.activation.of_logits if activation_fn is None else activation_fn
        logits = self._logits(pairs, max_length, token_budget, bool(show_progress_bar))
        found = activate(logits) if len(pairs) else logits
        found = found.squeeze(-1) if found.shape[-1] == 1 else found
        if apply_softmax and found.ndim > 1:
            found = found.softmax(1)
        if alone:
            found = found[0]
        if convert_to_tensor:
            return found
        if convert_to_numpy:
            return found.numpy()
        return found if alone else list(found)

    def rank(
        self,
        query: str,
        documents: Texts,
        *,
        top_k: int | None = None,
        return_documents: bool = False,
        activation_fn: Activation | None = None,
        max_length: int | None = None,
        token_budget: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> list[dict[str, Any]]:
        """What `CrossEncoder.rank` gives: the documents from the highest score to the lowest, equal ones in the order given.

        Args:
            query: one query.
            documents: the passages, or a mapping of their ids to them.
            top_k: most documents given; None for all.
            return_documents: give their texts too.
            activation_fn: what scores are put through; by default as in `predict`. Of a head of several labels it is the score
                (`cfg.score`) that is ranked by and given, through nothing.
            max_length, token_budget, show_progress_bar: as in `predict`.

        Returns:
            A dictionary a document: `corpus_id` (its number, or its id in a mapping), `score`, and `text` where asked for.

        Raises:
            ValueError: `top_k` below 1.

        >>> from tl_crossenc import HookedCrossEncoder
        >>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
        >>> [(hit["corpus_id"], hit["text"]) for hit in model.rank(
        ...     "tune a guitar", ["old piano", "a guitar garden"], top_k=1, return_documents=True)]
        [(1, 'a guitar garden')]
        """
        if not isinstance(query, str):
            raise TypeError(
                f"expected one query to rank documents for, got {type(query).__name__}: rank them one by one"
            )
        if top_k is not None and (isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"expected top_k of at least 1, or None for all documents, got {top_k!r}")
        _, texts = broadcast_texts(query, documents)
        ids = list(documents) if isinstance(documents, Mapping) else range(len(texts))
        logits = self._logits([(query, text) for text in texts], max_length, token_budget, bool(show_progress_bar))
        if logits.shape[1] == 1:
            activate = self.activation.of_logits if activation_fn is None else activation_fn
            scores = (activate(logits) if texts else logits).squeeze(-1)
        else:
            raw = score_from_logits(logits, str(self.cfg.score))
            scores = raw if activation_fn is None else activation_fn(raw)
        hits = [{"corpus_id": own, "score": score} for own, score in zip(ids, scores.tolist(), strict=True)]
        if return_documents:
            hits = [hit | {"text": text} for hit, text in zip(hits, texts, strict=True)]
        return sorted(hits, key=lambda hit: hit["score"], reverse=True)[:top_k]

    def _logits(
        self, pairs: Sequence[tuple[str, str]], max_length: int | None, token_budget: int | None, bar: bool
    ) -> Tensor:
        """`[pair, label]` on the CPU, in the order given."""
        encoded = self.encode_pairs([q for q, _ in pairs], [p for _, p in pairs], max_length=max_length)
        return self._of_all(encoded, "logits", token_budget, bar or None, "predicting tokens")

    def _of_all(
        self,
        encoded: EncodedPairs,
        what: Literal["scores", "logits"],
        token_budget: int | None,
        progress: Callable[[int], Any] | bool | None,
        title: str,
    ) -> Tensor:
        """`[pair]` scores or `[pair, label]` logits, on the CPU, in the order given; float64 of a float64 model, else float32.

        A bar counts tokens, as the longest pairs are run first; a function is told of pairs.
        """
        shape = (len(encoded),) if what == "scores" else (len(encoded), self.cfg.n_labels)
        found = torch.zeros(shape, dtype=torch.float64 if self.dtype == torch.float64 else torch.float32)

        def run(indices: np.ndarray) -> Tensor:
            return self(encoded.batch(indices), return_type=what).to("cpu", found.dtype)

        work = encoded.lengths if progress is True else np.ones(len(encoded), np.int64)
        budget = self.token_budget(token_budget)
        with torch.no_grad(), counted(progress, title, int(work.sum())) as advance:
            for indices, own in run_batches(encoded.lengths, budget, run, in_order=self.hooked):
                found[torch.from_numpy(indices)] = own
                advance(int(work[indices].sum()))
                give_back_now_and_then()
        return found


def _pairs(inputs: Any) -> tuple[list[tuple[str, str]], bool]:
    """(the pairs, whether it was one pair)."""
    given = inputs.tolist() if isinstance(inputs, np.ndarray) else inputs
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"expected pairs (query, passage), or one pair, got {type(inputs).__name__}")
    given = list(given)
    alone = len(given) == 2 and all(isinstance(text, str) for text in given)
    pairs = [tuple(given)] if alone else [tuple(pair) if isinstance(pair, list | tuple) else (pair,) for pair in given]
    for number, pair in enumerate(pairs):
        if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise TypeError(
                f"expected pairs of two texts (query, passage), but number {number} has "
                f"{', '.join(type(text).__name__ for text in pair) or 'nothing'}: for one query use model.rank(query, passages)"
            )
    return pairs, alone
