"""Figure 1c: frames against loops over Hugging Face's patterns, the distance against SciPy, its null against loops and chance."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import VOCABULARY, bert_tokenizer
from scipy import stats
from small_worlds import pool_of_words
from tiny_models import N_HEADS, N_LAYERS, port, run_hf, tiny_hf, to_batch

from tl_crossenc.checkpoints.planted import MATCHING_HEAD
from tl_crossenc.experiments import match_cells
from tl_crossenc.experiments.match_distances import against_null, mean_shift, permuted_labels, wasserstein
from tl_crossenc.experiments.match_distributions import run_match_distributions
from tl_crossenc.instruments.token_matches import CENTRES, EDGES, N_BINS
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

QUERIES = {"q1": "how do fleas lay egg .", "q2": "laying bread", "q3": "the fleas", "q4": "eggs lay", "q5": "the eggs"}
GRADES = {"q1": (3, 2, 2, 0, -1, -1), "q2": (3, 1, -1), "q3": (2, 0, 0, -1, -1), "q4": (2, 1, 0, -1), "q5": (3, 3, 0)}
WORDS = ("flea", "fleas", "Fleas", "lay", "egg", "eggs", "the", "bread", "laying", "how", ".", "do")
KINDS = ("same_piece", "same_word", "other")
DIRECTIONS = ("QUERY->DOC", "DOC->QUERY")
GROUP_OF = {3: "relevant", 2: "relevant", 0: "hard", -1: "easy"}
B = 19


def some_pool(name="tiny", grades=None, empty=()):
    return pool_of_words(name, QUERIES, grades or GRADES, WORDS, empty)


POOL = some_pool(empty={("q3", 1)})


@pytest.fixture(scope="module")
def hf():
    return tiny_hf(seed=4, vocab_size=len(VOCABULARY)).double()


@pytest.fixture(scope="module")
def model(hf):
    ported = port(hf, torch.float64)
    with_texts = HookedCrossEncoder(ported.cfg, bert_tokenizer(model_max_length=31))
    with_texts.load_state_dict(ported.state_dict())
    return with_texts.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def found(model, folder):
    return run_match_distributions(model, [POOL], Store(folder), n_permutations=B)


@pytest.fixture(scope="module")
def slow(hf, model):
    """A row a weight: passage, query_id, group, layer, head, direction, kind, weight, n_rows; words by the tokenizer's own ids."""
    tokenizer, rows = model.tokenizer, []
    for number, pair in enumerate(POOL.pairs):
        sides = [tokenizer(text, add_special_tokens=False) for text in (pair.query, pair.text)]
        words = []
        for side, text in zip(sides, (pair.query, pair.text), strict=True):
            spans = [side.word_to_chars(word) for word in side.word_ids()]
            words.append([text[span.start : span.end].lower() for span in spans])
        query, passage = (side["input_ids"] for side in sides)
        tokens = [tokenizer.cls_token_id, *query, tokenizer.sep_token_id, *passage, tokenizer.sep_token_id]
        types = [0] * (len(query) + 2) + [1] * (len(passage) + 1)
        parts = [0] + [1] * len(query) + [2] + [3] * len(passage) + [4]
        patterns = run_hf(hf, to_batch([(tokens, types, parts)])).attentions
        for (a, i), (b, j) in product(enumerate(query), enumerate(passage)):
            kind = "same_piece" if i == j else "same_word" if words[0][a] == words[1][b] else "other"
            row, column = 1 + a, 2 + len(query) + b
            for layer, head in product(range(N_LAYERS), range(N_HEADS)):
                pattern = patterns[layer][0, head]
                about = (number, pair.query_id, GROUP_OF.get(pair.grade), layer, head)
                rows.append((*about, "QUERY->DOC", kind, float(pattern[row, column]), len(query)))
                rows.append((*about, "DOC->QUERY", kind, float(pattern[column, row]), len(passage)))
    columns = ["passage", "query_id", "group", "layer", "head", "direction", "kind", "weight", "n_rows"]
    return pd.DataFrame(rows, columns=columns)


