"""What an executor tells of its work while it runs, in literal counts."""

from dataclasses import dataclass, replace

import pyarrow as pa
import pytest

from tl_crossenc.executors.executor import IN_PROCESS, InProcess
from tl_crossenc.executors.task import Cell, CellsFailed, Task, Waiting
from tl_crossenc.results.process_record import Experiment, read_records, recorded
from tl_crossenc.results.work import open_store
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

pytestmark = pytest.mark.usefixtures("unchecked")  # what is called "model" here only looks on


def cell(number):
    return CellKey.of("scores", number=number)


@dataclass(frozen=True)
class Counted(Task):
    """Cells of their numbers; one cell costs 10, told in halves. Before each cell `look` is called."""

    keys: tuple
    fails: bool = False

    @property
    def cost(self):
        return 10 * len(self.keys)

    def only(self, keys):
        kept = tuple(key for key in self.keys if key in keys)
        return replace(self, keys=kept) if kept else None

    def cells(self, look, advance):
        for key in self.keys:
            advance(5)
            look()
            if self.fails:
                raise ValueError("no number")
            advance(5)
            yield Cell(key, pa.table({"x": [key.fields["number"]]}), {})


def tasks(*counts, failing=()):
    numbers = iter(range(100))
    return [Counted(tuple(cell(next(numbers)) for _ in range(n)), i in failing) for i, n in enumerate(counts)]


def test_what_is_planned_done_in_hand_and_failed_at_every_cell(tmp_path):
    seen = []
    with recorded(tmp_path) as record:
        store = open_store(tmp_path, record)
        store.write(cell(0), pa.table({"x": [0]}))

        def look():
            own = record.experiments["Table 1"]
            seen.append((own.cells, own.done, own.running, own.failed, own.cost, own.ran, own.left))

        record.begins("Table 1")
        with pytest.raises(CellsFailed):
            IN_PROCESS.run(look, tasks(3, 2, 1, failing=[1]), store)
        own = record.experiments["Table 1"]
    # six cells, one stored before: the first task lacks two, the second fails at its first cell, the third has one
    assert seen == [
        (6, 1, 2, 0, 50, 5, 45),
        (6, 2, 1, 0, 50, 15, 35),
        (6, 3, 2, 0, 50, 25, 25),
        (6, 3, 3, 0, 50, 30, 20),
    ]
    assert (own.cells, own.done, own.running, own.failed, own.left) == (6, 4, 0, 2, 0)
    assert own.causes == [(2, "no number")]
    (kept,) = read_records(tmp_path)
    assert kept["state"] == "failed"
    assert kept["experiments"]["Table 1"].failed == 2


def test_runs_of_one_experiment_add_up_and_another_begins_anew(tmp_path):
    with recorded(tmp_path) as record:
        store = open_store(tmp_path, record)
        record.begins("Table 1")
        IN_PROCESS.run(lambda: None, tasks(2), store)
        IN_PROCESS.run(lambda: None, tasks(2, 3), store)
        record.begins("Figure 1a")
        IN_PROCESS.run(lambda: None, tasks(2, 3), store)
        first, second = record.experiments["Table 1"], record.experiments["Figure 1a"]
    assert (first.cells, first.done, first.cost, first.ran) == (2 + 5, 7, 50, 50)
    assert second == replace(Experiment(), cells=5, done=5, seconds=second.seconds)
    assert read_records(tmp_path) == []


def test_cells_of_others_are_left(tmp_path):
    class FirstAlone(InProcess):
        def _own(self, tasks):
            return tasks[:1]

    with pytest.raises(Waiting), recorded(tmp_path) as record:
        FirstAlone().run(lambda: None, tasks(2, 3), open_store(tmp_path, record))
    (kept,) = read_records(tmp_path)
    assert (kept["state"], kept["experiments"][""].cells, kept["experiments"][""].done) == ("ended", 2, 2)
    assert kept["left"].startswith("3 cells of 'scores' are other shards'")


def test_a_plain_store_is_told_of_by_nobody(tmp_path):
    store = Store(tmp_path / "cells")
    assert len(IN_PROCESS.run(lambda: None, tasks(2), store)) == 1
    assert store.has(cell(1))
    assert not list(tmp_path.rglob(".status*"))
