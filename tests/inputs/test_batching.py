import itertools
import logging

import helpers  # noqa: F401 - steady property tests
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import port, tiny_hf

from tl_crossenc import HookedEncoder
from tl_crossenc.inputs.batching import default_token_budget, length_batches, run_batches
from tl_crossenc.model.config import CrossEncoderConfig

LENGTHS = st.lists(st.integers(0, 60), max_size=50)


@given(LENGTHS, st.integers(1, 200))
def test_every_pair_is_in_one_batch_within_the_budget(lengths, budget):
    batches = length_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) > 0
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= budget or len(batch) == 1


@given(LENGTHS, st.integers(1, 200))
def test_longest_first_and_equal_lengths_in_order(lengths, budget):
    order = [i for batch in length_batches(lengths, budget) for i in batch.tolist()]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


@given(LENGTHS, st.integers(1, 200))
def test_no_batch_could_have_taken_the_next_pair(lengths, budget):
    batches = length_batches(np.asarray(lengths, dtype=np.int64), budget)
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * max(lengths[batch[0]], 1) > budget
        assert lengths[following[0]] <= lengths[batch[-1]]


def test_known_batches():
    batches = length_batches([3, 7, 3, 11, 5], 15)
    # 11 alone (2 x 11 > 15), 7 and 5 (2 x 7 = 14), then 3 and 3
    assert [batch.tolist() for batch in batches] == [[3], [1, 4], [0, 2]]


def test_a_pair_longer_than_the_budget_runs_alone():
    assert [batch.tolist() for batch in length_batches([9, 9, 2], 4)] == [[0], [1], [2]]


def test_nothing_makes_no_batch():
    assert length_batches([]) == []


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_of_nothing_is_refused(budget):
    with pytest.raises(ValueError, match="expected a token budget of at least 1, got"):
        length_batches([1], budget)


# The budget of a device.


@pytest.mark.parametrize(
    ("dtype", "free", "expected"),
    [
        # 3 layers, d_model 21, d_mlp 53, 3 heads, 31 positions: 2*3*21 + 8*21 + 2*53 + 3*3*31 = 679 numbers a token, in half of
        # what is free.
        (torch.float32, 2 * 679 * 4 * 100, 64),
        (torch.float32, 2 * 679 * 4 * 128, 128),
        (torch.float32, 2 * 679 * 4 * 128 - 1, 64),
        (torch.bfloat16, 2 * 679 * 4 * 100, 128),
        (torch.float32, 0, 31),
        (torch.float32, 10**12, 65536),
    ],
)
def test_budget_of_a_cuda_device_follows_its_free_memory(monkeypatch, dtype, free, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**13))
    monkeypatch.setattr(HookedEncoder, "device", torch.device("cuda"))
    assert port(tiny_hf(), dtype).token_budget() == expected


@pytest.mark.parametrize(
    ("positions", "gigabytes", "expected"),
    [(512, 14, 16384), (512, 78, 65536), (8192, 14, 8192), (8192, 38, 8192), (8192, 78, 16384)],
)
def test_budgets_of_a_large_model_with_many_positions(monkeypatch, positions, gigabytes, expected):
    """24 layers x 16 heads, d_model 1024: 90 112 numbers a token at 512 positions, 458 752 at 8 192, where a pair may be all."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gigabytes * 10**9, 10**11))
    cfg = CrossEncoderConfig(
        d_model=1024,
        d_head=64,
        n_heads=16,
        n_layers=24,
        n_ctx=positions,
        d_mlp=4096,
        d_vocab=97,
        act_fn="gelu",
        dtype=torch.float32,
    )
    assert cfg.token_bytes == 4 * (65_536 + 48 * positions)
    assert default_token_budget("cuda", token_bytes=cfg.token_bytes, n_ctx=positions) == expected


def test_budget_of_a_cpu_is_fixed():
    model = port(tiny_hf())
    assert model.token_budget() == 2048
    assert model.token_budget(31) == 31


# Out of memory.


def small_device(lengths, holds, tried):
    """A run that fails for batches of more than `holds` padded tokens."""

    def run(indices):
        size = len(indices) * max(lengths[i] for i in indices)
        tried.append(size)
        if size > holds:
            raise torch.OutOfMemoryError(f"no room for {size}\nand more lines")
        return [lengths[i] for i in indices]

    return run


@given(st.lists(st.integers(1, 60), max_size=50), st.integers(1, 200), st.integers(60, 250))
def test_halves_of_what_does_not_fit_are_run(lengths, budget, holds):
    tried = []
    found = list(run_batches(lengths, budget, small_device(lengths, holds, tried)))
    assert sorted(i for indices, _ in found for i in indices.tolist()) == list(range(len(lengths)))
    for indices, result in found:
        assert result == [lengths[i] for i in indices]
    if max(tried, default=0) <= holds:
        assert [indices.tolist() for indices, _ in found] == [b.tolist() for b in length_batches(lengths, budget)]


def test_a_size_that_failed_is_not_tried_again_and_one_warning_says_so(caplog):
    lengths, tried = [10] * 32, []
    with caplog.at_level(logging.WARNING):
        found = list(run_batches(lengths, 80, small_device(lengths, 25, tried)))
    assert tried == [80, 40] + [20] * 16
    assert [i for indices, _ in found for i in indices.tolist()] == list(range(32))
    assert len(caplog.records) == 1
    assert "80 tokens (no room for 80); going on with half" in caplog.text


def test_a_pair_that_does_not_fit_alone_is_an_error():
    with pytest.raises(torch.OutOfMemoryError, match="no room for 30"):
        list(run_batches([30, 5], 64, small_device([30, 5], 29, [])))


def test_other_errors_are_not_caught():
    def fail(indices):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(run_batches([3, 4], 64, fail))


def test_what_a_failed_run_held_is_gone_before_the_next():
    import weakref

    class Held:
        pass

    alive = []

    def run(indices):
        assert all(reference() is None for reference in alive)
        held = Held()
        alive.append(weakref.ref(held))
        if len(indices) > 1:
            raise torch.OutOfMemoryError("full")

    assert len(list(run_batches([3, 3, 3], 64, run))) == 3
    assert len(alive) > 3
