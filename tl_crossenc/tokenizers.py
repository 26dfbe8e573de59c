"""Which tokenizer a checkpoint wants."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

from tl_crossenc.checkpoints import TOKENIZER_FILES, VOCABULARY_FILES, Checkpoint
from tl_crossenc.embedded import BASE_PACKAGE, base_folder
from tl_crossenc.encoder_config import CrossEncoderConfig
from tl_crossenc.hub import HubModel

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
        tokenizer = _uncased()
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
    if len(tokenizer) < cfg.d_vocab:
        logger.warning("the tokenizer has %d word pieces, %s has %d", len(tokenizer), checkpoint.name, cfg.d_vocab)
    return tokenizer


def _uncased() -> Any:
    """bert-large-uncased's tokenizer; without the hub, the demo base model's, which has the same vocabulary."""
    try:
        return _from_name("bert-large-uncased")
    except ValueError:
        if importlib.util.find_spec(BASE_PACKAGE) is None:
            raise
        logger.info("the hub cannot be reached: taking the same vocabulary from the demo's base model")
        return _from_folder(base_folder())


def _from_name(name: str) -> Any:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(folder)
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"expected a folder with tokenizer.json or vocab.txt, got {name!r}, which is no folder")
    hub = HubModel(name)
    try:
        fetched = [hub.fetch(file) for file in TOKENIZER_FILES]
        if not (fetched[0] or fetched[1]):
            raise hub.missing("tokenizer.json or vocab.txt")
    except ValueError as error:
        raise ValueError(
            f"no tokenizer to be had: {error}; or pass tokenizer= (--tokenizer) with a folder that has tokenizer.json or vocab.txt"
        ) from error
    return _from_folder(next(path for path in fetched if path is not None).parent)


def _from_folder(folder: Path) -> Any:
    """A BERT tokenizer from files. The configuration beside them may lack a `model_type`, which AutoTokenizer cannot do without.

    transformers would make a tokenizer without words of a folder without a vocabulary, and one that knows no [SEP] of a
    vocabulary without it.
    """
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]

    if not any((folder / file).is_file() for file in VOCABULARY_FILES):
        raise ValueError(
            f"expected {' or '.join(VOCABULARY_FILES)} in the tokenizer's folder {folder}; neither is there: pass tokenizer= "
            "(--tokenizer) with a folder that has one"
        )
    try:
        tokenizer = BertTokenizerFast.from_pretrained(str(folder))
        n_words = len(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False))
        special = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id
    except Exception as error:  # the Rust library raises bare Exceptions
        raise ValueError(
            f"expected a BERT tokenizer in {folder}, but its files cannot be read ({' '.join(str(error).split())[:200]}): "
            "download them again"
        ) from error
    if any(i is None or i >= n_words for i in special):
        raise ValueError(
            f"expected a BERT vocabulary with [CLS], [SEP], [PAD] and [UNK] in {folder}, got {n_words} word pieces without all of "
            "them: download it again"
        )
    return tokenizer
