"""Foreign scores beside ours: `compare_scores`.

1. The pairs are read in every known way; each distinct row of tokens is run once, in batches of like length (`readings`, `runs`).
2. The pairs as they are read here are run in float16 and bfloat16, too (`half_precision`).
3. Every output of every reading is held against the scores (`outputs`, `causes`); readings whose tokens are ours on every pair are
   not run, but named: these pairs cannot tell them.
4. If none gives the scores, a relation is asked for (`relations`), and for what the pairs that differ have in common (`verdicts`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tl_crossenc.console.progress import counted
from tl_crossenc.doctor.causes import YES, Cause, ReadPairs, held_against
from tl_crossenc.doctor.foreign_scores import ForeignScores
from tl_crossenc.doctor.half_precision import HALVES, in_half
from tl_crossenc.doctor.outputs import all_outputs
from tl_crossenc.doctor.readings import OURS, Reading, all_readings, uncut_lengths
from tl_crossenc.doctor.relations import relation_to
from tl_crossenc.doctor.runs import RowTable, encoded_rows, run_rows
from tl_crossenc.doctor.score_report import ScoreReport
from tl_crossenc.doctor.verdicts import Comparison
from tl_crossenc.inputs.encoder import PairEncoder
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import made_by
from tl_crossenc.model.parity import tolerance
from tl_crossenc.model.score_rule import describe_rule


def compare_scores(
    model: HookedCrossEncoder,
    foreign: ForeignScores,
    *,
    token_budget: int | None = None,
    progress: bool | None = None,
) -> ScoreReport:
    """Find what gives the scores that another system gave to pairs of this model.

    Args:
        model: the model that the other system runs, too.
        foreign: from `read_scores` or `scores_of`.
        token_budget: padded tokens a batch.
        progress: True shows a bar.

    Raises:
        ValueError: a model without a tokenizer, or under ablation or hooks; a text that is none the model can be given.
    """
    encoder = encoder_of(model)
    _check_texts(encoder, foreign)
    lengths = uncut_lengths(encoder, foreign.queries, foreign.passages)
    readings = all_readings(encoder, int(lengths.max()))
    read, untold = _read(model, foreign, readings, token_budget, progress)
    _, numbers = np.unique(np.asarray(foreign.queries, dtype=object).astype(str), return_inverse=True)
    rule = str(model.cfg.score)
    several = bool((np.bincount(numbers) > 1).any())
    outputs = all_outputs(model.cfg.n_labels, rule, model.activation, several=several)
    causes = held_against(foreign, read, outputs, numbers, tolerance(model.cfg))
    relation = relation_to(foreign, causes) if causes[0].reproduces != YES else None
    n_known = (len(readings) + len(HALVES)) * len(outputs)
    found = Comparison(foreign, causes, relation, read, lengths, encoder.max_length, n_known)
    ours = next(cause for cause in causes if not cause.changes)
    return ScoreReport(
        model=str(model.cfg.model_name),
        score=describe_rule(rule),
        dtype=str(model.dtype).removeprefix("torch."),
        source=foreign.source,
        causes=_causes_frame(causes),
        pairs=_pairs_frame(foreign, lengths, ours, found.best),
        best=found.best,
        reproduced=found.reproduced,
        relation=relation,
        verdict=found.verdict(),
        notes=tuple(found.notes()),
        untold=tuple(untold),
        made=made_by(model, scores=foreign.source, pairs=len(foreign), causes=n_known),
    )


def encoder_of(model: HookedCrossEncoder) -> PairEncoder:
    """What reads texts for a model that runs as others run it.

    Raises:
        ValueError: it has no tokenizer, or is under ablation or hooks.
    """
    if model.encoder is None:
        raise ValueError(
            "expected a model with a tokenizer, which reads the pairs; this one was made without: pass tokenizer="
        )
    if model.active_condition.edits or model.hooked:
        raise ValueError(
            "expected a model without ablations and hooks, as others run it: leave `ablating`, or reset_hooks()"
        )
    return model.encoder


def _check_texts(encoder: PairEncoder, foreign: ForeignScores) -> None:
    pad = encoder.tokenizer.pad_token if encoder.counts_padding else None
    for line, *texts in zip(foreign.lines.tolist(), foreign.queries, foreign.passages, strict=True):
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"expected texts, got {type(text).__name__} in pair {line}")
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(
                    f"expected valid Unicode, got half a surrogate pair in line {line} of {foreign.source}"
                )
            if pad is not None and pad in text:
                raise ValueError(
                    f"expected texts without {pad}, the padding token, which the model does not count, got it in line {line} of "
                    f"{foreign.source}: take that pair out"
                )


def _read(
    model: HookedCrossEncoder,
    foreign: ForeignScores,
    readings: Sequence[Reading],
    token_budget: int | None,
    progress: bool | None,
) -> tuple[list[ReadPairs], list[tuple[str, str]]]:
    """The logits of every reading that differs from those before it, ours first and half precision last; and those that read all
    pairs as we do."""
    table, kept, also, untold = RowTable(), dict[bytes, tuple[str, np.ndarray]](), dict[bytes, list[str]](), []
    for reading in readings:
        rows = table.add(reading.read(foreign.queries, foreign.passages))
        key = rows.tobytes()
        if not kept or key not in kept:
            kept[key], also[key] = (reading.name, rows), []
        elif kept[key][0] == OURS:
            untold.append((reading.name, reading.same))
        else:
            also[key].append(reading.name)
    pad = model.encoder.tokenizer.pad_token_id or 0 if model.encoder is not None else 0
    pairs = encoded_rows(table.rows, pad)
    ours = next(iter(kept.values()))[1]
    distinct, of_ours = np.unique(ours[ours >= 0], return_inverse=True)
    halves = {name: kind for name, kind in HALVES.items() if kind != model.dtype and len(distinct)}
    total = len(pairs) + len(halves) * len(distinct)
    with counted(progress, "scoring", total) as advance:
        logits = run_rows(model, pairs, token_budget, advance)
        padded = np.concatenate([logits, np.full((1, logits.shape[1]), np.nan)])  # row -1: what was not read
        found = [ReadPairs(name, tuple(also[key]), padded[rows]) for key, (name, rows) in kept.items()]
        for name, kind in halves.items():
            own = encoded_rows([table.rows[row] for row in distinct], pad)
            values = np.full((len(ours), logits.shape[1]), np.nan)
            values[ours >= 0] = run_rows(in_half(model, kind), own, token_budget, advance)[of_ours]
            found.append(ReadPairs(f"half precision ({name})", (), values, half=name))
    return found, untold


def _causes_frame(causes: Sequence[Cause]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "reading": [cause.reading for cause in causes],
            "output": [cause.output for cause in causes],
            "changes": [cause.changes for cause in causes],
            "reproduces": [cause.reproduces for cause in causes],
            "within": [cause.within for cause in causes],
            "max_abs": [cause.max_abs for cause in causes],
            "mean_abs": [cause.mean_abs for cause in causes],
            "spearman": [cause.spearman for cause in causes],
            "tolerance": [float(np.nanmax(cause.tolerance, initial=0.0)) for cause in causes],
        }
    )


def _pairs_frame(foreign: ForeignScores, lengths: np.ndarray, ours: Cause, best: Cause) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "line": foreign.lines,
            "query": foreign.queries,
            "passage": foreign.passages,
            "tokens": lengths,
            "score": foreign.values,
            "ours": ours.values,
            "best_cause": best.values,
            "difference": foreign.values - best.values,
            "within": np.abs(foreign.values - best.values) <= best.tolerance,
        }
    )
