"""What an explanation of one pair and one of two have in common: tables by name, and heads by direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pandas as pd


class Tabled:
    """Has tables as attributes, that say how they were made, and among them `heads` with a column `direction`."""

    tables: ClassVar[tuple[str, ...]]
    """Their names."""
    heads: pd.DataFrame
    made: Mapping[str, Any]

    def to_frame(self, what: str = "contributions") -> pd.DataFrame:
        """One of the `tables` as a copy.

        Raises:
            ValueError: no such table.
        """
        if what not in self.tables:
            raise ValueError(f"expected a table among {', '.join(self.tables)}, got {what!r}")
        frame = getattr(self, what).copy()
        frame.attrs = dict(self.made)
        return frame

    def records(self) -> dict[str, Any]:
        """All tables as JSON has them, and how they were made."""
        return {what: records(getattr(self, what)) for what in self.tables} | {"made": dict(self.made)}

    @property
    def directions(self) -> list[str]:
        """The directions between query and passage, in the order shown."""
        return list(dict.fromkeys(self.heads["direction"]))

    def heads_that_reach(self, direction: str) -> pd.DataFrame:
        """The rows of `heads` of a direction that can reach the score.

        Raises:
            ValueError: no such direction.
        """
        if direction not in self.directions:
            raise ValueError(f"expected a direction among {', '.join(self.directions) or 'none'}, got {direction!r}")
        return self.heads[(self.heads["direction"] == direction) & self.heads["reaches_score"]]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows, numbers as Python's and None for what is no number."""
    columns = {name: [None if pd.isna(value) else value for value in frame[name].tolist()] for name in frame}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
