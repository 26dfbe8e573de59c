"""The hooked encoder: parity, weight views, hooks, the CLS-only last layer, gradients, and input that does not fit."""

import copy
import re

import numpy as np
import pytest
import torch
from tiny_models import (
    D_HEAD,
    D_MODEL,
    N_CTX,
    N_HEADS,
    N_LAYERS,
    explicit,
    no_op,
    port,
    run_hf,
    run_oracle,
    tiny_hf,
    tiny_rows,
    to_batch,
)
from transformer_lens import ActivationCache
from transformer_lens.model_protocol import TransformerLensModel

from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.inputs.parts import PartMasks
from tl_crossenc.model.hook_points import is_hooked

LAST = f"blocks.{N_LAYERS - 1}"


def raw(batch):
    return {"token_type_ids": batch.token_type_ids, "attention_mask": batch.attention_mask}


def unhooked(model):
    return not any(is_hooked(point) for point in model.hook_dict.values())


@pytest.fixture
def full_model(model):
    """The model with every optional hook point switched on."""
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    return model


# Parity.


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_parity_with_hugging_face_on_a_padded_batch(any_hf, batch, dtype, tolerance):
    hf = any_hf.to(dtype)
    model = port(hf, dtype)
    expected = run_hf(hf, batch)
    close = {"rtol": 0, "atol": tolerance}
    with torch.no_grad():
        logits, cache = model.run_with_cache(batch, return_type="logits")
        torch.testing.assert_close(logits, expected.logits, **close)
        torch.testing.assert_close(model(batch, return_type="logits"), expected.logits, **close)
        torch.testing.assert_close(model(batch.tokens, **raw(batch)), expected.logits, **close)
    real = batch.attention_mask
    torch.testing.assert_close(cache["hook_full_embed"][real], expected.hidden_states[0][real], **close)
    for layer in range(N_LAYERS):
        ours = cache["normalized_resid_post", layer]
        torch.testing.assert_close(ours[real], expected.hidden_states[layer + 1][real], **close)
        rows = real[:, None, :, None]
        torch.testing.assert_close(cache["pattern", layer] * rows, expected.attentions[layer] * rows, **close)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_parity_with_the_unpadded_reference(rows, batch, activation):
    hf = tiny_hf(n_labels=1, seed=5, hidden_act=activation, layer_norm_eps=1e-3)
    model = port(hf)
    scores, cache = model.run_with_cache(batch)
    for pair, trace in enumerate(run_oracle(hf, rows)):
        n = len(rows[pair][0])
        np.testing.assert_allclose(scores[pair].item(), trace.score, rtol=0, atol=1e-10)
        for layer in range(N_LAYERS):
            np.testing.assert_allclose(cache["pattern", layer][pair, :, :n, :n], trace.patterns[layer], atol=1e-12)
            np.testing.assert_allclose(cache["z", layer][pair, :n], trace.z[layer], atol=1e-11)
            ours = cache["normalized_resid_post", layer][pair, :n]
            np.testing.assert_allclose(ours, trace.hidden[layer + 1], atol=1e-10)


def test_the_score_is_one_logit_or_relevant_minus_not(any_hf, batch):
    model = port(any_hf)
    logits = model(batch, return_type="logits").detach().numpy()
    expected = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
    np.testing.assert_array_equal(model(batch).detach().numpy(), expected)
    assert expected.shape == (len(batch),)


def test_what_lies_in_the_padding_is_never_read(model, batch):
    before = model(batch)
    tokens, types = batch.tokens.clone(), batch.token_type_ids.clone()
    tokens[~batch.attention_mask], types[~batch.attention_mask] = 31, 0
    changed = PairBatch(tokens, types, batch.attention_mask, batch.parts)
    assert not torch.equal(tokens, batch.tokens)
    assert torch.equal(model(changed), before)
    with model.hooks(fwd_hooks=explicit()):
        torch.testing.assert_close(model(changed), before, rtol=0, atol=1e-12)


