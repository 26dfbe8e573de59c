"""Against a float64 oracle that builds every pattern, one pair at a time, and shares no code with the package."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import D_VOCAB, N_HEADS, N_LAYERS, port, run_oracle, tiny_hf, tiny_rows, to_batch

from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.instruments.attention_flow import (
    ATTENDED,
    ATTENDERS,
    QUANTITIES,
    AttentionFlow,
    Moments,
    attended_columns,
    measure_attention,
    pair_moments,
)
from tl_crossenc.model import attention

STOP = 11
SIZES = ((3, 5), (2, 8), (1, 1), (4, 0), (5, 13), (2, 3), (3, 11))
CODES = {"CLS": 0, "QUERY": 1, "SEP1": 2, "DOC": 3, "SEP2": 4}


def some_rows():
    """Seven pairs; full stops in the queries of pairs 1 and 4, in the passages of 0, 4 and 6, and none elsewhere."""
    rows = tiny_rows(SIZES, seed=3)
    for tokens, _, _ in rows:
        tokens[:] = [12 if token == STOP else token for token in tokens]
    for pair, position in ((1, 2), (4, 3), (4, 5), (0, 6), (4, 8), (4, 9), (4, 19), (6, 7)):
        rows[pair][0][position] = STOP
    return rows


def encoded(rows):
    tokens, types, parts = ([value for row in rows for value in row[i]] for i in range(3))
    offsets = np.cumsum([0, *(len(row[0]) for row in rows)])
    kinds = (np.int32, np.int8, np.int8)
    columns = [np.asarray(column, kind) for column, kind in zip((tokens, types, parts), kinds, strict=True)]
    return EncodedPairs(*columns, offsets.astype(np.int64), np.zeros(len(rows), bool), 0)


def positions(name, tokens, parts):
    if name == "ALL":
        return list(range(len(parts)))
    side = name.removesuffix("_STOPS")
    found = [i for i, part in enumerate(parts) if part == CODES[side]]
    return [i for i in found if tokens[i] == STOP] if name.endswith("_STOPS") else found


def slow(patterns, tokens, parts, quantity, layer, head, attender, attended):
    """The mass, density or excess of one pair, straight from its pattern; None where it does not count."""
    rows, columns = positions(attender, tokens, parts), positions(attended, tokens, parts)
    is_part = not attended.endswith("_STOPS")
    if not rows or (not columns and (is_part or quantity == "density")):
        return None
    pattern = patterns[layer][head]
    mass = sum(pattern[row, column] for row in rows for column in columns) / len(rows)
    if (
        quantity == "excess"
    ):  # row by row: what its columns get, less what they get in a row that gives all columns the same
        even = np.full(len(parts), 1 / len(parts))
        return sum(pattern[row][columns].sum() - even[columns].sum() for row in rows) / len(rows)
    return mass if quantity == "mass" else mass / len(columns)


def every_cell():
    return product(range(N_LAYERS), range(N_HEADS), range(len(QUANTITIES)), range(len(ATTENDERS)), range(len(ATTENDED)))


@pytest.fixture(scope="module")
def rows():
    return some_rows()


@pytest.fixture(scope="module")
def tiny():
    hf = tiny_hf(seed=5)
    return hf, port(hf, torch.float64)


@pytest.fixture(scope="module")
def expected(tiny, rows):
    """`[pair, layer, head, quantity, attender, attended]`, NaN where a pair does not count."""
    traces = run_oracle(tiny[0], rows)
    shape = (len(rows), N_LAYERS, N_HEADS, len(QUANTITIES), len(ATTENDERS), len(ATTENDED))
    values = np.full(shape, np.nan)
    for pair, (trace, (tokens, _, parts)) in enumerate(zip(traces, rows, strict=True)):
        for layer, head, q, x, y in every_cell():
            value = slow(trace.patterns, tokens, parts, QUANTITIES[q], layer, head, ATTENDERS[x], ATTENDED[y])
            values[pair, layer, head, q, x, y] = np.nan if value is None else value
    return values


def check(flow, groups, expected, tolerance=1e-12):
    """Counts, means and variances of every group against NumPy's own over the pairs' values."""
    assert flow.groups == tuple(dict.fromkeys(flow.groups))
    assert set(flow.groups) == set(groups)
    for i, name in enumerate(flow.groups):
        members = expected[[group == name for group in groups]]
        counts = (~np.isnan(members)).sum(0)
        assert np.array_equal(np.broadcast_to(flow.moments.count[i], counts.shape), counts)
        for cell in zip(*np.nonzero(counts >= 0), strict=True):
            seen = members[(slice(None), *cell)]
            seen = seen[~np.isnan(seen)]
            mean, variance = flow.moments.observed_mean[i][cell], flow.moments.variance[i][cell]
            assert np.isnan(mean) if len(seen) == 0 else mean == pytest.approx(seen.mean(), abs=tolerance)
            assert np.isnan(variance) if len(seen) < 2 else variance == pytest.approx(seen.var(ddof=1), abs=tolerance)


GROUPS = ["a", "b", "a", "a", "b", "a", "c"]


@pytest.mark.parametrize("token_budget", [1, 30, 4096])
def test_every_direction_equals_a_reference_that_builds_every_pattern(tiny, rows, expected, token_budget):
    flow = measure_attention(tiny[1], encoded(rows), GROUPS, full_stops=[STOP], token_budget=token_budget)
    check(flow, GROUPS, expected)


def test_the_reference_has_every_case(expected):
    """The empty passage counts for no direction of DOC, but for all others; a missing full stop has mass and no density."""
    doc, mass = CODES["DOC"], QUANTITIES.index("mass")
    empty = expected[3, 0, 0, mass]
    assert np.isnan(empty[doc]).all()
    assert np.isnan(empty[:, doc]).all()
    others = [i for i in range(5) if i != doc]
    assert not np.isnan(empty[np.ix_([*others, 5], [*others, 5, 6])]).any()
    query_stops, density = ATTENDED.index("QUERY_STOPS"), QUANTITIES.index("density")
    assert (expected[0, :, :, mass, :, query_stops] == 0).all()
    assert np.isnan(expected[0, :, :, density, :, query_stops]).all()
    assert (expected[1, :, :, mass, :, query_stops] > 0).all()


def test_the_masses_of_the_five_parts_sum_to_one(tiny, rows):
    moments = pair_moments(tiny[1], to_batch(rows))
    total = np.nansum(moments.observed_mean[:, :, :, 0, :, :5], axis=-1)
    has_rows = moments.count[:, 0, 0, 0, :, 0] > 0
    assert has_rows.sum() == 6 * len(rows) - 1
    assert total.transpose(0, 3, 1, 2)[has_rows] == pytest.approx(1, abs=1e-12)


def test_the_excess_of_a_model_without_weights_is_zero_for_every_length(tiny, rows):
    """All queries and keys 0: even rows, whose mass follows the length, and whose excess is 0 in every direction."""
    even = port(tiny_hf(seed=5), torch.float64)
    for name in ("W_Q", "W_K", "b_Q", "b_K"):
        getattr(even, name).zero_()
    moments = pair_moments(even, to_batch(rows), [STOP])
    mass, excess = QUANTITIES.index("mass"), QUANTITIES.index("excess")
    assert moments.mean[:, :, :, excess] == pytest.approx(0, abs=1e-12)
    for pair, (query, passage) in enumerate(SIZES):
        if passage:
            assert moments.mean[pair, :, :, mass, 1, 3] == pytest.approx(passage / (query + passage + 3), abs=1e-12)


def test_the_excesses_of_the_five_parts_sum_to_zero(tiny, rows):
    moments = pair_moments(tiny[1], to_batch(rows))
    excess = moments.observed_mean[:, :, :, QUANTITIES.index("excess"), :, :5]
    assert np.nanmax(np.abs(np.nansum(excess, axis=-1))) < 1e-12
    assert np.nanmax(np.abs(excess)) > 0.01


def test_the_whole_pair_is_the_parts_weighted_by_their_rows(tiny, rows):
    moments = pair_moments(tiny[1], to_batch(rows))
    for pair, (query, passage) in enumerate(SIZES):
        lengths = np.array([1, query, 1, passage, 1])
        by_part = np.einsum("lhxy,x->lhy", moments.mean[pair, :, :, 0, :5], lengths) / lengths.sum()
        counted = moments.count[pair, 0, 0, 0, 5] > 0
        assert moments.mean[pair, :, :, 0, 5][..., counted] == pytest.approx(by_part[..., counted], abs=1e-12)


def test_padding_changes_nothing(tiny, rows):
    together = pair_moments(tiny[1], to_batch(rows), [STOP])
    for pair, row in enumerate(rows):
        alone = pair_moments(tiny[1], to_batch([row]), [STOP])
        assert together.mean[pair] == pytest.approx(alone.mean[0], abs=1e-12)
        assert np.array_equal(together.count[pair], alone.count[0])


def test_without_full_stops_their_mass_is_zero_and_nothing_has_a_density(tiny, rows):
    moments = pair_moments(tiny[1], to_batch(rows), [])
    assert (moments.mean[..., 5:] == 0).all()
    assert (moments.count[:, 0, 0, 1, :, 5:] == 0).all()
    assert (moments.count[:, 0, 0, 0, 0, 5:] == 1).all()


def test_columns_split_full_stops_by_side(rows):
    columns = attended_columns(to_batch(rows), [STOP, D_VOCAB + 1])
    assert columns[:, :, 5].nonzero().tolist() == [[1, 2], [4, 3], [4, 5]]
    assert columns[:, :, 6].nonzero().tolist() == [[0, 6], [4, 8], [4, 9], [4, 19], [6, 7]]
    assert columns[:, :, :5].sum(-1).sum(1).tolist() == [query + passage + 3 for query, passage in SIZES]


def test_no_pattern_is_built(tiny, rows, monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError("a pattern was built")

    monkeypatch.setattr(attention, "explicit_scores", refuse)
    monkeypatch.setattr("tl_crossenc.model.attention_layer.explicit_scores", refuse)
    monkeypatch.setattr("tl_crossenc.model.attention_layer.explicit_pattern", refuse)
    assert measure_attention(tiny[1], encoded(rows), GROUPS).groups
    assert not any(point._forward_hooks for point in tiny[1].hook_dict.values())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_other_precisions_are_near(tiny, rows, expected, dtype, tolerance):
    flow = measure_attention(port(tiny[0], dtype), encoded(rows), list(range(7)), full_stops=[STOP])
    order = np.argsort(flow.groups)
    assert flow.moments.observed_mean[order] == pytest.approx(expected, abs=tolerance, nan_ok=True)
    mass = flow.moments.observed_mean[:, :, :, 0, 0, :5].sum(-1)
    assert mass[~np.isnan(mass)] == pytest.approx(1, abs=1e-6)


def test_heads_narrower_than_the_columns(rows):
    hf = tiny_hf(seed=2, hidden_size=15, num_attention_heads=5)
    moments = pair_moments(port(hf, torch.float64), to_batch(rows), [STOP])
    for pair, (trace, (tokens, _, parts)) in enumerate(zip(run_oracle(hf, rows), rows, strict=True)):
        value = slow(trace.patterns, tokens, parts, "mass", 2, 4, "QUERY", "SEP2")
        assert moments.mean[pair, 2, 4, 0, 1, 4] == pytest.approx(value, abs=1e-12)


def test_progress_counts_pairs(tiny, rows):
    seen = []
    measure_attention(tiny[1], encoded(rows), GROUPS, token_budget=30, progress=seen.append)
    assert len(seen) > 1
    assert sum(seen) == len(rows)


def test_no_pairs_are_no_groups(tiny):
    flow = measure_attention(tiny[1], encoded([]), [])
    assert flow.groups == ()
    assert flow.moments.mean.shape == (0, N_LAYERS, N_HEADS, 3, 6, 7)


def test_bad_input_is_refused(tiny, rows):
    with pytest.raises(ValueError, match="expected the group of each of 7 pairs, got 2"):
        measure_attention(tiny[1], encoded(rows), ["a", "b"])
    with (
        tiny[1].ablating("DOC->QUERY"),
        pytest.raises(ValueError, match=r"nothing ablated, but zero\(DOC->QUERY\) is active"),
    ):
        measure_attention(tiny[1], encoded(rows), GROUPS)
    broken = port(tiny[0], torch.float64)
    broken.W_Q[1, 2] = torch.nan
    with pytest.raises(ValueError, match="expected finite attention"):
        measure_attention(broken, encoded(rows), GROUPS)


# The accumulator's laws.


def pairs_of(values, counted):
    """One group a pair, over a 2 x 3 model and one cell whose values are given, `[pair, 2, 3]`."""
    counts = counted.astype(np.int64).reshape(-1, 1, 1, 1, 1, 1)
    filled = (values * counted[:, None, None])[..., None, None, None]
    return Moments(counts, filled, np.zeros_like(filled))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 17), offset=st.sampled_from([0.0, 1.0, 1e6]))
def test_split_anywhere_and_merged_in_any_order_is_the_whole(data, n, offset):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    values, counted = offset + rng.random((n, 2, 3)), rng.random(n) < 0.8
    names = [data.draw(st.sampled_from("xyz")) for _ in range(n)]
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    pieces = []
    for low, high in zip([0, *cuts], [*cuts, n], strict=True):
        pieces.append(AttentionFlow.gather(names[low:high], pairs_of(values[low:high], counted[low:high])))
    merged = AttentionFlow.join(data.draw(st.permutations(pieces)))
    stepwise = pieces[0]
    for piece in pieces[1:]:
        stepwise = AttentionFlow.join([stepwise, piece])
    for flow in (merged, stepwise):
        assert set(flow.groups) == set(names)
        for i, name in enumerate(flow.groups):
            members = values[[x == name and bool(c) for x, c in zip(names, counted, strict=True)]]
            assert flow.moments.count[i].item() == len(members)
            found = flow.moments.mean[i, :, :, 0, 0, 0], flow.moments.m2[i, :, :, 0, 0, 0]
            expected_m2 = ((members - members.mean(0)) ** 2).sum(0) if len(members) else 0
            assert found[0] == pytest.approx(members.mean(0) if len(members) else np.zeros((2, 3)), rel=1e-12)
            assert found[1] == pytest.approx(np.broadcast_to(expected_m2, (2, 3)), rel=1e-6, abs=1e-12)


def test_variance_survives_a_large_mean():
    """The textbook formula, mean of squares minus square of the mean, gives rubbish here."""
    values = np.array([1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16]).reshape(4, 1, 1) * np.ones((1, 2, 3))
    flow = AttentionFlow.empty(2, 3)
    flow = AttentionFlow((), Moments(*(part[:, :, :, :1, :1, :1] for part in vars(flow.moments).values())))
    for i in range(4):
        flow = AttentionFlow.join([flow, AttentionFlow.gather(["x"], pairs_of(values[i : i + 1], np.ones(1, bool)))])
    assert flow.moments.variance.reshape(-1) == pytest.approx(np.full(6, 30.0))


def test_regrouping_by_grade_equals_grouping_by_grade_at_once(tiny, rows, expected):
    queries, grades = [1, 1, 2, 2, 3, 3, 3], [3, 0, 3, 0, 3, 3, -1]
    fine = measure_attention(tiny[1], encoded(rows), list(zip(queries, grades, strict=True)), full_stops=[STOP])
    check(fine.regroup(lambda group: group[1]), grades, expected)
    only = fine.regroup(lambda group: "relevant" if group[1] > 0 else None)
    kept = [grade > 0 for grade in grades]
    check(only, ["relevant"] * sum(kept), expected[kept])
    assert fine.regroup(lambda group: None).groups == ()


def test_flows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one number of layers and heads"):
        AttentionFlow.join([AttentionFlow.empty(2, 3), AttentionFlow.empty(3, 2)])
    with pytest.raises(ValueError, match="one number of layers and heads"):
        AttentionFlow.join([])
    moments = pairs_of(np.zeros((2, 2, 3)), np.ones(2, bool))
    for targets in ([0], [0, 1], [0, -2]):
        with pytest.raises(ValueError, match=r"for each of 2 groups a target in -1\.\.0"):
            moments.merged(targets, 1)
