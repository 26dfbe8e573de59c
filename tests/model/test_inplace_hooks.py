"""A hook that writes into its activation does what one that returns the same does, once, and to nothing but that activation."""

import numpy as np
import pytest
import torch
from tiny_models import N_LAYERS, encoded, port, tiny_hf, tiny_rows, to_batch
from type_checks import unchecked

from tl_crossenc.instruments.tl_tools import as_tl_model
from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.model.execution import run_conditions

SIZES = ((3, 5), (2, 8), (1, 1), (4, 0))
CONDITIONS = [
    UNABLATED,
    Condition.ablate("CLS->QUERY"),  # its first layer is run on top of the unedited one
    Condition.ablate("QUERY->DOC", layers=[1, 2]),
    Condition.ablate("DOC->QUERY", layers=[0, 1], mode="mask"),
]


def uneven(entries):
    """What is added to the first two entries of axis 1: not the same everywhere, since a LayerNorm would undo that."""
    return torch.linspace(0.5, 1.5, entries.shape[-1], dtype=entries.dtype)


def returning(activation, hook):
    changed = activation.clone()
    changed[:, :2] = changed[:, :2] + uneven(activation[:, :2])
    return changed


def in_place(activation, hook):
    activation[:, :2] += uneven(activation[:, :2])
    return activation


def in_place_and_silent(activation, hook):
    activation[:, :2] += uneven(activation[:, :2])


@pytest.fixture
def model(hf):
    model = port(hf)
    model.set_use_attn_result(True)
    return model


def everything(model, *batches):
    """Copies of all that no hook may change."""
    tensors = dict(model.state_dict())
    for i, batch in enumerate(batches):
        tensors |= {f"{i}.tokens": batch.tokens, f"{i}.types": batch.token_type_ids, f"{i}.mask": batch.attention_mask}
        tensors[f"{i}.parts"] = batch.parts.codes
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.usefixtures("unchecked")
def test_conditions_that_share_layers_equal_each_alone(model, rows, split):
    model.set_use_split_qkv_input(split)
    batch = encoded(rows).batch()  # the same padding, which an edited pattern reads
    before, moved = everything(model, batch), 0
    with torch.no_grad():
        plain = [alone(model, batch, condition) for condition in CONDITIONS]
        names = [name for name in model.hook_dict if not split or name.endswith("_input")]
        for name in names:
            with model.hooks(fwd_hooks=[(name, returning)]), unchecked():
                expected = [alone(model, batch, condition) for condition in CONDITIONS]
            moved += np.abs(np.subtract(expected, plain)).max() > 1e-6
            for hook in (in_place, in_place_and_silent):
                with model.hooks(fwd_hooks=[(name, hook)]):
                    found = run_conditions(model, encoded(rows), CONDITIONS).values
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12, err_msg=f"{name}, {hook.__name__}")
    assert moved == len(names)
    after = everything(model, batch)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def alone(model, batch, condition):
    with model.ablating(condition):
        return model(batch).numpy()


def test_texts_under_a_hook_score_the_same_alone_and_as_a_condition():
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder

    model = HookedCrossEncoder.from_pretrained("planted", device="cpu", dtype="float64")
    passages = ["a guitar garden", "old piano", "the guitar by the window", "tune"]
    conditions = [UNABLATED, Condition.ablate("DOC->QUERY", layers=[2]), Condition.ablate("CLS->QUERY", layers=[1, 2])]
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", in_place)]):
        found = run_conditions(model, model.encode_pairs("tune a guitar", passages), conditions).values
        for condition, scores in zip(conditions, found, strict=True):
            with model.ablating(condition):
                np.testing.assert_allclose(scores, model.score("tune a guitar", passages), rtol=0, atol=1e-12)


