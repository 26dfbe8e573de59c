"""Results as frames: every array or table of a result with its axes named, and `attrs` that say how it was made."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

AXES = re.compile(r"""["']([^"']*)["']\]""")
"""The axes in the text of an annotation: the words of `Float[np.ndarray, "pair layer head"]`."""

Labels = Collection[Any] | Mapping[str, Collection[Any]]


@dataclass(frozen=True)
class Made:
    """What a result inherits that has a `to_frame` of its own: `made`, how it was made.

    Attributes:
        made: plain values by name, see `model.made_by`; empty where somebody put the result together.
    """

    made: Mapping[str, Any] = field(default_factory=dict, kw_only=True, compare=False, repr=False)

    def told(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame, with `attrs` that say how it was made, and what plain values stand beside its table.

        Where a setting was left to the function (None), what it chose is told if it stands there.
        """
        values = {own.name: getattr(self, own.name) for own in fields(self)}
        beside = {name: value for name, value in values.items() if isinstance(value, str | int | float)}
        made = {name: value for name, value in self.made.items() if value is not None or name not in beside}
        frame.attrs = {**frame.attrs, **beside, **made}
        return frame


@dataclass(frozen=True)
class Framed(Made):
    """What a result of arrays or tables inherits: `made`, and `to_frame`."""

    MAIN: ClassVar[str] = ""
    """The table that `to_frame` gives where none is named; the first where empty."""

    def to_frame(self, name: str | None = None) -> pd.DataFrame:
        """One of the result's tables, as a frame of its own; `attrs` say how it was made.

        An array is a row an element: a column an axis, and one for each array of the same axes.

        Args:
            name: of the table or array; by default the main one (the first, where the class says nothing else).

        Raises:
            ValueError: there is none of this name.
        """
        tables = {own.name: value for own in fields(self) if _is_table(value := getattr(self, own.name))}
        chosen = name if name is not None else self.MAIN or next(iter(tables))
        if chosen not in tables:
            raise ValueError(f"expected a table among {', '.join(tables)}, got {name!r}")
        value = tables[chosen]
        if hasattr(value, "columns"):
            return self.told(value.copy())
        if hasattr(value, "to_frame"):  # a series
            return self.told(value.to_frame(value.name or chosen))
        axes = {own.name: _axes(str(own.type), tables[own.name]) for own in fields(self) if own.name in tables}
        beside = {
            other: array for other, array in tables.items()
            if axes[other] == axes[chosen] and array.shape == value.shape
        }  # fmt: skip
        return self.told(array_frame(beside, axes[chosen], self.axes()))

    def axes(self) -> Mapping[str, Labels]:
        """The labels along an axis, by its name; or several columns of them. An axis that is not here is counted from 0."""
        return {}


def array_frame(arrays: Mapping[str, np.ndarray], axes: Sequence[str], labels: Mapping[str, Labels]) -> pd.DataFrame:
    """A row an element of arrays of one shape: columns of the axes' labels, then a column an array.

    >>> import numpy as np
    >>> array_frame({"mass": np.array([[0.25, 0.5]])}, ["pair", "head"], {"head": ["1.2", "1.3"]})
       pair head  mass
    0     0  1.2  0.25
    1     0  1.3  0.50
    """
    import numpy as np
    import pandas as pd

    shape = next(iter(arrays.values())).shape
    places = np.indices(shape).reshape(len(shape), -1)
    columns: dict[str, Any] = {}
    for axis, size, place in zip(axes, shape, places, strict=True):
        own = labels.get(axis, range(size))
        for column, along in own.items() if isinstance(own, Mapping) else [(axis, own)]:
            if len(along) != size:
                raise ValueError(f"expected {size} labels along {axis}, got {len(along)}")
            columns[column] = pd.Series(list(along)).take(place).to_numpy() if size else []
    return pd.DataFrame(columns | {name: array.ravel() for name, array in arrays.items()})


def _is_table(value: Any) -> bool:
    return hasattr(value, "ndim") and value.ndim > 0 and (hasattr(value, "to_numpy") or hasattr(value, "ravel"))


def _axes(annotation: str, value: Any) -> list[str]:
    """The names of an array's axes. `*name` stands for any number of them; a name twice, or a number, gets its place."""
    if hasattr(value, "to_numpy"):  # a frame or a series, which names its own
        return []
    written = AXES.findall(annotation)
    words = written[0].split() if written else []
    more = value.ndim - len(words) + 1
    words = [new for word in words for new in ([word[1:]] * more if word.startswith("*") else [word])]
    if len(words) != value.ndim:
        words = ["axis"] * value.ndim
    plain = [word.isidentifier() and words.count(word) == 1 for word in words]
    return [word if own else f"{word}_{i}" for i, (word, own) in enumerate(zip(words, plain, strict=True))]
