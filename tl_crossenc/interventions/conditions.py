"""Conditions: sets of edits that are run as one, each with its layers and heads.

A condition's text form round-trips (`Condition.parse(str(c)) == c`) and labels the rows of every result:

    none
    zero(DOC->QUERY)
    zero(DOC->QUERY; layers=0-3,7; heads=1,5) + mask(CLS->ALL)

Two modes. With A the attention pattern of a head after the softmax, S the scores before it, and X->Y the direction:

- `zero`: A[x, y] = 0 for x in X, y in Y; the other weights stay as they are, so a row may sum to less than 1.
- `mask`: S[x, y] = -inf; equal to `zero` followed by rescaling each row to sum to 1. A row left with nothing is all zeros.

Where both modes meet in one head, the masked scores go through the softmax first and the zeros are set after.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from tl_crossenc.inputs.parts import N_PARTS, Part
from tl_crossenc.interventions.directions import Direction, parse_directions
from tl_crossenc.interventions.indices import Indices, as_indices, format_indices, parse_indices

Mode = Literal["zero", "mask"]
MODES: tuple[Mode, ...] = get_args(Mode)
_EDIT = re.compile(r"^(\w+)\(([^;()]+)((?:;[^;()]+)*)\)$")


@dataclass(frozen=True, repr=False)
class DirectionAblation:
    """One direction of attention removed in some layers and heads. None stands for all of them."""

    direction: Direction
    mode: Mode = "zero"
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"expected a mode among {', '.join(MODES)}, got {self.mode!r}")
        object.__setattr__(self, "layers", as_indices(self.layers, "layers"))
        object.__setattr__(self, "heads", as_indices(self.heads, "heads"))

    def __str__(self) -> str:
        layers = "" if self.layers is None else f"; layers={format_indices(self.layers) or 'none'}"
        heads = "" if self.heads is None else f"; heads={format_indices(self.heads) or 'none'}"
        return f"{self.mode}({self.direction}{layers}{heads})"

    __repr__ = __str__

    @classmethod
    def parse(cls, text: str) -> tuple[DirectionAblation, ...]:
        """The ablation written like `zero(DOC->QUERY; layers=0-3; heads=1,5)`; two of them for `X<->Y`.

        Raises:
            ValueError: the text is not of that form.
        """
        match = _EDIT.match(text.strip())
        if match is None or match[1] not in MODES:
            raise ValueError(
                f"expected an edit such as zero(DOC->QUERY; layers=0-3; heads=1,5), with a mode among "
                f"{', '.join(MODES)}; got {text!r}"
            )
        chosen: dict[str, tuple[int, ...] | None] = {"layers": None, "heads": None}
        seen: set[str] = set()
        for setting in match[3].split(";")[1:]:
            name, _, value = (part.strip() for part in setting.partition("="))
            if name not in chosen:
                raise ValueError(f"expected layers=... or heads=... in {text!r}, got {setting.strip()!r}")
            if name in seen:
                raise ValueError(
                    f"expected {name}= once in {text!r}: write all of them in one list, such as {name}=0-3,7"
                )
            seen.add(name)
            chosen[name] = () if value == "none" else parse_indices(value, name)
        mode: Mode = "mask" if match[1] == "mask" else "zero"
        return tuple(
            cls(direction, mode, chosen["layers"], chosen["heads"]) for direction in parse_directions(match[2])
        )


@dataclass(frozen=True)
class LayerEdits:
    """What a condition does to the attention of one layer.

    Attributes:
        zero: `[head, attender part, attended part]`, True where weights are zeroed after the softmax.
        mask: the same for scores set to -inf before it.
    """

    zero: np.ndarray
    mask: np.ndarray

    @property
    def spares_passage(self) -> bool:
        """Whether no row of the passage is edited, in any head: then few rows are."""
        return not (self.zero | self.mask)[:, Part.DOC].any()

    @property
    def key(self) -> bytes:
        """Equal for equal edits: what the tree over layers groups by."""
        return self.zero.tobytes() + self.mask.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerEdits) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, repr=False)
class Condition:
    """A set of edits, run as one. The empty one is the unablated model."""

    edits: tuple[DirectionAblation, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", tuple(sorted(set(self.edits), key=str)))

    @classmethod
    def ablate(
        cls,
        directions: Direction | str | Iterable[Direction | str],
        *,
        layers: Indices = None,
        heads: Indices = None,
        mode: Mode = "zero",
    ) -> Condition:
        """The condition that removes `directions` in `layers` and `heads` (None: in all of them).

        Raises:
            ValueError: no direction, or layers, heads or a mode that make no sense.
        """
        given = [directions] if isinstance(directions, Direction | str) else list(directions)
        if not given:
            raise ValueError("expected at least one direction to ablate, such as 'DOC->QUERY'; got none")
        parsed: list[Direction] = []
        for direction in given:
            parsed.extend([direction] if isinstance(direction, Direction) else parse_directions(direction))
        chosen = as_indices(layers, "layers"), as_indices(heads, "heads")
        return cls(tuple(DirectionAblation(direction, mode, *chosen) for direction in parsed))

    @classmethod
    def parse(cls, text: str) -> Condition:
        """The condition with this text form.

        Raises:
            ValueError: the text is not the form of a condition.

        >>> condition = Condition.parse("zero(DOC->QUERY; layers=0-3; heads=1,5) + mask(CLS->ALL)")
        >>> len(condition.edits), str(condition.edits[0])
        (2, 'mask(CLS->ALL)')
        """
        if text.strip().lower() == "none":
            return cls()
        return cls(tuple(edit for part in text.split(" + ") for edit in DirectionAblation.parse(part)))

    def __str__(self) -> str:
        return " + ".join(str(edit) for edit in self.edits) or "none"

    __repr__ = __str__

    def __add__(self, other: Condition) -> Condition:
        return Condition(self.edits + other.edits)

    def compile(self, n_layers: int, n_heads: int) -> tuple[LayerEdits | None, ...]:
        """The edits of each layer of a model with these sizes; None where a layer is left alone.

        Raises:
            ValueError: a layer or head lies outside of the model.
        """
        return _compile(self, n_layers, n_heads)


@lru_cache(maxsize=4096)
def _compile(condition: Condition, n_layers: int, n_heads: int) -> tuple[LayerEdits | None, ...]:
    zero = np.zeros((n_layers, n_heads, N_PARTS, N_PARTS), dtype=bool)
    mask = zero.copy()
    for edit in condition.edits:
        layers = _within(edit.layers, n_layers, "layer", edit)
        heads = _within(edit.heads, n_heads, "head", edit)
        target = mask if edit.mode == "mask" else zero
        target[np.ix_(layers, heads)] |= edit.direction.grid
    return tuple(
        LayerEdits(zero[layer], mask[layer]) if zero[layer].any() or mask[layer].any() else None
        for layer in range(n_layers)
    )


def _within(indices: tuple[int, ...] | None, size: int, what: str, edit: DirectionAblation) -> list[int]:
    if indices is None:
        return list(range(size))
    outside = [index for index in indices if index >= size]
    if outside:
        raise ValueError(f"expected {what}s 0..{size - 1} in {edit}, got {what} {format_indices(outside)}")
    return list(indices)


UNABLATED = Condition()
"""The run in which nothing is changed."""
