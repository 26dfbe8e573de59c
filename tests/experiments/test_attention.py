"""Attention by direction, matching heads and sinks: the model's part against an oracle, the statistics against SciPy by hand."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import VOCABULARY, bert_tokenizer
from scipy import stats
from small_worlds import pool_of_words
from tiny_models import N_HEADS, N_LAYERS, port, run_oracle, tiny_hf

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, SINK_HEAD
from tl_crossenc.experiments import attention as module
from tl_crossenc.experiments.attention import Attention, Group, run_attention
from tl_crossenc.experiments.attention_cells import flow_from_table, flow_to_table
from tl_crossenc.experiments.matching import matching_heads, passing_heads, query_means
from tl_crossenc.experiments.sinks import SINKS, measure_sinks
from tl_crossenc.instruments.attention_flow import AttentionFlow, Moments
from tl_crossenc.instruments.token_sets import full_stop_ids
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

PARTS = ("CLS", "QUERY", "SEP1", "DOC", "SEP2")
QUERIES = {"q1": "how do fleas lay egg .", "q2": "bread rise", "q3": "the flea", "q4": "lay bread", "q5": "egg"}
JUDGED = {"q1": (3, 2, 2, 0, -1, -1), "q2": (3, 1, -1), "q3": (2, 0, 0, -1, -1), "q4": (2, 1, 0, -1), "q5": (3, 3, 0)}
WORDS = ("flea", "fleas", "lay", "egg", "the", "bread", "rise", "how", ".", ",", "do")


def some_pool(name="tiny", judged=None, empty=()):
    return pool_of_words(name, QUERIES, judged or JUDGED, WORDS, empty)


@pytest.fixture(scope="module")
def hf():
    return tiny_hf(seed=4, vocab_size=len(VOCABULARY))


@pytest.fixture(scope="module")
def model(hf):
    ported = port(hf, torch.float64)
    with_texts = HookedCrossEncoder(ported.cfg, bert_tokenizer(model_max_length=31))
    with_texts.load_state_dict(ported.state_dict())
    return with_texts.eval()


POOL = some_pool(empty={("q3", 0), ("q1", 5)})


@pytest.fixture(scope="module")
def found(model, tmp_path_factory):
    return run_attention(model, [POOL], Store(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def slow(hf, model):
    """A row a (pair, layer, head, attender, attended): the mass and density from patterns built one by one."""
    tokenizer, rows = model.tokenizer, []
    for pair in POOL.pairs:
        query, passage = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (pair.query, pair.text))
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        tokens = [cls, *query, sep, *passage, sep]
        parts = [0] + [1] * len(query) + [2] + [3] * len(passage) + [4]
        rows.append((tokens, [0] * (len(query) + 2) + [1] * (len(passage) + 1), parts))
    stop = VOCABULARY.index(".")
    values = []
    for pair, trace, (tokens, _, parts) in zip(POOL.pairs, run_oracle(hf, rows), rows, strict=True):
        for layer, head in product(range(N_LAYERS), range(N_HEADS)):
            pattern = trace.patterns[layer][head]
            for x in range(5):
                inside = [i for i, part in enumerate(parts) if part == x]
                if not inside:
                    continue
                summed = pattern[inside].mean(0)
                where = (pair.query_id, pair.grade, layer, head, PARTS[x])
                for y in range(5):
                    columns = [i for i, part in enumerate(parts) if part == y]
                    if columns:
                        mass = summed[columns].sum()
                        excess = mass - len(columns) / len(parts)
                        values.append((*where, PARTS[y], mass, mass / len(columns), excess))
                for name, own in (("STOPS", (1, 3)), ("QUERY_STOPS", (1,)), ("DOC_STOPS", (3,))):
                    stops = [i for i, token in enumerate(tokens) if token == stop and parts[i] in own]
                    values.append((*where, name, summed[stops].sum(), np.nan, np.nan))
    columns = ["query_id", "grade", "layer", "head", "attender", "attended", "mass", "density", "excess"]
    return pd.DataFrame(values, columns=columns)


def test_by_direction_equals_patterns_built_one_by_one(found, slow):
    axes = ["layer", "head", "attender", "attended", "grade"]
    expected = slow[~slow["attended"].str.endswith("STOPS")].groupby(axes)
    frame = found.by_direction.set_index([*axes, "quantity"])
    assert len(frame) == N_LAYERS * N_HEADS * 25 * 5 * 3
    assert not frame.index.duplicated().any()
    for quantity in ("mass", "density", "excess"):
        mine = frame.xs(quantity, level="quantity")
        theirs = expected[quantity].agg(["mean", "var", "count"]).reindex(mine.index)
        assert mine["mean"].to_numpy() == pytest.approx(theirs["mean"].to_numpy(), abs=1e-12)
        assert mine["variance"].to_numpy() == pytest.approx(theirs["var"].to_numpy(), abs=1e-12, nan_ok=True)
        assert (mine["n_pairs"] == theirs["count"]).all()


def test_an_empty_passage_does_not_count_for_its_directions(found):
    """Grade 2 has 4 pairs, one of them with an empty passage."""
    frame = found.by_direction.query("grade == 2 and quantity == 'mass' and layer == 0 and head == 0")
    counts = frame.set_index(["attender", "attended"])["n_pairs"]
    assert counts["QUERY", "CLS"] == 4
    assert counts["QUERY", "DOC"] == counts["DOC", "QUERY"] == counts["DOC", "DOC"] == 3


@pytest.mark.parametrize("quantity", ["mass", "density", "excess"])
def test_per_query_means_equal_patterns_built_one_by_one(found, slow, quantity):
    axes = ["query_id", "grade", "layer", "head"]
    rows = slow[(slow["attender"] == "DOC") & (slow["attended"] == "QUERY")]
    expected = rows.groupby(axes)[quantity].agg(["mean", "count"])
    mine = found.per_query("DOC->QUERY", quantity)
    assert (mine["collection"] == "tiny").all()
    mine = mine.set_index(axes)
    assert set(mine.index) == set(expected.index)
    expected = expected.reindex(mine.index)
    assert mine["mean"].to_numpy() == pytest.approx(expected["mean"].to_numpy(), abs=1e-12)
    assert (mine["n_pairs"] == expected["count"]).all()
    assert ("q3", 2, 0, 0) not in mine.index  # its only passage of that grade is empty


@pytest.mark.parametrize("quantity", ["mass", "density", "excess"])
def test_the_whole_figure_from_texts(found, slow, quantity):
    """Every head against SciPy on the slow values. Of five queries, q3's relevant passage is empty and q5 has no negative."""
    frame = matching_heads(found, quantity=quantity)
    assert len(frame) == 2 * N_LAYERS * N_HEADS
    cells = slow.set_index(["attender", "attended", "layer", "head"]).sort_index()
    for row in frame.to_dict("records"):
        cell = cells.loc[(*row["direction"].split("->"), row["layer"], row["head"])]
        relevant = cell[cell["grade"] >= 2].groupby("query_id")[quantity].mean()[["q1", "q2", "q4"]]
        negative = cell[cell["grade"] == -1].groupby("query_id")[quantity].mean()[["q1", "q2", "q4"]]
        difference = relevant - negative
        test = stats.ttest_rel(relevant, negative)
        assert row["n_queries"] == 3
        assert row["difference"] == pytest.approx(difference.mean(), abs=1e-12)
        assert row["standard_error"] == pytest.approx(stats.sem(difference), rel=1e-9)
        assert (row["t"], row["p"]) == pytest.approx((test.statistic, test.pvalue), rel=1e-7)


