"""Cells computed by Ray's actors: the same as in this process, whatever dies meanwhile."""

import os
import signal
import threading
import time
from collections import Counter

import pytest
import torch
from ray_cluster import cluster
from ray_tasks import Squares, begun, key_of
from small_worlds import pool_of_words, snapshot

from tl_crossenc.executors.crew import ClusterError
from tl_crossenc.executors.executor import IN_PROCESS
from tl_crossenc.executors.handout import DEATHS, REFUSALS
from tl_crossenc.executors.on_ray import OnRay
from tl_crossenc.executors.task import CellsFailed
from tl_crossenc.experiments.scoring import score_pool
from tl_crossenc.model.ablations import as_condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.results.watch import RecordedStore, Watch
from tl_crossenc.store.cells import Store
from tl_crossenc.store.files import StoreError

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def started():
    with cluster(cpus=5) as ray:
        yield ray


@pytest.fixture(scope="module")
def executor(started):
    with OnRay(cpus_per_actor=1, actors=2, patience=120) as chosen:
        yield chosen


@pytest.fixture(scope="module")
def model():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu")


@pytest.fixture
def squares(tmp_path):
    """What makes tasks of ranges of numbers, and their store."""
    store = Store(tmp_path / "store")

    def tasks(*ranges, **settings):
        return [Squares(tuple(numbers), str(tmp_path), str(tmp_path / "store"), **settings) for numbers in ranges]

    return tasks, store


def stored(store, numbers):
    """Number -> its cell, of those that are there."""
    return {n: store.read(key_of(n)).to_pydict() for n in numbers if store.has(key_of(n))}


def squares_of(numbers):
    """The same by arithmetic; the planted model has 4 layers."""
    return {n: {"square": [n * n], "by": [4]} for n in numbers}


def kill_at(folder, lines):
    """Kill the process that logged the line of that number, once it is there."""

    def wait():
        deadline = time.monotonic() + 60
        while len(begun(folder)) < lines and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)  # in the midst of it
        os.kill(begun(folder)[lines - 1][1], signal.SIGKILL)

    killer = threading.Thread(target=wait)
    killer.start()
    return killer


def test_the_cells_are_those_of_one_process_and_are_computed_once(model, executor, squares, tmp_path):
    tasks, store = squares
    alone, told = Store(tmp_path / "alone"), []
    given = tasks(range(0, 7), range(7, 12), range(11, 13))
    ran = executor.run(model, given, store, lambda done, total: told.append((done, total)))
    assert [n for n, _, _ in sorted(begun(tmp_path))] == list(range(13))
    assert {process for _, process, _ in begun(tmp_path)}.isdisjoint({os.getpid()})
    assert sorted(n for task in ran for n in task.numbers) == list(range(13))
    assert len(ran) == 3 + 3 + 1  # four tasks for each of two actors, of three tasks: each in three, where it can be
    assert told[-1] == (13, 13)
    IN_PROCESS.run(model, given, alone)
    assert snapshot(alone.root) == snapshot(store.root)
    assert executor.run(model, given, store) == []


def test_what_is_given_to_actors_is_told(model, executor, squares, tmp_path):
    class Starts(Watch):
        def __init__(self):
            self.keys = set()

        def starts(self, keys):
            self.keys |= set(keys)

    tasks, _ = squares
    watch = Starts()
    executor.run(model, tasks(range(0, 5), range(5, 7)), RecordedStore(tmp_path / "told", watch))
    assert watch.keys == {key_of(n) for n in range(7)}


def test_an_actor_that_is_killed_in_mid_cell_loses_that_cell_alone(model, executor, squares, tmp_path):
    tasks, store = squares
    killer = kill_at(tmp_path, 5)
    executor.run(model, tasks(range(0, 10), range(10, 20), seconds=0.5), store)
    killer.join()
    assert stored(store, range(20)) == squares_of(range(20))
    times = Counter(n for n, _, _ in begun(tmp_path))
    assert {state for _, _, state in begun(tmp_path)} == {"new"}
    assert sum(times.values()) == 21  # the one cell
    assert len({process for _, process, _ in begun(tmp_path)}) >= 2


def test_what_always_fails_is_told_with_its_cause_and_the_rest_is_stored(model, executor, squares, tmp_path):
    tasks, store = squares
    faults = (4, "error"), (10, "death")
    given = tasks(range(0, 3), [3, 4, 5], range(6, 9), [9, 10, 11], fault=faults, seconds=0.3)  # 9 gets out before 10
    with pytest.raises(CellsFailed) as failed:
        executor.run(model, given, store)
    assert stored(store, range(12)).keys() == {0, 1, 2, 3, 6, 7, 8, 9} | (stored(store, [5, 11]).keys())
    causes = {n: str(one.cause) for one in failed.value.failures for n in one.task.numbers}
    assert causes[4] == "no square to be had"
    assert causes[10].startswith(f"{DEATHS} actors died of it, the last so: ")
    times = Counter(n for n, _, _ in begun(tmp_path))
    assert (times[4], times[10]) == (1, DEATHS)
    assert all(times[n] <= 1 for n in (0, 1, 2, 3, 6, 7, 8, 9))


