"""Direction ablation against the slow reference: every direction, both modes, both attention paths, padded batches."""

import copy
import itertools

import numpy as np
import pytest
import torch
from tiny_models import (
    N_HEADS,
    N_LAYERS,
    SIDES,
    explicit,
    no_op,
    port,
    run_oracle,
    tiny_hf,
    tiny_rows,
    to_batch,
)

from tl_crossenc.interventions.conditions import Condition, DirectionAblation
from tl_crossenc.interventions.directions import Direction

GRID = list(itertools.product(SIDES, SIDES))
SOME = tiny_rows(sizes=[(2, 4), (1, 1), (3, 0)], seed=8)


def subsets(rng):
    """Random layers and heads, at least one of each, as sorted lists."""
    return [sorted(rng.choice(n, size=rng.integers(1, n + 1), replace=False).tolist()) for n in (N_LAYERS, N_HEADS)]


def check_against_oracle(hf, model, rows, ablations, run):
    """`run()` must give the reference's scores, and with patterns in the open its patterns, hidden states and z too."""
    traces = run_oracle(hf, rows, ablations)
    expected = [trace.score for trace in traces]
    with torch.no_grad():
        fused = run(lambda batch: model(batch))
        hidden = run(lambda batch: model(batch, return_type="resid"))
        scores, cache = run(lambda batch: model.run_with_cache(batch))
    np.testing.assert_allclose(fused, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(fused, scores, rtol=0, atol=1e-12)
    for pair, trace in enumerate(traces):
        n = len(rows[pair][0])
        np.testing.assert_allclose(hidden[pair, :n], trace.hidden[-1], rtol=0, atol=1e-10)
        for layer in range(N_LAYERS):
            pattern = cache["pattern", layer][pair, :, :n, :n]
            np.testing.assert_allclose(pattern, trace.patterns[layer], rtol=0, atol=1e-10)
            np.testing.assert_allclose(cache["z", layer][pair, :n], trace.z[layer], rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", ["zero", "mask"])
@pytest.mark.parametrize("attender", SIDES)
def test_every_direction_equals_the_reference_on_both_paths(mode, attender):
    rng = np.random.default_rng(sorted(SIDES).index(attender) + 10 * (mode == "mask"))
    hf = tiny_hf(n_labels=2, seed=1)
    model, batch = port(hf), to_batch(SOME)
    plain = model(batch).detach()
    for attended in SIDES:
        layers, heads = subsets(rng)
        ablations = [(mode, SIDES[attender], SIDES[attended], layers, heads)]

        def run(forward, attended=attended, layers=layers, heads=heads):
            with model.ablating(f"{attender}->{attended}", layers=layers, heads=heads, mode=mode):
                return forward(batch)

        check_against_oracle(hf, model, SOME, ablations, run)
        assert torch.equal(model(batch), plain), "the ablation outlived its block"


def test_every_direction_moves_some_score():
    hf = tiny_hf(n_labels=2, seed=1)
    model, batch = port(hf), to_batch(tiny_rows(sizes=[(2, 4), (3, 5)]))
    plain = model(batch)
    for (attender, attended), mode in itertools.product(GRID, ("zero", "mask")):
        with model.ablating(f"{attender}->{attended}", mode=mode):
            assert (model(batch) - plain).abs().max() > 1e-8, (attender, attended, mode)


@pytest.mark.parametrize("seed", range(12))
def test_random_conditions_equal_the_reference(any_hf, seed):
    """Several directions at once, both modes meeting in one head, other layers and heads each."""
    rng = np.random.default_rng(seed)
    model, batch = port(any_hf), to_batch(SOME)
    ablations, texts = [], []
    for _ in range(rng.integers(2, 7)):
        attender, attended = GRID[rng.integers(len(GRID))]
        mode = ("zero", "mask")[rng.integers(2)]
        layers, heads = subsets(rng)
        ablations.append((mode, SIDES[attender], SIDES[attended], layers, heads))
        numbers = [",".join(map(str, indices)) for indices in (layers, heads)]
        texts.append(f"{mode}({attender}->{attended}; layers={numbers[0]}; heads={numbers[1]})")

    def together(forward):
        with model.ablating(" + ".join(texts)):
            return forward(batch)

    def nested(forward):
        with model.ablating(*texts[:1]), model.ablating([Condition.parse(text) for text in texts[1:]]):
            return forward(batch)

    check_against_oracle(any_hf, model, SOME, ablations, together)
    check_against_oracle(any_hf, model, SOME, ablations, nested)


def test_both_paths_agree_in_float32():
    model, batch = port(tiny_hf(n_labels=1, seed=3), torch.float32), to_batch(SOME)
    with torch.no_grad():
        for (attender, attended), mode in itertools.product(GRID, ("zero", "mask")):
            with model.ablating(f"{attender}->{attended}", mode=mode, heads=[0, 2]):
                opened = model.run_with_hooks(batch, fwd_hooks=explicit())
                torch.testing.assert_close(model(batch), opened, rtol=0, atol=1e-5)


# Identities.


@pytest.mark.parametrize("nothing", [{"layers": []}, {"heads": []}, {"layers": [], "heads": []}])
@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_ablating_nowhere_is_the_identity_to_the_bit(model, batch, nothing, mode):
    plain, (_, before) = model(batch, return_type="logits"), model.run_with_cache(batch)
    for direction in ("DOC->QUERY", "ALL->ALL"):
        with model.ablating(direction, mode=mode, **nothing):
            assert torch.equal(model(batch, return_type="logits"), plain)
            _, cache = model.run_with_cache(batch)
        assert all(torch.equal(cache[name], before[name]) for name in before)
        assert model.ablation_hooks(direction, pairs=batch, mode=mode, **nothing) == []
    with model.ablating("none"):
        assert torch.equal(model(batch, return_type="logits"), plain)


@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_without_what_cls_reads_every_passage_scores_the_same(any_hf, batch, mode):
    model = port(any_hf)
    with model.ablating("CLS->ALL", mode=mode):
        for hooks in ([], explicit()):
            scores = model.run_with_hooks(batch, fwd_hooks=hooks)
            assert (scores.max() - scores.min()).abs() < 1e-12
    assert model(batch).std() > 1e-3


@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_padding_does_not_matter(model, rows, mode):
    batch = to_batch(rows)
    for attender, attended in GRID:
        with model.ablating(f"{attender}->{attended}", mode=mode, layers=[0, 2]), torch.no_grad():
            together = model(batch)
            for pair, row in enumerate(rows):
                torch.testing.assert_close(together[pair], model(to_batch([row]))[0], rtol=0, atol=1e-12)


def test_mask_is_zero_and_rescaled_rows(model, batch):
    """On the patterns of layer 0, whose input no ablation has changed."""
    real = batch.attention_mask
    for attender, attended in GRID:
        patterns = []
        for mode in ("zero", "mask"):
            with model.ablating(f"{attender}->{attended}", mode=mode):
                patterns.append(model.run_with_cache(batch, names_filter="blocks.0.attn.hook_pattern")[1]["pattern", 0])
        zeroed, masked = (pattern.transpose(1, 2)[real] for pattern in patterns)  # [real row, head, attended pos]
        sums = zeroed.sum(-1, keepdim=True)
        expected = torch.where(sums > 0, zeroed / sums.clamp(min=1e-300), 0.0)
        torch.testing.assert_close(masked, expected, rtol=0, atol=1e-12)
        assert ((masked.sum(-1) - 1).abs() < 1e-12).logical_or(masked.sum(-1) == 0).all()


@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_directions_add_up_to_their_margin(model, batch, mode):
    """DOC->ALL is the five directions DOC->Y at once, and ALL->DOC the five X->DOC."""
    parts = [side for side in SIDES if side != "ALL"]
    for margin, cells in (
        ("DOC->ALL", [f"DOC->{part}" for part in parts]),
        ("ALL->DOC", [f"{part}->DOC" for part in parts]),
        ("ALL->ALL", [f"{left}->{right}" for left in parts for right in parts]),
    ):
        with model.ablating(margin, mode=mode):
            expected = model(batch)
        with model.ablating(cells, mode=mode):
            torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-12)


# Ablation as hooks.


@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_ablation_hooks_equal_ablating(model, batch, mode):
    for attender, attended in GRID:
        chosen = {"layers": [0, 2], "heads": [1, 2], "mode": mode}
        with model.ablating(f"{attender}->{attended}", **chosen):
            expected = model(batch)
        hooks = model.ablation_hooks(f"{attender}->{attended}", pairs=batch, **chosen)
        leaf = {"zero": "hook_pattern", "mask": "hook_attn_scores"}[mode]
        assert [name for name, _ in hooks] == [f"blocks.{layer}.attn.{leaf}" for layer in (0, 2)]
        torch.testing.assert_close(model.run_with_hooks(batch, fwd_hooks=hooks), expected, rtol=0, atol=1e-12)


def test_ablation_hooks_of_mixed_modes_and_inside_of_ablating(model, batch):
    first, second = "zero(DOC->QUERY; heads=0) + mask(DOC->DOC; heads=0,1)", "mask(CLS->QUERY) + zero(CLS->DOC)"
    with model.ablating(first, second):
        expected = model(batch)
    hooks = model.ablation_hooks(second, pairs=batch)
    with model.ablating(first):
        torch.testing.assert_close(model.run_with_hooks(batch, fwd_hooks=hooks), expected, rtol=0, atol=1e-12)
    hooks = model.ablation_hooks(first, second, pairs=batch)
    tokens = {"token_type_ids": batch.token_type_ids, "attention_mask": batch.attention_mask}
    logits = model.run_with_hooks(batch.tokens, **tokens, fwd_hooks=hooks)
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], expected, rtol=0, atol=1e-12)


