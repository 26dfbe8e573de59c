"""What an actor does in its own process, without a cluster."""

import time
from itertools import islice

import pytest
import torch
from ray_tasks import Squares, begun, key_of
from small_worlds import tiny_model

from tl_crossenc.executors import actor as module
from tl_crossenc.executors.actor import HELD, Actor, pack, unpack
from tl_crossenc.executors.task import Cell
from tl_crossenc.model.identity import model_identity
from tl_crossenc.model.untrained import untrained_twin
from tl_crossenc.store.cells import Store


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny", dtype="float32")


@pytest.fixture
def actor(monkeypatch):
    """An actor that finds a model where it is told that a reference is."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "get", lambda packed, timeout: packed)
    return Actor("cpu", torch.get_num_threads())


def test_a_model_that_travelled_is_the_same_and_no_part_of_the_first(model):
    packed = pack(model)
    other = unpack(packed, torch.device("cpu"))
    assert model_identity(other) == model_identity(model)
    query, passages = "how do eggs rise", ["bread 7", "the flea egg", ""]
    torch.testing.assert_close(other.score(query, passages), model.score(query, passages), rtol=0, atol=0)
    floats = sum(weight.numel() for weight in model.parameters()) + sum(b.numel() for b in model.buffers())
    assert 4 * floats < packed.nbytes < 2 * 4 * floats + 200_000  # each weight once, beside the tokenizer
    before = model_identity(model)["weights"]
    with torch.no_grad():
        next(other.parameters()).add_(1)
    assert model_identity(model)["weights"] == before != model_identity(other)["weights"]


def test_an_actor_holds_the_last_two_models(model, actor):
    twins = {f"twin {seed}": pack(untrained_twin(model, seed)) for seed in range(3)}
    first = actor.open("model", [pack(model)], 5)
    assert first.identity == model_identity(model)
    assert first.token_budget == model.token_budget()
    assert actor.open("twin 0", [twins["twin 0"]], 5).identity["weights"] != first.identity["weights"]
    assert actor.open("model", ["not looked at"], 5) == first
    actor.open("twin 1", [twins["twin 1"]], 5)
    assert list(actor._models) == ["model", "twin 1"]
    assert len(actor._models) == HELD


def test_cells_come_in_order_with_what_was_run_before_them(model, actor, tmp_path, monkeypatch):
    actor.open("model", [pack(model)], 5)
    Store(tmp_path / "store")
    task = Squares((2, 3, 5), str(tmp_path), str(tmp_path / "store"))
    monkeypatch.setattr(module, "BEAT", 0.0)
    found = list(actor.compute("model", task))
    assert [item if isinstance(item, int) else item.key for item in found] == [1, key_of(2), 1, key_of(3), 1, key_of(5)]
    assert [item.table["square"].to_pylist() for item in found if isinstance(item, Cell)] == [[4], [9], [25]]
    monkeypatch.setattr(module, "BEAT", 3600.0)
    found = list(actor.compute("model", task))
    assert sum(item for item in found if isinstance(item, int)) == 3  # nothing is told twice, or not


def test_signs_of_work_come_while_a_cell_is_computed(model, actor, tmp_path, monkeypatch):
    class Long(Squares):
        def cells(self, model, advance):
            for _ in range(5):
                time.sleep(0.05)
                advance(7)
            yield from super().cells(model, advance)

    actor.open("model", [pack(model)], 5)
    Store(tmp_path / "store")
    monkeypatch.setattr(module, "BEAT", 0.01)
    found = list(actor.compute("model", Long((2,), str(tmp_path), str(tmp_path / "store"))))
    assert found[:5] == [7] * 5


def test_an_error_comes_after_the_cells_before_it(model, actor, tmp_path, monkeypatch):
    actor.open("model", [pack(model)], 5)
    Store(tmp_path / "store")
    monkeypatch.setattr(module, "BEAT", 0.0)
    task = Squares((2, 3, 5), str(tmp_path), str(tmp_path / "store"), fault=((3, "error"),))
    stream = actor.compute("model", task)
    found = list(islice(stream, 2))
    with pytest.raises(ValueError, match="no square to be had"):
        list(stream)
    assert found[0] == 1
    assert found[1].key == key_of(2)
    assert [n for n, _, _ in begun(tmp_path)] == [2, 3]
