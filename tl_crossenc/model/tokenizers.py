"""Which tokenizer a checkpoint wants: the one that Hugging Face's `AutoTokenizer` makes of its files.

Where it has nothing to go by, neither a class in `tokenizer_config.json` nor a `model_type` in `config.json` that it knows
(MonoBERT's layout of 2020, lightning-ir's), it is told the family's. No code that comes with a checkpoint is ever run. What
sentence-transformers does beyond that with the same folder is taken over where it is a length, else named in a warning.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import Any

from tl_crossenc.checkpoints.checkpoint import (
    LARGEST_TEXT,
    SENTENCEPIECE_FILES,
    TOKENIZER_FILES,
    VOCABULARY_FILES,
    Checkpoint,
    fetch_tokenizer,
    read_json,
)
from tl_crossenc.checkpoints.cross_encoder_files import cross_encoder_limit
from tl_crossenc.checkpoints.embedded import BASE_PACKAGE, base_folder
from tl_crossenc.checkpoints.families import family_of
from tl_crossenc.checkpoints.hub import HubModel
from tl_crossenc.console.shown import listed, shown
from tl_crossenc.inputs.encoder import TYPES, token_limit
from tl_crossenc.inputs.parts import parts_of_sequence
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.transformers_config import transformers_config
from tl_crossenc.statistics.published import MONOBERT_MODELS
from tl_crossenc.store.files import read_regular

logger = logging.getLogger(__name__)

WORDS_IN = "tokenizer.json or vocab.txt"
UNCASED_VOCABULARY = 30522
"""The size of the vocabulary that every uncased English BERT shares."""


def load_tokenizer(checkpoint: Checkpoint, cfg: CrossEncoderConfig, choice: Any = None) -> Any:
    """A fast tokenizer for the checkpoint: the one chosen, or its own; bert-large-uncased's for a copy of MonoBERT saved without.

    Args:
        checkpoint: the checkpoint.
        cfg: the ported model's configuration.
        choice: a tokenizer, or the folder or hub name of one.

    Raises:
        ValueError: there is none to be had, or it has word pieces that the model has no embeddings for.
    """
    limit = None
    if choice is not None and not isinstance(choice, str | Path):
        tokenizer = choice
    elif choice is not None:
        tokenizer = _from_name(str(choice))
    elif checkpoint.tokenizer is not None:
        tokenizer = checkpoint.tokenizer
    elif checkpoint.tokenizer_folder is not None:
        tokenizer = _from_folder(checkpoint.tokenizer_folder)
        limit = None if checkpoint.folder is None else cross_encoder_limit(checkpoint.folder, checkpoint.name)
    elif cfg.d_vocab == UNCASED_VOCABULARY and Path(checkpoint.name).name in {
        Path(name).name for name in MONOBERT_MODELS
    }:
        logger.warning("%s has no tokenizer files: taking the vocabulary of bert-large-uncased", checkpoint.name)
        tokenizer = _uncased()
    else:
        raise ValueError(
            f"expected tokenizer files ({WORDS_IN}) beside {checkpoint.name!r}, which has none, and a vocabulary "
            f"of {cfg.d_vocab} word pieces does not tell which: pass tokenizer= (--tokenizer) with the folder or hub name of the "
            "one that it was trained with, such as bert-base-uncased"
        )
    if limit is not None:
        tokenizer.model_max_length = limit
    _check(tokenizer, checkpoint, cfg)
    return tokenizer


def _check(tokenizer: Any, checkpoint: Checkpoint, cfg: CrossEncoderConfig) -> None:
    """Refuse what is another model's tokenizer, and say where Hugging Face would compute otherwise than here."""
    token_limit(tokenizer)
    name, words = checkpoint.name, tokenizer.get_vocab()
    most = max(words.values(), default=0) + 1
    if most > cfg.d_vocab:
        raise ValueError(
            f"expected a tokenizer of at most {cfg.d_vocab} word pieces for {name!r}, got one of {most}: "
            "it belongs to another model"
        )
    if len(words) < cfg.d_vocab:
        logger.warning("the tokenizer has %d word pieces, %s has %d", len(words), name, cfg.d_vocab)
    for kind in ("pad", "cls", "sep"):
        said, token = checkpoint.config.get(f"{kind}_token_id"), getattr(tokenizer, f"{kind}_token_id")
        if None not in (said, token) and said != token:
            raise ValueError(
                f"expected a tokenizer whose {kind} token is {said}, as {kind}_token_id in the configuration of {name!r} says, got "
                f"{token}: it belongs to another model, or the configuration does"
            )
    named = TYPES in tokenizer.model_input_names
    if not named and cfg.d_vocab_types > 1:
        logger.warning(
            "%s has %d token types, but its tokenizer does not name %s among model_input_names: type 0 is fed everywhere, as "
            "Hugging Face does with these files",
            name,
            cfg.d_vocab_types,
            TYPES,
        )
    if named and tokenizer.is_fast and cfg.d_vocab_types:  # without a table none are fed
        given = max(tokenizer(["a"], ["a"])[TYPES][0])
        if given and cfg.d_vocab_types == 1:
            logger.warning(
                "%s has one token type, but its tokenizer gives two: type 0 is fed everywhere; Hugging Face cannot run it",
                name,
            )
        elif given >= cfg.d_vocab_types > 1:
            raise ValueError(
                f"expected token types below {cfg.d_vocab_types} from the tokenizer of {name!r}, got {given}: it belongs to "
                "another model"
            )
    if tokenizer.padding_side == "left":
        logger.warning(
            "the tokenizer of %s pads on the left; here pairs are padded on the right, so that positions count from 0 as in a "
            "pair alone; Hugging Face's scores of a padded batch differ",
            name,
        )


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
        raise ValueError(f"expected a folder with {WORDS_IN}, got {name!r}, which is no folder")
    hub = HubModel(name)
    try:
        fetched = fetch_tokenizer(hub)
        if not any(file in fetched for file in VOCABULARY_FILES):
            raise hub.missing(WORDS_IN)
        hub.fetch("config.json")  # says which class of tokenizer it is where tokenizer_config.json does not
    except ValueError as error:
        raise ValueError(
            f"no tokenizer to be had: {error}; or pass tokenizer= (--tokenizer) with a folder that has {WORDS_IN}"
        ) from error
    return _from_folder(next(iter(fetched.values())).parent)


