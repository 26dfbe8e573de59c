"""Findings on a model: what is so, how it was measured, what it means for who compares scores, and how grave that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tl_crossenc.console.shown import short_name
from tl_crossenc.doctor.report import Report
from tl_crossenc.doctor.terminal import STYLES, line

OK, NOTE, WARNING = "ok", "note", "warning"


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        topic: what it is about, a word or two.
        severity: "ok", "note" (others may do otherwise) or "warning" (scores may be wrong, or not compare).
        what: what is so.
        measured: how that shows, with its number; "" where it was read.
        means: what it means for scores of other systems; "" where nothing.
        value: the number that was measured, if one says it.
    """

    topic: str
    severity: str
    what: str
    measured: str = ""
    means: str = ""
    value: float | None = None


@dataclass(frozen=True, repr=False)
class ModelReport(Report):
    """What a model's scores depend on.

    Attributes:
        model, dtype, device: the model's name, and what it ran in and on.
        findings: one a topic.
    """

    model: str
    dtype: str
    device: str
    findings: tuple[Finding, ...]

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are warnings."""
        return tuple(finding for finding in self.findings if finding.severity == WARNING)

    def table(self) -> pd.DataFrame:
        """A row a finding."""
        return pd.DataFrame([asdict(finding) for finding in self.findings])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.model,
            "dtype": self.dtype,
            "device": self.device,
            "findings": [asdict(finding) for finding in self.findings],
            "made": dict(self.made),
        }

    def view(self) -> RenderableType:
        """How many findings there are of each severity, and each in a row."""
        return _view(self)


def _view(report: ModelReport) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for finding in report.findings:
        text = Text.assemble(
            line(finding.what),
            *((" ", line(finding.measured, "bold")) if finding.measured else ()),
            *((" ", line(finding.means, "dim")) if finding.means else ()),
        )
        table.add_row(line(finding.severity, STYLES[finding.severity]), line(finding.topic, "bold"), text)
    counts = [f"{sum(f.severity == kind for f in report.findings)} {kind}" for kind in (WARNING, NOTE, OK)]
    head = f"{short_name(report.model)} ({report.dtype} on {report.device}): {', '.join(counts)}"
    return Group(line(head, "bold"), "", table)
