"""TransformerLens's own tools on a cross-encoder: a view of the model that takes tokens alone.

TransformerLens's tools pass token ids and nothing else. To a cross-encoder that is not enough: without the types the passage
would be read as query, and without the mask padding as text. `as_tl_model(model, clean, corrupted, ...)` makes a view that knows
the types, mask and parts of the pairs that it was made for, finds them again by their tokens, and refuses any other tokens.

    view = as_tl_model(model, clean, corrupted)
    _, cache = view.run_with_cache(clean.tokens)
    patching.get_act_patch_resid_pre(view, corrupted.tokens, cache, lambda scores: scores.mean())

What each tool needs, and which cannot work on a post-LN encoder without an unembedding, is in docs/TRANSFORMERLENS_TOOLS.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.inputs.parts import PartMasks
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

Output = Literal["scores", "logits"]
SEPARATOR = "[SEP]"
EMBED, FULL_EMBED = "hook_embed", "hook_full_embed"
_READERS = ("attn.hook_q_input", "attn.hook_k_input", "attn.hook_v_input", "hook_mlp_in")


class TokensOnly:
    """A cross-encoder as TransformerLens's tools want it; made by `as_tl_model`.

    Everything that is not below is the model's own: `W_Q`, `QK`, `blocks`, `set_use_attn_result`, ...

    Args:
        model: the model, shared: hooks and ablations of either are those of both.
        pairs: the pairs whose tokens will come.
        output: what a run gives: "scores" `[pair]` or "logits" `[pair, label]`.
    """

    def __init__(self, model: HookedCrossEncoder, pairs: Sequence[PairBatch], output: str = "scores"):
        if output not in get_args(Output):
            raise ValueError(f"expected an output among {', '.join(get_args(Output))}, got {output!r}")
        widths = [batch.tokens.shape[1] for batch in pairs]
        if len(set(widths)) > 1:
            raise ValueError(
                f"expected batches of one width, got {', '.join(map(str, widths))}: tools put activations of one into another, so "
                "give all texts to one model.to_pairs call and take its rows (pairs[:1], pairs[1:]), or make a view for each batch"
            )
        self.original_model = model
        self.output = output
        self._known: dict[tuple[int, ...], tuple[Tensor, Tensor, Tensor]] = {}
        for batch in pairs:
            self.learn(batch)

    def learn(self, pairs: PairBatch) -> None:
        """Know these pairs' tokens from now on.

        Raises:
            ValueError: tokens that are known with other types, mask or parts.
        """
        batch = pairs.to("cpu")
        columns = zip(batch.tokens.tolist(), batch.token_type_ids, batch.attention_mask, batch.parts.codes, strict=True)
        for tokens, *row in columns:
            types, mask, codes = (tensor.clone() for tensor in row)  # the caller may edit the batch
            known = self._known.setdefault(tuple(tokens), (types, mask, codes))
            if not all(torch.equal(old, new) for old, new in zip(known, row, strict=True)):
                raise ValueError(
                    f"expected tokens that tell their pair, got {tokens[:8]}... twice with different types, mask or parts: "
                    "make a view for each"
                )

    def pairs_of(self, tokens: PairBatch | Int[Tensor, "pair pos"] | Int[Tensor, "pos"]) -> PairBatch:
        """The pairs of these tokens, on the model's device.

        Raises:
            ValueError: tokens of a pair that the view was not made for.
        """
        if isinstance(tokens, PairBatch):
            return tokens.to(self.original_model.device)
        rows = (tokens if tokens.ndim == 2 else tokens[None]).cpu().tolist()
        unknown = [i for i, row in enumerate(rows) if tuple(row) not in self._known]
        if unknown:
            raise ValueError(
                f"expected the tokens of pairs that the view was made for, got others in {len(unknown)} of {len(rows)} rows "
                f"(first row {unknown[0]}): give their pairs to as_tl_model too, padded to the width at which they are run"
            )
        types, mask, codes = (
            torch.stack(column) for column in zip(*(self._known[tuple(row)] for row in rows), strict=True)
        )
        return PairBatch(torch.tensor(rows), types, mask, PartMasks(codes)).to(self.original_model.device)

    # TransformerLens's protocol.

    @property
    def cfg(self) -> CrossEncoderConfig:
        """The model's configuration, with the one flag that edge attribution reads before it asks for more."""
        cfg = self.original_model.cfg
        cfg.__dict__.setdefault("use_hook_mlp_in", False)
        return cfg

    def __call__(self, tokens: Any, **kwargs: Any) -> Tensor:
        """Scores or logits of the tokens' pairs."""
        return self.original_model(self.pairs_of(tokens), **self._returning(kwargs))

    forward = __call__

    def run_with_cache(self, tokens: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's `run_with_cache` on the tokens' pairs; a text is taken as `to_tokens` takes it."""
        return self.original_model.run_with_cache(self._input(tokens), *args, **self._returning(kwargs))

    def run_with_hooks(self, tokens: Any, fwd_hooks: Sequence = (), bwd_hooks: Sequence = (), **kwargs: Any) -> Tensor:
        """The model's `run_with_hooks` on the tokens' pairs."""
        return self.original_model.run_with_hooks(
            self._input(tokens),
            fwd_hooks=self._own_names(fwd_hooks),
            bwd_hooks=self._own_names(bwd_hooks),
            **self._returning(kwargs),
        )

    def hooks(self, fwd_hooks: Sequence = (), bwd_hooks: Sequence = (), **kwargs: Any) -> AbstractContextManager:
        """The model's `hooks`."""
        return self.original_model.hooks(self._own_names(fwd_hooks), self._own_names(bwd_hooks), **kwargs)

    @property
    def hook_dict(self) -> dict[str, Any]:
        """The model's hook points, and `hook_embed` for `hook_full_embed`: what the embeddings write into the stream."""
        points = self.original_model.hook_dict
        return {EMBED: points[FULL_EMBED], **points}

    def to_tokens(self, texts: str | Sequence[str], **kwargs: Any) -> Int[Tensor, "pair pos"]:
        """Tokens of pairs written `query [SEP] passage`, which the view then knows.

        Raises:
            ValueError: a text without exactly one separator.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        sides = [[side.strip() for side in text.split(SEPARATOR)] for text in given]
        for text, pair in zip(given, sides, strict=True):
            if len(pair) != 2:
                raise ValueError(f"expected a pair written 'query {SEPARATOR} passage', got {text[:60]!r}")
        pairs = self.original_model.to_pairs([query for query, _ in sides], [passage for _, passage in sides])
        self.learn(pairs)
        return pairs.tokens

    # What single tools look for.

    def blocks_with(self, name: str) -> list[tuple[int, Any]]:
        """(layer, block) of the blocks that have a submodule of this name; `projection_kernel` asks for "attn"."""
        return [(i, block) for i, block in enumerate(self.original_model.blocks) if hasattr(block, name)]

    def tl_parameters(self) -> dict[str, Tensor]:
        """Weights under TransformerLens's names, views, for `SVDInterpreter`.

        There is no unembedding: `unembed.W_U` is the word embedding transposed, which is what BERT's own masked-word head uses.

        Raises:
            ValueError: the word embeddings are narrower than the stream, so that no vector of it is one of a word.
        """
        width = self.original_model.cfg.d_embed
        if width is not None:
            raise ValueError(
                f"expected word embeddings as wide as the residual stream ({self.original_model.cfg.d_model}), by which a tool "
                f"reads a vector of it as words, got {width} and a projection: use a tool that reads no words"
            )
        found = {"unembed.W_U": self.original_model.W_E.T}
        for layer, (_, block) in enumerate(self.blocks_with("attn")):
            for name in ("W_Q", "W_K", "W_V", "W_O"):
                found[f"blocks.{layer}.attn.{name}"] = getattr(block.attn, name)
            for name in ("W_in", "W_out"):
                found[f"blocks.{layer}.mlp.{name}"] = getattr(block.mlp, name)
        return found

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Refuse edge attribution and faithfulness, which turn this on: no layer here has that hook point."""
        if use_hook_mlp_in and not self.original_model.writes_add_up:
            raise _plain_only("hook_mlp_in")
        if use_hook_mlp_in:
            raise ValueError(
                "expected a tool that does not need hook_mlp_in, what an MLP reads by itself, which no layer here has a hook on: "
                "use this package's path patching"
            )

    def __getattr__(self, name: str) -> Any:
        if name == "original_model":  # not there yet
            raise AttributeError(name)
        return getattr(self.original_model, name)

    def __repr__(self) -> str:
        return f"TokensOnly({self.original_model!r}, {len(self._known)} pairs, {self.output})"

    def _input(self, tokens: Any) -> PairBatch:
        texts = isinstance(tokens, str) or (not isinstance(tokens, Tensor | PairBatch))
        return self.pairs_of(self.to_tokens(tokens) if texts else tokens)

    def _own_names(self, hooks: Sequence[tuple[str | Callable, Callable]]) -> list[tuple[str | Callable, Callable]]:
        if not self.original_model.writes_add_up:
            for name, _ in hooks:
                if isinstance(name, str) and name.endswith(_READERS):
                    raise _plain_only(name)
        return [(FULL_EMBED if name == EMBED else name, hook) for name, hook in hooks]

    def _returning(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return kwargs if "stop_at_layer" in kwargs else {"return_type": self.output, **kwargs}


def as_tl_model(model: HookedCrossEncoder, *pairs: PairBatch, output: str = "scores") -> TokensOnly:
    """The model as TransformerLens's tools want it, for these pairs.

    Args:
        model: the model.
        pairs: batches from `model.to_pairs`, as wide as they will be run: for patching, the clean and the corrupted batch.
        output: what the tools' metrics get: "scores" `[pair]` or "logits" `[pair, label]`.

    Raises:
        ValueError: batches of different widths; pairs of equal tokens and different types, mask or parts; another output.
    """
    return TokensOnly(model, pairs, output)


def _plain_only(name: str) -> ValueError:
    return ValueError(
        f"expected a tool that does not need {name}: it adds a head's write to what a later layer reads, which holds where the "
        "residual stream is a plain sum (pre-LN), and a BERT layer normalizes after every write: use this package's path patching"
    )
