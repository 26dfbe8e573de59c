"""Where another system's hidden states first leave ours, as a sentence, frames and a view for terminals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tl_crossenc.doctor.plain_values import plain_rows
from tl_crossenc.doctor.report import Report
from tl_crossenc.doctor.terminal import bullets, line, number
from tl_crossenc.inputs.parts import REAL_PART_NAMES


@dataclass(frozen=True)
class FirstDifference:
    """The first place at which hidden states differ, by layer, then pair, then position.

    Attributes:
        state: which of the hidden states, 0 for what enters layer 0, l + 1 for what leaves layer l.
        row: which of the dumped pairs, from 0.
        pos: the position in the pair, padding not counted.
        part, token: what stands there.
        difference, allowed: the largest over the dimensions, and what rounding would allow.
    """

    state: int
    row: int
    pos: int
    part: str
    token: str
    difference: float
    allowed: float


@dataclass(frozen=True, repr=False)
class HiddenReport(Report):
    """Another system's hidden states beside ours.

    Attributes:
        source: the dump's file.
        n_pairs: how many pairs it has.
        states: a row a state: the largest difference in each part, over all, and what rounding allows.
        first: the first difference; None where there is none, or where the tokens differ already.
        verdict: that in a sentence.
        notes: what speaks for its cause, a sentence each.
    """

    source: str
    n_pairs: int
    states: pd.DataFrame
    first: FirstDifference | None
    verdict: str
    notes: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """The states."""
        return self.states.copy()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "source": self.source,
            "pairs": self.n_pairs,
            "verdict": self.verdict,
            "notes": list(self.notes),
            "first": None if self.first is None else plain_rows(pd.DataFrame([vars(self.first)]))[0],
            "states": plain_rows(self.states),
            "made": dict(self.made),
        }

    def view(self) -> RenderableType:
        """The verdict, and a row a state."""
        return _view(self)


def state_name(state: int) -> str:
    """What a hidden state is of, in words.

    >>> state_name(0), state_name(3)
    ('embeddings', 'after layer 2')
    """
    return f"after layer {state - 1}" if state else "embeddings"


def _view(report: HiddenReport) -> RenderableType:
    parts: list[RenderableType] = [
        line(f"Hidden states of {report.n_pairs:,} pair(s) in {report.source}", "bold"),
        "",
        line(report.verdict, "bold"),
        *bullets(report.notes),
    ]
    if len(report.states):
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("largest difference", no_wrap=True)
        for name in (*REAL_PART_NAMES, "allowed"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in report.states.to_dict("records"):
            values = [row[name] for name in REAL_PART_NAMES]
            texts = [Text(number(v), style="bold" if not v <= row["allowed"] else "") for v in values]
            table.add_row(state_name(int(row["state"])), *texts, number(row["allowed"]))
        parts += ["", table]
    return Group(*parts)
