"""Conditions run as a tree over layers equal the same conditions run one by one, and cost what the arithmetic says."""

import weakref

import numpy as np
import pytest
import torch
from small_worlds import count_layers
from tiny_models import N_HEADS, N_LAYERS, encoded, port, run_oracle, tiny_hf, tiny_rows, to_batch

from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.model.block import BertBlock
from tl_crossenc.model.execution import count_layer_runs, run_conditions

SIZES = ((3, 5), (2, 8), (1, 1), (4, 0), (3, 5), (2, 17), (5, 2))
CONDITIONS = [
    UNABLATED,
    *(Condition.ablate("DOC->QUERY", layers=range(n), mode=mode) for mode in ("zero", "mask") for n in (1, 2, 3)),
    Condition.ablate("DOC->QUERY", layers=[0, 2]),
    Condition.ablate("DOC->QUERY", layers=[2]),
    Condition.ablate("QUERY<->DOC", heads=[1]),
    Condition.ablate(["CLS->DOC", "SEP1->ALL"], layers=[0], heads=[0, 2]),
    Condition.parse("zero(DOC->QUERY; layers=0) + mask(CLS->DOC; layers=1-2; heads=0)"),
    Condition.parse("mask(ALL->SEP2) + zero(DOC->DOC; layers=1)"),
    Condition.ablate("CLS->ALL"),
    Condition.ablate("ALL->ALL", mode="mask"),
    Condition.ablate("DOC->QUERY", layers=[]),
]


@pytest.fixture(scope="module")
def rows():
    return tiny_rows(SIZES, seed=3)


@pytest.fixture(scope="module")
def one_by_one(rows):
    """`[condition, pair]`, every pair alone, without padding, in a model of its own."""
    model = port(tiny_hf())
    values = np.zeros((len(CONDITIONS), len(rows)))
    with torch.no_grad():
        for i, condition in enumerate(CONDITIONS):
            for j, row in enumerate(rows):
                with model.ablating(condition):
                    values[i, j] = model(to_batch([row]))
    return values


@pytest.mark.parametrize("token_budget", [1, 29, 47, 4096])
def test_equals_conditions_and_pairs_run_alone(rows, one_by_one, model, token_budget):
    found = run_conditions(model, encoded(rows), CONDITIONS, token_budget=token_budget)
    np.testing.assert_allclose(found.values, one_by_one, rtol=0, atol=1e-11)
    assert np.ptp(one_by_one, axis=0).min() > 1e-3  # the conditions do differ


def test_equals_the_slow_reference(rows, hf, model):
    # As in `oracles`: (mode, attender parts, attended parts, layers, heads).
    ablations = {
        "none": (),
        "zero(DOC->QUERY; layers=0-1)": [("zero", [3], [1], [0, 1], None)],
        "mask(CLS->DOC; layers=1-2; heads=0) + zero(DOC->QUERY; layers=0)": [
            ("zero", [3], [1], [0], None),
            ("mask", [0], [3], [1, 2], [0]),
        ],
    }
    found = run_conditions(model, encoded(rows), [Condition.parse(text) for text in ablations], token_budget=40)
    expected = [[trace.score for trace in run_oracle(hf, rows, given)] for given in ablations.values()]
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-9)


def test_float32_and_bfloat16_scores_come_as_float32(rows, one_by_one):
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.bfloat16, 0.3)):
        found = run_conditions(port(tiny_hf(), dtype), encoded(rows), CONDITIONS)
        assert found.values.dtype == np.float32
        np.testing.assert_allclose(found.values, one_by_one, rtol=0, atol=tolerance)


