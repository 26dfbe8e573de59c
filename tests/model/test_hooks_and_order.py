"""Under a hook, pairs are run in the order given, so that entry i of an activation is pair i."""

import numpy as np
import pytest
import torch
from small_worlds import tiny_model

from tl_crossenc.inputs.batching import length_batches
from tl_crossenc.instruments.direct_attribution import direct_attribution
from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.model.execution import run_conditions
from tl_crossenc.patching.replacement import replacing

QUERY = "how do eggs rise"
PASSAGES = ["bread", "fleas lay the eggs in the bread", "eggs", "how do fleas rise", "the eggs rise how", ""]
CHOSEN = 2
POINTS = [
    "embed.hook_embed",
    "blocks.0.hook_resid_pre",
    "blocks.1.attn.hook_z",
    "blocks.0.hook_mlp_out",
    "pooler.hook_pre",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


def edit(activation):
    return activation * torch.linspace(0.5, 1.5, activation.shape[-1], dtype=activation.dtype)


def alone(model, name, passage, condition=UNABLATED):
    """The score of one passage run by itself, its activation edited."""
    hooks = [(name, lambda activation, hook: edit(activation))]
    with torch.no_grad(), model.ablating(condition):
        return float(model.run_with_hooks(model.to_pairs(QUERY, passage), fwd_hooks=hooks))


def of_one(activation, hook):
    changed = activation.clone()
    changed[CHOSEN] = edit(activation[CHOSEN])
    return changed


@pytest.mark.parametrize("name", POINTS)
def test_entry_i_is_passage_i(model, name):
    plain, conditions = model.score(QUERY, PASSAGES), [UNABLATED, Condition.ablate("CLS->DOC", layers=[1])]
    encoded = model.encode_pairs(QUERY, PASSAGES)
    ablated = run_conditions(model, encoded, conditions).values
    with model.hooks(fwd_hooks=[(name, of_one)]):
        found = model.score(QUERY, PASSAGES)
        runs = run_conditions(model, encoded, conditions).values
        split = direct_attribution(model, encoded).scores
    for i in range(len(PASSAGES)):
        expected = alone(model, name, PASSAGES[i]) if i == CHOSEN else float(plain[i])
        for score in (found[i], runs[0, i], split[i]):
            assert float(score) == pytest.approx(expected, abs=1e-10)
        expected = alone(model, name, PASSAGES[i], conditions[1]) if i == CHOSEN else float(ablated[1, i])
        assert runs[1, i] == pytest.approx(expected, abs=1e-10)
    assert abs(float(found[CHOSEN] - plain[CHOSEN])) > 1e-4


@pytest.mark.parametrize("register", ["permanent", "torch"])
def test_so_it_is_for_hooks_that_stay_and_for_torchs_own(model, register):
    plain, name = model.score(QUERY, PASSAGES), "blocks.0.hook_mlp_out"
    if register == "permanent":
        model.add_hook(name, of_one, is_permanent=True)
    else:
        handle = model.blocks[0].mlp.register_forward_hook(lambda module, args, output: of_one(output, None))
    try:
        found = model.score(QUERY, PASSAGES)
    finally:
        model.reset_hooks(including_permanent=True) if register == "permanent" else handle.remove()
    expected = plain.clone()
    expected[CHOSEN] = alone(model, name, PASSAGES[CHOSEN])
    assert torch.allclose(found, expected, atol=1e-10)
    assert torch.equal(model.score(QUERY, PASSAGES), plain)


def test_what_does_not_fit_is_run_in_consecutive_batches(model):
    lengths = model.encode_pairs(QUERY, PASSAGES).lengths
    budget, seen = 2 * int(lengths.max()), []

    def look(activation, hook):
        seen.append(activation.shape[:2])

    with model.hooks(fwd_hooks=[("hook_full_embed", look)]):
        found = model.score(QUERY, PASSAGES, token_budget=budget)
    assert torch.allclose(found, model.score(QUERY, PASSAGES), atol=1e-10)
    assert len(seen) > 1
    assert all(pairs * width <= budget for pairs, width in seen)
    start = 0
    for pairs, width in seen:
        assert width == lengths[start : start + pairs].max()
        start += pairs
    assert start == len(PASSAGES)


def test_batches_in_order():
    lengths = [5, 9, 2, 3, 3, 11, 1]
    found = length_batches(lengths, 18, in_order=True)
    assert [batch.tolist() for batch in found] == [[0, 1], [2, 3, 4], [5], [6]]
    assert [batch.tolist() for batch in length_batches(lengths, 77, in_order=True)] == [[*range(7)]]
    assert [batch.tolist() for batch in length_batches(lengths, 1, in_order=True)] == [[i] for i in range(7)]
    assert length_batches([], 18, in_order=True) == []
    with pytest.raises(ValueError, match="at least 1"):
        length_batches(lengths, 0, in_order=True)


def test_replacements_do_not_cost_the_batches(model):
    """They treat every pair by its tokens and parts alone, so pairs of like length stay together."""
    assert not model.hooked
    with replacing(model, "1.0+mlp.0+DOC->QUERY@0.1"):
        assert not model.hooked
        with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", of_one)]):
            assert model.hooked
    assert not model.hooked
    with model.hooks(fwd_hooks=model.ablation_hooks("DOC->QUERY", pairs=model.to_pairs(QUERY, PASSAGES))):
        assert model.hooked
        found = model.score(QUERY, PASSAGES)
    with model.ablating("DOC->QUERY"):
        np.testing.assert_allclose(found, model.score(QUERY, PASSAGES), atol=1e-10)
