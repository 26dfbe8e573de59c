"""What sentence-transformers' CrossEncoder reads of a model's folder beyond what transformers does.

It reads `modules.json` first. Where that and `config_sentence_transformers.json` describe a CrossEncoder, the settings in
`sentence_bert_config.json` and the default prompt change what its model is fed.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from tl_crossenc.checkpoints.checkpoint import CROSS_ENCODER_FILES, LARGEST_TEXT, read_json
from tl_crossenc.console.shown import quoted
from tl_crossenc.store.files import read_regular

logger = logging.getLogger(__name__)

MODULES, MAIN, SETTINGS = CROSS_ENCODER_FILES
BEFORE_4 = "sbert_ce_default_activation_function"
"""What configurations call the function that scores go through, as sentence-transformers wrote them before version 4."""


def main_settings(folder: Path) -> dict[str, Any] | None:
    """What `config_sentence_transformers.json` says where that and `modules.json` describe a CrossEncoder; else None.

    Raises:
        ValueError: the file cannot be read.
    """
    if not (os.path.lexists(folder / MODULES) and os.path.lexists(folder / MAIN)):
        return None
    main = read_json(folder / MAIN)
    return main if main.get("model_type") == "CrossEncoder" else None


def activation_named(config: dict[str, Any], folder: Path | None, name: str) -> tuple[str, str] | None:
    """The name of the function that CrossEncoder puts scores through, and where it stands; None where nowhere.

    In the order in which it looks: the folder's own settings where it has `modules.json`, then the configuration, in today's form
    and in that of before version 4.

    Raises:
        ValueError: the name is no text, or a file cannot be read.
    """
    main = (None if folder is None else main_settings(folder)) or {}
    today = config.get("sentence_transformers")
    today = today if isinstance(today, dict) else {}
    for place, found in (
        (f"activation_fn of {MAIN}", main.get("activation_fn")),
        ("sentence_transformers.activation_fn of config.json", today.get("activation_fn")),
        (f"{BEFORE_4} of config.json", None if "activation_fn" in today else config.get(BEFORE_4)),
    ):
        if found is not None and not isinstance(found, str):
            raise ValueError(f"expected the name of a function as {place} of {name!r}, got {quoted(found)}: remove it")
        if found is not None:
            return found, place
    return None


def cross_encoder_limit(folder: Path, name: str) -> Any:
    """The longest input that the folder's CrossEncoder settings name, or None; a warning of each that is not followed here.

    Raises:
        ValueError: a file cannot be read, or is of another form.
    """
    main = main_settings(folder)
    if main is None:
        return None
    settings = read_json(folder / SETTINGS) if os.path.lexists(folder / SETTINGS) else {}
    try:
        modules = json.loads(read_regular(folder / MODULES, LARGEST_TEXT))
        given = settings.get("processor_kwargs") or settings.get("tokenizer_args") or {}
        others = {
            "a module in a folder of its own,": modules[0]["path"],
            "the prompt": (main.get("prompts") or {}).get(main.get("default_prompt_name")),
            "do_lower_case": settings.get("do_lower_case"),
            "processing_kwargs": settings.get("processing_kwargs"),
            "tokenizer settings": {key: value for key, value in given.items() if key != "model_max_length"},
        }
        limit = given.get("model_max_length", settings.get("max_seq_length"))
    except (TypeError, AttributeError, LookupError, ValueError) as error:
        raise ValueError(
            f"expected {MODULES}, {MAIN} and {SETTINGS} in {folder} as sentence-transformers writes them, got something else "
            f"({error}): download them again, or remove {MODULES}"
        ) from error
    for what, value in others.items():
        if value:
            logger.warning(
                "sentence-transformers' CrossEncoder runs %s with %s %r, which is not done here: its scores differ",
                name,
                what,
                value,
            )
    return limit
