"""What a results folder says of its run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tl_crossenc.console.shown import short_name
from tl_crossenc.pools.pool import title_with_run
from tl_crossenc.report.tables import measure_text, one_gain_text
from tl_crossenc.results.layout import RUN
from tl_crossenc.results.outputs import read_json


@dataclass(frozen=True)
class Run:
    """What `run.json` says of a run, as far as it is there.

    Attributes:
        model: its name.
        collections: names of the pools' collections.
        by_grade: passages of each grade over all pools; nothing where it was not recorded.
        cutoff: the k of nDCG@k.
        mode: of the ablations.
        record: all of it.
    """

    model: str = "the model"
    collections: tuple[str, ...] = ()
    by_grade: dict[int, int] = field(default_factory=dict)
    cutoff: int = 10
    mode: str = "zero"
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run of a results folder."""
        path = Path(folder) / RUN
        if not path.exists():
            return cls()
        record = read_json(path)
        pools, settings = record.get("pools", []), record.get("settings", {})
        by_grade: dict[int, int] = {}
        for pool in pools:
            for grade, count in pool.get("provenance", {}).get("passages_by_grade", {}).items():
                by_grade[int(grade)] = by_grade.get(int(grade), 0) + int(count)
        return cls(
            model=record.get("model", {}).get("name") or cls.model,
            collections=tuple(pool["collection"] for pool in pools),
            by_grade=by_grade,
            cutoff=int(settings.get("cutoff", cls.cutoff)),
            mode=settings.get("mode", cls.mode),
            record=record,
        )

    @property
    def measure(self) -> str:
        """What is measured, and over what its ideal ranking is taken."""
        settings, measured = self.record.get("settings", {}), self.record.get("measure", {})
        return measure_text(self.cutoff, measured.get("ideal", "pool"), settings.get("gain", "linear"))

    @property
    def one_gain(self) -> str:
        """A sentence on queries that cannot be ranked wrongly, where there are any."""
        measured = self.record.get("measure", {})
        return one_gain_text(measured.get("queries_of_one_gain", 0), measured.get("queries", 0))

    @property
    def windows(self) -> bool:
        """Whether the model has layers that see only so far."""
        return any(self.record.get("model", {}).get("windows") or ())

    @property
    def name(self) -> str:
        """The model in a sentence."""
        return "the demo model" if self.model == "demo" else short_name(self.model)

    @property
    def where(self) -> str:
        """`the demo model on trec-dl-2019`."""
        names = ["the demo collection" if name == "demo" else short_name(name) for name in self.collections]
        names = [title_with_run(*one) for one in zip(names, self.provenances, strict=True)]
        return f"{self.name} on {' and '.join(names)}" if names else self.name

    @property
    def titles(self) -> list[str]:
        """The collections, each with the run whose passages are ranked where there is one."""
        return [title_with_run(*one) for one in zip(self.collections, self.provenances, strict=True)]

    @property
    def provenances(self) -> list[dict[str, Any]]:
        """What each pool says of itself."""
        return [pool.get("provenance", {}) for pool in self.record.get("pools", [])]

    @property
    def unjudged(self) -> int | None:
        """How many passages of runs nobody judged; None where the pools are drawn from what is judged."""
        of_runs = [about["unjudged"] for about in self.provenances if about.get("source") == "run"]
        return sum(of_runs) if of_runs else None

    @property
    def hard(self) -> str:
        """A sentence on what grade 0 is in a run, where there is one."""
        if self.unjudged is None:
            return ""
        return (
            f" Grade 0 in a run's passages: judged not relevant, or judged by nobody, as {self.unjudged:,} of "
            f"{self.by_grade.get(0, 0):,} are."
        )

    @property
    def graded(self) -> str:
        """What passages that are ranked are called."""
        return "graded passages" if self.unjudged is None else "passages of a run, judged or not"

    @property
    def ranked(self) -> str:
        """How many passages are ranked, as the end of a list."""
        count = sum(n for grade, n in self.by_grade.items() if grade >= 0)
        if self.unjudged is not None:
            return f", {count:,} passages of a run, {self.unjudged:,} of which nobody judged"
        return f", {count:,} graded passages" if count else ""
