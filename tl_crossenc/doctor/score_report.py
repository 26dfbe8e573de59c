"""What a comparison of foreign scores found, as sentences, frames, plain values and a view for terminals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tl_crossenc.console.shown import short_name
from tl_crossenc.doctor.causes import YES, Cause
from tl_crossenc.doctor.plain_values import plain_rows
from tl_crossenc.doctor.relations import Relation
from tl_crossenc.doctor.report import Report
from tl_crossenc.doctor.terminal import STYLES, bullets, line, number


@dataclass(frozen=True, repr=False)
class ScoreReport(Report):
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
        untried: (reading, why) of those that were not run on all pairs.
    """

    model: str
    score: str
    dtype: str
    source: str
    causes: pd.DataFrame
    pairs: pd.DataFrame
    best: Cause
    reproduced: str
    relation: Relation | None
    verdict: str
    notes: tuple[str, ...]
    untold: tuple[tuple[str, str], ...]
    untried: tuple[tuple[str, str], ...]

    def view(self) -> RenderableType:
        """The verdict, the best causes, and what these pairs do not tell."""
        return _view(self)

    def table(self) -> pd.DataFrame:
        """The causes, best first."""
        return self.causes.copy()

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
            "not_tried": [{"reading": name, "why": why} for name, why in self.untried],
            "causes": plain_rows(self.causes),
            "pairs": plain_rows(self.pairs),
            "made": dict(self.made),
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
    for said, readings in (
        ("Not told from what is read here, since these pairs come out the same:", report.untold),
        ("Not held against all pairs:", report.untried),
    ):
        if readings:
            parts += ["", line(said), *bullets(_by_reason(readings))]
    return Group(*parts)


def _by_reason(readings: Sequence[tuple[str, str]]) -> list[str]:
    """What shares a reason, and the reason, a line each."""
    found: dict[str, list[str]] = {}
    for name, why in readings:
        found.setdefault(why, []).append(name)
    return [f"{'; '.join(names)}: {why}" if why else "; ".join(names) for why, names in found.items()]
