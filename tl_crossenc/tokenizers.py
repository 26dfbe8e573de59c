"""Which tokenizer a checkpoint wants."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tl_crossenc.checkpoints import Checkpoint
from tl_crossenc.encoder_config import CrossEncoderConfig

logger = logging.getLogger(__name__)

UNCASED_VOCABULARY = 30522
"""The size of the vocabulary that every uncased English BERT shares."""


def load_tokenizer(checkpoint: Checkpoint, cfg: CrossEncoderConfig, choice: Any = None) -> Any:
    """A fast tokenizer for the checkpoint: the one chosen, its own, or bert-large-uncased's where it brings none.

    MonoBERT's repository has no tokenizer files; its paper and its vocabulary of 30,522 word pieces say bert-large-uncased's.

    Args:
        checkpoint: the checkpoint.
        cfg: the ported model's configuration.
        choice: a tokenizer, or the folder or hub name of one.

    Raises:
        ValueError: there is none to be had, or it has more word pieces than the model has embeddings.
    """
    if choice is not None and not isinstance(choice, str | Path):
        tokenizer = choice
    elif choice is not None:
        tokenizer = _from_name(str(choice))
    elif checkpoint.tokenizer_folder is not None:
        tokenizer = _from_folder(checkpoint.tokenizer_folder)
    elif cfg.d_vocab == UNCASED_VOCABULARY:
        logger.info("%s has no tokenizer files: taking bert-large-uncased's", checkpoint.name)
        tokenizer = _from_name("bert-large-uncased")
    else:
        raise ValueError(
            f"expected tokenizer files (tokenizer.json or vocab.txt) beside {checkpoint.name!r}, which has none and a vocabulary "
            f"of {cfg.d_vocab} that tells nothing: pass tokenizer= (--tokenizer)"
        )
    if len(tokenizer) > cfg.d_vocab:
        raise ValueError(
            f"expected a tokenizer of at most {cfg.d_vocab} word pieces for {checkpoint.name!r}, got one of {len(tokenizer)}: "
            "it belongs to another model"
        )
    return tokenizer


def _from_folder(folder: Path) -> Any:
    """A BERT tokenizer from files. The configuration beside them may lack a `model_type`, which AutoTokenizer cannot do without."""
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]

    return BertTokenizerFast.from_pretrained(str(folder))


def _from_name(name: str) -> Any:
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]

    try:
        return BertTokenizerFast.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"expected a tokenizer in {name!r}, a folder or a Hugging Face hub name, but it cannot be loaded: connect to the "
            "hub once, or pass tokenizer= (--tokenizer) with a folder that has tokenizer.json or vocab.txt"
        ) from error