def test_histograms_equal_numpy_over_all_weights(found, slow):
    frame = found.histogram
    keys = ["layer", "head", "direction", "group", "kind"]
    assert len(frame) == (N_LAYERS + N_LAYERS * N_HEADS) * 2 * 3 * 3 * N_BINS
    assert (frame["bin_low"].iloc[:N_BINS].to_numpy() == EDGES[:-1]).all()
    counts = {key: part["count"].to_numpy() for key, part in frame.groupby(keys)}
    for (layer, head, direction, group, kind), count in counts.items():
        same = (slow["layer"] == layer) & (slow["direction"] == direction) & (slow["group"] == group)
        same &= slow["kind"] == kind
        if head != "all":
            same &= slow["head"] == int(head)
        assert count.tolist() == np.histogram(slow.loc[same, "weight"], EDGES)[0].tolist()


def test_token_pairs_are_counted_by_kind(found, slow):
    once = slow[(slow["layer"] == 0) & (slow["head"] == 0) & (slow["direction"] == "QUERY->DOC")]
    expected = once.groupby(["group", "kind"]).size()
    mine = found.token_pairs.set_index(["group", "kind"])
    assert mine["count"].to_dict() == expected.reindex(mine.index, fill_value=0).to_dict()
    assert mine.groupby("group")["share"].sum().to_numpy() == pytest.approx(1)
    assert (mine["count"].xs("relevant") > 0).all()


def slow_query_values(slow, layer, head, direction, group):
    """A row a query, columns by kind: mass and pair_share, means over passages."""
    part = slow[(slow["layer"] == layer) & (slow["direction"] == direction) & (slow["group"] == group)]
    if head != "all":
        part = part[part["head"] == int(head)]
    n_heads = part["head"].nunique()
    weighted = part.assign(x=part["weight"] / part["n_rows"] / n_heads)
    mass = weighted.pivot_table(index=["query_id", "passage"], columns="kind", values="x", aggfunc="sum", fill_value=0)
    cells = weighted.pivot_table(
        index=["query_id", "passage"], columns="kind", values="x", aggfunc="size", fill_value=0
    )
    mass, cells = (frame.reindex(columns=list(KINDS), fill_value=0) for frame in (mass, cells))
    shares = cells.div(cells.sum(axis=1), axis=0)
    return mass.groupby("query_id").mean(), shares.groupby("query_id").mean()


@pytest.mark.parametrize("head", ["all", "2"])
def test_masses_shares_and_lifts_equal_means_over_queries(found, slow, head):
    frame = found.mass.set_index(["layer", "head", "direction", "group", "kind"])
    for layer, direction, group in product(range(N_LAYERS), DIRECTIONS, ("relevant", "hard", "easy")):
        mass, pair_share = slow_query_values(slow, layer, head, direction, group)
        share = mass.div(mass.sum(axis=1), axis=0)
        lift = (share / pair_share).where(pair_share > 0)
        for kind in KINDS:
            mine = frame.loc[(layer, head, direction, group, kind)]
            for name, values in (("mass", mass), ("share", share), ("lift", lift)):
                known = values[kind].dropna()
                assert mine[name] == pytest.approx(known.mean() if len(known) else np.nan, nan_ok=True)
                if len(known) > 1:
                    half = stats.t.ppf(0.975, len(known) - 1) * stats.sem(known)
                    assert (mine[f"{name}_low"], mine[f"{name}_high"]) == pytest.approx(
                        (known.mean() - half, known.mean() + half)
                    )
            assert mine["pair_share"] == pytest.approx(pair_share[kind].mean())
            assert mine["n_lift"] == lift[kind].notna().sum()
            assert mine["n_queries"] == len(mass)
            if pair_share[kind].mean() > 0:
                assert mine["lift_pooled"] == pytest.approx(share[kind].mean() / pair_share[kind].mean())


def test_per_query_values_average_to_the_masses(found):
    assert set(found.per_query["head"]) == {"all"}
    keys = ["layer", "direction", "group", "kind"]
    means = found.per_query.groupby(keys)[["mass", "share", "lift"]].mean()
    together = found.mass[found.mass["head"] == "all"].set_index(keys).reindex(means.index)
    np.testing.assert_allclose(means, together[["mass", "share", "lift"]], atol=1e-14)
    q3 = found.per_query.query("query_id == 'q3' and group == 'hard'")
    assert (q3["n_pairs"] == 1).all()  # the other hard negative of q3 is empty


