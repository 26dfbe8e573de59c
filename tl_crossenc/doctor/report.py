"""What the doctor's reports have in common: a frame that says how it was made, and a view that terminals and `str` show."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import pandas as pd
from rich.console import RenderableType

from tl_crossenc.console.framed import Made
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.doctor.terminal import plain


@dataclass(frozen=True, repr=False)
class Report(Made, ABC):
    """A report with one main table. Those that inherit it say `repr=False`, so that a prompt shows no table whole."""

    __repr__ = short_repr

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """The main table, a frame of its own."""

    @abstractmethod
    def view(self) -> RenderableType:
        """What a terminal shows."""

    def to_frame(self) -> pd.DataFrame:
        """The main table; `.attrs` says how it was made, and what else the report says in a word or a sentence."""
        return self.told(self.table())

    def __rich__(self) -> RenderableType:
        return self.view()

    def __str__(self) -> str:
        return plain(self.view())
