"""Outputs: what a system may make of a model's logits, our score the first of them.

All are functions of the logits `[pair, label]`; those over the passages of a query also of which query a pair has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_crossenc.doctor.runs import scores_of_logits
from tl_crossenc.model.score_activation import IDENTITY, SIGMOID, SOFTMAX, ScoreActivation
from tl_crossenc.model.score_rule import DIFFERENCE, describe_rule

Logits = Float[np.ndarray, "pair label"]
Queries = Int[np.ndarray, "pair"]
OURS = "our score"
Of = Callable[[Logits, Queries], Float[np.ndarray, "pair"]]


@dataclass(frozen=True)
class Output:
    """What is made of logits.

    Attributes:
        name: in words.
        of: gives the output of logits and of the number of each pair's query.
        plain: whether it is a logit or its negative, a number as the model writes it.
        over_query: whether it depends on the other passages of the query.
    """

    name: str
    of: Of
    plain: bool = False
    over_query: bool = False


def all_outputs(n_labels: int, rule: str, activation: ScoreActivation, *, several: bool) -> list[Output]:
    """The known outputs of a head, our score first; no function is there twice.

    Args:
        n_labels: logits.
        rule: what our score is of them, canonical.
        activation: what the checkpoint names.
        several: whether some query has several passages; without, nothing over them is an output.
    """
    score = _by_rule(rule)
    relevant = int(rule == DIFFERENCE)
    differs = rule.startswith(DIFFERENCE)
    swapped = f"labels swapped, logit[{1 - relevant}] - logit[{relevant}]" if differs else f"{OURS}, negated"
    found = [Output(OURS, score, not differs), Output(swapped, _negated(score), not differs)]
    for k in range(n_labels):
        if n_labels > 1 and rule != f"index:{k}":
            found.append(Output(f"logit[{k}]", _logit(k), plain=True))
            found.append(Output(f"logit[{k}], negated", _negated(_logit(k)), plain=True))
    if n_labels == 2 and not differs:
        found += [Output(describe_rule(other), _by_rule(other)) for other in (DIFFERENCE, f"{DIFFERENCE}:0")]
    same = f" (softmax, column {relevant})" if differs else ""
    found.append(Output(f"sigmoid{same}", _sigmoid(score)))
    if not differs:
        found.append(Output("1 - sigmoid", _sigmoid(_negated(score))))
        found.append(Output("log-sigmoid", lambda logits, queries: _log_sigmoid(score(logits, queries))))
    for k in range(n_labels) if n_labels > 1 else ():
        if not (differs and k == relevant):
            found.append(Output(f"softmax, column {k}", _softmax(k)))
        found.append(Output(f"log-softmax, column {k}", _log_softmax(k)))
        if rule != f"index:{k}":
            found.append(Output(f"sigmoid of logit[{k}]", _sigmoid(_logit(k))))
    if activation.name not in (IDENTITY, SIGMOID, SOFTMAX, "LogSigmoid") and activation.computed:
        found.append(Output(f"{activation.name}, as the checkpoint says", _activated(score, activation)))
    if several:
        found.append(Output("softmax over the query's passages", _of_scores(score, _share), over_query=True))
        found.append(Output("min-max within the query", _of_scores(score, _range), over_query=True))
    return found


def _by_rule(rule: str) -> Of:
    return lambda logits, queries: scores_of_logits(logits, rule)


def _of_scores(of: Of, function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Of:
    return lambda logits, queries: function(of(logits, queries), queries)


def _logit(k: int) -> Of:
    return lambda logits, queries: logits[:, k]


def _negated(of: Of) -> Of:
    return lambda logits, queries: -of(logits, queries)


def _sigmoid(of: Of) -> Of:
    return lambda logits, queries: np.exp(_log_sigmoid(of(logits, queries)))


def _log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0, -x)


def _log_softmax(k: int) -> Of:
    return lambda logits, queries: logits[:, k] - np.logaddexp.reduce(logits, axis=1)


def _softmax(k: int) -> Of:
    return lambda logits, queries: np.exp(_log_softmax(k)(logits, queries))


def _activated(of: Of, activation: ScoreActivation) -> Of:
    return lambda logits, queries: activation(torch.from_numpy(of(logits, queries))).numpy()


def _share(score: np.ndarray, queries: Queries) -> np.ndarray:
    largest = np.full(queries.max(initial=0) + 1, -np.inf)
    np.maximum.at(largest, queries, score)
    weight = np.exp(score - largest[queries])
    return weight / np.bincount(queries, weight)[queries]


def _range(score: np.ndarray, queries: Queries) -> np.ndarray:
    low, high = np.full(queries.max(initial=0) + 1, np.inf), np.full(queries.max(initial=0) + 1, -np.inf)
    np.minimum.at(low, queries, score)
    np.maximum.at(high, queries, score)
    width = (high - low)[queries]
    return np.divide(score - low[queries], width, out=np.zeros_like(score), where=width > 0)