def test_depth_compares_the_outer_layers_per_query(found):
    """Three layers: the middle one is in neither half."""
    exact = found.per_query.query("kind == 'same_piece' and group == 'relevant' and direction == 'DOC->QUERY'")
    curve = exact.pivot(index="query_id", columns="layer", values="share")
    row = found.depth.set_index(["direction", "group", "quantity"]).loc[("DOC->QUERY", "relevant", "share")]
    assert (row["early"], row["late"]) == pytest.approx((curve[0].mean(), curve[2].mean()))
    assert row["difference"] == pytest.approx((curve[2] - curve[0]).mean())
    assert row["p"] == pytest.approx(stats.ttest_rel(curve[2], curve[0]).pvalue)
    assert row["n_queries"] == 5


def test_distances_equal_scipy_over_queries_that_have_both(found, slow):
    frame = found.distance.set_index(["comparison", "layer", "head", "direction", "kind"])
    assert not frame.index.duplicated().any()
    assert len(frame) == 2 * 2 * (N_LAYERS * 4 + N_LAYERS * N_HEADS)
    slow = slow.assign(slot=CENTRES[np.digitize(slow["weight"], EDGES[1:-1])])
    both = {"hard": ["q1", "q3", "q4", "q5"], "easy": ["q1", "q2", "q3", "q4"]}
    for (comparison, layer, head, direction, kind), row in frame.iterrows():
        other = comparison.removeprefix("relevant - ")
        part = slow[slow["query_id"].isin(both[other]) & (slow["layer"] == layer) & (slow["direction"] == direction)]
        part = part if head == "all" else part[part["head"] == int(head)]
        part = part if kind == "all" else part[part["kind"] == kind]
        a, b = (part.loc[part["group"] == group, "slot"].to_numpy() for group in ("relevant", other))
        if not (len(a) and len(b)):
            assert np.isnan(row[["distance", "shift", "p", "p_holm", "p_max"]].astype(float)).all()
            continue
        assert row["distance"] == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-10)
        assert row["shift"] == pytest.approx(a.mean() - b.mean(), abs=1e-10)
        assert 1 / (B + 1) <= row["p"] <= min(row["p_holm"], row["p_max"]) <= 1
        assert row["n_queries"] == 4


def test_a_rerun_reads_the_store_and_other_groups_need_no_model(model, folder, found, monkeypatch):
    monkeypatch.setattr(match_cells, "measure_matches", None)
    again = run_match_distributions(model, [POOL], Store(folder), n_permutations=B)
    assert (found.pairs, found.pairs_run, again.pairs_run) == (len(POOL), len(POOL), 0)
    for name in ("histogram", "mass", "per_query", "exact_by_layer", "depth", "distance", "token_pairs"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name))
    groups = {"high": (3,), "low": (1, 2)}
    other = run_match_distributions(model, [POOL], Store(folder), n_permutations=3, seed=5, groups=groups)
    assert set(other.distance["comparison"]) == {"high - low"}
    assert set(other.histogram["group"]) == {"high", "low"}


def test_shards_and_pools_change_nothing(model, tmp_path, found, monkeypatch):
    monkeypatch.setattr(match_cells, "SHARD", 7)
    halves = [POOL.select(["q1", "q2"]), POOL.select(["q3", "q4", "q5"])]
    named = [Pool(name, half.spec, half.pairs) for name, half in zip(("one", "two"), halves, strict=True)]
    progress = []
    split = run_match_distributions(
        model, named, Store(tmp_path), n_permutations=B, token_budget=40, progress=lambda *at: progress.append(at)
    )
    pd.testing.assert_frame_equal(split.histogram, found.histogram)
    pd.testing.assert_frame_equal(split.distance, found.distance)
    pd.testing.assert_frame_equal(split.mass, found.mass)
    assert progress[-1] == (N_LAYERS * len(POOL),) * 2
    assert len(Store(tmp_path).keys("match-pairs")) == 4  # 9 and 12 passages in shards of 7


