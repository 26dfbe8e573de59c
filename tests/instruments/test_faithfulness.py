"""Removal and faithfulness: a linear score by hand, literal loops through Hugging Face, identities, and bad input."""

import numpy as np
import pytest
import tiny_models as tiny
import torch

from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments import faithfulness
from tl_crossenc.instruments.faithfulness import (
    Curves,
    Sets,
    comprehensiveness,
    random_sets,
    removal_curves,
    removed_count,
    sufficiency,
)
from tl_crossenc.instruments.removal import (
    Removal,
    Removed,
    as_removal,
    model_scorer,
    removal_orders,
    removal_scores,
    removal_ways,
    remove,
    repeated,
)
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.statistics.significance import mean_interval

ROWS = tiny.tiny_rows()
PAIRS = tiny.encoded(ROWS)
PAD = PAIRS.pad_token_id
DOC = PAIRS.parts == Part.DOC
FRACTIONS = (0.0, 0.3, 0.5, 1.0)
BINS = (0.05, 0.4)
REMOVALS = [Removal("pad", "passage", PAD), Removal("delete", "passage", None), Removal("pad", "query", PAD)]
WEIGHTS = np.random.default_rng(1).normal(size=tiny.D_VOCAB)
WEIGHTS[PAD] = 0.0


def linear(pairs):
    """A token's weight, added up over a pair; a removed one has none."""
    return np.array([WEIGHTS[pairs.tokens[a:b]].sum() for a, b in zip(pairs.offsets, pairs.offsets[1:], strict=False)])


@pytest.fixture(scope="module")
def hf():
    return tiny.tiny_hf(n_labels=2, seed=3).double()


@pytest.fixture(scope="module")
def model(hf):
    return tiny.port(hf)


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(5).normal(size=len(PAIRS.tokens))


