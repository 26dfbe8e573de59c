"""Opening a checkpoint as a model that runs: its files found and read, its weights ported, on a device, with a tokenizer."""

from __future__ import annotations

import copy
import os
from typing import Any, TypeVar

import torch
from torch import nn

from tl_crossenc.checkpoints.cross_encoder_files import activation_named
from tl_crossenc.checkpoints.embedded import open_model
from tl_crossenc.model.devices import resolve_device, resolve_dtype
from tl_crossenc.model.porting import config_from_checkpoint, port_weights
from tl_crossenc.model.reading_encoder import ReadingEncoder
from tl_crossenc.model.score_activation import ScoreActivation, activation_of

_Model = TypeVar("_Model", bound="Pretrained")


class Pretrained(ReadingEncoder):
    """An encoder that a checkpoint's name is enough for.

    Attributes:
        activation: what sentence-transformers' CrossEncoder puts scores through.
    """

    activation: ScoreActivation

    @classmethod
    def from_pretrained(
        cls: type[_Model],
        name: str | os.PathLike[str] | nn.Module,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "float32",
        revision: str | None = None,
        tokenizer: Any = None,
        max_length: int | None = None,
        score: str | int | None = None,
    ) -> _Model:
        """Port a checkpoint.

        Args:
            name: a Hugging Face hub name; a local folder, as text or path, with a checkpoint, or with a LoRA adapter over one;
                "demo" (the small cross-encoder that comes with the package); or "planted" (one built by hand, with a known answer).
                Or a model in memory: a sequence classifier of Hugging Face, or a CrossEncoder of sentence-transformers, whose
                weights are copied as they are now.
            device: "cpu", "cuda", "cuda:1", "mps", "xpu", or "auto": a CUDA device if there is one.
            dtype: "float32", "bfloat16" or "float64".
            revision: a branch, tag or commit on the hub.
            tokenizer: a fast tokenizer, or the folder or hub name of one, in place of the checkpoint's own; a model in memory,
                other than a CrossEncoder, has none of its own and takes raw tensors only without.
            max_length: tokens a pair is cut to, special ones included; by default the tokenizer's own limit, as far as the
                model has positions.
            score: what a score is of the logits: "single", "difference", "index:K", or of two labels the relevant one
                (`score_rule`); by default what the labels' names say, and `logit[1] - logit[0]` where they say nothing.

        Raises:
            ValueError: whatever is wrong with the name, the files, the weights or the device, in one sentence.
        """
        from tl_crossenc.model.tokenizers import load_tokenizer  # transformers takes seconds to import

        place = resolve_device(device)
        kind = resolve_dtype(dtype, place)
        checkpoint = open_model(name, revision)
        cfg = config_from_checkpoint(checkpoint, kind, score)
        bare = tokenizer is None and checkpoint.tokenizer is None and isinstance(name, nn.Module)
        model = cls(cfg, None if bare else load_tokenizer(checkpoint, cfg, tokenizer))
        if model.encoder is not None and max_length is not None:
            if model.tokenizer is tokenizer:  # the caller's own is not changed
                model.tokenizer = copy.deepcopy(tokenizer)
            model.encoder.max_length = max_length
        port_weights(model, checkpoint)
        named = activation_named(checkpoint.config, checkpoint.folder, checkpoint.name)
        model.activation = activation_of(named, cfg.n_labels, str(cfg.score), checkpoint.name)
        return model.to(place).eval()