def test_named_heads_alone_are_shown_with_per_query_values(model, tmp_path, found):
    some = run_match_distributions(model, [POOL], Store(tmp_path), heads=[(2, 1), (0, 2)], n_permutations=B)
    assert set(zip(some.mass["layer"], some.mass["head"], strict=True)) == {
        (0, "all"), (1, "all"), (2, "all"), (2, "1"), (0, "2")
    }  # fmt: skip
    assert set(some.per_query["head"]) == {"all", "1", "2"}
    keys = ["comparison", "layer", "head", "direction", "kind"]
    mine, whole = (frame.set_index(keys) for frame in (some.distance, found.distance))
    for name in ("distance", "shift", "p"):  # the family of the corrections is another
        pd.testing.assert_series_equal(mine[name], whole.loc[mine.index, name])


def test_as_many_other_heads_are_other_heads(model, tmp_path, found):
    keys = ["comparison", "layer", "head", "direction", "kind"]
    whole = found.distance.set_index(keys)
    for heads in ([(2, 1)], [(0, 2)], [(1, 0)]):
        some = run_match_distributions(model, [POOL], Store(tmp_path), heads=heads, n_permutations=B).distance
        mine = some[some["head"] != "all"].set_index(keys)
        assert {(layer, int(head)) for _, layer, head, *_ in mine.index} == set(heads)
        for name in ("distance", "shift", "p"):
            pd.testing.assert_series_equal(mine[name], whole.loc[mine.index, name])


def test_a_sample_takes_whole_queries_up_to_its_size(model, tmp_path):
    sizes = {query: len(grades) for query, grades in GRADES.items()}
    seen = set()
    for seed in range(4):
        some = run_match_distributions(
            model,
            [POOL],
            Store(tmp_path),
            groups={"relevant": (2, 3), "rest": (-1, 0)},
            n_permutations=1,
            max_pairs=9,
            seed=seed,
        )
        queries = set(some.per_query["query_id"])
        assert some.pairs == sum(sizes[query] for query in queries) <= 9
        seen.add(frozenset(queries))
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("grades", "said"),
    [
        ({"q1": (3, 2, 0)}, "easy"),
        ({"q1": (3, -1, -1)}, "hard"),
        ({"q1": (0, 0, -1)}, "relevant"),
        ({"q1": (3, 0), "q2": (0, -1)}, "query that has both"),
    ],
)
def test_a_missing_group_is_unavailable_and_said(model, tmp_path, grades, said):
    with pytest.raises(Unavailable, match=said):
        run_match_distributions(model, [some_pool(grades=grades)], Store(tmp_path), n_permutations=2)


def test_a_group_of_empty_passages_is_unavailable(model, tmp_path):
    pool = some_pool(grades={"q1": (3, 0, -1)}, empty={("q1", 2)})
    with pytest.raises(Unavailable, match="easy"):
        run_match_distributions(model, [pool], Store(tmp_path), n_permutations=2)