def test_steps_of_a_shared_layer_equal_each_alone(model, batch):
    """`run_branches` as such: the stream that it is given is the caller's, and what it yields is the next layer's own."""
    edits = [condition.compile(N_LAYERS, model.cfg.n_heads)[1] for condition in CONDITIONS]
    with torch.no_grad():
        given = model.attention_input(batch.attention_mask, batch.parts)
        resid = model.run_embed(batch.tokens, batch.token_type_ids)
        kept = resid.clone()
        for point in ("blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"):
            with model.hooks(fwd_hooks=[(point, returning)]):
                expected = [model.run_layer(2, model.run_layer(1, resid, given, e), given) for e in edits]
            with model.hooks(fwd_hooks=[(point, in_place)]):
                streams = list(model.run_branches(1, resid, given, edits, from_unedited=True))
                found = [model.run_layer(2, stream, given) for stream in streams]
                again = [model.run_layer(2, stream, given) for stream in streams]
            for one, two, other in zip(found, again, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
                assert torch.equal(one, two)
            assert torch.equal(resid, kept)


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_gradients_equal_those_of_a_hook_that_returns(model, batch, direction):
    model.set_use_split_qkv_input(True)

    def gradients(name, hook):
        model.zero_grad()
        with model.hooks(**{f"{direction}_hooks": [(name, hook)] if hook else []}):
            model(batch).sum().backward()
        return torch.cat([weight.grad.flatten() for _, weight in model.named_parameters() if weight.grad is not None])

    plain, moved = gradients(None, None), 0
    for i, name in enumerate(model.hook_dict):
        with unchecked():
            expected = gradients(name, returning)
        moved += not torch.equal(plain, expected)
        hook = (in_place, in_place_and_silent)[i % 2]
        torch.testing.assert_close(gradients(name, hook), expected, rtol=0, atol=1e-10, msg=name)
    assert moved > 50


def test_a_stream_that_is_given_stays_as_it_is(model, batch):
    resid = torch.randn(*batch.tokens.shape, model.cfg.d_model, dtype=torch.float64)
    given, beside = resid.clone(), {"attention_mask": batch.attention_mask, "start_at_layer": 0}
    plain = model(resid, **beside)
    edited = model.run_with_hooks(resid, **beside, fwd_hooks=[("blocks.0.hook_resid_pre", in_place)])
    assert torch.equal(resid, given)
    assert not torch.equal(edited, plain)
    same = model(resid, **beside, stop_at_layer=0)
    same += 1
    assert torch.equal(resid, given)


@pytest.mark.parametrize("name", ["hook_full_embed", "blocks.0.hook_normalized_resid_post", "classifier.hook_logits"])
def test_a_stored_activation_that_a_hook_returns_is_not_edited_by_the_next(model, batch, name):
    """Patching with a cache, and an edit in place behind it: at the same point, or where the same stream is seen next."""
    _, cache = model.run_with_cache(batch)
    stored = {key: value.clone() for key, value in cache.items()}
    following = {"hook_full_embed": "blocks.0.hook_resid_pre"}.get(name, "blocks.1.hook_resid_pre")
    for second in (name, following):
        results = []
        for hook in (returning, in_place):
            hooks = [(name, lambda activation, hook: cache[hook.name]), (second, hook)]
            results.append(model.run_with_hooks(batch, fwd_hooks=hooks))
        assert torch.equal(*results)
    for key, value in cache.items():
        assert torch.equal(value, stored[key]), key


def test_a_cache_holds_what_was_there_when_it_looked(model, batch):
    """An edit changes the cached activations behind it, and none before it: not the same stream's, not those of its own point."""
    _, plain = model.run_with_cache(batch)
    for hook in (returning, in_place):
        with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", hook)]):
            _, edited = model.run_with_cache(batch)
        assert torch.equal(edited["blocks.0.hook_normalized_resid_post"], plain["blocks.0.hook_normalized_resid_post"])
        expected = returning(plain["blocks.1.hook_resid_pre"], None)
        assert torch.equal(edited["blocks.1.hook_resid_pre"], expected)
        seen: list[torch.Tensor] = []
        looking = ("blocks.1.hook_mlp_out", lambda activation, hook, seen=seen: seen.append(activation))
        model.run_with_hooks(batch, fwd_hooks=[looking, ("blocks.1.hook_mlp_out", hook)])
        torch.testing.assert_close(seen[0], plain["blocks.1.hook_mlp_out"], rtol=0, atol=1e-12)


def test_what_a_run_returns_is_the_callers(model, batch):
    one_label = port(tiny_hf(1, seed=1))
    for subject, kind in ((model, "logits"), (one_label, "scores"), (model, "resid")):
        with torch.no_grad():
            returned, cache = subject.run_with_cache(batch, return_type=kind)
        kept = {name: value.clone() for name, value in cache.items()}
        returned += 1
        assert [name for name in kept if not torch.equal(kept[name], cache[name])] == []
    with torch.no_grad():
        returned, cache = model.run_with_cache(batch, stop_at_layer=0)
        kept = cache["hook_full_embed"].clone()
        returned += 1
    assert torch.equal(cache["hook_full_embed"], kept)


def test_cached_activations_share_nothing(model, batch):
    """An edit of one entry of a cache, or of all but one, leaves every other entry and the weights as they were."""
    model.set_use_split_qkv_input(True)
    before = everything(model, batch)
    with torch.no_grad():
        _, cache = model.run_with_cache(batch)
    kept = {name: value.clone() for name, value in cache.items()}
    for name in cache:
        cache[name].add_(1)
        assert [other for other in kept if other != name and not torch.equal(kept[other], cache[other])] == []
        cache[name].copy_(kept[name])
    after = everything(model, batch)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_a_view_for_other_tools_keeps_what_it_learnt(model):
    batch = to_batch(tiny_rows(SIZES[:2]))
    view, expected = as_tl_model(model, batch), model(batch).detach()
    tokens = batch.tokens.clone()
    batch.token_type_ids.zero_()
    batch.attention_mask.fill_(True)
    batch.parts.codes.zero_()
    assert torch.equal(view(tokens).detach(), expected)


def test_list_hooks_names_the_users_function(model):
    with model.hooks(fwd_hooks=[("hook_full_embed", in_place)]):
        handles = model.list_hooks()["hook_full_embed"]
        assert [handle.user_hook for handle in handles] == [in_place]
