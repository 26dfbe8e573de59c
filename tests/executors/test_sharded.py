"""Parts of a job: each cell in exactly one, about even, the same whatever is stored; and what a shard says."""

import weakref
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from tl_crossenc.executors.executor import IN_PROCESS
from tl_crossenc.executors.sharded import Shard, parts_of
from tl_crossenc.executors.share import parse_share
from tl_crossenc.executors.task import Cell, CellsFailed, Task, Waiting
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

MODEL = HookedCrossEncoder.__new__(HookedCrossEncoder)  # which nothing here looks at


@dataclass(frozen=True)
class Counted(Task):
    """Cells that say their number, of a cost each; those of `bad` fail."""

    keys: tuple[CellKey, ...]
    each: int = 1
    bad: frozenset = frozenset()

    @property
    def cost(self):
        return self.each * len(self.keys)

    def only(self, keys):
        kept = tuple(key for key in self.keys if key in keys)
        return replace(self, keys=kept) if kept else None

    def split(self, parts):
        size = -(-len(self.keys) // parts)
        return [replace(self, keys=self.keys[i : i + size]) for i in range(0, len(self.keys), size)]

    def cells(self, model, advance):
        for key in self.keys:
            if key.fields["n"] in self.bad:
                raise RuntimeError(f"cell {key.fields['n']} cannot be done")
            yield Cell(key, pa.table({"n": [key.fields["n"]]}), {})
            advance(self.each)


@dataclass(frozen=True)
class Whole(Counted):
    """One that cannot be split."""

    def split(self, parts):
        return [self]


def key(n):
    return CellKey.of("counted", n=n)


def tasks_of(sizes, each=None, kind=Counted):
    starts = np.cumsum([0, *sizes])
    costs = each or [1] * len(sizes)
    return [
        kind(tuple(map(key, range(a, b))), cost) for a, b, cost in zip(starts, starts[1:].tolist(), costs, strict=False)
    ]


@pytest.mark.parametrize(("text", "found"), [("1/1", (1, 1)), ("2/3", (2, 3)), ("64/64", (64, 64))])
def test_a_shard_is_a_number_and_how_many(text, found):
    assert parse_share(text) == found
    assert str(Shard.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["0/3", "4/3", "3", "1/0", "/3", "1/", "-1/3", "1/2/3", "a/b", "1 / 3", "²/3", "1/" + "9" * 40]
)
def test_what_is_no_shard_is_one_sentence(text):
    with pytest.raises(ValueError, match="expected a shard"):
        Shard.parse(text)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("sizes", [[12, 12], [7], [1, 1, 1], [5, 3, 11, 2, 7, 13, 1], []])
def test_every_cell_is_in_exactly_one_part(sizes, count):
    parts = parts_of(tasks_of(sizes), count)
    assert len(parts) == count
    found = [key.fields["n"] for part in parts for task in part for key in task.keys]
    assert sorted(found) == list(range(sum(sizes)))


@pytest.mark.parametrize("count", [2, 3])
def test_the_longest_part_is_within_a_third_of_the_best_there_is(count):
    """Graham (1969): longest first is at most 4/3 of the best; the best by trying all."""
    rng = np.random.default_rng(5)
    for _ in range(12):
        costs = rng.integers(1, 40, 7).tolist()
        best = min(
            max(sum(c for c, at in zip(costs, place, strict=True) if at == part) for part in range(count))
            for place in product(range(count), repeat=len(costs))
        )
        parts = parts_of(tasks_of([1] * 7, costs, Whole), count)
        assert max(sum(task.cost for task in part) for part in parts) <= 4 / 3 * best


def test_tasks_are_split_where_they_are_fewer_than_parts():
    """Two tasks of 24 cells for eight parts: six cells each, within a tenth."""
    loads = [sum(task.cost for task in part) for part in parts_of(tasks_of([24, 24]), 8)]
    assert max(loads) <= 1.1 * 6
    whole = parts_of(tasks_of([24, 24, 24, 24]), 2)
    assert [[len(task.keys) for task in part] for part in whole] == [[24, 24], [24, 24]]  # nothing is split in vain


def test_small_runs_do_not_all_go_to_the_first_part():
    places = set()
    for n in range(40):
        parts = parts_of([Counted((key(n),))], 5)
        places.add([len(part) for part in parts].index(1))
    assert places == set(range(5))


def test_shards_compute_everything_once_whatever_is_stored(tmp_path, monkeypatch):
    """One folder, one after another; some cells are there before, and cells appear between."""
    store, tasks, wrote = Store(tmp_path), tasks_of([5, 7, 3, 11]), []
    IN_PROCESS.run(MODEL, [Counted((key(3), key(8), key(20)))], store)
    monkeypatch.setattr(
        Store,
        "write",
        (lambda real: lambda self, key, *rest: (wrote.append(key), real(self, key, *rest))[1])(Store.write),
    )
    shards = [Shard(i, 4) for i in (3, 1, 4, 2)]
    for shard in shards[:-1]:
        with pytest.raises(Waiting, match="cells of 'counted' are other shards'"):
            shard.run(MODEL, tasks, store)
        assert shard.done(store, {}).others == len(store.missing(map(key, range(26))))
    shards[-1].run(MODEL, tasks, store)
    assert shards[-1].done(store, {}).others == 0
    assert sorted(k.fields["n"] for k in wrote) == [n for n in range(26) if n not in (3, 8, 20)]
    assert sum(shard.computed for shard in shards) == 23
    assert IN_PROCESS.run(MODEL, tasks, store) == []


def test_a_cell_that_two_experiments_ask_for_is_one_shards(tmp_path):
    """Each shard in a folder of its own: as many cells as there are, though both experiments have cells 4 to 11."""
    shards = [Shard(i, 3) for i in (1, 2, 3)]
    for shard in shards:
        store = Store(tmp_path / str(shard.number))
        for tasks in (tasks_of([5, 7]), [Counted(tuple(map(key, range(4, 20))))]):
            with pytest.raises(Waiting):
                shard.run(MODEL, tasks, store)
    found = [k.fields["n"] for i in (1, 2, 3) for k in Store(tmp_path / str(i)).keys("counted")]
    assert sorted(found) == list(range(20))
    assert sum(shard.computed for shard in shards) == 20


def test_progress_is_of_the_shards_own_part(tmp_path):
    steps = []
    with pytest.raises(Waiting):
        Shard(1, 2).run(MODEL, tasks_of([4, 4]), Store(tmp_path), lambda *step: steps.append(step))
    assert steps == [(i, 4) for i in (1, 2, 3, 4)]


def test_a_cell_of_two_tasks_is_computed_once(tmp_path):
    store = Store(tmp_path)
    ran = IN_PROCESS.run(MODEL, [Counted((key(0), key(1))), Counted((key(1), key(2))), Counted((key(2),))], store)
    assert [[k.fields["n"] for k in task.keys] for task in ran] == [[0, 1], [2]]


def test_what_fails_is_told_of_when_all_else_is_stored(tmp_path):
    store = Store(tmp_path)
    tasks = [replace(task, bad=frozenset({2, 9})) for task in tasks_of([4, 3, 5])]
    with pytest.raises(CellsFailed) as failed:
        IN_PROCESS.run(MODEL, tasks, store)
    assert str(failed.value) == (
        "cell 2 cannot be done (and 1 other cause); 9 cells of 'counted' could not be computed, what else was asked for is stored"
    )
    assert isinstance(failed.value.__cause__, RuntimeError)
    assert sorted(k.fields["n"] for k in store.keys("counted")) == [0, 1, 4, 5, 6, 7, 8]


def test_a_shard_says_what_failed_and_what_waits(tmp_path):
    store = Store(tmp_path)
    tasks = [replace(task, bad=frozenset(range(12))) for task in tasks_of([6, 6])]
    shard = Shard(1, 2)
    results = {}
    try:
        shard.run(MODEL, tasks, store)
    except CellsFailed as error:
        results["one"] = error
    results["two"] = Waiting(3, "counted")
    done = shard.done(store, results)
    assert (done.computed, done.others, done.waiting, list(done.failed)) == (0, 6, ("two",), ["one"])


def test_what_a_failed_task_held_is_let_go_before_the_next_one(tmp_path):
    """Else memory that ran out once is never there again."""
    held, alive = [], []

    class Holding(Counted):
        def cells(self, model, advance):
            alive.append([one() is not None for one in held])
            tensor = np.ones(7)
            held.append(weakref.ref(tensor))
            raise MemoryError(tensor.size)
            yield

    with pytest.raises(CellsFailed):
        IN_PROCESS.run(MODEL, [Holding((key(n),)) for n in range(3)], Store(tmp_path))
    assert alive == [[], [False], [False, False]]


def test_errors_of_a_program_end_it_at_once(tmp_path):
    class Wrong(Counted):
        def cells(self, model, advance):
            raise TypeError("a mistake")

    store = Store(tmp_path)
    with pytest.raises(TypeError, match="a mistake"):
        IN_PROCESS.run(MODEL, [Wrong((key(0),)), Counted((key(1),))], store)
    assert store.keys("counted") == []