def test_one_query_has_distances_and_no_intervals(model, tmp_path):
    alone = run_match_distributions(model, [POOL.select(["q1"])], Store(tmp_path), n_permutations=5)
    assert alone.mass["share_low"].isna().all()
    assert alone.mass["share"].notna().all()
    assert alone.distance.query("kind == 'all'")["p"].between(1 / 6, 1).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": {"a": (1,)}}, "two groups"),
        ({"groups": {"a": (1,), "b": (1, 2)}}, "no grade in two"),
        ({"groups": {"a": (1,), "b": ()}}, "none empty"),
        ({"heads": [(N_LAYERS, 0)]}, "no such head"),
        ({"heads": [(0, 1), (0, 1)]}, "each head once"),
        ({"n_permutations": 0}, "n_permutations"),
        ({"max_pairs": 0}, "max_pairs"),
    ],
)
def test_bad_choices_are_refused(model, tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        run_match_distributions(model, [POOL], Store(tmp_path), **changes)


def test_two_pools_of_one_name_and_a_model_without_a_tokenizer_are_refused(model, hf, tmp_path):
    with pytest.raises(ValueError, match="collections of different names, got tiny, tiny"):
        run_match_distributions(model, [POOL, POOL], Store(tmp_path))
    with pytest.raises(ValueError, match="with a tokenizer"):
        run_match_distributions(port(hf), [POOL], Store(tmp_path))


def test_the_planted_head_gives_its_mass_to_equal_pieces(tmp_path):
    """Its QUERY tokens attend to equal pieces of DOC where there are any; heads without weights attend to all alike."""
    texts = {3: "flour water salt", 0: "salt and water", -1: "salt bread"}
    planted = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    vocabulary = planted.tokenizer.get_vocab()
    assert all(word in vocabulary for text in texts.values() for word in text.split())
    pairs = [PoolPair("q", "water salt", f"d{grade}", text, grade) for grade, text in texts.items()]
    pool = Pool("tiny", PoolSpec(None, 0, 0), tuple(pairs))
    found = run_match_distributions(planted, [pool], Store(tmp_path), n_permutations=1)
    layer, head = MATCHING_HEAD
    rows = found.mass.set_index(["layer", "head", "direction", "group", "kind"]).sort_index()
    matching = rows.loc[(layer, str(head), "QUERY->DOC")]
    assert matching.loc[("relevant", "same_piece"), "mass"] == pytest.approx(1, abs=0.02)
    assert matching.loc[("easy", "same_piece"), "mass"] == pytest.approx(0.5, abs=0.02)  # water has no equal there
    assert (matching.xs("same_piece", level="kind")["share"] > 0.99).all()
    # 2 of 2 x 3 token pairs are equal; a uniform row gives each of 3 + 2 + 3 positions 1/8
    silent = rows.loc[(0, "0", "QUERY->DOC", "relevant", "same_piece")]
    assert (silent["lift"], silent["pair_share"], silent["mass"]) == pytest.approx((1, 2 / 6, 1 / 8))


# The distance and its null.


def test_wasserstein_by_hand():
    """Half of the weights two bins higher, and half one bin lower: (2 + 1) / 2 bins of 0.1 decades."""
    a, b = np.zeros((2, N_BINS))
    a[[10, 40]] = 3
    b[[12, 39]] = 5
    assert wasserstein(a, b) == pytest.approx(0.15)
    assert mean_shift(a, b) == pytest.approx(-0.05)
    assert wasserstein(a, a * 7) == 0
    assert np.isnan(wasserstein(a, np.zeros(N_BINS)))


def test_wasserstein_equals_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 50, size=(2, 11, N_BINS)).astype(float)
    expected = [stats.wasserstein_distance(CENTRES, CENTRES, x, y) for x, y in zip(a, b, strict=True)]
    assert wasserstein(a, b) == pytest.approx(expected, rel=1e-12)


def test_labels_are_permuted_within_queries():
    queries = ["a"] * 5 + ["b"] * 3 + ["c"] * 2 + ["a"] * 2
    labels = [True, False, None, False, True, True, False, False, True, True, False, None]
    drawn = permuted_labels(queries, labels, n_permutations=400, seed=3)
    a, b, unused = [0, 1, 3, 4, 10], [5, 6, 7], [2, 8, 9, 11]
    assert drawn.used.nonzero()[0].tolist() == sorted(a + b)
    assert drawn.n_queries == 2
    assert drawn.relevant[0, a + b].tolist() == [labels[i] for i in a + b]
    assert not drawn.relevant[:, unused].any()
    assert (drawn.relevant[:, a].sum(1) == 2).all()
    assert (drawn.relevant[:, b].sum(1) == 1).all()
    assert drawn.relevant[1:, a].mean(0) == pytest.approx(0.4, abs=0.1)
    assert drawn.relevant[1:, b].mean(0) == pytest.approx(1 / 3, abs=0.1)
    same, other = (permuted_labels(queries, labels, n_permutations=400, seed=seed) for seed in (3, 4))
    assert (same.relevant == drawn.relevant).all()
    assert (other.relevant != drawn.relevant).any()


def null_test(histograms, queries, labels, *, n_permutations=B, seed=0, families=None):
    """`against_null` of passages' histograms `[passage, row, bin]`."""
    drawn = permuted_labels(queries, labels, n_permutations=n_permutations, seed=seed)
    relevant = np.einsum("kp,prb->krb", drawn.relevant.astype(float), histograms)
    families = ["f"] * histograms.shape[1] if families is None else families
    return drawn, against_null(relevant, histograms[drawn.used].sum(0), families)


