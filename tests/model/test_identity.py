"""Stored results are of the model that runs: what is done to it between two runs of one store, and what is refused."""

import copy
import hashlib
import re
from dataclasses import fields
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import bert_tokenizer, random_weights, small_config
from small_worlds import CONTEXT, collection_folder, model_folder, snapshot, tiny_model
from transformer_lens.config.transformer_lens_config import TransformerLensConfig
from type_checks import unchecked

from tl_crossenc.experiments import attention, match_cells, qk_alignment, replacement_cells, scoring
from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.head_ablation import run_head_ablation
from tl_crossenc.experiments.layers import run_layer_sweep
from tl_crossenc.experiments.match_distributions import run_match_distributions
from tl_crossenc.experiments.qk_alignment import run_qk_alignment
from tl_crossenc.experiments.replacement import run_replacement
from tl_crossenc.experiments.scoring import score_pool
from tl_crossenc.experiments.table1 import run_table1
from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.interventions.targets import as_targets
from tl_crossenc.model import identity
from tl_crossenc.model.activations import BY_NAME
from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.identity import model_identity, weights_digest
from tl_crossenc.patching.replacement import replacing
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import PoolSpec, build_pool
from tl_crossenc.store.cells import Store

CONDITIONS = [UNABLATED, Condition.ablate("DOC->QUERY")]
HERE = re.escape(__name__)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = collection_folder(tmp_path_factory.mktemp("collection"), n_queries=3, per_grade=(2, 2, 1, 1))
    return build_pool(load_collection(folder), PoolSpec(None, 2, 0))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(untouched):
    return copy.deepcopy(untouched)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def plain(model, pool):
    """`[condition, pair]` without a store."""
    queries, texts = [pair.query for pair in pool.pairs], [pair.text for pair in pool.pairs]
    found = [model.score(queries, texts).numpy()]
    with model.ablating(CONDITIONS[1]):
        return np.stack([*found, model.score(queries, texts).numpy()])


def zero_a_view(model):
    model.W_Q[1, 2] = 0


def zero_in_place(model):
    model.W_O[0].zero_()


def edit_data(model):
    model.stack.mlp_in_weight.data[1, 3] += 0.5


def edit_through_numpy(model):
    model.embed.W_E.detach().numpy()[7:] *= 1.5


def set_data(model):
    model.classifier.weight.data = model.classifier.weight.data.roll(1, 1)


def swap_heads(model):  # the same numbers in other places: any sum of them stays
    model.W_V[0] = model.W_V[0][[1, 0, 2]].clone()


def load_another(model):
    state = {name: tensor + 0.01 * torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)


def replace_a_parameter(model):
    model.pooler.weight = torch.nn.Parameter(model.pooler.weight.detach().flip(0))


def step_of_training(model):
    loss = model(model.to_pairs("how do fleas rise", ["the egg"])).sum()
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.05).step()
    model.zero_grad()


EDITS = [
    zero_a_view,
    zero_in_place,
    edit_data,
    edit_through_numpy,
    set_data,
    swap_heads,
    load_another,
    replace_a_parameter,
    step_of_training,
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edited_model_is_scored_anew_and_an_edit_undone_finds_the_old_cells(model, pool, store, caplog, edit):
    before = score_pool(model, pool, CONDITIONS, store)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    edit(model)
    expected = plain(model, pool)
    assert np.abs(expected - before.values).max() > 1e-3  # the edit changes scores at all
    caplog.set_level("INFO")
    after = score_pool(model, pool, CONDITIONS, store)
    np.testing.assert_allclose(after.values, expected, rtol=0, atol=1e-11)
    assert after.layers_run == before.layers_run
    assert "scores: computing anew; what is stored is of other weights" in caplog.text
    model.load_state_dict(weights)
    caplog.clear()
    again = score_pool(model, pool, CONDITIONS, store)
    assert (again.layers_run, caplog.text) == (0, "")
    np.testing.assert_array_equal(again.values, before.values)


def test_two_models_made_by_hand_with_one_configuration_are_two(model, pool, store):
    made = []
    for seed in (1, 2):
        other = HookedCrossEncoder(copy.deepcopy(model.cfg), model.tokenizer).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in other.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * 0.3)
        made.append(other)
    for other in made:
        np.testing.assert_allclose(
            score_pool(other, pool, CONDITIONS, store).values, plain(other, pool), rtol=0, atol=1e-11
        )