def _from_folder(folder: Path) -> Any:
    """What AutoTokenizer makes of the files.

    transformers would make a tokenizer without words of a folder without a vocabulary, and one that knows no [SEP] of a
    vocabulary without it.
    """
    from transformers import AutoTokenizer

    vocabulary = next((file for file in VOCABULARY_FILES if (folder / file).is_file()), None)
    if vocabulary is None:
        raise ValueError(
            f"expected {WORDS_IN} (or {listed(VOCABULARY_FILES[2:])}) in the tokenizer's folder {folder}; none is there: pass "
            "tokenizer= (--tokenizer) with a folder that has one"
        )
    if vocabulary in SENTENCEPIECE_FILES and importlib.util.find_spec("sentencepiece") is None:
        raise ValueError(
            f"expected tokenizer.json in {folder}, or the package sentencepiece to read its {vocabulary} with: pip install "
            "sentencepiece, or save the tokenizer with today's transformers"
        )
    for file in (*TOKENIZER_FILES, "config.json", "chat_template.jinja"):
        if os.path.lexists(folder / file):
            read_regular(folder / file, LARGEST_TEXT)  # transformers would wait for a pipe, and pass over a folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), config=_told(folder), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # the Rust library raises bare Exceptions
        raise _unreadable(folder, error) from error
    token_limit(tokenizer)  # before it reads its first text
    try:
        _check_frame(tokenizer, folder)
    except Exception as error:
        raise _unreadable(folder, error) from error
    _warn_of_rules(tokenizer, folder)
    return tokenizer


def _told(folder: Path) -> Any:
    """The configuration by which AutoTokenizer is to tell the class where it cannot read the folder's own."""
    from transformers import CONFIG_MAPPING

    own = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    if own.get("model_type") in CONFIG_MAPPING:
        return None
    try:
        family = family_of(own, str(folder))
    except ValueError:  # whose tokenizer it is may not matter: its files may name a class
        return None
    return transformers_config({key: own.get(key) for key in ("architectures", "tokenizer_class")}, family)


def _unreadable(folder: Path, error: Exception) -> ValueError:
    return ValueError(
        f"expected a tokenizer in {folder}, but its files cannot be read ({shown(error, 300)}): download them again, or pass "
        "tokenizer= (--tokenizer)"
    )


def _check_frame(tokenizer: Any, folder: Path) -> None:
    if not tokenizer.is_fast:
        raise ValueError(
            f"expected a fast tokenizer, whose sequence_ids tell query from passage, got {type(tokenizer).__name__}"
        )
    words = tokenizer.get_vocab()
    n_words = len(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False))
    named = (tokenizer.cls_token, tokenizer.sep_token, tokenizer.pad_token, tokenizer.unk_token)
    special = [token for token in named if token is not None]
    from_text = (folder / "vocab.txt").is_file() and not (folder / "tokenizer.json").is_file()
    if len(words) <= len(tokenizer.all_special_tokens) or (
        from_text and (len(special) < 4 or any(words.get(token, n_words) >= n_words for token in special))
    ):
        raise ValueError(
            f"a vocabulary with {', '.join(special[:-1])} and {special[-1]} would do, this has {n_words} word pieces without"
        )
    parts_of_sequence(tokenizer(["a"], ["\U0010ffff"]).sequence_ids(0))


def _warn_of_rules(tokenizer: Any, folder: Path) -> None:
    """BertTokenizer takes its rules for case and accents from tokenizer_config.json, whatever tokenizer.json says of them."""
    if not (folder / "tokenizer.json").is_file():
        return
    written = read_json(folder / "tokenizer.json").get("normalizer")
    used = json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"]
    if written != used:
        logger.warning(
            "transformers reads texts by %s with the files in %s, not by the normalizer %s of its tokenizer.json; so does this "
            "package; write do_lower_case, strip_accents and tokenize_chinese_chars into tokenizer_config.json where that is wrong",
            used,
            folder,
            written,
        )