def test_p_values_equal_loops_over_the_permutations():
    rng = np.random.default_rng(2)
    queries = np.repeat(["a", "b", "c"], 6).tolist()
    labels = [True, True, False, False, False, False] * 3
    histograms = rng.poisson(0.3, size=(18, 5, N_BINS)).astype(float)
    histograms[:, 2] += np.where(labels, 4, 0)[:, None] * (np.arange(N_BINS) > 60)
    families = ["x", "x", "x", "y", "y"]
    drawn, frame = null_test(histograms, queries, labels, n_permutations=29, families=families)
    distances = np.zeros((30, 5))
    for k, row in product(range(30), range(5)):
        sides = [sum(histograms[p, row] for p in range(18) if drawn.relevant[k, p] == side) for side in (True, False)]
        distances[k, row] = stats.wasserstein_distance(CENTRES, CENTRES, *sides)
    p = [(1 + sum(d >= distances[0, row] - 1e-12 for d in distances[1:, row])) / 30 for row in range(5)]
    z = (distances - distances.mean(0)) / distances.std(0)
    assert frame["distance"].to_numpy() == pytest.approx(distances[0])
    assert frame["null_mean"].to_numpy() == pytest.approx(distances[1:].mean(0))
    assert frame["p"].to_numpy() == pytest.approx(p)
    for rows in ([0, 1, 2], [3, 4]):
        largest = z[1:, rows].max(1)
        p_max = [(1 + sum(other >= z[0, row] - 1e-9 for other in largest)) / 30 for row in rows]
        assert frame["p_max"][rows].to_numpy() == pytest.approx(p_max)
        order = sorted(rows, key=lambda row: p[row])
        stepped = [min(1, (len(rows) - i) * p[row]) for i, row in enumerate(order)]
        p_holm = {row: max(stepped[: i + 1]) for i, row in enumerate(order)}
        assert frame["p_holm"][rows].to_numpy() == pytest.approx([p_holm[row] for row in rows])
    assert frame["p"][2] == frame["p_max"][2] == pytest.approx(1 / 30)  # the planted difference


def test_p_is_about_uniform_where_labels_mean_nothing():
    """400 tests at random: p <= 0.2 in a fifth of them, p_max <= 0.2 for some row in at most about a fifth of the 100 families."""
    rng = np.random.default_rng(11)
    queries = np.repeat(np.arange(5), 6).tolist()
    p, family_p = [], []
    for trial in range(100):
        centre = rng.uniform(20, 60, size=(30, 4, 1)) + 3 * np.repeat(rng.normal(size=(5, 1, 1)), 6, axis=0)
        histograms = np.maximum(0, 9 - np.abs(np.arange(N_BINS) - centre))
        labels = np.concatenate([rng.permutation([True, True, True, False, False, False]) for _ in range(5)]).tolist()
        _, frame = null_test(histograms, queries, labels, n_permutations=39, seed=trial)
        p += frame["p"].tolist()
        family_p.append(frame["p_max"].min())
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)
    assert np.mean(np.array(p) <= 0.2) == pytest.approx(0.2, abs=0.07)
    assert np.mean(np.array(family_p) <= 0.2) <= 0.32
    assert np.mean(np.array(family_p) <= 0.2) >= 0.08


def test_a_permutation_without_weights_on_one_side_counts_against_the_finding():
    histograms = np.zeros((4, 1, N_BINS))
    histograms[0, 0, 10] = histograms[3, 0, 70] = 1
    drawn, frame = null_test(histograms, ["q"] * 4, [True, True, False, False], n_permutations=50)
    split = (drawn.relevant[1:, 0] != drawn.relevant[1:, 3]).sum()
    assert 0 < split < 50
    assert frame["distance"][0] == pytest.approx(6)
    assert frame["p"][0] == 1


def test_permutations_must_be_some_and_labels_as_many_as_passages():
    with pytest.raises(ValueError, match="at least 1 permutation"):
        permuted_labels(["a"], [True], n_permutations=0, seed=0)
    with pytest.raises(ValueError, match="label for each"):
        permuted_labels(["a"], [True, False], n_permutations=3, seed=0)
