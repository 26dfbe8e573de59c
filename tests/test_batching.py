import itertools

import helpers  # noqa: F401 - steady property tests
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_crossenc.batching import length_batches

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
