"""Who is told of the work on a store, as it goes on: the process's own record in a folder of results, and nobody elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa

from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

Progress = Callable[[int, int], object]


class Watch:
    """What a process tells of its work; here nobody listens."""

    def begins(self, experiment: str) -> None:
        """What is asked for from here on is this experiment's."""

    def plans(self, how: str, cells: int, missing: Collection[CellKey], cost: int) -> None:
        """So many cells are this process's to compute, by that executor; those missing cost so many layer runs."""

    def starts(self, keys: Iterable[CellKey]) -> None:
        """These cells are being computed now."""

    def wrote(self, key: CellKey) -> None:
        """A cell is stored."""

    def advances(self, count: int) -> None:
        """So many layer runs were done."""

    def closes(self, failures: Iterable[tuple[Collection[CellKey], str]] = ()) -> None:
        """What was planned last is over; some cells failed, with their causes."""

    def leaves(self, what: str) -> None:
        """Something is left for others to do, so that all is not done when this process ends."""


class RecordedStore(Store):
    """A store in a folder of results whose writes are told.

    Args:
        root, versions: see `Store`.
        record: who is told.
    """

    def __init__(self, root: Path, record: Watch, *, versions: Mapping[str, str] | None = None) -> None:
        super().__init__(root, versions=versions)
        self.record = record

    def write(self, key: CellKey, table: pa.Table, meta: Mapping[str, object] | None = None) -> None:
        """See `Store`."""
        super().write(key, table, meta)
        self.record.wrote(key)


UNWATCHED = Watch()


def record_of(store: Store) -> Watch:
    """Who is told of the work on a store."""
    return store.record if isinstance(store, RecordedStore) else UNWATCHED


def titled(
    progress: Callable[[str], AbstractContextManager[Progress]], store: Store
) -> Callable[[str], AbstractContextManager[Progress]]:
    """What makes bars, each of which begins the experiment that it is titled after."""

    def begun(what: str) -> AbstractContextManager[Progress]:
        record_of(store).begins(what)
        return progress(what)

    return begun
