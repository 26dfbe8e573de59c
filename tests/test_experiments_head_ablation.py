"""Ranked heads against random ones: the draws by what they may be, and the p-value by counting."""

import numpy as np
import pytest
from small_worlds import collection_folder, tiny_model

from tl_crossenc.collections import load_collection
from tl_crossenc.experiments.head_ablation import random_heads, run_head_ablation
from tl_crossenc.heads import parse_heads
from tl_crossenc.pools import PoolSpec, build_pool
from tl_crossenc.store import Store

RANKING = [(0, 1), (1, 2)]
COUNTS = (1, 2)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return build_pool(load_collection(collection_folder(tmp_path_factory.mktemp("collection"))), PoolSpec(None, 0, 0))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def run(reranker, pool, tmp_path_factory):
    """Run the experiment in one store, so that no condition is scored twice."""
    store = Store(tmp_path_factory.mktemp("store"))

    def run(**settings):
        return run_head_ablation(reranker, [pool], store, RANKING, counts=COUNTS, **settings)

    return run


def test_random_heads_are_any_others_of_the_same_layers():
    """Heads of the same numbers in other layers may be drawn; the ranked ones may not."""
    rng = np.random.default_rng(0)
    ranked = [(0, 1), (1, 0), (1, 2)]
    drawn = [random_heads(ranked, 4, ranked, rng) for _ in range(200)]
    assert {heads[0] for heads in drawn} == {(0, 0), (0, 2), (0, 3)}
    assert {heads[1:] for heads in drawn} == {((1, 1), (1, 3))}
    # Of three heads a layer, only head 1 of layer 1 is left, whose number is taken in layer 0 alone.
    assert random_heads([(1, 0)], 3, [(0, 1), (1, 0), (1, 2)], rng) == ((1, 1),)
    assert random_heads([(1, 0), (1, 2)], 3, [(1, 0), (1, 2)], rng) is None


def test_p_is_the_share_of_draws_the_ranked_heads_among_them_that_are_as_low(run):
    """Counted from the means of the draws. Ties, and p-values of which the other tail would be another number, do occur."""
    found = run(n_draws=5, cutoff=1)
    seen = set()
    for _, row in found.curve[found.curve["kind"] == "ranked"].iterrows():
        same = found.draws[(found.draws["scope"] == row["scope"]) & (found.draws["k"] == row["k"])]
        ours = same.loc[same["kind"] == "ranked", "mean"].item()
        others = same.loc[same["kind"] == "random", "mean"].tolist()
        lower, tied, higher = (sum(sign == np.sign(mean - ours) for mean in others) for sign in (-1, 0, 1))
        assert row["p_random"] == (1 + lower + tied) / (1 + len(others))
        seen |= {"tied"} if tied else set()
        seen |= {"lower"} if lower > higher else {"higher"} if higher > lower else set()
    assert seen == {"tied", "lower", "higher"}


def test_the_seed_decides_on_the_draws_and_more_draws_keep_the_earlier_ones(run):
    def heads(n_draws, seed):
        draws = run(n_draws=n_draws, seed=seed).draws
        chosen = draws[(draws["kind"] == "random") & (draws["scope"] == "QUERY<->DOC")]
        return {(row["k"], row["draw"]): parse_heads(row["heads"]) for _, row in chosen.iterrows()}

    first, again, more, other = heads(3, 0), heads(3, 0), heads(5, 0), heads(3, 1)
    assert first == again
    assert first.items() <= more.items()
    assert first != other
