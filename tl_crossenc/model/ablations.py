"""Directions of attention removed from a model's runs: what was asked for as one condition, in force inside of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.interventions.conditions import UNABLATED, Condition, Mode
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.interventions.indices import Indices, as_indices
from tl_crossenc.model.ablation_hooks import hooks_of
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.hook_points import FwdHooks

Ablation = Condition | Direction | str
_Model = TypeVar("_Model", bound="Ablating")


def as_condition(
    *ablations: Ablation | Iterable[Ablation],
    layers: Indices = None,
    heads: Indices = None,
    mode: Mode = "zero",
) -> Condition:
    """One condition from directions, conditions and their texts, alone or in lists.

    Raises:
        ValueError: nothing was given, or layers, heads or a mode were given beside a condition that has its own.
    """
    flat: list[Ablation] = []
    for ablation in ablations:
        flat.extend([ablation] if isinstance(ablation, Condition | Direction | str) else ablation)
    if not flat:
        raise ValueError("expected at least one direction or condition to ablate, such as 'DOC->QUERY'; got none")
    condition = UNABLATED
    for ablation in flat:
        if isinstance(ablation, str) and ("(" in ablation or ablation.strip().lower() == "none"):
            ablation = Condition.parse(ablation)
        if isinstance(ablation, Condition):
            if layers is not None or heads is not None or mode != "zero":
                raise ValueError(
                    f"expected layers, heads and mode inside of the condition {str(ablation)!r}, which has its own; "
                    "they were given beside it"
                )
            condition = condition + ablation
        else:
            condition = condition + Condition.ablate(ablation, layers=layers, heads=heads, mode=mode)
    return condition


class Ablating:
    """A model whose runs can go without some directions."""

    cfg: CrossEncoderConfig
    attention_input: Callable[..., AttentionInput]
    _active: Condition = UNABLATED

    @contextmanager
    def ablating(
        self: _Model,
        *ablations: Ablation | Iterable[Ablation],
        layers: Indices = None,
        heads: Indices = None,
        mode: Mode = "zero",
    ) -> Iterator[_Model]:
        """Remove directions of attention from every run inside of the `with` block.

        Args:
            ablations: directions (or their text), or whole conditions, which carry their own layers, heads and mode.
            layers, heads: where the given directions are removed: a number (from the end if negative), several, or text such as
                "0-3,7"; everywhere by default.
            mode: `zero` or `mask`, for the given directions.

        Raises:
            ValueError: a direction, layer or head that the model does not have.
        """
        condition = self._condition(*ablations, layers=layers, heads=heads, mode=mode)
        before = self._active
        self._active = before + condition
        try:
            yield self
        finally:
            self._active = before

    def _condition(
        self, *ablations: Ablation | Iterable[Ablation], layers: Indices, heads: Indices, mode: Mode
    ) -> Condition:
        """`as_condition` on this model: negative layers and heads count from its end, and all must be there."""
        within = as_indices(layers, "layers", self.cfg.n_layers), as_indices(heads, "heads", self.cfg.n_heads)
        condition = as_condition(*ablations, layers=within[0], heads=within[1], mode=mode)
        condition.compile(self.cfg.n_layers, self.cfg.n_heads)
        return condition

    @property
    def active_condition(self) -> Condition:
        """What `ablating` removes at the moment."""
        return self._active

    def ablation_hooks(
        self,
        *ablations: Ablation | Iterable[Ablation],
        pairs: PairBatch,
        layers: Indices = None,
        heads: Indices = None,
        mode: Mode = "zero",
    ) -> FwdHooks:
        """The same edits as TransformerLens hooks on `hook_pattern` and `hook_attn_scores`, for `run_with_hooks(pairs, ...)`.

        They hold for these pairs, or others with the same parts at the same positions; a run of any others is an error. So is one
        that cannot tell its pairs: a residual stream without `parts`. Hooks look at the pattern, so this is the slower way.
        """
        condition = self._condition(*ablations, layers=layers, heads=heads, mode=mode)
        layered = condition.compile(self.cfg.n_layers, self.cfg.n_heads)
        return hooks_of(layered, self.attention_input(pairs.attention_mask, pairs.parts), pairs.tokens)