def test_a_second_run_asks_nothing_of_the_model(model, found, tmp_path, monkeypatch):
    store = Store(tmp_path)
    first = run_attention(model, [POOL], store)
    assert first.pairs_run == len(POOL)
    monkeypatch.setattr(HookedCrossEncoder, "forward", None)
    second = run_attention(model, [POOL], store)
    assert second.pairs_run == 0
    pd.testing.assert_frame_equal(first.by_direction, second.by_direction, check_exact=True)
    pd.testing.assert_frame_equal(first.by_direction, found.by_direction, check_exact=True)


def test_shards_may_cut_a_query_and_lost_ones_are_computed_alone(model, found, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD", 7)
    store = Store(tmp_path)
    seen = []
    cut = run_attention(model, [POOL], store, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (N_LAYERS * len(POOL), N_LAYERS * len(POOL))
    assert set(cut.groups) == set(found.groups)
    pd.testing.assert_frame_equal(cut.by_direction, found.by_direction, rtol=1e-9, atol=1e-13)
    lost = store.keys("attention")[1]
    store._paths(lost)[1].unlink()
    again = run_attention(model, [POOL], store)
    assert again.pairs_run in (7, len(POOL) % 7)
    pd.testing.assert_frame_equal(again.by_direction, cut.by_direction, check_exact=True)


def test_the_same_query_id_in_two_collections_is_two_queries(model, found, tmp_path):
    other = some_pool("other", {"q1": (3, -1)})
    both = run_attention(model, [POOL, other], Store(tmp_path))
    assert {group.collection for group in both.groups} == {"tiny", "other"}
    assert len(both.groups) == len(found.groups) + 2
    with pytest.raises(ValueError, match="collections of different names, got tiny, tiny"):
        run_attention(model, [POOL, POOL], Store(tmp_path))


def test_nothing_to_measure_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="at least one pool with passages, got 0 pools"):
        run_attention(model, [], Store(tmp_path))
    with pytest.raises(ValueError, match="at least one pool with passages, got 1 pools"):
        run_attention(model, [POOL.negatives.negatives.ranked], Store(tmp_path))


def test_full_stops_come_from_the_vocabulary(model):
    assert full_stop_ids(model) == (VOCABULARY.index("."),)
    assert full_stop_ids(HookedCrossEncoder(model.cfg)) == ()


@pytest.mark.parametrize("direction", ["QUERY->ALL", "ALL->ALL"])
def test_mass_on_everything_is_refused(found, direction):
    with pytest.raises(ValueError, match="expected a part on the attended side"):
        found.per_query(direction)


def test_an_unknown_quantity_is_refused(found):
    with pytest.raises(ValueError, match="a quantity among mass, density, excess, got 'weight'"):
        found.per_query("DOC->QUERY", "weight")


# Sinks.


def test_sinks_equal_patterns_built_one_by_one(found, slow):
    sinks = measure_sinks(found)
    by_head = sinks.by_head.set_index(["layer", "head", "attender", "sink"])
    cells = slow.groupby(["layer", "head", "attender", "attended"])["mass"].agg(["mean", "count"])
    assert set(SINKS) == {"CLS", "SEP1", "SEP2", "SEP", "QUERY_STOPS", "DOC_STOPS", "STOPS"}
    assert not np.isclose(cells["mean"].xs("QUERY_STOPS", level=3), cells["mean"].xs("DOC_STOPS", level=3)).any()
    for sink in SINKS:
        attended = ["SEP1", "SEP2"] if sink == "SEP" else [sink]
        for layer, head, attender in product(range(N_LAYERS), range(N_HEADS), PARTS):
            row = by_head.loc[layer, head, attender, sink]
            expected = [cells.loc[layer, head, attender, name] for name in attended]
            assert row["mass"] == pytest.approx(sum(cell["mean"] for cell in expected), abs=1e-12)
            assert row["n_pairs"] == expected[0]["count"]
    by_layer = sinks.by_layer.set_index(["layer", "attender", "sink"])
    heads = by_head["mass"].groupby(["layer", "attender", "sink"])
    assert len(by_layer) == N_LAYERS * 6 * len(SINKS)
    for column, expected in (("mass", heads.mean()), ("lowest_head", heads.min()), ("highest_head", heads.max())):
        assert by_layer[column].to_numpy() == pytest.approx(expected.reindex(by_layer.index).to_numpy(), abs=1e-12)
    assert by_layer.loc[(0, "DOC", "CLS"), "n_pairs"] == len(POOL) - 2
    assert by_layer.loc[(0, "ALL", "CLS"), "n_pairs"] == len(POOL)


def test_sinks_of_some_grades(found, slow):
    sinks = measure_sinks(found, grades=[3, 1, 7])
    rows = slow[slow["grade"].isin([3, 1]) & (slow["attender"] == "QUERY") & (slow["attended"] == "SEP2")]
    expected = rows[rows["layer"] == 1].groupby("head")["mass"].mean().mean()
    row = sinks.by_layer.query("layer == 1 and attender == 'QUERY' and sink == 'SEP2'")
    assert row["mass"].item() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(Unavailable, match=r"needs passages of grades \[7\], but the pool has only \[-1, 0, 1, 2, 3\]"):
        measure_sinks(found, grades=[7])


# Statistics on made values: [query, layer, head] means of QUERY->DOC and DOC->QUERY.


def made(values, count=3):
    """An `Attention` whose per-query masses are `values[(query_id, grade)]`, `[layer, head]`, in both matching directions."""
    groups = tuple(Group("made", *key) for key in values)
    grids = np.stack(list(values.values()))
    shape = (*grids.shape, 3, 6, 7)
    mean, counts = np.zeros(shape), np.zeros((len(groups), 1, 1, 3, 6, 7), np.int64)
    counts[...] = count
    mean[..., 1, 3] = mean[..., 3, 1] = grids[..., None]
    flow = AttentionFlow(groups, Moments(counts, mean, np.zeros(shape)))
    grades = tuple(sorted({group.grade for group in groups}))
    return Attention(pd.DataFrame(), flow, grades, grids.shape[1], grids.shape[2], 0, "made")


def random_values(n_queries=13, grades=(3, 2, 0, -1), n_layers=5, n_heads=7, seed=0):
    rng = np.random.default_rng(seed)
    return {(f"q{i}", grade): rng.random((n_layers, n_heads)) for i in range(n_queries) for grade in grades}


def by_hand(values, direction_count):
    """t, p and Holm-adjusted p of every (layer, head) by SciPy and a loop, over `direction_count` equal maps."""
    queries = sorted({query for query, _ in values})
    relevant = np.array([(values[q, 3] + values[q, 2]) / 2 for q in queries])
    negative = np.array([values[q, -1] for q in queries])
    t, p = stats.ttest_rel(relevant, negative)
    flat = np.tile(p.reshape(-1), direction_count)
    adjusted, highest = np.zeros(len(flat)), 0.0
    for rank, i in enumerate(np.argsort(flat, kind="stable")):
        highest = max(highest, min(1.0, (len(flat) - rank) * flat[i]))
        adjusted[i] = highest
    return (relevant - negative).mean(0), stats.sem(relevant - negative), t, p, adjusted


def test_the_paired_test_and_holm_against_scipy_by_hand():
    values = random_values()
    for i in range(13):
        values[f"q{i}", 3][2, 4] += 1.5
        values[f"q{i}", -1][0, 1] += 1.5
        values[f"q{i}", 2][4, 6] += 1.0
    frame = matching_heads(made(values))
    difference, error, t, p, adjusted = by_hand(values, 2)
    assert list(frame["direction"].unique()) == ["QUERY->DOC", "DOC->QUERY"]
    assert frame["n_queries"].eq(13).all()
    for name, expected in (("difference", difference), ("standard_error", error), ("t", t), ("p", p)):
        assert frame[name].to_numpy() == pytest.approx(np.tile(expected.reshape(-1), 2), rel=1e-9, abs=1e-15)
    assert frame["p_holm"].to_numpy() == pytest.approx(adjusted, rel=1e-9)
    assert (frame["relevant"] - frame["against"]).to_numpy() == pytest.approx(frame["difference"].to_numpy())
    assert frame["passes"].tolist() == [
        h <= 0.05 and d > 0 for h, d in zip(adjusted, np.tile(difference.reshape(-1), 2), strict=True)
    ]
    assert frame["less"].tolist() == [
        h <= 0.05 and d < 0 for h, d in zip(adjusted, np.tile(difference.reshape(-1), 2), strict=True)
    ]
    assert frame["less"].sum() >= 2
    assert passing_heads(frame)[0] == (2, 4)
    assert (0, 1) not in passing_heads(frame)  # as sure, and negative
    assert frame.set_index(["direction", "layer", "head"]).loc[("DOC->QUERY", 0, 1), "p_holm"] < 0.05


def test_passing_heads_are_named_once_the_largest_difference_first():
    """A head that passes in both directions stands where its larger difference puts it; one that fails is left out."""
    rows = [
        ("QUERY->DOC", 0, 1, 0.2, True),
        ("QUERY->DOC", 1, 0, 0.5, True),
        ("QUERY->DOC", 2, 3, 0.9, False),
        ("DOC->QUERY", 0, 1, 0.8, True),
        ("DOC->QUERY", 1, 0, 0.1, True),
        ("DOC->QUERY", 3, 2, 0.3, True),
    ]
    frame = pd.DataFrame(rows, columns=["direction", "layer", "head", "difference", "passes"])
    assert passing_heads(frame) == ((0, 1), (1, 0), (3, 2))


def test_the_correction_is_over_the_whole_map():
    values = random_values(n_layers=1, n_heads=1, seed=4)
    one = matching_heads(made(values), directions=["QUERY->DOC"])
    two = matching_heads(made(values), directions=["QUERY<->DOC"])
    assert one["p_holm"].item() == one["p"].item()
    assert two["p_holm"].tolist() == pytest.approx([min(1, 2 * one["p"].item())] * 2)


def test_grades_are_pooled_by_their_pairs():
    """Five pairs of grade 3 at .9 and one of grade 2 at .3 are .8 on the mean, whatever the number of grades."""
    values = {("q1", 3): [[0.9]], ("q1", 2): [[0.3]], ("q1", -1): [[0.1]], ("q1", 0): [[0.4]]}
    attention = made({key: np.array(value) for key, value in values.items()})
    attention.flow.moments.count[:] = np.array([5, 1, 2, 3]).reshape(-1, 1, 1, 1, 1, 1)
    means = query_means(attention, "DOC->QUERY")
    assert means.queries == (("made", "q1"),)
    assert (means.relevant.item(), means.against.item()) == pytest.approx((0.8, 0.1))
    means = query_means(attention, "DOC->QUERY", relevant_grades=[3], against=[0, -1])
    assert (means.relevant.item(), means.against.item()) == pytest.approx((0.9, (3 * 0.4 + 2 * 0.1) / 5))


def test_random_labels_find_as_little_as_chance_allows():
    """In 40 pools whose labels mean nothing, Holm lets about 5 % (2) have any false finding, and the p-values are uniform."""
    frames = [matching_heads(made(random_values(seed=seed)), directions=["QUERY->DOC"]) for seed in range(40)]
    assert sum(bool((frame["p_holm"] <= 0.05).any()) for frame in frames) <= 7
    raw = np.concatenate([frame["p"] for frame in frames])
    assert len(raw) == 40 * 35
    assert stats.kstest(raw, "uniform").pvalue > 0.001


def test_shuffling_the_grades_of_a_query_undoes_a_real_difference():
    values = random_values()
    for i in range(13):
        values[f"q{i}", 3][2, 4] += 3
        values[f"q{i}", 2][2, 4] += 3
    assert (2, 4) in passing_heads(matching_heads(made(values)))
    rng = np.random.default_rng(1)
    shuffled = {}
    for i in range(13):
        grades = [3, 2, 0, -1]
        for grade, other in zip(grades, rng.permutation(grades), strict=True):
            shuffled[f"q{i}", grade] = values[f"q{i}", int(other)]
    assert (2, 4) not in passing_heads(matching_heads(made(shuffled)))


def test_hard_negatives_instead_of_easy_ones():
    values = random_values(grades=(3, 2, 0))
    frame = matching_heads(made(values), against=0)
    swapped = {(query, -1 if grade == 0 else grade): value for (query, grade), value in values.items()}
    pd.testing.assert_frame_equal(frame, matching_heads(made(swapped)))


def test_no_difference_at_all_is_p_one_and_a_constant_one_p_zero():
    values = {(f"q{i}", grade): np.array([[0.5, 0.25 + 0.5 * (grade > 0)]]) for i in range(3) for grade in (3, -1)}
    frame = matching_heads(made(values), directions=["QUERY->DOC"])
    assert frame["p"].tolist() == [1.0, 0.0]
    assert frame["t"].tolist() == [0.0, np.inf]
    assert frame["passes"].tolist() == [False, True]


def test_no_negatives_are_said_to_be_missing():
    with pytest.raises(Unavailable, match=r"needs easy negatives \(against\), but the pool has only grades 0, 2, 3"):
        matching_heads(made(random_values(grades=(3, 2, 0))))


def test_one_grade_of_two_will_do_and_none_will_not():
    assert len(matching_heads(made(random_values(grades=(2, -1))))) == 70
    with pytest.raises(
        Unavailable, match=r"passages of grade 2, 3 \(relevant\), but the pool has only grades -1, 0, 1"
    ):
        matching_heads(made(random_values(grades=(1, 0, -1))))


def test_one_query_has_means_and_no_test():
    attention = made(random_values(n_queries=1))
    with pytest.raises(Unavailable, match="at least two with both sides for QUERY->DOC, and the pool has one"):
        matching_heads(attention)
    assert query_means(attention, "QUERY->DOC").relevant.shape == (1, 5, 7)
    assert len(attention.per_query("QUERY->DOC")) == 4 * 35


def test_a_direction_without_rows_is_unavailable_and_the_others_are_not():
    attention = made(random_values())
    attention.flow.moments.count[..., 3, :] = 0
    with pytest.raises(Unavailable, match=r"DOC->QUERY cannot be compared .* no query has"):
        matching_heads(attention)
    assert len(matching_heads(attention, directions=["QUERY->DOC"])) == 35


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"relevant_grades": [2, 0], "against": 0}, r"none on both, got relevant \[0, 2\] and against \[0\]"),
        ({"relevant_grades": []}, "expected grades on both sides"),
        ({"directions": []}, "at least one direction"),
        ({"directions": ["QUERY->NOSE"]}, "NOSE"),
        ({"quantity": "count"}, "a quantity among mass, density"),
    ],
)
def test_questions_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        matching_heads(made(random_values()), **settings)


