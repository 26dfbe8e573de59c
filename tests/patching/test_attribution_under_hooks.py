"""What hooks and replacements leave is what is attributed: contributions of the run as it was, against writes carried by hand."""

import numpy as np
import pytest
import torch
from attribution_reference import replay
from tiny_models import N_HEADS, N_LAYERS, encoded, port, tiny_hf, tiny_rows

from tl_crossenc.instruments.direct_attribution import COMPONENTS, direct_attribution
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.replacement import replacing
from tl_crossenc.patching.replacement_values import ReplacementMeans, ReplacementSamples


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def model():
    return port(tiny_hf(2, seed=9))


def stretched(activation):
    return activation * torch.linspace(0.5, 1.5, activation.shape[-1], dtype=activation.dtype) + 0.1


def returning(activation, hook):
    return stretched(activation)


def in_place(activation, hook):
    activation.copy_(stretched(activation))


def total(split):
    return split.to_frame().groupby("pair")["contribution"].sum().to_numpy()


@pytest.mark.parametrize("hook", [returning, in_place])
def test_under_a_hook_on_any_point_components_sum_to_the_score(model, batch, hook):
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    plain, moved = direct_attribution(model, batch), 0
    for name in model.hook_dict:
        with model.hooks(fwd_hooks=[(name, hook)]):
            split = direct_attribution(model, batch)
            with torch.no_grad():
                scores = model(batch).numpy()
        assert np.abs(split.scores - scores).max() < 1e-10, name
        assert np.abs(total(split) - scores).max() < 1e-10, name
        assert np.abs(split.remainder).max() < 1e-10, name
        moved += np.abs(scores - plain.scores).max() > 1e-6
    assert moved == len(model.hook_dict)
    assert not plain.edit.any()
    assert set(plain.to_frame()["component"]) == set(COMPONENTS)
    with model.hooks(fwd_hooks=[("hook_full_embed", hook)]):
        assert np.abs(direct_attribution(model, batch, tanh="tangent").edit[:, 0]).min() > 0


def fitted(model, kind, targets):
    reference = encoded(tiny_rows(((3, 5), (2, 4), (5, 2)), seed=11))
    if kind == "zero":
        return ()
    return ({"mean": ReplacementMeans, "resample": ReplacementSamples}[kind].fit(model, reference, targets),)


@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
@pytest.mark.parametrize("targets", ["attn.1", "1.2", "mlp.1", "CLS->ALL@2.0", "attn.0+mlp.2+1.1", "attn.2"])
def test_what_is_replaced_adds_what_it_was_replaced_by(model, batch, targets, kind):
    """Every component against its own vector of the replaced run, carried forward through the LayerNorms."""
    values = fitted(model, kind, targets)
    whole = {int(target[5:]) for target in targets.split("+") if target.startswith("attn.")}
    with torch.no_grad(), replacing(model, targets, *values):
        split = direct_attribution(model, batch)
        scores, cache = model.run_with_cache(batch)
    assert np.abs(split.scores - scores.numpy()).max() < 1e-10
    assert np.abs(split.remainder).max() < 1e-10
    for pair in range(len(batch)):
        own = {name: cache[name][pair, 0] if not name.startswith("pooler.") else cache[name][pair] for name in cache}
        for layer in range(N_LAYERS):
            at = f"blocks.{layer}."
            writes = [own[f"{at}attn.hook_z"][head] @ model.W_O[layer, head] for head in range(N_HEADS)]
            for head, write in enumerate(writes):
                expected = 0.0 if layer in whole else replay(own, model, write, layer, "attention")
                assert split.head[pair, layer, head] == pytest.approx(expected, abs=1e-12)
            expected = 0.0 if layer in whole else replay(own, model, model.b_O[layer], layer, "attention")
            assert split.attn_bias[pair, layer] == pytest.approx(expected, abs=1e-12)
            expected = replay(own, model, own[f"{at}hook_attn_out"], layer, "attention") if layer in whole else 0.0
            assert split.edit[pair, layer + 1] == pytest.approx(expected, abs=1e-12)
            assert split.mlp[pair, layer] == pytest.approx(
                replay(own, model, own[f"{at}hook_mlp_out"], layer, "mlp"), abs=1e-12
            )
    if kind == "zero":
        assert not split.edit.any()


def test_a_vector_added_to_the_stream_is_worth_what_it_brings(model, batch):
    """Steering: the direction's own part, where every other component is as the steered run wrote it."""
    steer = torch.randn(model.cfg.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def add(activation, hook):
        activation += steer
        return activation

    for layer, kind, point in ((1, "attention", "hook_resid_pre"), (0, "mlp", "hook_resid_post")):
        with torch.no_grad(), model.hooks(fwd_hooks=[(f"blocks.{layer}.{point}", add)]):
            split = direct_attribution(model, batch)
            _, cache = model.run_with_cache(batch)
        for pair in range(len(batch)):
            own = {
                name: cache[name][pair, 0] if not name.startswith("pooler.") else cache[name][pair] for name in cache
            }
            expected = replay(own, model, steer, layer, kind)
            assert split.edit[pair, layer + 1] == pytest.approx(expected, abs=1e-12)
            assert np.delete(split.edit[pair], layer + 1) == pytest.approx(0, abs=0)


def test_explain_inside_of_a_replacement():
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu", dtype="float64")
    query, passage = "tune a guitar", "a guitar garden"
    with replacing(model, "attn.3"):
        found = model.explain(query, passage)
        score = float(model.score(query, passage)[0])
    table = found.contributions
    assert found.score == pytest.approx(score, abs=1e-10)
    assert table["contribution"].sum() == pytest.approx(score, abs=1e-10)
    heads = table[(table["component"] == "head") & (table["layer"] == 3)]["contribution"]
    assert len(heads) == 4
    assert (heads == 0).all()
    assert float(table[table["component"] == "remainder"]["contribution"].abs().max()) < 1e-10
    plain = model.explain(query, passage).contributions
    assert abs(float(plain[(plain["component"] == "head") & (plain["layer"] == 3)]["contribution"].sum())) > 1
    with model.hooks(fwd_hooks=[("blocks.3.hook_attn_out", returning)]):
        edited = model.explain(query, passage)
    assert set(edited.contributions["component"]) == {*COMPONENTS, "edit"}
    assert "edit by hooks 3" in str(edited)
