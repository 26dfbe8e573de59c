"""The activated score: what sentence-transformers' CrossEncoder makes of logits when it predicts.

Its rule: the function that the checkpoint names (`cross_encoder_files.activation_named`), where that is one of torch; else a
sigmoid of one logit, and nothing of more. It works on logits, and scores here are the raw ones; of one logit both are the same.
Of two, a softmax of the relevant label is the sigmoid of the score `logit[1] - logit[0]`; what cannot be told from the score is
refused. No function is looked up anywhere but among torch's own activations.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from tl_crossenc.console.shown import quoted, shown
from tl_crossenc.model.score_rule import DIFFERENCE, SINGLE

logger = logging.getLogger(__name__)

IDENTITY, SIGMOID, SOFTMAX = "Identity", "Sigmoid", "Softmax"
ELEMENTWISE = (
    *(IDENTITY, SIGMOID, "Tanh", "ReLU", "GELU", "SiLU", "Softplus", "LogSigmoid", "ELU", "SELU", "CELU", "LeakyReLU"),
    *("Mish", "Hardsigmoid", "Hardtanh", "Hardswish", "ReLU6", "Softsign", "Tanhshrink", "Softshrink", "Hardshrink"),
)
PLACES = ("torch.nn.", "torch.nn.modules.", "torch.nn.modules.activation.", "torch.nn.modules.linear.")
"""What may come before the name of a function."""


@dataclass(frozen=True)
class ScoreActivation:
    """The function that an activated score is of a raw one.

    Attributes:
        name: what torch calls it, `Sigmoid`; what the checkpoint does where it is not computed here.
        why: where it is named, or that it is the default.
        rule: what the raw score is of the logits, canonical.
    """

    name: str
    why: str
    rule: str = SINGLE

    @property
    def computed(self) -> bool:
        """Whether activated scores can be told from raw ones."""
        return self.name == IDENTITY or self._stand_in is not None

    @property
    def _stand_in(self) -> str | None:
        """The elementwise function of the score."""
        if self.name == SOFTMAX and self.rule.startswith(DIFFERENCE):
            return SIGMOID
        return self.name if self.name in ELEMENTWISE and not self.rule.startswith(DIFFERENCE) else None

    def __call__(self, scores: Float[Tensor, "*pair"]) -> Float[Tensor, "*pair"]:
        """The activated scores.

        Raises:
            ValueError: they cannot be told from raw ones.
        """
        if not self.computed:
            raise ValueError(
                f"expected an activation that is a function of the score, got {shown(self.name, 80)} ({self.why}) of each logit "
                f"and a score of the kind {self.rule}: compute with logits, model(pairs, return_type='logits')"
            )
        name = self._stand_in
        return scores.clone() if name in (None, IDENTITY) else getattr(nn, str(name))()(scores)

    def of_logits(self, logits: Float[Tensor, "pair label"]) -> Float[Tensor, "pair label"]:
        """The function of the logits themselves, as `CrossEncoder` applies it.

        Raises:
            ValueError: it is none that is computed here.
        """
        if self.name == SOFTMAX:
            return logits.softmax(1)
        if self.name not in ELEMENTWISE:
            raise ValueError(
                f"expected an activation among {', '.join((*ELEMENTWISE, SOFTMAX))}, but the checkpoint names "
                f"{shown(self.name, 80)} ({self.why}): pass activation_fn=, which takes logits [pair, label]"
            )
        return getattr(nn, self.name)()(logits)

    def __str__(self) -> str:
        return f"{shown(self.name, 80)} ({self.why})"


def default_activation(n_labels: int, rule: str) -> ScoreActivation:
    """What holds where nothing is named."""
    name, why = (SIGMOID, "the default of one label") if n_labels == 1 else (IDENTITY, "the default of several labels")
    return ScoreActivation(name, why, rule)


def activation_of(named: tuple[str, str] | None, n_labels: int, rule: str, model: str) -> ScoreActivation:
    """The activation that a checkpoint names, by sentence-transformers' rule.

    Args:
        named: the function's full name and where it stands, or None.
        n_labels: logits.
        rule: of the score, canonical.
        model: its name, for warnings.
    """
    default = default_activation(n_labels, rule)
    if named is None:
        return default
    path, where = named
    name = next(
        (path.removeprefix(place) for place in PLACES if path.removeprefix(place) in (*ELEMENTWISE, SOFTMAX)), None
    )
    if name is not None:
        return ScoreActivation(name, where, rule)
    if path.startswith("torch."):
        logger.warning(
            "%s puts its scores through %s (%s), which is not computed here: there are no activated scores",
            model,
            quoted(path),
            where,
        )
        return ScoreActivation(path, where, rule)
    logger.warning(
        "%s puts its scores through %s (%s), which is none of torch's and not trusted: as in sentence-transformers, the default %s "
        "is taken in its place",
        model,
        quoted(path),
        where,
        default.name,
    )
    return ScoreActivation(default.name, f"{default.why}, in place of {quoted(path, 60)}", rule)
