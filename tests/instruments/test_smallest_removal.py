"""The search for the smallest set of words, against every subset there is."""

from itertools import chain, combinations
from math import comb

import numpy as np
import pytest

from tl_crossenc.instruments import smallest_removal as module
from tl_crossenc.instruments.smallest_removal import smallest_removal

N = 7


def world(seed, n=N):
    """What each of n words, and each two of them together, take from a lead."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=n), np.triu(rng.normal(size=(n, n)), 1), rng.uniform(0.5, 4)


def measured(seed, n=N):
    """(measure, the sets that it was asked for)."""
    alone, together, lead = world(seed, n)
    asked = []

    def measure(sets):
        asked.extend(sets)
        values = [sum(alone[i] for i in s) + sum(together[i, j] for i, j in combinations(s, 2)) - lead for s in sets]
        return np.array(values)

    return measure, asked


def by_force(seed, n=N):
    """(size, set, measure) of the best of the smallest sets that turn it, of all subsets; or None."""
    measure, _ = measured(seed, n)
    for size in range(1, n + 1):
        value, best = max((float(measure([s])[0]), s) for s in combinations(range(n), size))
        if value > 0:
            return size, best, value
    return None


SEEDS = range(40)


def test_the_cases_are_of_all_kinds():
    sizes = {found and found[0] for found in map(by_force, SEEDS)}
    assert {None, 1, 2, 3} <= sizes


@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_limit_it_is_what_all_subsets_give(seed):
    measure, asked = measured(seed)
    found, expected = smallest_removal(N, measure, most_runs=2**N), by_force(seed)
    assert found.minimal
    assert found.n_words == N
    assert found.runs == len(asked) == len(set(asked))
    if expected is None:
        assert found.words is None
        assert found.whole == N
        assert found.runs == 2**N - 1
        values = [measure([s])[0] for s in chain(*(combinations(range(N), k) for k in range(1, N + 1)))]
        assert found.measure == pytest.approx(max(values))
    else:
        assert (len(found.words), found.words) == expected[:2]
        assert found.measure == pytest.approx(expected[2])
        assert found.runs == sum(comb(N, k) for k in range(1, len(found.words) + 1))


@pytest.mark.parametrize("most_runs", [1, N, N + comb(N, 2), N + comb(N, 2) + comb(N, 3)])
def test_with_a_limit_what_is_found_turns_it_and_says_what_is_proven(most_runs):
    greedy = 0
    for seed in SEEDS:
        measure, asked = measured(seed)
        found, expected = smallest_removal(N, measure, most_runs=most_runs), by_force(seed)
        whole = {1: 1, N: 1, N + comb(N, 2): 2}.get(most_runs, 3)
        assert found.whole == min(whole, N if expected is None else expected[0])
        assert found.runs in (
            len(asked),
            len(asked) - 1,
        )  # the set that is told is measured again where it was not the last
        if found.words is None:
            assert not found.minimal
            assert found.measure <= 0
            continue
        assert measure([found.words])[0] == pytest.approx(found.measure)
        assert found.measure > 0
        assert expected is not None
        assert len(found.words) >= expected[0]
        assert found.minimal == (len(found.words) <= found.whole + 1)
        if found.minimal:
            assert len(found.words) == expected[0]
        else:
            greedy += 1
            for back in found.words:  # none can be put back, alone
                assert measure([tuple(w for w in found.words if w != back)])[0] <= 0
    assert greedy or most_runs > 2 * N


def test_a_long_text_costs_no_more_than_it_may():
    n, most = 101, 300
    alone = np.linspace(1, 2, n)
    asked = []

    def measure(sets):
        asked.append(len(sets))
        return np.array([alone[list(s)].sum() - 29.5 for s in sets])

    found = smallest_removal(n, measure, most_runs=most)
    assert max(asked) <= module.CHUNK
    assert found.runs <= n + most + n + len(found.words) ** 2
    assert found.words == tuple(range(n - 16, n))  # the heaviest first: 15 make 28.95, 16 make 30.8
    assert (found.whole, found.minimal) == (1, False)


def test_chunks_change_nothing(monkeypatch):
    expected = [smallest_removal(N, measured(seed)[0], most_runs=60) for seed in SEEDS]
    monkeypatch.setattr(module, "CHUNK", 3)
    assert [smallest_removal(N, measured(seed)[0], most_runs=60) for seed in SEEDS] == expected


def test_without_words_there_is_none_and_that_is_known():
    found = smallest_removal(0, lambda sets: np.zeros(len(sets)))
    assert (found.words, found.minimal, found.runs) == (None, True, 0)
    assert np.isnan(found.measure)


def test_a_limit_of_none_is_refused():
    with pytest.raises(ValueError, match="expected most_runs of at least 1, got 0"):
        smallest_removal(3, lambda sets: np.zeros(len(sets)), most_runs=0)
