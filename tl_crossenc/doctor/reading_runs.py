"""The logits of foreign pairs in every reading: each distinct row of tokens run once, dear readings on a sample first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from tl_crossenc.console.progress import counted
from tl_crossenc.doctor.causes import ReadPairs
from tl_crossenc.doctor.foreign_scores import ForeignScores
from tl_crossenc.doctor.half_precision import HALVES, in_half
from tl_crossenc.doctor.readings import Reading
from tl_crossenc.doctor.runs import RowTable, encoded_rows, padding_id, run_rows
from tl_crossenc.model.cross_encoder import HookedCrossEncoder


@dataclass(frozen=True)
class ReadRows:
    """The rows of a reading that differs from those before it.

    Attributes:
        name: its name.
        also: names of readings that read every pair in the same way.
        sampled: whether it is dear.
        rows: `[pair]`, each pair's row in the table; -1 where it cannot be read.
    """

    name: str
    also: tuple[str, ...]
    sampled: bool
    rows: Int[np.ndarray, "pair"]


class ReadingRuns:
    """All readings of foreign pairs, and what ran of them.

    Args:
        model: what runs them.
        foreign: the pairs.
        readings: ours first.
        token_budget: padded tokens a batch.

    Attributes:
        untold: (name, why) of readings that read all pairs as we do.
    """

    def __init__(
        self, model: HookedCrossEncoder, foreign: ForeignScores, readings: Iterable[Reading], token_budget: int | None
    ) -> None:
        self.model = model
        self.untold: list[tuple[str, str]] = []
        self._table = RowTable(model, token_budget)
        kept: dict[bytes, ReadRows] = {}
        ours: bytes | None = None
        for reading in readings:
            rows = self._table.add(reading.read(foreign.queries, foreign.passages))
            key = rows.tobytes()
            ours = key if ours is None else ours
            if key not in kept:
                kept[key] = ReadRows(reading.name, (), reading.sampled, rows)
            elif key == ours:
                self.untold.append((reading.name, reading.same))
            else:
                kept[key] = replace(kept[key], also=(*kept[key].also, reading.name))
        self._all = list(kept.values())

    def plain(self, progress: bool | None) -> list[ReadPairs]:
        """The readings that are not dear, ours first and half precision last."""
        plain = [own for own in self._all if not own.sampled]
        rows = self._table.missing(*(own.rows for own in plain))
        ours = self._table.missing(plain[0].rows)
        halves = {name: kind for name, kind in HALVES.items() if kind != self.model.dtype and len(ours)}
        with counted(progress, "scoring", len(rows) + len(halves) * len(ours)) as advance:
            self._table.run(rows, advance)
            found = self._read(plain)
            for name, kind in halves.items():
                logits = self._in_half(plain[0].rows, ours, kind, advance)
                found.append(ReadPairs(f"half precision ({name})", (), logits, half=name))
        return found

    def sampled(self, sample: Int[np.ndarray, "chosen"], progress: bool | None) -> list[tuple[ReadRows, ReadPairs]]:
        """The dear readings that differ from all others, each with what it gives for a sample."""
        dear = [own for own in self._all if own.sampled]
        rows = self._table.missing(*(own.rows[sample] for own in dear))
        with counted(progress if len(rows) else None, "scoring a sample", len(rows)) as advance:
            self._table.run(rows, advance)
        return [(own, ReadPairs(own.name, own.also, self._table.logits(own.rows[sample]))) for own in dear]

    def whole(self, chosen: Sequence[ReadRows], progress: bool | None) -> list[ReadPairs]:
        """Dear readings of all pairs."""
        rows = self._table.missing(*(own.rows for own in chosen))
        with counted(progress if len(rows) else None, "scoring what fits it", len(rows)) as advance:
            self._table.run(rows, advance)
        return self._read(chosen)

    def _read(self, chosen: Sequence[ReadRows]) -> list[ReadPairs]:
        return [ReadPairs(own.name, own.also, self._table.logits(own.rows)) for own in chosen]

    def _in_half(
        self,
        rows: Int[np.ndarray, "pair"],
        distinct: Int[np.ndarray, "row"],
        kind: Any,
        advance: Callable[[int], Any],
    ) -> np.ndarray:
        pairs = encoded_rows([self._table.rows[row] for row in distinct], padding_id(self.model))
        values = run_rows(in_half(self.model, kind), pairs, self._table.token_budget, advance)
        found = np.full((len(rows), values.shape[1]), np.nan)
        found[rows >= 0] = values[np.searchsorted(distinct, rows[rows >= 0])]
        return found
