"""Checks of what is made of the residual stream: head, logits, score, activation, precision."""

from __future__ import annotations

import numpy as np
import torch

from tl_crossenc.doctor.causes import spearman
from tl_crossenc.doctor.findings import NOTE, OK, WARNING, Finding
from tl_crossenc.doctor.half_precision import HALVES, in_half
from tl_crossenc.doctor.probes import Probes
from tl_crossenc.doctor.runs import run_rows
from tl_crossenc.doctor.terminal import number
from tl_crossenc.model.score_activation import IDENTITY, SIGMOID, SOFTMAX
from tl_crossenc.model.score_rule import DIFFERENCE, canonical_rule, describe_rule, label_names, side_of_label
from tl_crossenc.model.untrained import STANDARD_DEVIATION

LIKE_NEW = 0.1
"""How far, relatively, the spread of weights may lie from that of freshly drawn ones that are taken for such."""


def relevance(probes: Probes) -> Finding:
    """Which logit is relevance, by what, and whether passages that answer a query get more of it."""
    cfg = probes.model.cfg
    rule, n_labels = str(cfg.score), cfg.n_labels
    names = [] if probes.checkpoint is None else label_names(probes.checkpoint.config, n_labels, cfg.model_name)
    sides = [side_of_label(name) for name in names]
    told = canonical_rule(int(sides[1] > sides[0]), 2) if len(sides) == 2 and sides[0] != sides[1] else None
    guessed = False
    if n_labels == 1:
        why = f", called {names[0]!r}" if names else ""
    elif rule == told:
        why = f", since the labels are called {names[0]!r} and {names[1]!r}"
    elif rule == canonical_rule(None, 2) and n_labels == 2 and told is None:
        guessed = True
        why = (
            f", by default: labels called {names[0]!r} and {names[1]!r} do not tell"
            if names
            else ", by default: no label is named"
        )
    else:
        why = ", as was asked for"
    won, of = _won(probes)
    measured = f"Of {of} comparisons, {won} put the passage that answers above one that does not."
    means = "Rerankers whose labels are the other way round rank backwards." if guessed and 2 * won >= of else ""
    severity = NOTE if guessed else OK
    if 4 * won < of:
        severity = WARNING
        other = "" if n_labels == 1 else f" pass --score {_other(rule)};"
        means = f"Less than chance: a higher score may mean less relevance here;{other} or texts of another language."
    elif n_labels == 2 and rule.startswith(DIFFERENCE):
        relevant = int(rule == DIFFERENCE)
        alone = spearman(probes.scores, probes.logits[:, relevant])
        means = (
            means + f" Systems that take logit[{relevant}] alone rank otherwise (Spearman {alone:.4f} on these pairs)."
        ).strip()
    return Finding("relevance", severity, f"The score is {describe_rule(rule)}{why}.", measured, means, won / of)


def _other(rule: str) -> str:
    return f"{DIFFERENCE}:0" if rule == DIFFERENCE else DIFFERENCE if rule.startswith(DIFFERENCE) else "index:K"


def _won(probes: Probes) -> tuple[int, int]:
    """How often a query's answer is scored above another passage of it, of how many comparisons."""
    queries, of_pair = np.unique(np.asarray(probes.queries), return_inverse=True)
    won = of = 0
    for query in range(len(queries)):
        mine = of_pair == query
        answer, others = probes.scores[mine & probes.answers], probes.scores[mine & ~probes.answers]
        won += int((answer[:, None] > others).sum())
        of += answer.size * others.size
    return won, of


def activation(probes: Probes) -> Finding:
    """What others put the score through."""
    model = probes.model
    found = model.activation
    raw = f"raw scores from {probes.scores.min():.4g} to {probes.scores.max():.4g}"
    others = "Transformers' text-classification pipeline gives " + (
        "the sigmoid of the logit" if model.cfg.n_labels == 1 else "a softmax over the labels"
    )
    others += ", FlagEmbedding's reranker the raw logit unless normalize=True." if model.cfg.n_labels == 1 else "."
    if not found.computed:
        what = f"sentence-transformers' CrossEncoder puts every logit through {found}, which is not computed here."
        return Finding("activation", WARNING, what, f"On the built-in pairs: {raw}.", others)
    if found.name == IDENTITY:
        gives = "the raw logit" if model.cfg.n_labels == 1 else "all logits, not a score"
        what = f"sentence-transformers' CrossEncoder gives {gives}: {found}."
        severity = OK if model.cfg.n_labels == 1 else NOTE
        return Finding("activation", severity, what, f"On the built-in pairs: {raw}.", others)
    through = found(torch.from_numpy(probes.scores))
    what = f"sentence-transformers' CrossEncoder puts the score through {found}; here scores are raw."
    measured = f"On the built-in pairs: {raw}, activated from {through.min():.4g} to {through.max():.4g}."
    means = f"The order is the same, the numbers are not. {others}"
    return Finding("activation", NOTE, what, measured, means)