def test_one_checkpoint_in_two_folders_is_one_model(pool, store, tmp_path):
    first, second = tiny_model(tmp_path / "a"), tiny_model(tmp_path / "b", layout="bin")
    assert first.cfg.revision != second.cfg.revision
    found = score_pool(first, pool, CONDITIONS, store)
    again = score_pool(second, pool, CONDITIONS, store)
    assert (found.layers_run > 0, again.layers_run) == (True, 0)


HEADS = [(0, 1), (1, 2)]
EXPERIMENTS = {
    "table1": lambda *given, **more: run_table1(*given, **more).comparison,
    "layers": lambda *given, **more: run_layer_sweep(*given, **more).per_query,
    "heads": lambda *given, **more: run_head_ablation(*given, HEADS, counts=[1, 2], **more).per_query,
    "attention": lambda *given, **more: run_attention(*given, **more).by_direction,
    "matches": lambda *given, **more: run_match_distributions(*given, n_permutations=5, **more).mass,
    "alignment": lambda *given, **more: run_qk_alignment(*given, **more).heads,
    "terms": lambda *given, **more: run_qk_alignment(*given, **more).decomposition,
    "replacement": lambda *given, **more: run_replacement(*given, ["0.1", "mlp.1"], **more).scores,
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_after_an_edit_is_that_of_a_fresh_store(model, pool, store, tmp_path, name):
    run = EXPERIMENTS[name]
    before = run(model, [pool], store)
    model.W_V[0, 1] *= -3
    model.W_Q.mul_(2)
    with unchecked():
        after, fresh = run(model, [pool], store), run(model, [pool], Store(tmp_path / "fresh"))
    pd.testing.assert_frame_equal(after, fresh, check_exact=True)
    assert not after.equals(before)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_inside_of_ablating_is_that_of_a_fresh_store_or_refused(model, pool, store, tmp_path, name):
    run = EXPERIMENTS[name]
    before = run(model, [pool], store)
    with model.ablating("DOC->ALL", layers=[0]):
        if name in ("attention", "matches"):
            with pytest.raises(ValueError, match="expected a model with nothing ablated, but zero"):
                run(model, [pool], store)
            return
        with unchecked():
            inside, fresh = run(model, [pool], store), run(model, [pool], Store(tmp_path / "fresh"))
        pd.testing.assert_frame_equal(inside, fresh, check_exact=True)
    assert not inside.equals(before)


# ---------- the digest


def test_the_digest_is_that_of_all_bytes_and_names_read_by_hand(model):
    parts = []
    for name, tensor in model.named_parameters():
        values = tensor.detach().numpy()
        about = f"{name} torch.float64 {values.shape}".encode()
        for part in values if values.ndim > 2 else [values]:
            parts.append(hashlib.blake2b(about + part.tobytes(), digest_size=16).digest())
    assert weights_digest(model) == hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_one_bit_of_any_tensor_is_another_digest(tmp_path, dtype):
    model = tiny_model(tmp_path / "model", dtype)
    whole = {"float32": torch.int32, "bfloat16": torch.int16, "float64": torch.int64}[dtype]
    seen = {weights_digest(model)}
    for _, tensor in model.named_parameters():
        bits = tensor.detach().view(whole).view(-1)
        bits[-1] ^= 1
        seen.add(weights_digest(model))
        bits[-1] ^= 1
    assert len(seen) == 1 + len(list(model.parameters()))
    assert weights_digest(model) in seen
    model.register_buffer("extra", torch.zeros(2))
    assert weights_digest(model) not in seen


def test_equal_bytes_of_another_type_or_shape_are_other_weights():
    def digest(tensor):
        module = torch.nn.Module()
        module.register_buffer("weight", tensor)
        return weights_digest(module)

    zeros = [torch.zeros(6), torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(3, dtype=torch.float64)]
    zeros += [torch.zeros(1, 2, 3), torch.zeros(1, 3, 2), torch.zeros(6, dtype=torch.int32)]
    assert len({digest(tensor) for tensor in zeros}) == len(zeros)
    transposed = torch.arange(6.0).view(2, 3).T  # in memory as its transpose, which it is not
    assert digest(transposed) == digest(transposed.contiguous())


# ---------- what is no tensor


def other_eps(model):
    model.blocks[1].ln2.eps = 0.1


def other_activation(model):
    model.blocks[0].mlp.activation = torch.nn.functional.relu


def other_head_activation(model):
    model.pooler.activation = BY_NAME["relu"]


def other_result(model):
    model.set_use_attn_result(True)


def other_inputs(model):
    model.set_use_split_qkv_input(True)


def left_truncation(model):
    model.encoder.tokenizer.truncation_side = "left"


def shorter(model):
    model.encoder.max_length = 9


def without_types(model):
    model.encoder.use_types = False


def special_tokens_in_texts(model):
    model.encoder.tokenizer.split_special_tokens = True


@pytest.mark.parametrize(
    "change",
    [
        *(other_eps, other_activation, other_head_activation, other_result, other_inputs),
        *(left_truncation, shorter, without_types, special_tokens_in_texts),
    ],
    ids=lambda change: change.__name__,
)
def test_what_is_no_tensor_and_changes_what_is_computed_is_another_model(pool, store, tmp_path, change):
    model = tiny_model(tmp_path / "model")
    score_pool(model, pool, CONDITIONS, store)
    change(model)
    after = score_pool(model, pool, CONDITIONS, store)
    assert after.layers_run > 0
    np.testing.assert_allclose(after.values, plain(model, pool), rtol=0, atol=1e-11)


def test_one_set_of_weights_split_into_other_heads_is_another_model(pool, store, tmp_path):
    for heads in (3, 5):
        config = small_config(max_position_embeddings=CONTEXT, num_attention_heads=heads)
        model = tiny_model(tmp_path / str(heads), config=config, state=random_weights(config))
        np.testing.assert_allclose(
            score_pool(model, pool, CONDITIONS, store).values, plain(model, pool), rtol=0, atol=1e-11
        )


def test_a_tokenizer_of_other_rules_is_another_model(untouched, tmp_path):
    folder = model_folder(tmp_path / "model")
    lowered = {"do_lower_case": False}, {"strip_accents": True}, {"model_max_length": 23}, {"cls_token": "[MASK]"}
    seen = {model_identity(untouched)["tokenizer"]}
    for settings in lowered:
        other = HookedCrossEncoder.from_pretrained(str(folder), dtype="float64", tokenizer=bert_tokenizer(**settings))
        seen.add(model_identity(other)["tokenizer"])
    assert len(seen) == 1 + len(lowered)


@pytest.mark.parametrize("package", ["torch", "tokenizers"])
def test_results_of_another_version_are_computed_anew_and_that_is_said(
    model, pool, store, monkeypatch, caplog, package
):
    caplog.set_level("INFO")
    first = score_pool(model, pool, CONDITIONS, store)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", "99.0" if package == "torch" else torch.__version__)
        patched.setattr(identity, "version", lambda name: "99.0" if name == package else version(name))
        assert score_pool(model, pool, CONDITIONS, store).layers_run == first.layers_run
        assert f"scores: computing anew; what is stored is of {package} {version(package)}, now 99.0" in caplog.text
    assert {key.fields[package] for key in store.keys("scores")} == {version(package), "99.0"}
    assert score_pool(model, pool, CONDITIONS, store).layers_run == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_results_of_another_token_budget_are_computed_anew(model, pool, store, name):
    for n_budgets, budget in ((1, 60), (2, 61)):  # rounding depends on what is run together
        EXPERIMENTS[name](model, [pool], store, token_budget=budget)
        keys = [key for kind in (store.root / "cells").iterdir() for key in store.keys(kind.name)]
        assert len({key.fields["token_budget"] for key in keys}) == n_budgets
        assert len(keys) == n_budgets * len({key for key in keys if key.fields["token_budget"] == 60})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_results_of_another_method_are_computed_anew(model, pool, store, monkeypatch, name):
    EXPERIMENTS[name](model, [pool], store)
    before = {path for path in snapshot(store.root) if "/cells/" in f"/{path}"}
    monkeypatch.setattr(identity, "FORWARD", identity.FORWARD + 1)
    EXPERIMENTS[name](model, [pool], store)
    forward = {path for path in snapshot(store.root) if "/cells/" in f"/{path}"}
    assert len(forward) == 2 * len(before)
    for module in (attention, match_cells, qk_alignment, replacement_cells, scoring):
        monkeypatch.setattr(module, "METHOD", module.METHOD + 1)
    EXPERIMENTS[name](model, [pool], store)
    assert len([path for path in snapshot(store.root) if "/cells/" in f"/{path}"]) == 3 * len(before)


def test_precision_of_products_is_part_of_the_key(model):
    before = model_identity(model)
    try:
        torch.set_float32_matmul_precision("medium")
        assert model_identity(model)["arithmetic"] != before["arithmetic"]
    finally:
        torch.set_float32_matmul_precision("highest")
    assert model_identity(model) == before


# ---------- what is refused


def refused(model, pool, store, match):
    for run in EXPERIMENTS.values():
        with pytest.raises(ValueError, match=match):
            run(model, [pool], store)
    assert [path for path in snapshot(store.root) if path.startswith("cells")] == []


@pytest.mark.parametrize("place", ["", "blocks.1", "blocks.0.mlp", "pooler", "blocks.1.hook_resid_pre"])
@pytest.mark.parametrize("before", [True, False], ids=["pre", "post"])
def test_hooks_of_torchs_own_are_refused(model, pool, store, place, before):
    module = model.get_submodule(place)
    add = module.register_forward_pre_hook if before else module.register_forward_hook
    handle = add(lambda module, *rest: None)
    refused(model, pool, store, f"without hooks, .* of torch's own on {place or 'the model'}: call remove")
    handle.remove()
    assert score_pool(model, pool, CONDITIONS, store).layers_run > 0


def test_hooks_on_every_module_are_refused(model, pool, store):
    for register in (
        torch.nn.modules.module.register_module_forward_hook,
        torch.nn.modules.module.register_module_forward_pre_hook,
    ):
        handle = register(lambda *_: None)
        try:
            refused(model, pool, store, "hooks of torch's own on every module")
        finally:
            handle.remove()


def test_a_backward_hook_changes_no_score_and_is_let_be(model, pool, store):
    score_pool(model, pool, CONDITIONS, store)
    model.blocks[0].register_full_backward_hook(lambda *_: None)
    found = score_pool(model, pool, CONDITIONS, store)
    assert found.layers_run == 0
    np.testing.assert_allclose(found.values, plain(model, pool), rtol=0, atol=1e-11)


def test_autocast_is_refused(model, pool, store):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        refused(model, pool, store, r"expected no autocast.*torch\.autocast\('cpu'\) is on: leave its block")
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert score_pool(model, pool, CONDITIONS, store).layers_run > 0


def test_a_replacement_at_work_is_refused(model, pool, store):
    with replacing(model, as_targets("0.1")):
        refused(model, pool, store, "expected a model without hooks")


def test_a_parametrization_is_refused(model, pool, store):
    class Doubled(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    torch.nn.utils.parametrize.register_parametrization(model.classifier, "weight", Doubled())
    refused(model, pool, store, "weights as they are, but classifier has a parametrization")
    torch.nn.utils.parametrize.remove_parametrizations(model.classifier, "weight", leave_parametrized=True)
    np.testing.assert_allclose(
        score_pool(model, pool, CONDITIONS, store).values, plain(model, pool), rtol=0, atol=1e-11
    )


class Squared(torch.nn.Module):
    def forward(self, x):
        return x * x


class Mine(HookedCrossEncoder):
    def run_head(self, resid):
        return super().run_head(resid) * 2


def patched_forward(model):
    model.pooler.forward = lambda resid: resid[:, 0]


def patched_method(model):
    model.run_head = lambda resid: resid[:, 0, :2]


def foreign_module(model):
    model.blocks[1].mlp = Squared()


def foreign_function(model):
    model.blocks[1].mlp.activation = lambda x: x * x


def foreign_class(model):
    model.__class__ = Mine


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (patched_forward, "the package's own forward in pooler, but it was replaced"),
        (patched_method, "the package's own run_head in the model, but it was replaced"),
        (foreign_module, rf"this package or torch at blocks\.1\.mlp, got {HERE}\.Squared"),
        (foreign_function, rf"this package or torch at blocks\.1\.mlp\.activation, got {HERE}\..*<lambda>"),
        (foreign_class, rf"this package or torch at the model, got {HERE}\.Mine"),
    ],
)
def test_code_that_no_key_can_name_is_refused(model, pool, store, change, match):
    change(model)
    refused(model, pool, store, match)


def test_every_setting_of_a_model_is_in_its_key_or_computes_nothing():
    settings = {field.name for field in fields(CrossEncoderConfig)} - {
        field.name for field in fields(TransformerLensConfig)
    }
    in_key = {*identity.CONFIG, *identity.FAMILY_CONFIG}
    assert settings - in_key == {"family", "model_name", "revision"}
    assert len(in_key) == len(identity.CONFIG) + len(identity.FAMILY_CONFIG)


def test_results_stored_before_there_were_other_families_are_found():
    """Digests of BERT models as version 0.1.0 gave them when BERT was the only family."""
    found = identity.model_identity(HookedCrossEncoder.from_pretrained("planted", device="cpu"))
    assert found["arithmetic"] == "5cbfe2f45e231a19eb33d77006961a3e51e45d56616d4ffb5c047d53382cec4f"
    assert found["weights"] == "a7370b80baf147b98a416497fbe5c803"
    assert found["tokenizer"] == "c8ea8b8f81f2b546bbbfea80731c3f822d983389bc214ed57540aa1ae0c49e18"
