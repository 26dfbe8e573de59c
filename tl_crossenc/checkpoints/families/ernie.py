"""ERNIE: BERT under a name of its own (Sun et al. 2019), without the task types that some of its checkpoints add."""

from __future__ import annotations

from typing import Any

from tl_crossenc.checkpoints.config_fields import accept
from tl_crossenc.checkpoints.families.bert import BERT, bert_shape
from tl_crossenc.checkpoints.families.family import Config, Family


def ernie_shape(config: Config, name: str) -> dict[str, Any]:
    """BERT's sizes.

    Raises:
        ValueError: a setting that the model does not compute, such as a table of task types.
    """
    accept(config, "use_task_id", (False,), name)
    return bert_shape(config, name)


ERNIE = Family(
    name="ERNIE",
    model_types=("ernie",),
    classes=("Ernie",),
    bases=("ernie.",),
    shape=ernie_shape,
    layouts=BERT.layouts,
    ignored=(
        "ernie.embeddings.position_ids",
        "ernie.embeddings.token_type_ids",
        "cls.predictions.",  # the pre-training heads, which a classifier does not use
        "cls.seq_relationship.",
    ),
)