def test_ablation_hooks_hold_for_their_pairs_only(model, batch):
    hooks = model.ablation_hooks("DOC->QUERY", pairs=batch)
    with pytest.raises(ValueError, match="make the hooks from the pairs that are run"):
        model.run_with_hooks(to_batch(SOME), fwd_hooks=hooks)


@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_ablation_hooks_of_other_pairs_of_the_same_shape(model, batch, mode):
    """Parts elsewhere are refused, in whatever form the others come; other words in the same places are not."""
    hooks = model.ablation_hooks("DOC->QUERY", pairs=batch, mode=mode)
    others = to_batch(tiny_rows(sizes=((5, 3), (2, 8), (1, 1), (4, 0)), seed=4))
    assert others.tokens.shape == batch.tokens.shape
    message = r"expected the pairs that the ablation hooks were made for, \(4, 13\) \[pair, pos\]; got others"
    beside = {"token_type_ids": others.token_type_ids, "attention_mask": others.attention_mask}
    with pytest.raises(ValueError, match=message):
        model.run_with_hooks(others, fwd_hooks=hooks)
    with pytest.raises(ValueError, match=message):
        model.run_with_hooks(others.tokens, **beside, fwd_hooks=hooks)
    beside = {"token_type_ids": batch.token_type_ids, "attention_mask": batch.attention_mask}
    with pytest.raises(ValueError, match=message):
        model.run_with_hooks(batch.tokens[[3, 2, 1, 0]], **beside, fwd_hooks=hooks)
    resid = torch.randn(*batch.tokens.shape, model.cfg.d_model, dtype=torch.float64)
    stream = {"attention_mask": batch.attention_mask, "start_at_layer": 1, "fwd_hooks": hooks}
    with pytest.raises(ValueError, match=r"expected parts=pairs\.parts beside a residual stream"):
        model.run_with_hooks(resid, **stream)
    with model.ablating("DOC->QUERY", mode=mode):
        expected = model(resid, attention_mask=batch.attention_mask, parts=batch.parts, start_at_layer=1)
    found = model.run_with_hooks(resid, **stream, parts=batch.parts)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    words = to_batch(tiny_rows(seed=8))
    with model.ablating("DOC->QUERY", mode=mode):
        expected = model(words)
    torch.testing.assert_close(model.run_with_hooks(words, fwd_hooks=hooks), expected, rtol=0, atol=1e-12)