def hf_score(hf, row, gone, removal):
    """One pair alone, without padding, with the positions `gone` removed."""
    if removal.token is None:
        tokens, types, _ = ([own for at, own in enumerate(column) if at not in gone] for column in row)
    else:
        tokens, types = [removal.token if at in gone else own for at, own in enumerate(row[0])], row[1]
    with torch.no_grad():
        logits = hf(torch.tensor([tokens]), token_type_ids=torch.tensor([types])).logits[0]
    return float(logits[1] - logits[0])


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda removal: f"{removal.way}-{removal.text}")
def test_curves_are_those_of_loops_through_hugging_face(model, hf, values, removal):
    found = removal_curves(model_scorer(model, 40), PAIRS, values, removal, fractions=FRACTIONS, bins=BINS)
    for i, row in enumerate(ROWS):
        own = PAIRS.offsets[i] + np.arange(len(row[0]))
        places = [at for at in range(len(own)) if row[2][at] == removal.part]
        best = sorted(places, key=lambda at: -values[own[at]])
        n = len(best)
        assert found.n_tokens[i] == n
        for j, fraction in enumerate(FRACTIONS):
            k = -(-int(fraction * 10) * n // 10)
            assert found.most[i, j] == pytest.approx(hf_score(hf, row, best[:k], removal), abs=1e-10)
            assert found.least[i, j] == pytest.approx(hf_score(hf, row, best[::-1][:k], removal), abs=1e-10)
        for j, share in enumerate((5, 40)):
            k = -(-share * n // 100)
            assert found.without_top[i, j] == pytest.approx(hf_score(hf, row, best[:k], removal), abs=1e-10)
            assert found.only_top[i, j] == pytest.approx(hf_score(hf, row, best[k:], removal), abs=1e-10)
        if n:
            drops = [found.most[i, 0] - hf_score(hf, row, best[: -(-share * n // 100)], removal) for share in (5, 40)]
            assert found.comprehensiveness[i] == pytest.approx(np.mean(drops), abs=1e-10)
        else:
            assert np.isnan([found.area[i], found.raw_area[i], found.comprehensiveness[i], found.sufficiency[i]]).all()


def test_a_share_that_is_whole_but_for_rounding_is_whole():
    assert 0.07 * 100 > 7
    assert [removed_count(share, 100) for share in (0.07, 0.071, 0.0, 1.0)] == [7, 8, 0, 100]


def test_an_area_by_hand():
    """Two tokens worth 3 and 1: most first 4, 1, 0; least first 4, 3, 0. Between them 1 of 4; a wrong order has -1."""
    row = ([2, 10, 3, 20, 21, 3], [0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 3, 4])
    pairs, worth = tiny.encoded([row]), {20: 3.0, 21: 1.0}

    def score(some):
        owner = np.repeat(np.arange(len(some)), some.lengths)
        return np.bincount(owner, [worth.get(int(token), 0.0) for token in some.tokens], len(some))

    for sign, removal in ((1, REMOVALS[0]), (-1, REMOVALS[1])):
        ranked = sign * np.array([0, 0, 0, 3.0, 1.0, 0])
        found = removal_curves(score, pairs, ranked, removal, fractions=(0.0, 0.5, 1.0), bins=(0.5,))
        assert found.most[0].tolist() == ([4, 1, 0] if sign > 0 else [4, 3, 0])
        assert (found.raw_area[0], found.area[0]) == (sign * 1.0, sign * 0.25)
        assert found.comprehensiveness[0] == (3 if sign > 0 else 1)
        assert found.sufficiency[0] == (1 if sign > 0 else 3)


def curves_of(most, least, **about):
    """Curves of one pair with tokens, over uneven fractions."""
    bins = np.zeros((1, 1))
    return Curves((0.0, 0.2, 0.5, 1.0), (0.5,), np.array([4]), np.array([most]), np.array([least]), bins, bins, **about)


def test_areas_over_uneven_fractions_of_a_score_that_ends_elsewhere_than_at_0():
    """.1 x 2 + .3 x 2 + .25 x 2 between the curves, of a span of 4 that begins at 11."""
    found = curves_of([11.0, 8.0, 8.0, 7.0], [11.0, 10.0, 10.0, 7.0])
    assert found.raw_area[0] == pytest.approx(0.1 * 2 + 0.3 * 2 + 0.25 * 2)
    assert found.area[0] == pytest.approx(1.3 / 4)
    most, least = found.normalised
    assert most[0].tolist() == [1, 0.25, 0.25, 0]
    assert least[0].tolist() == [1, 0.75, 0.75, 0]


def test_a_score_that_rises_or_falls_by_rounding_or_by_less_than_asked_has_no_span_and_keeps_its_raw_area():
    """The last falls by 4 of 4,000,007: float32 has 24 bits, 1 in 16 million, and a sum loses a few of them."""
    inner = [9.0, 8.0]
    for ends, about in (((7.0, 11.0), {}), ((11.0, 7.0), {"least_span": 4.0}), ((4_000_011.0, 4_000_007.0), {})):
        found = curves_of([ends[0], *inner, ends[1]], [ends[0], *inner[::-1], ends[1]], **about)
        assert not found.has_span[0]
        assert np.isnan([found.area[0], found.normalised[0][0, 1]]).all()
        assert np.isfinite(found.raw_area[0])
    assert curves_of([11.0, *inner, 7.0], [11.0, *inner, 7.0], least_span=3.9).has_span[0]


def test_bins_are_erasers_and_fractions_tenths():
    assert faithfulness.BINS == (0.01, 0.05, 0.10, 0.20, 0.50)  # DeYoung et al. 2020, 5.2
    assert faithfulness.FRACTIONS == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def test_a_seed_draws_other_orders_of_ties_and_other_sets():
    pairs, none = tiny.encoded(ROWS[1:2]), np.zeros(len(ROWS[1][0]))
    curves = [removal_curves(linear, pairs, none, REMOVALS[0], seed=seed).most[0] for seed in (0, 0, 1, 2)]
    sets = [random_sets(linear, pairs, REMOVALS[0], draws=9, seed=seed).drops[0] for seed in (0, 0, 1, 2)]
    for first, same, *others in (curves, sets):
        np.testing.assert_array_equal(first, same)
        assert all(np.abs(first - other).max() > 0.1 for other in others)


def test_what_is_constant_but_for_rounding_has_no_correlation():
    sets = [[np.array([i]) for i in range(4)]]
    noise = 1 + 1e-9 * np.array([3.0, 1.0, 2.0, 4.0])
    varied = np.array([1.0, 2.0, 4.0, 3.0])
    assert np.isnan(Sets(sets, noise[None]).sensitivity(varied)).all()
    assert np.isnan(Sets(sets, varied[None]).sensitivity(noise)).all()
    assert Sets(sets, varied[None]).sensitivity(np.array([1.0, 2.0, 3.0, 4.0]))[0] == pytest.approx(
        0.8
    )  # 1 - 6 x 2 / 60


@pytest.mark.parametrize("removal", REMOVALS[:2], ids=lambda removal: removal.way)
def test_a_linear_score_has_a_sensitivity_of_1(removal):
    own = WEIGHTS[PAIRS.tokens]
    sets = random_sets(linear, PAIRS, removal, share=0.3, draws=20, seed=2)
    found = sets.sensitivity(own)
    assert found[:2] == pytest.approx(1.0, abs=1e-12)
    assert np.isnan(found[2:]).all()  # one token: all sets are the same; none: no sets
    assert sets.sensitivity(-own)[:2] == pytest.approx(-1.0, abs=1e-12)
    assert [len(drawn) for drawn in sets.tokens[1]] == [3] * 20
    for drawn, drop in zip(sets.tokens[1], sets.drops[1], strict=True):
        assert drop == pytest.approx(own[drawn].sum(), abs=1e-12)
    assert len({tuple(sorted(drawn)) for drawn in sets.tokens[1]}) > 10


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda removal: f"{removal.way}-{removal.text}")
def test_comprehensiveness_is_the_sufficiency_of_the_complement(model, values, removal):
    text = PAIRS.parts == removal.part
    top = np.zeros(len(PAIRS.tokens), bool)
    for order in removal_orders(PAIRS, values, removal.part):
        top[order[:2]] = True
    score = model_scorer(model)
    dropped = comprehensiveness(score, PAIRS, top, removal)
    assert dropped.tobytes() == sufficiency(score, PAIRS, text & ~top, removal).tobytes()
    assert np.ptp(dropped) > 0.1
    k = removal_curves(score, PAIRS, values, removal, bins=(0.25,))
    quarter = np.zeros(len(PAIRS.tokens), bool)
    for order in removal_orders(PAIRS, values, removal.part):
        quarter[order[: removed_count(0.25, len(order))]] = True
    there = k.n_tokens > 0
    np.testing.assert_allclose(k.comprehensiveness[there], comprehensiveness(score, PAIRS, quarter, removal)[there])
    np.testing.assert_allclose(k.sufficiency[there], sufficiency(score, PAIRS, quarter, removal)[there])


def test_a_random_order_has_no_area():
    pairs = tiny.encoded(ROWS[:2])
    areas = [
        removal_curves(linear, pairs, np.random.default_rng(seed).random(len(pairs.tokens)), REMOVALS[0]).raw_area
        for seed in range(150)
    ]
    for own in np.transpose(areas):
        low, high = mean_interval(own, 0.99)
        assert low < 0 < high
        assert own.std() > 0.1
    exact = removal_curves(linear, pairs, WEIGHTS[pairs.tokens], REMOVALS[0]).raw_area
    assert (exact >= np.max(areas, axis=0) - 1e-12).all()  # no order of a linear score has a larger one


def test_curves_of_all_orders_share_their_ends_and_a_pair_is_the_same_in_any_batch(model, values):
    removal = REMOVALS[1]
    orders = [values, -values, np.zeros(len(values))]
    found = [removal_curves(model_scorer(model), PAIRS, own, removal, seed=3) for own in orders]
    ends = np.stack([curves[:, [0, -1]] for one in found for curves in (one.most, one.least)])
    np.testing.assert_allclose(ends, np.broadcast_to(ends[0], ends.shape), rtol=0, atol=1e-12)
    for i, row in enumerate(ROWS):
        alone = tiny.encoded([row])
        own = slice(PAIRS.offsets[i], PAIRS.offsets[i + 1])
        for together, ranked in zip(found, orders, strict=True):
            single = removal_curves(model_scorer(model), alone, ranked[own], removal, seed=3)
            for name in ("most", "least", "without_top", "only_top"):
                np.testing.assert_allclose(getattr(single, name)[0], getattr(together, name)[i], rtol=0, atol=1e-12)
        sets, one = (random_sets(linear, pairs, removal, seed=4) for pairs in (PAIRS, alone))
        assert [list(a - PAIRS.offsets[i]) for a in sets.tokens[i]] == [list(a) for a in one.tokens[0]]


def test_tied_tokens_are_in_an_order_of_the_seed_and_equal_but_for_rounding_is_tied():
    values = np.where(PAIRS.tokens > 60, 1.0, 0.0)
    close = values * (1 + 1e-9 * np.arange(len(values)))
    orders = [removal_orders(PAIRS, own, Part.DOC, seed) for own, seed in ((values, 0), (close, 0), (values, 1))]
    same, other = ([np.array_equal(a, b) for a, b in zip(orders[0], some, strict=True)] for some in orders[1:])
    assert all(same)
    assert not all(other)
    for order in orders[0]:
        assert (np.diff(values[order]) <= 0).all()
        assert sorted(order) == sorted(set(order))
        assert DOC[order].all()
    for a, b in ((values, close), (-values, -close), (1e-9 * values, 1e-9 * close)):  # whatever the sign and the size
        for first, second in zip(*(removal_orders(PAIRS, own, Part.DOC) for own in (a, b)), strict=True):
            np.testing.assert_array_equal(first, second)
    ranked = np.random.default_rng(2).normal(size=len(values))
    for first, second in zip(*(removal_orders(PAIRS, own, Part.DOC) for own in (ranked, 1e-9 * ranked)), strict=True):
        np.testing.assert_array_equal(first, second)
    one = tiny.encoded(ROWS[1:2])
    apart = np.zeros(len(one.tokens))
    apart[4:12] = [-1000.0, 5.0, 5.001, 5.002, -999.99, 5.003, 4.0, 5.004]  # by a millionth of the largest and more
    assert removal_orders(one, apart, Part.DOC)[0].tolist() == [11, 9, 7, 6, 5, 10, 8, 4]
    flat = [removal_orders(PAIRS, np.zeros(len(values)), Part.DOC, seed)[1] for seed in range(200)]
    first = np.bincount([own[0] - min(own) for own in flat], minlength=8)
    assert first.min() > 8
    assert first.max() < 50


def test_many_removals_are_run_a_part_at_a_time_and_keep_their_order(monkeypatch):
    own = np.flatnonzero(DOC[: PAIRS.offsets[2]])
    wanted = [Removed(int(at >= PAIRS.offsets[1]), np.array([at])) for at in own] * 2
    held = []

    def score(pairs):
        held.append(len(pairs))
        return linear(pairs)

    monkeypatch.setattr("tl_crossenc.instruments.removal.TOGETHER", 5)
    found = removal_scores(score, PAIRS, wanted, REMOVALS[0])
    expected = linear(PAIRS)[[place.pair for place in wanted]] - WEIGHTS[PAIRS.tokens[np.tile(own, 2)]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert held == [5, 5, 3]


def test_no_pair_s_removal_is_run_twice():
    ran = []

    def score(pairs):
        ran.append(len(pairs))
        return linear(pairs)

    own = np.flatnonzero(DOC[: PAIRS.offsets[1]])
    wanted = [Removed(0, own[:2]), Removed(0, own[:2][::-1]), Removed(1, own[:0]), Removed(0, own[:2])]
    found = removal_scores(score, PAIRS, wanted, REMOVALS[0])
    assert ran == [2]
    assert found[0] == found[1] == found[3] != found[2]


def test_what_is_removed():
    some = repeated(PAIRS, np.array([2, 0, 2]))
    assert some.tokens.tolist() == ROWS[2][0] + ROWS[0][0] + ROWS[2][0]
    assert some.offsets.tolist() == [0, 5, 16, 21]
    chosen = np.zeros(len(some.tokens), bool)
    chosen[[3, 10, 12]] = True
    short = remove(some, chosen, REMOVALS[1])
    assert short.offsets.tolist() == [0, 4, 13, 18]
    assert short.tokens.tolist() == [token for token, gone in zip(some.tokens, chosen, strict=True) if not gone]
    assert short.parts[4:13].tolist() == [0, 1, 1, 1, 2, 3, 3, 3, 4]
    padded = remove(some, chosen, REMOVALS[0])
    assert padded.offsets is some.offsets
    assert padded.tokens[chosen].tolist() == [PAD] * 3
    with pytest.raises(ValueError, match="expected tokens of the passage to remove, got others"):
        remove(some, some.parts == Part.CLS, REMOVALS[0])


def test_bad_input_is_told(model, values):
    assert removal_ways(model) == ("pad", "delete")
    maskless = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    assert removal_ways(maskless) == ("mask", "pad", "delete")
    maskless.tokenizer.mask_token = None
    assert removal_ways(maskless) == ("pad", "delete")
    with pytest.raises(
        ValueError, match="expected a removal by pad or delete, got mask: the model's vocabulary has no"
    ):
        as_removal(maskless, PAIRS, "mask")
    assert as_removal(model, PAIRS) == REMOVALS[0]
    assert as_removal(model, PAIRS, "delete").token is None
    with pytest.raises(
        ValueError, match="expected tokens of passage or query removed by mask, pad, delete, got 'title'"
    ):
        as_removal(model, PAIRS, "pad", "title")
    for fractions, bins in (((0.0, 0.5), BINS), ((0.0, 1.0), ()), ((0.0, 1.0), (1.5,)), ((0.0, 0.6, 0.5, 1.0), BINS)):
        refused(fractions, bins, values)
    for fractions, bins in (((0.0, 1.0), BINS), (FRACTIONS, (1.0,)), (FRACTIONS, (0.0,)), ((0.0, 0.5, 0.5, 1.0), BINS)):
        refused(fractions, bins, values)
    with pytest.raises(ValueError, match="expected a finite value for each of the DOC tokens"):
        removal_orders(PAIRS, np.where(DOC, np.nan, values), Part.DOC)
    with pytest.raises(ValueError, match="expected a share between 0 and 1 and at least two draws"):
        random_sets(linear, PAIRS, REMOVALS[0], draws=1)
    for share in (0.0, 1.0, 1.5, -0.2, np.nan):
        with pytest.raises(ValueError, match="expected a share between 0 and 1 and at least two draws"):
            random_sets(linear, PAIRS, REMOVALS[0], share=share)
    both = REMOVALS[0].of_both()
    for given in (lambda: removal_curves(linear, PAIRS, values, both), lambda: random_sets(linear, PAIRS, both)):
        with pytest.raises(ValueError, match=r"expected a removal of one text, passage or query, .* got one of both"):
            given()
    sets = random_sets(linear, PAIRS, REMOVALS[0], draws=3)
    for wrong in (np.where(DOC, np.nan, values), values[:9]):
        with pytest.raises(ValueError, match="expected a finite value for each token of the sets"):
            sets.sensitivity(wrong)
    assert np.isfinite(sets.sensitivity(np.where(DOC, values, np.nan))[:2]).all()
    with pytest.raises(ValueError, match="expected a seed of at least 0, got -1"):
        removal_curves(linear, PAIRS, values, REMOVALS[0], seed=-1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("measure", [comprehensiveness, sufficiency])
def test_only_tokens_of_the_text_are_chosen(measure):
    """CLS among them, values in place of true and false, too few: none is left out without a word."""
    cls = DOC.copy()
    cls[0] = True
    for chosen in (cls, DOC.astype(float), np.full(len(DOC), np.nan), DOC[:-1]):
        with pytest.raises(
            ValueError, match="expected true or false for each of the 36 tokens, and true for tokens of"
        ):
            measure(linear, PAIRS, chosen, REMOVALS[0])


def test_scores_that_are_no_numbers_are_told(hf):
    broken = tiny.port(hf)
    with torch.no_grad():
        broken.classifier.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="expected finite scores, but some are NaN or infinite"):
        model_scorer(broken)(PAIRS)


def refused(fractions, bins, values):
    with pytest.raises(ValueError, match="expected fractions that rise from 0 to 1 and bins"):
        removal_curves(linear, PAIRS, values, REMOVALS[0], fractions=fractions, bins=bins)