def test_a_float32_model_runs_under_autocast(rows, one_by_one):
    model = port(tiny_hf(), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = run_conditions(model, encoded(rows), CONDITIONS)
    np.testing.assert_allclose(found.values, one_by_one, rtol=0, atol=0.3)
    assert np.abs(found.values - one_by_one).max() > 1e-4  # it was bfloat16 that ran


def test_one_label_models_score_by_their_logit(rows):
    hf = tiny_hf(1, seed=1)
    found = run_conditions(port(hf), encoded(rows), [UNABLATED])
    expected = [trace.logits[0] for trace in run_oracle(hf, rows)]
    np.testing.assert_allclose(found.values[0], expected, rtol=0, atol=1e-9)


def test_a_subset_or_another_order_of_conditions_gives_the_same_bits(rows, model):
    whole = run_conditions(model, encoded(rows), CONDITIONS, token_budget=47).values
    backwards = run_conditions(model, encoded(rows), CONDITIONS[::-1], token_budget=47).values[::-1]
    np.testing.assert_array_equal(backwards, whole)
    for chosen in ([0], [3], [2, 9, 12], [5, 5]):
        part = run_conditions(model, encoded(rows), [CONDITIONS[i] for i in chosen], token_budget=47).values
        np.testing.assert_array_equal(part, whole[chosen])


def test_runs_on_top_of_what_is_being_ablated(rows, model):
    active = Condition.ablate("CLS->DOC", layers=[1])
    with model.ablating(active):
        found = run_conditions(model, encoded(rows), [UNABLATED, Condition.ablate("DOC->QUERY")], token_budget=47)
    alone = run_conditions(model, encoded(rows), [active, active + Condition.ablate("DOC->QUERY")], token_budget=47)
    np.testing.assert_array_equal(found.values, alone.values)
    unablated = run_conditions(model, encoded(rows), [UNABLATED], token_budget=47).values
    assert np.abs(found.values - unablated).max() > 1e-3


# What it costs.


@pytest.mark.parametrize("n_layers", [1, 2, 5, 24])
def test_a_cumulative_sweep_costs_l_plus_l_l_minus_1_over_2(n_layers):
    sweep = [Condition.ablate("DOC->QUERY", layers=range(n + 1)).compile(n_layers, N_HEADS) for n in range(n_layers)]
    # The sweep's deepest member edits every layer: L runs. Member n leaves its layers n + 1 .. L - 1 alone, which no other
    # member shares: L - 1 - n runs each, L (L - 1) / 2 in all.
    assert count_layer_runs(sweep) == n_layers + n_layers * (n_layers - 1) // 2
    unablated = UNABLATED.compile(n_layers, N_HEADS)
    assert count_layer_runs([*sweep, unablated]) == n_layers + n_layers * (n_layers - 1) // 2 + n_layers
    assert count_layer_runs([unablated]) == n_layers


def test_counts_are_the_layers_really_run(rows, model, monkeypatch):
    budget = 47
    n_batches_at_most = len(rows)
    calls = count_layers(monkeypatch)
    seen = []
    found = run_conditions(model, encoded(rows), CONDITIONS, token_budget=budget, progress=seen.append)
    prefixes = {
        tuple(None if e is None else e.key for e in condition.compile(N_LAYERS, N_HEADS)[: layer + 1])
        for condition in CONDITIONS
        for layer in range(N_LAYERS)
    }
    for condition in CONDITIONS:  # a first edit that leaves the passage alone runs on top of the unedited layer
        plan = condition.compile(N_LAYERS, N_HEADS)
        first = next((layer for layer, edits in enumerate(plan) if edits is not None), N_LAYERS)
        if first < N_LAYERS - 1 and not (plan[first].zero | plan[first].mask)[:, 3].any():
            prefixes.add((None,) * (first + 1))
    assert found.layers_run == sum(pairs for _, pairs in calls) == len(prefixes) * len(rows)
    assert found.layers_alone == N_LAYERS * len(CONDITIONS) * len(rows)
    assert 1 < len(seen) <= n_batches_at_most
    assert sum(seen) == found.layers_run
    assert len(calls) == len(prefixes) * len(seen)


def test_of_the_last_layer_only_cls_is_run(rows, model, monkeypatch):
    """Nothing reads its other rows; those of every other layer are run whole."""
    written = {}

    def watched(run):
        def call(self, resid, *args, **kwargs):
            after = run(self, resid, *args, **kwargs)
            written.setdefault(self.layer, set()).add((after.shape[1], resid.shape[1]))
            return after

        return call

    for name in ("forward", "rerun_rows"):
        monkeypatch.setattr(BertBlock, name, watched(getattr(BertBlock, name)))
    run_conditions(model, encoded(rows[:1]), CONDITIONS)
    width = len(rows[0][0])
    assert written == {**{layer: {(width, width)} for layer in range(N_LAYERS - 1)}, N_LAYERS - 1: {(1, width)}}


def test_conditions_that_are_alike_in_effect_run_once(rows, model, monkeypatch):
    calls = count_layers(monkeypatch)
    same = [
        Condition.ablate("DOC->ALL"),
        Condition.ablate([f"DOC->{p}" for p in ("CLS", "QUERY", "SEP1", "DOC", "SEP2")]),
    ]
    found = run_conditions(model, encoded(rows), same)
    assert len(calls) == N_LAYERS
    np.testing.assert_array_equal(found.values[0], found.values[1])


def test_at_most_two_residual_streams_a_level_are_alive(rows, model, monkeypatch):
    """While a layer runs, what is alive of each level before it is the stream walked and, at most, the unedited one."""
    alive, most = [], []
    run_embed = type(model).run_embed

    def note(layer, stream):
        alive.append((layer, weakref.ref(stream)))
        return stream

    def watched(method):
        def run(self, *args, **kwargs):
            living = [layer for layer, reference in alive if reference() is not None]
            most.append((self.layer, max((living.count(layer) for layer in set(living)), default=0), max(living)))
            return note(self.layer, method(self, *args, **kwargs))

        return run

    def embedded(self, *args, **kwargs):
        assert all(reference() is None for _, reference in alive)  # nothing of the batch before
        return note(-1, run_embed(self, *args, **kwargs))

    for name in ("forward", "rerun_rows"):
        monkeypatch.setattr(BertBlock, name, watched(getattr(BertBlock, name)))
    monkeypatch.setattr(type(model), "run_embed", embedded)
    run_conditions(model, encoded(rows), CONDITIONS, token_budget=30)
    assert len(most) > 40
    assert all(a_level <= 2 and deepest <= layer for layer, a_level, deepest in most), most


# A device that is too small.


def test_a_batch_that_does_not_fit_is_run_in_halves(rows, one_by_one, model, monkeypatch, caplog):
    run_layer, failed, seen = BertBlock.forward, [], []

    def small(self, resid, *args, **kwargs):
        if (
            self.layer == 1 and resid.shape[0] * resid.shape[1] > 50
        ):  # amid a walk, when some scores may be there already
            failed.append(resid.shape)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run_layer(self, resid, *args, **kwargs)

    monkeypatch.setattr(BertBlock, "forward", small)
    found = run_conditions(model, encoded(rows), CONDITIONS, token_budget=160, progress=seen.append)
    assert failed
    np.testing.assert_allclose(found.values, one_by_one, rtol=0, atol=1e-11)
    assert sum(seen) == found.layers_run
    assert len([record for record in caplog.records if "no memory" in record.message]) == 1


# Bad input.


def test_no_conditions_is_an_error(rows, model):
    with pytest.raises(ValueError, match="at least one condition"):
        run_conditions(model, encoded(rows), [])


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            Condition.ablate("DOC->QUERY", layers=[N_LAYERS]),
            f"expected layers 0..{N_LAYERS - 1} .* got layer {N_LAYERS}",
        ),
        (Condition.ablate("DOC->QUERY", heads=[1, 11]), f"expected heads 0..{N_HEADS - 1} .* got head 11"),
    ],
)
def test_layers_and_heads_that_are_not_there_are_errors_before_any_work(rows, model, monkeypatch, condition, message):
    calls = count_layers(monkeypatch)
    with pytest.raises(ValueError, match=message):
        run_conditions(model, encoded(rows), [UNABLATED, condition])
    assert calls == []


def test_no_pairs_give_no_scores(model, rows):
    empty = encoded(rows)
    empty = EncodedPairs(
        empty.tokens[:0], empty.token_type_ids[:0], empty.parts[:0], np.zeros(1, int), np.zeros(0, bool), 7
    )
    found = run_conditions(model, empty, [UNABLATED])
    assert found.values.shape == (1, 0)
    assert found.layers_run == 0