def test_a_user_hook_sees_the_ablated_pattern(model, batch):
    codes = batch.parts.codes
    cells = ((codes == 3)[:, :, None] & (codes == 1)[:, None, :])[:, None]
    with model.ablating("DOC->QUERY", layers=[1]):
        _, cache = model.run_with_cache(batch)
    assert not (cache["pattern", 1] * cells).any()
    assert (cache["pattern", 0] * cells).any()


# The block and what it takes.


def test_the_block_restores_what_was_active(model, batch):
    assert str(model.active_condition) == "none"
    with model.ablating("DOC->QUERY") as same:
        assert same is model
        outer = model(batch)
        with model.ablating("CLS->DOC", mode="mask", layers=1):
            assert str(model.active_condition) == "mask(CLS->DOC; layers=1) + zero(DOC->QUERY)"
            assert not torch.equal(model(batch), outer)
        assert torch.equal(model(batch), outer)
    with pytest.raises(RuntimeError, match="inside"), model.ablating("DOC->QUERY"):
        raise RuntimeError("inside")
    assert str(model.active_condition) == "none"


def test_the_forms_of_an_ablation(model, batch):
    with model.ablating(Direction.parse("DOC->QUERY"), layers=range(0, 2), heads=np.array([2])):
        expected = model(batch)
    for form in (
        "zero(DOC->QUERY; layers=0-1; heads=2)",
        Condition.parse("zero(DOC->QUERY; layers=0-1; heads=2)"),
        Condition((DirectionAblation(Direction.parse("doc -> query"), "zero", (1, 0, 1), (2,)),)),
    ):
        with model.ablating(form):
            assert torch.equal(model(batch), expected)
    with model.ablating("DOC<->QUERY"):
        both = model(batch)
    with model.ablating("DOC->QUERY", "QUERY->DOC"):
        assert torch.equal(model(batch), both)


