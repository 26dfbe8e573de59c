"""The hooked cross-encoder: an encoder reranker that takes texts and gives scores.

Here are its head, its run and its scores; how it reads texts is in `reading_encoder`, how it is opened in `pretrained`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

from jaxtyping import Float
from torch import Tensor

from tl_crossenc.console.prompt import Prompt
from tl_crossenc.console.shown import shown
from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.inputs.parts import PartMasks
from tl_crossenc.inputs.texts import Texts
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.head import BertPooler, Classifier, Head
from tl_crossenc.model.hook_points import has_hooks
from tl_crossenc.model.input_checks import apart
from tl_crossenc.model.normed_head import NormedHead
from tl_crossenc.model.norms import WeightedNorm
from tl_crossenc.model.predicting import Predicting
from tl_crossenc.model.pretrained import Pretrained
from tl_crossenc.model.score_activation import default_activation
from tl_crossenc.model.score_rule import score_from_logits

ReturnType = Literal["scores", "logits", "resid"]


class HookedCrossEncoder(Prompt, Predicting, Pretrained):
    """An encoder reranker with a hook point on every activation: `HookedEncoder` with pooler, classifier, tokenizer and score.

    To begin with:

    >>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")  # or "demo", a hub name, a folder
    >>> query, passages = "tune a guitar", ["a guitar garden", "old piano"]
    >>> model.score(query, passages).round(decimals=2)  # higher is more relevant
    tensor([5.7500, 0.0000])
    >>> with model.ablating("DOC->QUERY", layers="0-1"):  # what passage positions read from query positions, gone
    ...     model.score(query, passages).round(decimals=2)
    tensor([0., 0.])
    >>> scores, cache = model.run_with_cache(query, passages)
    >>> cache["pattern", 1].shape  # [pair, head, attender pos, attended pos]
    torch.Size([2, 4, 9, 9])
    >>> model.W_Q.shape, model.QK[1, 2].svd()[1].shape  # views of the weights; FactoredMatrix
    (torch.Size([4, 4, 140, 35]), torch.Size([35]))

    `model.explain(query, passage)` shows one pair, `list(model.hook_dict)` all hook points, and
    `tl_crossenc.activation_patch`, `run_conditions`, ... take `model.to_pairs(query, passages)`.

    Args:
        cfg: sizes and conventions.
        tokenizer: a fast Hugging Face tokenizer; None leaves a model that takes raw tensors only.
    """

    def __init__(self, cfg: CrossEncoderConfig, tokenizer: Any = None):
        super().__init__(cfg, tokenizer)
        self.ln_final = WeightedNorm(cfg.eps, cfg.d_model, cfg.dtype) if cfg.final_norm else None
        self.pooler = BertPooler(cfg) if cfg.head_dense else None
        self.classifier = Classifier(cfg)
        self.activation = default_activation(cfg.n_labels, str(cfg.score))
        self.setup()

    def __repr__(self) -> str:
        cfg = self.cfg
        ablated = "" if self._active.edits == () else f", ablating {self._active}"
        return (
            f"HookedCrossEncoder({shown(cfg.model_name)}: {cfg.n_layers} layers x {cfg.n_heads} heads, d_model {cfg.d_model}, "
            f"{cfg.n_labels} label(s), {str(self.dtype).removeprefix('torch.')} on {self.device}{ablated})"
        )

    def forward(
        self,
        input: PairBatch | Tensor | Texts,
        passages: Texts | None = None,
        *,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        parts: PartMasks | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        return_type: ReturnType | None = None,
    ) -> Tensor:
        """Run the model.

        Args:
            input: pairs from `to_pairs`; or a query (or as many as passages), then run with its passages as one batch; or token ids
                `[pair, pos]`; or, with `start_at_layer`, the residual stream `[pair, pos, d_model]` before that layer.
            passages: the passages of a query, as for `to_pairs`.
            token_type_ids, attention_mask: `[pair, pos]`, required beside raw tokens.
            parts: the parts of raw tokens, needed only while directions are being ablated.
            start_at_layer, stop_at_layer: run only these layers; both may count from the end.
            return_type: "scores" `[pair]` (the default for pairs), "logits" `[pair, label]` (the default for raw tensors) or
                "resid" `[pair, pos, d_model]` (the default, and the only choice, with `stop_at_layer`).

        Raises:
            ValueError: inputs that do not fit together.
            TypeError: an input of another kind.
        """
        input = self._as_input(input, passages)
        wanted = return_type or (
            "resid" if stop_at_layer is not None else "scores" if isinstance(input, PairBatch) else "logits"
        )
        if wanted not in ("scores", "logits", "resid"):
            raise ValueError(f"expected a return_type among scores, logits, resid, got {return_type!r}")
        if stop_at_layer is not None and wanted != "resid":
            raise ValueError(
                f"expected return_type 'resid' with stop_at_layer, got {return_type!r}: the head is not run"
            )
        tokens, token_type_ids, attention_mask, parts = apart(input, token_type_ids, attention_mask, parts)
        resid = self.encode(
            tokens,
            token_type_ids,
            attention_mask,
            parts,
            start_at_layer=start_at_layer,
            stop_at_layer=stop_at_layer,
            only_cls=wanted != "resid",
        )
        if wanted == "resid":
            return resid
        logits = self.read_out(resid, cast(Tensor, attention_mask))  # `encode` takes no input without one
        return logits if wanted == "logits" else self.score_of(logits)

    def score_of(self, logits: Float[Tensor, "pair label"]) -> Float[Tensor, "pair"]:
        """The scores that `cfg.score` makes of logits."""
        return score_from_logits(logits, str(self.cfg.score))

    def activated(self, scores: Float[Tensor, "*pair"]) -> Float[Tensor, "*pair"]:
        """What sentence-transformers' CrossEncoder gives for raw scores: through the function that the checkpoint names, else a
        sigmoid of one logit (`model.activation` says which, and why).

        Raises:
            ValueError: of a head of several labels, a function that the score does not tell.

        >>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
        >>> model.activated(model.score("tune a guitar", ["a guitar garden", "old piano"])).round(decimals=3)
        tensor([0.9970, 0.5000])
        """
        return self.activation(scores)

    def run_head(
        self, resid: Float[Tensor, "pair row d_model"], attention_mask: Tensor | None = None
    ) -> Float[Tensor, "pair label"]:
        """Logits from the residual stream after the last layer.

        Args:
            resid: all positions; the first alone will do where the head reads no other (`reads_only_first_row`).
            attention_mask: `[pair, pos]`, needed where the head reads the mean of all real positions.
        """
        return self.head.logits(resid, attention_mask)

    def read_out(self, resid: Float[Tensor, "pair row d_model"], attention_mask: Tensor) -> Float[Tensor, "pair label"]:
        """`run_head` with the mask, where the head reads more than the first position."""
        return self.run_head(resid) if self.reads_only_first_row else self.run_head(resid, attention_mask)

    @property
    def head(self) -> Head:
        """Pooler and classifier as one thing: what is read, what a score is made of, what the stream is worth to it."""
        last = self.block(self.cfg.n_layers - 1)
        if self.ln_final is not None:
            return NormedHead(self.cfg, self.pooler, self.classifier, self.ln_final, last.stream_name("after"))
        return Head(self.pooler, self.classifier, str(self.cfg.score), last.norm_after)

    @property
    def reads_only_first_row(self) -> bool:  # type: ignore[override]
        """Whether the head reads nothing but CLS of the stream after the last layer."""
        return self.head.reads_only_first_row

    @property
    def looks_at_rows(self) -> bool:  # type: ignore[override]
        """Whether somebody looks at the final norm of all positions."""
        return self.ln_final is not None and has_hooks(self.ln_final)

    @property
    def score_scale(self) -> float:
        """The size of the terms that a score is a sum of (`Head.score_scale`)."""
        return self.head.score_scale

    def score(
        self,
        query: Texts,
        passages: Texts,
        *,
        max_length: int | None = None,
        token_budget: int | None = None,
        progress: Callable[[int], Any] | bool | None = None,
    ) -> Float[Tensor, "passage"]:
        """The score of each passage for the query (or for its own query), on the CPU, in the order given.

        One logit: that logit. Two: relevant minus not relevant, which ranks as MonoBERT's log-softmax does without its
        saturation: `logit[1] - logit[0]`, unless the checkpoint's labels or `score=` said otherwise (`cfg.score`).
        sentence-transformers' CrossEncoder puts the one logit through a sigmoid unless the checkpoint names another activation:
        `activated` gives what it does.

        Args:
            query: one query, or as many as passages.
            passages: the passages, or a mapping of their ids to them.
            max_length: tokens a pair is cut to, by default the tokenizer's `model_max_length` or the model's positions.
            token_budget: padded tokens a batch; memory grows with it. By default what suits the device
                (`HookedEncoder.token_budget`). A batch that its memory does not hold is run in halves.
                Batches are of pairs of like length; under hooks, of consecutive ones in the order given, so that entry i of an
                activation is passage i if all fit into one batch (passages x the longest one's tokens is at most the budget), and
                else passage i of its batch. So it is in `run_conditions` and wherever many pairs are run.
            progress: called with the number of pairs done after each batch; True shows a bar, in a notebook or a terminal, which
                counts tokens: the longest pairs are run first.

        >>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
        >>> model.score("tune a guitar", ["a guitar garden", "old piano", ""]).round(decimals=2)
        tensor([5.7500, 0.0000, 0.0000])
        """
        encoded = self.encode_pairs(query, passages, max_length=max_length)
        return self._of_all(encoded, "scores", token_budget, progress, "scoring tokens")
