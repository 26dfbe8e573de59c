"""What a comparison of foreign scores found, as sentences, frames, plain values and a view for terminals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.console.shown import short_name
from tl_crossenc.doctor.causes import YES, Cause
from tl_crossenc.doctor.plain_values import plain_rows
from tl_crossenc.doctor.relations import Relation
from tl_crossenc.doctor.terminal import STYLES, bullets, line, number, plain


@dataclass(frozen=True)
class ScoreReport:
    """What is known of foreign scores.

    Attributes:
        model, score, dtype: the model's name, what its score is of the logits, and what it ran in.
        source: the scores' file.
        causes: every cause held against them, best first, a row each.
        pairs: a row a pair, with our score and that of the best cause.
        best: the first of the causes.
        reproduced: "yes", "perhaps" or "no".
        relation: what they are of a cause where no cause reproduces them.
        verdict: all that in one sentence.
        notes: what else is to be known of the comparison, a sentence each.
        untold: (reading, why) of those that read these pairs as we do.
        made: how it was made.
    """

    model: str
    score: str
    dtype: str
    source: str
    causes: pd.DataFrame = field(repr=False)
    pairs: pd.DataFrame = field(repr=False)
    best: Cause = field(repr=False)
    reproduced: str
    relation: Relation | None
    verdict: str
    notes: tuple[str, ...]
    untold: tuple[tuple[str, str], ...]
    made: dict[str, Any] = field(repr=False)

    __repr__ = short_repr

    def __rich__(self) -> RenderableType:
        return _view(self)

    def __str__(self) -> str:
        return plain(_view(self))

    def to_frame(self) -> pd.DataFrame:
        """The causes, best first; `.attrs` says how they were found."""
        frame = self.causes.copy()
        frame.attrs.update(self.made)
        return frame

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: those that are no numbers are None."""
        return {
            "model": self.model,
            "score": self.score,
            "dtype": self.dtype,
            "source": self.source,
            "reproduced": self.reproduced,
            "verdict": self.verdict,
            "notes": list(self.notes),
            "not_told_apart": [{"reading": name, "why": why} for name, why in self.untold],
            "causes": plain_rows(self.causes),
            "pairs": plain_rows(self.pairs),
            "made": self.made,
        }


def _view(report: ScoreReport, rows: int = 10) -> RenderableType:
    """A score report: the verdict, the best causes, what these pairs do not tell."""
    head = f"{len(report.pairs):,} scores of {report.source} beside {short_name(report.model)} ({report.score}; {report.dtype})"
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("made of the logits", overflow="fold", ratio=4)
    table.add_column("pairs read", overflow="fold", ratio=4)
    for name in ("max abs", "mean", "Spearman", "pairs"):
        table.add_column(name, justify="right", no_wrap=True)
    found = int((report.causes["reproduces"] == YES).sum())
    best = report.causes.iloc[: min(found + 4, rows) if found else rows]
    for cause in best.itertuples(index=False):
        numbers = (number(cause.max_abs), number(cause.mean_abs), f"{cause.spearman:.4f}", f"{cause.within:,}")
        style = STYLES[cause.reproduces]
        table.add_row(
            line(cause.output, style), line(cause.reading, style), *(Text(text, style=style) for text in numbers)
        )
    parts: list[RenderableType] = [
        line(head, "bold"),
        "",
        line(report.verdict, STYLES[report.reproduced] or "bold red"),
    ]
    parts += [*bullets(report.notes), "", table]
    parts.append(
        line(f"The best of {len(report.causes):,} causes held against them; pairs: within what is allowed.", "dim")
    )
    if report.untold:
        parts += ["", line("Not told from what is read here, since these pairs come out the same:")]
        by_reason: dict[str, list[str]] = {}
        for name, why in report.untold:
            by_reason.setdefault(why, []).append(name)
        parts += bullets(
            [f"{'; '.join(names)}: {why}" if why else "; ".join(names) for why, names in by_reason.items()]
        )
    return Group(*parts)