# Weights.


def head_rows(head):
    return slice(head * D_HEAD, (head + 1) * D_HEAD)


def hf_layer(hf, layer):
    return hf.bert.encoder.layer[layer]


def projection(hf, layer, kind):
    return getattr(hf_layer(hf, layer).attention.self, kind)


# name of the view -> (index of what is edited in it, the same entries in Hugging Face's tensor)
VIEW_EDITS = {
    "W_Q": ((1, 2), lambda hf: projection(hf, 1, "query").weight[head_rows(2)].T),
    "W_K": ((0, 1), lambda hf: projection(hf, 0, "key").weight[head_rows(1)].T),
    "W_V": ((2, 0), lambda hf: projection(hf, 2, "value").weight[head_rows(0)].T),
    "W_O": ((1, 1), lambda hf: hf_layer(hf, 1).attention.output.dense.weight[:, head_rows(1)].T),
    "b_Q": ((1, 2), lambda hf: projection(hf, 1, "query").bias[head_rows(2)]),
    "b_K": ((0, 1), lambda hf: projection(hf, 0, "key").bias[head_rows(1)]),
    "b_V": ((2, 0), lambda hf: projection(hf, 2, "value").bias[head_rows(0)]),
    "b_O": ((1,), lambda hf: hf_layer(hf, 1).attention.output.dense.bias),
    "W_in": ((1,), lambda hf: hf_layer(hf, 1).intermediate.dense.weight.T),
    "W_out": ((0,), lambda hf: hf_layer(hf, 0).output.dense.weight.T),
    "b_in": ((2,), lambda hf: hf_layer(hf, 2).intermediate.dense.bias),
    "b_out": ((1,), lambda hf: hf_layer(hf, 1).output.dense.bias),
    "W_E": ((3,), lambda hf: hf.bert.embeddings.word_embeddings.weight[3]),
    "W_pos": ((4,), lambda hf: hf.bert.embeddings.position_embeddings.weight[4]),
    "pooler.W": ((slice(None),), lambda hf: hf.bert.pooler.dense.weight.T),
    "classifier.W": ((slice(None),), lambda hf: hf.classifier.weight.T),
    "blocks.1.attn.W_Q": ((2,), lambda hf: projection(hf, 1, "query").weight[head_rows(2)].T),
    "blocks.0.attn.W_K": ((1,), lambda hf: projection(hf, 0, "key").weight[head_rows(1)].T),
    "blocks.2.attn.W_V": ((0,), lambda hf: projection(hf, 2, "value").weight[head_rows(0)].T),
    "blocks.1.attn.W_O": ((1,), lambda hf: hf_layer(hf, 1).attention.output.dense.weight[:, head_rows(1)].T),
    "blocks.1.attn.b_Q": ((2,), lambda hf: projection(hf, 1, "query").bias[head_rows(2)]),
    "blocks.0.attn.b_K": ((1,), lambda hf: projection(hf, 0, "key").bias[head_rows(1)]),
    "blocks.2.attn.b_V": ((0,), lambda hf: projection(hf, 2, "value").bias[head_rows(0)]),
    "blocks.1.attn.b_O": ((slice(None),), lambda hf: hf_layer(hf, 1).attention.output.dense.bias),
    "blocks.1.mlp.W_in": ((slice(None),), lambda hf: hf_layer(hf, 1).intermediate.dense.weight.T),
    "blocks.0.mlp.W_out": ((slice(None),), lambda hf: hf_layer(hf, 0).output.dense.weight.T),
    "blocks.2.mlp.b_in": ((slice(None),), lambda hf: hf_layer(hf, 2).intermediate.dense.bias),
    "blocks.1.mlp.b_out": ((slice(None),), lambda hf: hf_layer(hf, 1).output.dense.bias),
}


def view(model, path):
    *modules, leaf = path.split(".")
    for name in modules:
        model = model[int(name)] if name.isdigit() else getattr(model, name)
    return getattr(model, leaf)


