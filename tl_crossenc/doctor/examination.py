"""The examination of a model: every check, one after the other."""

from __future__ import annotations

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.doctor.findings import ModelReport
from tl_crossenc.doctor.input_checks import batches, left_padding, positions, tokenizer, truncation, types
from tl_crossenc.doctor.probes import probe
from tl_crossenc.doctor.score_checks import activation, head, precision, relevance, ties
from tl_crossenc.doctor.score_comparison import encoder_of
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import made_by

CHECKS = (
    *(relevance, activation, ties, head, precision),
    *(types, batches, left_padding, truncation, positions, tokenizer),
)


def examine_model(model: HookedCrossEncoder, checkpoint: Checkpoint | None = None) -> ModelReport:
    """What the scores of a model depend on, measured on built-in pairs.

    Args:
        model: the model, with a tokenizer, without ablations and hooks.
        checkpoint: what it was ported from (`checkpoints.embedded.open_model`), which tells labels, stored types and the head;
            without, what only its files tell is left out.

    Raises:
        ValueError: a model without a tokenizer, or under ablation or hooks.
    """
    probes = probe(model, encoder_of(model), checkpoint)
    return ModelReport(
        model=str(model.cfg.model_name),
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
        findings=tuple(check(probes) for check in CHECKS),
        made=made_by(model, pairs=len(probes.scores)),
    )
