"""Foreign scores beside ours: `compare_scores`.

1. The pairs are read in every known way (`readings`, `unmasked`); each distinct row of tokens is run once, in batches of like
   length (`reading_runs`, `runs`).
2. The pairs as they are read here are run in float16 and bfloat16, too (`half_precision`).
3. Every output of every reading is held against the scores (`outputs`, `causes`); readings whose tokens are ours on every pair are
   not run, but named: these pairs cannot tell them.
4. Readings with padding are run on a sample of the pairs (`samples`), and on all of them where an output may give the scores.
5. If none gives the scores, a relation is asked for (`relations`), and for what the pairs that differ have in common (`verdicts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from tl_crossenc.doctor.causes import YES, Cause, held_against
from tl_crossenc.doctor.foreign_scores import ForeignScores
from tl_crossenc.doctor.half_precision import HALVES
from tl_crossenc.doctor.outputs import all_outputs
from tl_crossenc.doctor.reading_runs import ReadingRuns, ReadRows
from tl_crossenc.doctor.readings import all_readings, uncut_lengths
from tl_crossenc.doctor.relations import relation_to
from tl_crossenc.doctor.samples import may_give, sample_of
from tl_crossenc.doctor.score_report import ScoreReport
from tl_crossenc.doctor.unmasked import unmasked_readings
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
    unmasked, untried = unmasked_readings(encoder, foreign.rows)
    readings = [*all_readings(encoder, int(lengths.max())), *unmasked]
    _, numbers = np.unique(np.asarray(foreign.queries, dtype=object).astype(str), return_inverse=True)
    rule, slack = str(model.cfg.score), tolerance(model.cfg)
    several = bool((np.bincount(numbers) > 1).any())
    outputs = all_outputs(model.cfg.n_labels, rule, model.activation, several=several)
    runs = ReadingRuns(model, foreign, readings, token_budget)
    read = runs.plain(progress)
    causes = held_against(foreign, read[0], read, outputs, numbers, slack)
    related = causes[0].reproduces != YES and bool(np.ptp(foreign.values) > 0)
    sample = sample_of(foreign, numbers, related=related)
    few = replace(read[0], logits=read[0].logits[sample])
    chosen, left = list[ReadRows](), list[ReadRows]()
    for own, sampled in runs.sampled(sample, progress):
        fits = len(sample) == len(foreign) or may_give(
            foreign, numbers, sample, few, sampled, outputs, slack, related=related
        )
        (chosen if fits else left).append(own)
    whole = runs.whole(chosen, progress)
    causes += held_against(foreign, read[0], whole, outputs, numbers, slack)
    causes.sort(key=lambda cause: cause.rank)
    read += whole
    why = f"on {len(sample)} of the pairs alone, nothing that is made of its logits gives the scores"
    untried += [(name, why) for own in left for name in (own.name, *own.also)]
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
        untold=tuple(runs.untold),
        untried=tuple(untried),
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
