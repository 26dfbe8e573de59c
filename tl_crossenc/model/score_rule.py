"""Which logit says relevance: the rule that makes a score of a head's logits, and what a checkpoint's own labels say of it.

**Rules.** `single`: the one logit. `difference` (the same as `difference:1`): logit[1] - logit[0], which ranks as the log-softmax
of two labels does without its saturation; `difference:0`: logit[0] - logit[1], where label 0 is the relevant one. `index:k`:
logit[k] alone, of a head of any size.

**Labels.** Without a rule the names in `id2label` are read (`label2id` where that is absent or says nothing). Names that
Hugging Face makes up (`LABEL_0`) say nothing. A name is for relevance or against it by its words (`relevant`, `positive`, `yes`,
`entailment`; `irrelevant`, `negative`, `no`, `contradiction`; `not` and `non` turn a word around).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

logger = logging.getLogger(__name__)

SINGLE, DIFFERENCE = "single", "difference"

_FOR = re.compile(
    "answer|correct|duplicate|entail|entailed|entailment|entails|equivalent|good|helpful|ja|match|matched|matches|matching|oui|"
    "paraphrase|pos|positive|related|rel|relevance|relevant|relevante|similar|true|useful|y|yes"
)
_AGAINST = re.compile(
    "bad|contradict|contradiction|contradictory|different|dissimilar|false|incorrect|irrelevance|irrelevant|irrelevante|mismatch|n|"
    "neg|negative|nein|no|nonrelevant|notrelevant|unhelpful|unrelated|unrelevant|useless|wrong"
)
_NEGATION = re.compile("isnt|kein|never|nicht|no|non|not|pas")
_WORD = re.compile(r"[^\W\d_]+")


def canonical_rule(rule: str | int | None, n_labels: int) -> str:
    """The rule's one spelling; None is the default, and a whole number is which of two labels is the relevant one.

    Raises:
        ValueError: no such rule, or none for a head of so many logits.
        TypeError: neither text nor a whole number.
    """
    if isinstance(rule, bool) or not isinstance(rule, str | int | None):
        raise TypeError(f"expected a score rule as text, such as 'difference' or 'index:1', got {rule!r}")
    if isinstance(rule, str) and rule.isascii() and rule.isdigit():
        rule = int(rule)
    if isinstance(rule, int):
        rule = f"{DIFFERENCE}:{rule}" if n_labels == 2 else f"index:{rule}"
    if rule is None:
        rule = SINGLE if n_labels == 1 else DIFFERENCE
    kind, colon, number = rule.partition(":")
    index = int(number) if number.isascii() and number.isdigit() else None
    fits = {
        SINGLE: n_labels == 1 and not colon,
        DIFFERENCE: n_labels == 2 and (not colon or (index is not None and index < 2)),
        "index": index is not None and index < n_labels,
    }
    if kind not in fits or (bool(colon) and index is None):
        raise ValueError(
            f"expected a score among single, difference, difference:K (K the relevant label, 0 or 1) and index:K, got {rule!r:.60}"
        )
    if kind == DIFFERENCE and n_labels > 2:
        raise ValueError(
            f"expected a head with 1 or 2 logits, got {n_labels}: this is no reranker's head; say which logit is relevance with "
            f"score='index:K' (--score), K from 0 to {n_labels - 1}"
        )
    if not fits[kind]:
        raise ValueError(f"expected a score that a head of {n_labels} logit(s) has, got {rule!r}")
    if n_labels == 1:
        return SINGLE
    return f"index:{index}" if kind == "index" else f"{DIFFERENCE}:0" if index == 0 else DIFFERENCE


def score_from_logits(logits: Float[Tensor, "pair label"], rule: str) -> Float[Tensor, "pair"]:
    """The scores that a canonical rule makes of logits."""
    if rule == SINGLE:
        return logits[:, 0]
    if rule.startswith(DIFFERENCE):
        relevant = int(rule != f"{DIFFERENCE}:0")
        return logits[:, relevant] - logits[:, 1 - relevant]
    return logits[:, int(rule.removeprefix("index:"))]


def describe_rule(rule: str) -> str:
    """A canonical rule in words: `logit[1] - logit[0]`."""
    if rule == SINGLE:
        return "the one logit"
    if rule.startswith(DIFFERENCE):
        return "logit[0] - logit[1]" if rule == f"{DIFFERENCE}:0" else "logit[1] - logit[0]"
    return f"logit[{rule.removeprefix('index:')}]"


def rule_of_labels(config: Mapping[str, Any], n_labels: int, name: str) -> str | None:
    """The rule that the labels of a checkpoint's configuration say; None where they say nothing that can be read.

    Names that do not tell which label is relevance are warned of, since the default is a guess then.

    Raises:
        ValueError: `id2label` or `label2id` is no object of names.
    """
    names = label_names(config, n_labels, name)
    sides = [side_of_label(label) for label in names]
    if n_labels == 1 and sides == [-1]:
        logger.warning(
            "%s calls its one label %r, and a higher logit is taken for more relevance all the same", name, names[0]
        )
    if n_labels != 2 or not names:
        return None
    if sides in ([0, 0], [1, 1], [-1, -1]):
        logger.warning(
            "%s calls its labels %r and %r, which does not tell which of them is relevance: the score is %s; pass score= "
            "(--score), such as difference:0, where that is wrong",
            name,
            *names,
            describe_rule(DIFFERENCE),
        )
        return None
    relevant = int(sides[1] > sides[0])
    rule = canonical_rule(relevant, 2)
    logger.info("%s calls label %d %r: the score is %s", name, relevant, names[relevant], describe_rule(rule))
    return rule


def label_names(config: Mapping[str, Any], n_labels: int, name: str) -> list[str]:
    """The labels' names in the order of the logits; none where the configuration does not name them."""
    found: list[list[str]] = []
    for key in ("id2label", "label2id"):
        given = config.get(key)
        if given is None:
            continue
        if not isinstance(given, Mapping):
            raise ValueError(f"expected {key} as an object in the configuration of {name!r}, got {given!r:.80}")
        by_index = given if key == "id2label" else {index: label for label, index in given.items()}
        ordered = {str(index): str(label) for index, label in by_index.items()}
        names = [ordered.get(str(i)) for i in range(n_labels)]
        if len(ordered) == n_labels and None not in names and names != [f"LABEL_{i}" for i in range(n_labels)]:
            found.append([str(label) for label in names])
    if len(found) == 2 and found[0] != found[1]:
        logger.warning("%s names its labels %s in id2label and %s in label2id: the first is taken", name, *found)
    return found[0] if found else []


def side_of_label(label: str) -> int:
    """1 for the name of a relevant label, -1 for that of one that is not, 0 where the words do not tell.

    >>> [side_of_label(label) for label in ("Relevant", "not_relevant", "nonRelevant", "1", "class_1")]
    [1, -1, -1, 1, 0]
    """
    if label.strip() in ("0", "1"):
        return 1 if label.strip() == "1" else -1
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label.replace("'", ""))
    words = [word.casefold() for word in _WORD.findall(parted)]
    negated = len(words) > 1 and any(map(_NEGATION.fullmatch, words))
    words = [word for word in words if not (negated and _NEGATION.fullmatch(word))]
    sides = {1 for word in words if _FOR.fullmatch(word)} | {-1 for word in words if _AGAINST.fullmatch(word)}
    if len(sides) != 1:
        return 0
    return -sides.pop() if negated else sides.pop()