def ties(probes: Probes) -> Finding:
    """How many scores are equal, raw and activated in each type, and from where on the activation is flat."""
    own = probes.model.activation
    function = own if own.computed and own.name not in (IDENTITY, SOFTMAX) else None
    name = SIGMOID if function is None else own.name
    raw = torch.from_numpy(probes.scores)
    n, distinct = len(raw), len(set(raw.float().tolist()))
    kinds = {"float32": torch.float32, **HALVES}
    activated = {
        kind: len(set((torch.sigmoid if function is None else function)(raw.to(dtype)).tolist()))
        for kind, dtype in kinds.items()
    }
    counts = ", ".join(f"{count} in {kind}" for kind, count in activated.items())
    measured = f"Of {n} built-in pairs {distinct} have distinct raw scores; through {name} {counts}."
    what = "Equal scores are ordered by whatever breaks ties."
    if name in (SIGMOID, SOFTMAX):
        flat = ", ".join(f"{_flat_from(dtype):.1f} in {kind}" for kind, dtype in kinds.items())
        what = f"A sigmoid is exactly 1 from a score of {flat} on."
    severity = (
        WARNING
        if distinct < n or activated["float32"] < distinct
        else NOTE
        if min(activated.values()) < distinct
        else OK
    )
    means = "" if severity == OK else "Rank by raw scores; equal ones have no order, whatever a list of them shows."
    return Finding("ties", severity, what, measured, means, float(distinct))


def _flat_from(dtype: torch.dtype) -> float:
    """The score from which on a sigmoid of this type is 1."""
    low, high = 0.0, 64.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if float(torch.sigmoid(torch.tensor(middle, dtype=dtype))) == 1 else (middle, high)
    return high


def head(probes: Probes) -> Finding:
    """Whether the head is the checkpoint's own, and looks trained."""
    model, checkpoint = probes.model, probes.checkpoint
    weight, bias = model.classifier.weight.detach().double(), model.classifier.bias.detach().double()
    spread = float(weight.std(correction=0)) if weight.numel() > 1 else float("nan")
    what = (
        "Every weight of the head is the checkpoint's; one without a head is refused, where others draw it at random."
    )
    largest = float(bias.abs().max())
    measured = f"The classifier's weights have a standard deviation of {spread:.4f}, its largest bias is {largest:.3g}."
    drawn = STANDARD_DEVIATION if checkpoint is None else checkpoint.config.get("initializer_range", STANDARD_DEVIATION)
    fresh = [drawn] if isinstance(drawn, int | float) else [STANDARD_DEVIATION]
    if model.cfg.norm_order == "pre":
        fresh.append(model.cfg.d_model**-0.5)
    stored = "classifier" not in model.cfg.unbiased
    tolerated = max(LIKE_NEW, 4 / (2 * weight.numel()) ** 0.5)
    if stored and largest == 0 and any(abs(spread / std - 1) < tolerated for std in fresh if std > 0):
        means = "So it is before any training: the checkpoint may have been saved with a new head, whose scores mean nothing."
        return Finding("head", WARNING, what, measured, means, spread)
    if checkpoint is not None and checkpoint.head is not None:
        means = (
            "It lies in modules of sentence-transformers: transformers' AutoModelForSequenceClassification reads none of it and "
            "draws a head at random."
        )
        return Finding("head", NOTE, what, measured, means, spread)
    return Finding("head", OK, what, measured, "", spread)


def precision(probes: Probes) -> Finding:
    """What half precision does to scores, and whether others would run in it unasked."""
    model = probes.model
    moved: dict[str, float] = {}
    for kind, half in HALVES.items():
        if half != model.dtype:
            moved[kind] = probes.moved(probes.scored(run_rows(in_half(model, half), probes.pairs)))
    measured = "Scores move by up to " + ", ".join(f"{number(by)} in {kind}" for kind, by in moved.items()) + "."
    dtype = str(model.dtype).removeprefix("torch.")
    stored = set() if probes.checkpoint is None else {tensor.dtype for _, tensor in probes.checkpoint.read_tensors()}
    halves = sorted(str(kind).removeprefix("torch.") for kind in stored & {*HALVES.values()})
    if halves and dtype not in HALVES:
        what = f"The weights are stored in {' and '.join(halves)}, and run in {dtype} here."
        means = "transformers 5 and what is built on it run in the stored type unless told otherwise: its scores differ by that."
        return Finding("precision", NOTE, what, measured, means, max(moved.values(), default=0.0))
    what = f"The weights run in {dtype}" + (", as they are stored." if stored and not halves else ".")
    severity = NOTE if dtype in HALVES else OK
    return Finding("precision", severity, what, measured, "", max(moved.values(), default=0.0))
