"""Ranked heads against random ones: the draws by what they may be, and the p-value by counting."""

import numpy as np
import pytest
from scipy import stats
from small_worlds import collection_folder, tiny_model

from tl_crossenc.cli import reproduce as command
from tl_crossenc.experiments import head_ablation
from tl_crossenc.experiments.head_ablation import _drawable, random_heads, random_ranking, run_head_ablation
from tl_crossenc.interventions.heads import parse_heads
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import PoolSpec, build_pool
from tl_crossenc.statistics.significance import rank_p_values
from tl_crossenc.store.cells import Store

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


def test_a_draw_is_another_ranking_in_the_same_layers():
    """Its k-th head lies in the layer of the k-th ranked one; none is ranked or drawn twice; a layer's heads come in any order."""
    ranking = [(1, 0), (0, 2), (1, 3)]
    firsts = set()
    for seed in range(300):
        drawn = random_ranking(ranking, 5, np.random.default_rng(seed))
        assert [layer for layer, _ in drawn] == [1, 0, 1]
        assert len(set(drawn) | set(ranking)) == 6
        firsts.add((drawn[0][1], drawn[2][1]))
    assert firsts == {(a, b) for a in (1, 2, 4) for b in (1, 2, 4) if a != b}
    assert random_ranking([(1, 0), (1, 2)], 3, np.random.default_rng(0)) is None  # one other head for two


@pytest.mark.parametrize("seed", range(12))
def test_rank_p_values_by_counting(seed):
    """Alone and over all claims, by loops; integers, so that ties occur."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 6, (8, 3)).astype(float)
    values[:, 2] = 2.0 if seed % 3 == 0 else values[:, 2]  # a claim in which nothing varies
    values[0] -= seed % 4
    p, family = rank_p_values(values[0], values[1:])
    scores = np.zeros(values.shape)
    for claim in range(3):
        column = values[:, claim].tolist()
        mean = sum(column) / 8
        sd = (sum((value - mean) ** 2 for value in column) / 8) ** 0.5
        for s in range(8):
            scores[s, claim] = (mean - column[s]) / sd if sd else 0.0
    for claim in range(3):
        as_low = sum(values[s, claim] <= values[0, claim] for s in range(1, 8))
        assert p[claim] == (1 + as_low) / 8
        reaching = sum(max(scores[s]) >= scores[0, claim] - 1e-9 for s in range(8))
        assert family[claim] == reaching / 8
        assert family[claim] >= p[claim] or p[claim] == 1


def test_values_equal_but_for_rounding_are_ties():
    p, _ = rank_p_values(np.array([0.3]), np.array([[0.1 + 0.2], [0.4]]))
    assert p.tolist() == [2 / 3]


def test_under_chance_the_corrected_p_keeps_its_level():
    """Ranked heads that are one more draw: the smallest corrected p over 6 claims is at most .05 in about 5 of 100 cases."""
    rng = np.random.default_rng(2)
    low = []
    for _ in range(600):
        values = rng.random((20, 6))
        low.append(rank_p_values(values[0], values[1:])[1].min() <= 0.05)
    assert np.mean(low) == pytest.approx(0.05, abs=0.03)


def test_draws_may_be_scored_on_some_queries_and_say_which(reranker, pool, tmp_path):
    found = run_head_ablation(
        reranker, [pool], Store(tmp_path), RANKING, counts=COUNTS, n_draws=4, draw_queries=3, drawn_counts=1, seed=5
    )
    assert len(found.drawn_queries) == 3
    queries = list(found.drawn_queries)
    ndcg = found.per_query
    assert len(ndcg) == 5
    ranked = found.curve[found.curve["kind"] == "ranked"]
    assert ranked["k"].tolist() == [1, 2, 1, 2]
    assert np.isnan(ranked.loc[ranked["k"] == 1, "p_random"]).all()  # the larger count alone is compared
    assert found.draws.loc[found.draws["kind"] == "random", "k"].eq(2).all()
    for row in found.draws.to_dict("records"):
        own = ndcg[row["condition"]]
        assert own.notna().sum() == (5 if row["kind"] == "ranked" else 3)
        assert row["mean"] == pytest.approx(own.loc[queries].mean(), abs=1e-12)
        assert row["difference"] == pytest.approx((own - ndcg["none"]).loc[queries].mean(), abs=1e-12)
    for row in ranked.to_dict("records"):
        own = found.draws[(found.draws["k"] == row["k"]) & (found.draws["scope"] == row["scope"])]
        values = ndcg[own.loc[own["kind"] == "ranked", "condition"].item()]
        change = values - ndcg["none"]
        half = stats.t.ppf(0.975, 4) * change.std(ddof=1) / 5**0.5
        assert (row["mean"], row["difference"]) == pytest.approx((values.mean(), change.mean()), abs=1e-12)
        assert (row["diff_low"], row["diff_high"]) == pytest.approx(
            (change.mean() - half, change.mean() + half), abs=1e-9
        )
        random = own.loc[own["kind"] == "random", "difference"]
        if row["k"] == 2:
            as_low = (random <= own.loc[own["kind"] == "ranked", "difference"].item() + 1e-12).sum()
            assert row["p_random"] == (1 + as_low) / 5
    again = run_head_ablation(
        reranker, [pool], Store(tmp_path), RANKING, counts=COUNTS, n_draws=4, draw_queries=3, drawn_counts=1, seed=5
    )
    assert again.drawn_queries == found.drawn_queries
    assert again.layers_run == 0
    others = {
        run_head_ablation(
            reranker, [pool], Store(tmp_path), RANKING, counts=(1,), n_draws=1, draw_queries=3, seed=seed
        ).drawn_queries
        for seed in range(6)
    }
    assert len(others) > 1


def test_the_largest_counts_are_those_that_others_can_be_drawn_for(reranker, pool, tmp_path):
    """Three heads a layer: two of one layer leave one other, so that of counts 1 and 2 only 1 is compared."""
    ranking = [(1, 0), (1, 2)]
    settings = {"counts": COUNTS, "n_draws": 1, "drawn_counts": 1, "draw_queries": 2}
    found = run_head_ablation(reranker, [pool], Store(tmp_path), ranking, **settings)
    assert set(found.curve.loc[found.curve["kind"] == "random", "k"]) == {1}
    assert set(found.curve.loc[found.curve["kind"] == "ranked", "k"]) == {1, 2}


def test_no_draws_are_no_test(run):
    found = run(n_draws=0)
    assert set(found.curve["kind"]) == {"ranked"}
    assert found.curve[["p_random", "p_family"]].isna().all(axis=None)


@pytest.mark.parametrize("bad", [{"n_draws": -1}, {"draw_queries": 0}, {"drawn_counts": 0}])
def test_impossible_numbers_are_refused(run, bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"expected {name} from"):
        run(**bad)


def test_half_of_a_layers_heads_have_as_many_others():
    """Of 4 heads in a layer 2 can be set against the 2 others, 3 cannot."""
    assert _drawable([(1, 2), (1, 0), (1, 3)], [1, 2, 3], 4) == [1, 2]
    assert _drawable([(0, 2), (1, 0), (2, 3)], [1, 2, 3], 2) == [1, 2, 3]


def test_the_command_line_offers_as_many_draws_as_are_run():
    assert command.MOST_DRAWS == head_ablation.MOST_DRAWS
