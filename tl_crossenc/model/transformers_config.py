"""A checkpoint's configuration as transformers' own class: what its models and tokenizers are told apart by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tl_crossenc.checkpoints.families.family import Family


@contextmanager
def quiet() -> Iterator[None]:
    """Without what transformers logs: a table of keys that it did not find, model types that it does not know."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def transformers_config(config: dict[str, Any], family: Family) -> Any:
    """The configuration, of the class that it names; where it names none that transformers has, of its architecture's, or the
    family's first."""
    from transformers import CONFIG_MAPPING

    known = [kind for kind in family.model_types if kind in CONFIG_MAPPING]
    kind: str = family.encoder_of or config.get("model_type") or ""
    if family.encoder_of is None and kind not in known:
        stem = {one: CONFIG_MAPPING[one].__name__.removesuffix("Config") for one in known}
        built = [one for one in known if any(name.startswith(stem[one]) for name in config.get("architectures") or ())]
        kind = (built or known)[0]
    return CONFIG_MAPPING[kind].from_dict({**config, "model_type": kind})
