"""Freed memory goes back to the system."""

import psutil
import pytest
from ray_tasks import Squares
from small_worlds import tiny_model

from tl_crossenc.executors.executor import IN_PROCESS
from tl_crossenc.model import freed
from tl_crossenc.model.freed import give_back, give_back_now_and_then
from tl_crossenc.store.cells import Store

BLOCKS, SIZE = 3001, 64_000


def _resident():
    return psutil.Process().memory_info().rss


@pytest.mark.skipif(not give_back(), reason="only glibc holds what is freed")
def test_blocks_that_were_freed_among_others_go_back():
    """Of 3,001 blocks of 64 kB every other is freed, so that the heap cannot shrink at its end: 96 MB."""
    blocks = [bytearray(SIZE) for _ in range(BLOCKS)]
    kept = blocks[1::2]
    del blocks
    before = _resident()
    give_back()
    assert before - _resident() > 0.7 * SIZE * (BLOCKS - len(kept))


def test_it_is_done_now_and_then(monkeypatch):
    """At 0, 1, 2, 3.5, 5 and 5.5 seconds it is asked to, at 2, 5 it does: 2 s after it began, and 2 s after it last did."""
    clock = [0.0]
    done = []
    monkeypatch.setattr(freed.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(freed, "give_back", lambda: done.append(clock[0]))
    monkeypatch.setattr(freed, "_last", 0.0)
    for clock[0] in (0.0, 1.0, 2.0, 3.5, 5.0, 5.5):
        give_back_now_and_then()
    assert done == [2.0, 5.0]


@pytest.fixture
def times(monkeypatch):
    """How often memory was given back, where that is done as often as it is thought of."""
    found = []
    monkeypatch.setattr(freed, "EVERY", 0.0)
    monkeypatch.setattr(freed, "give_back", lambda: found.append(1))
    return found


def test_scores_give_back_after_every_batch(times, tmp_path):
    model = tiny_model(tmp_path / "tiny")
    model.score("egg", ["flea bread 7"] * 13, token_budget=30)  # 7 tokens each: 4 pairs a batch
    assert len(times) == 4


def test_tasks_give_back_between_them(times, tmp_path):
    model = tiny_model(tmp_path / "tiny")
    store = Store(tmp_path / "store")
    tasks = [Squares((number,), str(tmp_path), str(tmp_path / "store")) for number in range(5)]
    IN_PROCESS.run(model, tasks, store)
    assert len(times) == 5