def edited_scores_match(model, hf, batch, name, before):
    """Edit the view and Hugging Face's weight alike: the outputs must move, together."""
    index, theirs = VIEW_EDITS[name]
    noise = torch.randn(view(model, name)[index].shape, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        view(model, name)[index] += noise
        target = theirs(hf)
        target += noise
        logits = model(batch, return_type="logits")
        expected = run_hf(hf, batch).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
    if not name.endswith("b_K"):  # which cancels in every softmax; it has a test of its own
        assert (logits - before).abs().max() > 1e-4, name


@pytest.mark.parametrize("change", ["as ported", "deep copy", "to float64"])
def test_an_edit_of_a_view_is_an_edit_of_the_model(batch, change):
    original = tiny_hf(seed=4)
    tokens = batch.tokens.clone()
    tokens[0, 4] = 3  # the embedding that is edited must be read
    batch = PairBatch(tokens, batch.token_type_ids, batch.attention_mask, batch.parts)
    for name in VIEW_EDITS:
        hf = copy.deepcopy(original).double()
        model = port(hf, torch.float32 if change == "to float64" else torch.float64)
        untouched = model
        if change == "deep copy":
            model = copy.deepcopy(model)
        elif change == "to float64":
            model = model.to(torch.float64)
            assert model.dtype == model.cfg.dtype == torch.float64
        with torch.no_grad():
            before = model(batch, return_type="logits")
            torch.testing.assert_close(before, run_hf(hf, batch).logits, rtol=0, atol=1e-9)
            edited_scores_match(model, hf, batch, name, before)
            if change == "deep copy":
                assert torch.equal(untouched(batch, return_type="logits"), before), name


def test_an_edit_of_the_key_bias_moves_the_keys(model, batch):
    before = model.run_with_cache(batch)[1]["k", 1]
    shift = torch.arange(1.0, D_HEAD + 1, dtype=torch.float64)
    model.b_K[1, 2] += shift
    moved = model.run_with_cache(batch)[1]["k", 1] - before
    torch.testing.assert_close(moved[:, :, 2], shift.expand(*batch.tokens.shape, D_HEAD), rtol=0, atol=1e-12)
    assert not moved[:, :, :2].any()


def test_weight_shapes(model):
    expected = {
        "W_Q": (3, 3, 21, 7), "W_K": (3, 3, 21, 7), "W_V": (3, 3, 21, 7), "W_O": (3, 3, 7, 21),
        "b_Q": (3, 3, 7), "b_K": (3, 3, 7), "b_V": (3, 3, 7), "b_O": (3, 21),
        "W_in": (3, 21, 53), "W_out": (3, 53, 21), "b_in": (3, 53), "b_out": (3, 21),
        "W_E": (97, 21), "W_pos": (31, 21),
    }  # fmt: skip
    for name, shape in expected.items():
        assert tuple(view(model, name).shape) == shape, name


def test_circuits_equal_explicit_sums(hf, model):
    hf = hf.double().requires_grad_(False)
    for layer, head in ((0, 0), (1, 2), (2, 1)):
        own = head_rows(head)
        w_q, w_k, w_v = (projection(hf, layer, kind).weight[own] for kind in ("query", "key", "value"))
        w_o = hf_layer(hf, layer).attention.output.dense.weight[:, own]
        qk, ov = np.zeros((D_MODEL, D_MODEL)), np.zeros((D_MODEL, D_MODEL))
        for inner in range(D_HEAD):
            for i in range(D_MODEL):
                for j in range(D_MODEL):
                    qk[i, j] += float(w_q[inner, i]) * float(w_k[inner, j])
                    ov[i, j] += float(w_v[inner, i]) * float(w_o[j, inner])
        np.testing.assert_allclose(model.QK[layer, head].AB, qk, atol=1e-12)
        np.testing.assert_allclose(model.OV[layer, head].AB, ov, atol=1e-12)
        singular = model.QK[layer, head].svd()[1]
        np.testing.assert_allclose(singular, np.linalg.svd(qk)[1][:D_HEAD], atol=1e-10)


def test_the_score_of_two_positions_is_their_product_with_the_qk_circuit(model, batch):
    """attender^T QK attended / sqrt(d_head) is the attention score where the biases are 0."""
    model.b_Q.zero_()
    model.b_K.zero_()
    _, cache = model.run_with_cache(batch)
    layer, head, pair, attender, attended = 1, 2, 0, 3, 6
    x = cache["resid_pre", layer][pair]
    expected = x[attender] @ model.QK[layer, head].AB @ x[attended] / D_HEAD**0.5
    actual = cache["attn_scores", layer][pair, head, attender, attended]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_every_weight_is_held_once(hf, model):
    expected = sum(weight.numel() for weight in hf.parameters())
    assert sum(weight.numel() for weight in model.state_dict().values()) == expected
    assert sum(weight.numel() for weight in model.parameters()) == expected
    storages = {weight.untyped_storage().data_ptr() for weight in model.state_dict().values()}
    assert len(storages) == len(model.state_dict())
    for name in VIEW_EDITS:
        assert view(model, name).untyped_storage().data_ptr() in storages, name


def test_state_dict_round_trip(hf, model, batch):
    other = port(tiny_hf(seed=9))
    assert not torch.equal(other(batch), model(batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch), model(batch))


# The last layer computes only CLS while nobody looks.


def last_layer_rows(model, run):
    """How many rows the last layer computed in `run`, seen by a plain PyTorch hook."""
    seen = []
    handle = model.blocks[-1].register_forward_hook(lambda module, given, output: seen.append(output.shape[1]))
    try:
        result = run()
    finally:
        handle.remove()
    return result, seen[-1]


def test_the_cls_only_last_layer_gives_the_same_logits(model, batch):
    width = batch.tokens.shape[1]
    logits, n_rows = last_layer_rows(model, lambda: model(batch, return_type="logits"))
    assert n_rows == 1
    resid, n_rows = last_layer_rows(model, lambda: model(batch, return_type="resid"))
    assert n_rows == width
    torch.testing.assert_close(logits, model.run_head(resid), rtol=0, atol=1e-12)


def test_a_hook_on_any_point_of_the_last_layer_sees_every_position(full_model, batch):
    model, width = full_model, batch.tokens.shape[1]
    plain = model(batch)
    shapes = {}
    for name in model.hook_dict:
        if not name.startswith(LAST):
            continue

        def keep(activation, hook):
            shapes[hook.name] = tuple(activation.shape)

        scores = model.run_with_hooks(batch, fwd_hooks=[(name, keep)])
        torch.testing.assert_close(scores, plain, rtol=0, atol=1e-12)
        pos_axis = 2 if name.endswith(("pattern", "attn_scores")) else 1
        assert shapes[name][pos_axis] == width, name
    assert len(shapes) == 22
    for name in ("pooler.hook_pre", "blocks.1.attn.hook_pattern"):
        assert last_layer_rows(model, lambda: model.run_with_hooks(batch, fwd_hooks=[(name, no_op)]))[1] == 1  # noqa: B023


def test_a_backward_hook_on_the_last_layer_sees_every_position(model, batch):
    shapes = []
    with model.hooks(bwd_hooks=[(f"{LAST}.hook_resid_post", lambda grad, hook: shapes.append(tuple(grad.shape)))]):
        model(batch).sum().backward()
    assert shapes == [(len(batch), batch.tokens.shape[1], D_MODEL)]


@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_the_cls_only_last_layer_under_ablation(hf, model, rows, batch, mode):
    for name, attenders in (("CLS->DOC", (0,)), ("ALL->DOC", (0, 1, 2, 3, 4)), ("DOC->ALL", (3,))):
        attended = (3,) if name.endswith("DOC") else (0, 1, 2, 3, 4)
        expected = [t.score for t in run_oracle(hf, rows, [(mode, attenders, attended, [2], [0, 2])])]
        with model.ablating(name, layers=[2], heads=[0, 2], mode=mode):
            scores, n_rows = last_layer_rows(model, lambda: model(batch))
            whole = model.run_head(model(batch, return_type="resid"))
        assert n_rows == 1
        np.testing.assert_allclose(scores.detach(), expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(whole[:, 1] - whole[:, 0], scores, rtol=0, atol=1e-12)


# Hooks.


def test_every_hook_point_edits_the_output_and_leaves_no_trace(full_model, batch):
    model = full_model
    plain = model(batch, return_type="logits")
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}

    def stretched(activation):  # unevenly, since a LayerNorm undoes an even stretch and a softmax an even shift
        return activation * torch.linspace(0.5, 1.5, activation.shape[-1], dtype=activation.dtype) + 0.1

    def replace(activation, hook):
        return stretched(activation)

    def in_place(activation, hook):
        activation[:, 0] = stretched(activation[:, 0])

    assert len(model.hook_dict) == 5 + 1 + N_LAYERS * 22 + 2 + 1
    for name in model.hook_dict:
        for hook in (replace, in_place):
            for enabled in (True, False):
                with torch.set_grad_enabled(enabled):
                    edited = model.run_with_hooks(batch, fwd_hooks=[(name, hook)], return_type="logits")
                assert (edited - plain).abs().max() > 1e-6, (name, hook.__name__)
    assert unhooked(model)
    assert torch.equal(model(batch, return_type="logits"), plain)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_in_place_edits_in_a_batch_of_one_do_not_reach_the_weights(full_model):
    batch = to_batch(tiny_rows(sizes=[(3, 5)]))
    plain = full_model(batch)
    for name in full_model.hook_dict:
        with torch.no_grad():
            full_model.run_with_hooks(batch, fwd_hooks=[(name, lambda activation, hook: activation.zero_())])
        assert torch.equal(full_model(batch), plain), name


def test_an_edit_of_one_heads_input_stays_in_that_head(full_model, batch):
    _, before = full_model.run_with_cache(batch)
    for kind in "qkv":

        def edit(inputs, hook):
            inputs[:, :, 1] = 0

        hooks = [(f"blocks.1.hook_{kind}_input", edit)]
        with full_model.hooks(fwd_hooks=hooks):
            _, after = full_model.run_with_cache(batch)
        for other in "qkv":
            for head in range(N_HEADS):
                same = torch.equal(before[other, 1][:, :, head], after[other, 1][:, :, head])
                assert same == ((other, head) != (kind, 1)), (kind, other, head)
        assert torch.equal(before["resid_pre", 1], after["resid_pre", 1])


def test_optional_hook_points_do_not_change_the_numbers(model, batch):
    plain, before = model.run_with_cache(batch)
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    torch.testing.assert_close(model(batch), plain, rtol=0, atol=1e-12)
    scores, cache = model.run_with_cache(batch)
    torch.testing.assert_close(scores, plain, rtol=0, atol=1e-12)
    for name in before:
        torch.testing.assert_close(cache[name], before[name], rtol=0, atol=1e-11)
    for layer in range(N_LAYERS):
        result = cache["result", layer]
        assert result.shape == (*batch.tokens.shape, N_HEADS, D_MODEL)
        for head in range(N_HEADS):
            expected = cache["z", layer][:, :, head] @ model.W_O[layer, head]
            torch.testing.assert_close(result[:, :, head], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(result.sum(2) + model.b_O[layer], cache["attn_out", layer], rtol=0, atol=1e-12)
    model.set_use_attn_result(False)
    model.set_use_split_qkv_input(False)
    assert model.run_with_cache(batch)[1].keys() == before.keys()
    assert torch.equal(model(batch), model(batch))


def test_weight_gradients_do_not_depend_on_optional_hook_points(hf, batch):
    gradients = []
    for optional in (False, True):
        model = port(hf)
        model.set_use_attn_result(optional)
        model.set_use_split_qkv_input(optional)
        model(batch).sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-10, atol=1e-10)


NOT_A_HOOK = "expected the name of a hook point, got"


def test_names_that_match_nothing_are_errors(model, batch):
    wrong = "blocks.7.attn.hook_pattern"
    with pytest.raises(ValueError, match=NOT_A_HOOK):
        model.run_with_hooks(batch, fwd_hooks=[("blocks.0.hook_resid_pre", no_op), (wrong, no_op)])
    assert unhooked(model)
    with pytest.raises(ValueError, match=r"did you mean blocks\.0\.attn\.hook_pattern"):
        model.run_with_hooks(batch, fwd_hooks=[("blocks.0.attn.hook_patern", no_op)])
    with pytest.raises(ValueError, match="matches at least one"):
        model.run_with_hooks(batch, fwd_hooks=[(lambda name: False, no_op)])
    with pytest.raises(ValueError, match=NOT_A_HOOK), model.hooks(bwd_hooks=[(wrong, no_op)]):
        pass
    with pytest.raises(ValueError, match=NOT_A_HOOK):
        model.add_hook(wrong, no_op)
    with pytest.raises(ValueError, match="matches at least one"):
        model.add_hook(lambda name: False, no_op)
    for names in (wrong, ["hook_full_embed", wrong]):
        with pytest.raises(ValueError, match=NOT_A_HOOK):
            model.run_with_cache(batch, names_filter=names)
    for names in ([], lambda name: False):
        with pytest.raises(ValueError, match="matches at least one"):
            model.run_with_cache(batch, names_filter=names)
    for name, switch in (("attn.hook_result", "set_use_attn_result"), ("hook_q_input", "set_use_split_qkv_input")):
        with pytest.raises(ValueError, match=switch):
            model.run_with_hooks(batch, fwd_hooks=[(f"blocks.0.{name}", no_op)])
    assert unhooked(model)


def test_hooks_are_removed_after_an_error(model, batch):
    def fail(activation, hook):
        raise RuntimeError("a user's mistake")

    with pytest.raises(RuntimeError, match="mistake"):
        model.run_with_hooks(batch, fwd_hooks=[("blocks.1.attn.hook_z", fail)])
    assert unhooked(model)


def test_run_with_cache(model, batch):
    scores, cache = model.run_with_cache(batch)
    assert isinstance(cache, ActivationCache)
    assert cache["pattern", 1] is cache["blocks.1.attn.hook_pattern"]
    assert tuple(cache["pattern", 1].shape) == (len(batch), N_HEADS, *batch.tokens.shape[1:] * 2)
    assert set(cache.keys()) == set(model.hook_dict)
    assert unhooked(model)
    torch.testing.assert_close(scores, model(batch), rtol=0, atol=1e-12)
    _, plain = model.run_with_cache(batch, return_cache_object=False)
    assert type(plain) is dict
    for names in (lambda name: name.endswith("hook_z"), [f"blocks.{layer}.attn.hook_z" for layer in range(N_LAYERS)]):
        _, some = model.run_with_cache(batch, names_filter=names)
        assert len(some) == N_LAYERS
        assert torch.equal(some["z", 2], cache["z", 2]) or torch.allclose(some["z", 2], cache["z", 2], atol=1e-12)
    one = to_batch(tiny_rows(sizes=[(3, 5)]))
    _, flat = model.run_with_cache(one, remove_batch_dim=True)
    assert tuple(flat["pattern", 0].shape) == (N_HEADS, 11, 11)


def test_it_is_a_model_in_transformer_lens_sense(model):
    assert isinstance(model, TransformerLensModel)


# Some of the layers.


def test_layer_ranges_compose_to_the_whole(model, batch):
    whole, scores = model(batch, return_type="resid"), model(batch)
    for split in range(N_LAYERS + 1):
        first = model(batch, stop_at_layer=split)
        assert first.shape == whole.shape
        second = model(first, attention_mask=batch.attention_mask, start_at_layer=split, return_type="resid")
        assert torch.equal(second, whole)
        logits = model(first, attention_mask=batch.attention_mask, start_at_layer=split)
        torch.testing.assert_close(logits[:, 1] - logits[:, 0], scores, rtol=0, atol=1e-12)
    _, cache = model.run_with_cache(batch)
    torch.testing.assert_close(model(batch, stop_at_layer=1), cache["resid_pre", 1], rtol=0, atol=1e-12)
    assert torch.equal(model(batch, stop_at_layer=-1), model(batch, stop_at_layer=N_LAYERS - 1))
    middle = model(
        model(batch, stop_at_layer=1), attention_mask=batch.attention_mask, start_at_layer=-2, stop_at_layer=2
    )
    assert torch.equal(middle, model(batch, stop_at_layer=2))


def test_layer_ranges_keep_their_ablations(model, batch):
    with model.ablating("DOC->QUERY", layers=[0, 2], heads=[1]):
        whole = model(batch, return_type="resid")
        first = model(batch, stop_at_layer=1)
        second = model(
            first,
            attention_mask=batch.attention_mask,
            parts=batch.parts,
            start_at_layer=1,
            stop_at_layer=N_LAYERS,
        )
    assert torch.equal(second, whole)


# Gradients.

GRADIENT_POINTS = (
    "hook_full_embed",
    "embed.hook_pos_embed",
    "blocks.1.hook_resid_pre",
    "blocks.1.attn.hook_q",
    "blocks.0.attn.hook_k",
    "blocks.2.attn.hook_v",
    "blocks.1.attn.hook_z",
    "blocks.2.attn.hook_z",
    "blocks.1.attn.hook_attn_scores",
    "blocks.0.attn.hook_pattern",
    "blocks.1.ln1.hook_scale",
    "blocks.2.hook_mlp_out",
    "pooler.hook_pre",
)


@pytest.mark.parametrize(
    "ablated", [(), ("zero(DOC->QUERY; heads=0,2)", "mask(CLS->ALL; layers=1)", "mask(ALL->SEP1)")]
)
def test_gradients_equal_finite_differences_on_both_paths(model, batch, ablated):
    model.requires_grad_(False)
    _, cache = model.run_with_cache(batch)
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(len(batch), generator=generator, dtype=torch.float64)

    def loss(name, delta, forced):
        def add(activation, hook):
            return activation + delta

        hooks = [(name, add)] + (explicit() if forced else [])
        if not ablated:
            return (model.run_with_hooks(batch, fwd_hooks=hooks) * weights).sum()
        with model.ablating(*ablated):
            return (model.run_with_hooks(batch, fwd_hooks=hooks) * weights).sum()

    for name in GRADIENT_POINTS:
        shape = cache[name].shape
        gradients = []
        for forced in (False, True):
            delta = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
            gradients.append(torch.autograd.grad(loss(name, delta, forced), delta)[0])
        torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-11)
        assert gradients[0].isfinite().all()
        direction = torch.randn(shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        numeric = (loss(name, step * direction, False) - loss(name, -step * direction, False)) / (2 * step)
        analytic = (gradients[0] * direction).sum()
        assert abs(analytic) > 1e-6, name
        torch.testing.assert_close(
            analytic, numeric, rtol=1e-6, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_gradients_after_in_place_edits(model, batch):
    """A hook that writes into z: what it wrote blocks the gradient, and nothing that the kernel kept is lost."""

    def silence(z, hook):
        z[:, :, 1] = 0

    name = "blocks.1.attn.hook_z"
    gradients = []
    for forced in (False, True):
        model.zero_grad()
        with model.hooks(fwd_hooks=[(name, silence), *(explicit() if forced else [])]):
            model(batch).sum().backward()
        gradients.append(model.stack.qkv_weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-11)
    value_rows_of_head_1 = gradients[0][1, 2, head_rows(1)]
    assert not value_rows_of_head_1.any()
    assert gradients[0][1, 2, head_rows(0)].any()


# Input that does not fit.


def test_missing_types_or_mask(model, batch):
    for missing in ("token_type_ids", "attention_mask"):
        beside = {key: value for key, value in raw(batch).items() if key != missing}
        with pytest.raises(ValueError, match="expected token_type_ids and attention_mask"):
            model(batch.tokens, **beside)
    with pytest.raises(ValueError, match="expected token_type_ids and attention_mask"):
        model(torch.zeros(2, 5, D_MODEL, dtype=torch.float64), start_at_layer=1)


def test_shapes_that_do_not_fit(model, batch):
    beside = raw(batch)
    n, width = batch.tokens.shape
    with pytest.raises(ValueError, match=re.escape(f"attention mask of the input's shape ({n}, {width})")):
        model(batch.tokens, **{**beside, "attention_mask": batch.attention_mask[:, 1:]})
    with pytest.raises(ValueError, match=re.escape(f"token_type_ids of the input's shape ({n}, {width})")):
        model(batch.tokens, **{**beside, "token_type_ids": batch.token_type_ids[:1]})
    with pytest.raises(ValueError, match=re.escape(f"parts of the input's shape ({n}, {width})")):
        model(batch.tokens, **beside, parts=PartMasks(batch.parts.codes[:1]))
    with pytest.raises(ValueError, match="token ids"):
        model(batch.tokens[0], token_type_ids=batch.token_type_ids[0], attention_mask=batch.attention_mask[0])
    with pytest.raises(ValueError, match="token ids"):
        model(batch.tokens.double(), **beside)
    with pytest.raises(ValueError, match="residual stream"):
        model(batch.tokens, **beside, start_at_layer=1)
    with pytest.raises(ValueError, match="residual stream"):
        model(torch.zeros(n, width, 19).double(), attention_mask=batch.attention_mask, start_at_layer=1)


def test_ids_that_the_model_has_no_embedding_for(model, batch):
    beside = raw(batch)
    for wrong in (97, -1):
        tokens = batch.tokens.clone()
        tokens[1, 2] = wrong
        with pytest.raises(ValueError, match=rf"token ids 0\.\.96, got {wrong}"):
            model(tokens, **beside)
    with pytest.raises(ValueError, match=r"token_type_ids 0\.\.1, got 2"):
        model(batch.tokens, **{**beside, "token_type_ids": batch.token_type_ids + 1})


def test_input_longer_than_the_positions(model):
    shortest = to_batch(tiny_rows(sizes=[(5, N_CTX - 8)]))
    assert model(shortest).shape == (1,)
    too_long = to_batch(tiny_rows(sizes=[(5, N_CTX - 7)]))
    with pytest.raises(ValueError, match=f"at most {N_CTX} positions, got {N_CTX + 1}"):
        model(too_long)


def test_layers_and_return_types_that_do_not_exist(model, batch):
    for start, stop in ((4, None), (None, 4), (-4, None), (None, -4)):
        with pytest.raises(ValueError, match=r"in -3\.\.3"):
            model.encode(batch.tokens, **raw(batch), parts=None, start_at_layer=start, stop_at_layer=stop)
    with pytest.raises(ValueError, match="start_at_layer <= stop_at_layer"):
        model(batch, start_at_layer=2, stop_at_layer=1)
    with pytest.raises((ValueError, TypeError), match="return_type"):  # TypeError from the run-time type check of tests
        model(batch, return_type="loss")
    with pytest.raises(ValueError, match="'resid' with stop_at_layer"):
        model(batch, stop_at_layer=2, return_type="logits")


def test_texts_need_a_tokenizer(model):
    with pytest.raises(ValueError, match="model with a tokenizer"):
        model.score("a query", ["a passage"])