def test_a_pool_without_easy_negatives_still_has_its_means(model, tmp_path):
    attention = run_attention(model, [POOL.ranked], Store(tmp_path))
    assert attention.grades == (0, 1, 2, 3)
    assert len(measure_sinks(attention).by_layer) == N_LAYERS * 6 * len(SINKS)
    with pytest.raises(Unavailable, match="easy negatives"):
        matching_heads(attention)


def test_cells_come_back_bit_for_bit(found):
    flow = AttentionFlow(tuple(group[1:] for group in found.groups), found.flow.moments)
    back = flow_from_table(flow_to_table(flow), N_LAYERS, N_HEADS)
    assert back.groups == flow.groups
    for name in ("count", "mean", "m2"):
        assert np.array_equal(getattr(back.moments, name), getattr(flow.moments, name))


def test_the_planted_heads_are_found(tmp_path):
    """In a model whose weights are set by hand, the matching head alone passes, and the sinking head alone looks at separators."""
    planted = HookedCrossEncoder.from_pretrained("planted")
    rng = np.random.default_rng(3)
    words = [
        "garlic",
        "onion",
        "pepper",
        "sugar",
        "butter",
        "bread",
        "river",
        "mountain",
        "forest",
        "window",
        "table",
        "paper",
        "summer",
        "winter",
    ]
    pairs = []
    for i in range(6):
        query = [str(word) for word in rng.choice(words, 3, replace=False)]
        others = [word for word in words if word not in query]
        for j, (grade, n_matches) in enumerate(((3, 3), (2, 2), (0, 1), (-1, 0), (-1, 0))):
            text = " ".join([*query[:n_matches], *rng.choice(others, 7 - n_matches, replace=False)])
            pairs.append(PoolPair(f"q{i}", " ".join(query), f"d{j}", text, grade))
    found = run_attention(planted, [Pool("bags", PoolSpec(None, 0, 0), tuple(pairs))], Store(tmp_path))
    assert passing_heads(matching_heads(found, quantity="mass")) == (MATCHING_HEAD,)
    assert passing_heads(matching_heads(found, quantity="density")) == (MATCHING_HEAD,)
    assert passing_heads(matching_heads(found, quantity="excess")) == (MATCHING_HEAD,)
    separators = measure_sinks(found).by_head.query("sink == 'SEP' and attender == 'ALL'")
    full = separators.loc[separators["mass"] > 0.99, ["layer", "head"]]
    assert [tuple(row) for row in full.to_numpy().tolist()] == [SINK_HEAD]