def test_a_mistake_in_the_program_is_raised_as_it_is(model, executor, squares):
    tasks, store = squares
    with pytest.raises(KeyError, match="a mistake"):
        executor.run(model, tasks(range(3), fault=((1, "bug"),)), store)


def test_a_full_disk_where_one_actor_is_costs_nothing(model, executor, squares, tmp_path):
    tasks, store = squares
    faults = tuple((n, "full_disk_of_the_first") for n in range(16))
    executor.run(model, tasks(range(16), fault=faults, seconds=0.1), store)
    assert stored(store, range(16)) == squares_of(range(16))
    full = int((tmp_path / "first").read_text())
    assert (
        1 <= sum(process == full for _, process, _ in begun(tmp_path)) <= REFUSALS + 1
    )  # one more may have been given


def test_a_full_disk_everywhere_is_told_after_two_places(model, executor, squares, tmp_path):
    tasks, store = squares
    with pytest.raises(CellsFailed, match="No space left on device"):
        executor.run(model, tasks([0], [1], [2], fault=((1, "full_disk"),)), store)
    assert stored(store, range(3)) == squares_of([0, 2])
    tried = [process for n, process, _ in begun(tmp_path) if n == 1]
    assert len(tried) == len(set(tried)) == REFUSALS


def test_a_store_that_is_full_harms_nothing(model, executor, squares, tmp_path, monkeypatch):
    tasks, store = squares
    write, written = Store.write, []

    def full(self, key, table, meta=None):
        if len(written) == 5:
            raise StoreError(f"expected to write {self.root}: No space left on device")
        written.append(key)
        write(self, key, table, meta)

    monkeypatch.setattr(Store, "write", full)
    given = tasks(range(0, 9), range(9, 18), seconds=0.1)
    with pytest.raises(StoreError, match="No space left"):
        executor.run(model, given, store)
    monkeypatch.setattr(Store, "write", write)
    assert store.missing(key_of(n) for n in range(18)) == [key_of(n) for n in range(18) if key_of(n) not in written]
    first = set(begun(tmp_path))
    executor.run(model, given, store)
    assert stored(store, range(18)) == squares_of(range(18))
    again = Counter(n for n, process, state in set(begun(tmp_path)) - first)
    assert not set(again) & {n for n in range(18) if key_of(n) in written}


def test_scores_are_those_of_one_process_with_as_many_threads(model, tmp_path):
    """Byte for byte, through the library's own task."""
    words = ["guitar", "garden", "piano", "window", "river", "train", "music"]
    pool = pool_of_words(
        "w", {"q1": "tune a guitar", "q2": "old river"}, {"q1": [0, 1, 2] * 5, "q2": [1, 0] * 4}, words
    )
    chosen = [as_condition(text) for text in ("none", "DOC->QUERY", "zero(CLS->ALL; layers=0-2)")]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        score_pool(model, pool, chosen, Store(tmp_path / "here"))
        with OnRay(actors=1, patience=120) as two:  # as many as torch has here
            found = score_pool(model, pool, chosen, Store(tmp_path / "there"), executor=two)
            assert two._crew._cpus == 2
    finally:
        torch.set_num_threads(before)
    assert found.layers_run > 0
    assert snapshot(tmp_path / "there") == snapshot(tmp_path / "here")


def test_silence_is_an_error(model, squares):
    tasks, store = squares
    with OnRay(cpus_per_actor=2, actors=1, patience=60) as impatient:
        impatient.identity(model)
        impatient.patience = impatient._crew.patience = 2
        start = time.monotonic()
        with pytest.raises(
            ClusterError, match=r"sign of work from Ray's actors within 2 seconds.*1 of 1 hold the model"
        ):
            impatient.run(model, tasks([0, 1], fault=((1, "hang"),)), store)
        assert time.monotonic() - start < 30
    assert stored(store, range(2)) == squares_of([0])


def test_actors_larger_than_a_node_are_refused(model):
    with OnRay(cpus_per_actor=6) as large, pytest.raises(ValueError, match="expected a node with 6 CPUs for an actor"):
        large.identity(model)


def test_an_ablation_in_force_is_refused(model, executor):
    with model.ablating("DOC->QUERY"), pytest.raises(ValueError, match=r"nothing is ablated.*zero\(DOC->QUERY\)"):
        executor.identity(model)


def test_other_versions_are_refused(model, executor, monkeypatch):
    own = executor.identity(model)
    monkeypatch.setattr("tl_crossenc.executors.on_ray.model_identity", lambda model: own | {"torch": "1.0"})
    with pytest.raises(ValueError, match=r"torch is .* and 1\.0 elsewhere: install the same versions"):
        executor.identity(model)
    monkeypatch.setattr("tl_crossenc.executors.crew.code_digest", lambda: "another")
    with (
        OnRay(cpus_per_actor=1) as other,
        pytest.raises(ValueError, match="expected the same tl-crossenc on every node"),
    ):
        other.identity(model)
