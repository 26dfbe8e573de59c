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
from tl_crossenc.store.files import read_regular

logger = logging.getLogger(__name__)

MODULES, MAIN, SETTINGS = CROSS_ENCODER_FILES


def cross_encoder_limit(folder: Path, name: str) -> Any:
    """The longest input that the folder's CrossEncoder settings name, or None; a warning of each that is not followed here.

    Raises:
        ValueError: a file cannot be read, or is of another form.
    """
    if not os.path.lexists(folder / MODULES):
        return None
    main, settings = (read_json(folder / file) if os.path.lexists(folder / file) else {} for file in (MAIN, SETTINGS))
    if main.get("model_type") != "CrossEncoder":
        return None
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