def test_ablations_are_not_shared_by_copies(model, batch):
    plain = model(batch)
    other = copy.deepcopy(model)
    with other.ablating("ALL->DOC"):
        assert torch.equal(model(batch), plain)
        assert not torch.equal(other(batch), plain)


@pytest.mark.parametrize(
    ("given", "settings", "sentence"),
    [
        (["DOC->QUERY"], {"layers": [1, 3]}, r"layers 0\.\.2 .* got layer 3"),
        (["DOC->QUERY"], {"heads": 3}, r"heads 0\.\.2 .* got head 3"),
        (["DOC->QUERY"], {"layers": [-4]}, r"layers -3\.\.2, got \(-4,\)"),
        (["DOC->QUERY"], {"heads": [True]}, "heads as whole numbers from 0"),
        (["zero(DOC->QUERY; layers=2-5)"], {}, r"got layer 3-5"),
        (["DOC->TITLE"], {}, "expected a part among CLS, QUERY, SEP1, DOC, SEP2, got 'TITLE'"),
        (["DOC->PAD"], {}, "got 'PAD'"),
        (["DOC=>QUERY"], {}, "expected a direction written ATTENDER->ATTENDED"),
        (["zero(DOC->QUERY; layer=1)"], {}, "expected layers=... or heads=..."),
        (["drop(DOC->QUERY)"], {}, "with a mode among zero, mask"),
        (["zero(DOC->QUERY)"], {"layers": [0]}, "inside of the condition"),
        ([], {}, "expected at least one direction"),
        ([[]], {}, "expected at least one direction"),
    ],
)
def test_ablations_that_do_not_exist(model, batch, given, settings, sentence):
    with pytest.raises(ValueError, match=sentence), model.ablating(*given, **settings):
        pass
    with pytest.raises(ValueError, match=sentence):
        model.ablation_hooks(*given, pairs=batch, **settings)
    assert str(model.active_condition) == "none"


def test_negative_layers_are_refused_wherever_they_are_given():
    for bad in ({"layers": (-1,)}, {"heads": (-1,)}):
        with pytest.raises(ValueError, match="whole numbers from 0"):
            DirectionAblation(Direction.parse("DOC->QUERY"), **bad)


@pytest.mark.parametrize("direction", ["DOC->QUERY", "ALL->DOC", "CLS->ALL", "ALL->ALL"])
@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_ablating_without_parts(model, batch, direction, mode):
    beside = {"token_type_ids": batch.token_type_ids, "attention_mask": batch.attention_mask}
    with model.ablating(direction, mode=mode):
        for hooks in ([], [("blocks.0.attn.hook_pattern", no_op)]):
            with pytest.raises(ValueError, match="which position has which part"):
                model.run_with_hooks(batch.tokens, **beside, fwd_hooks=hooks)
        logits = model(batch.tokens, **beside, parts=batch.parts)
        assert torch.equal(logits[:, 1] - logits[:, 0], model(batch))
