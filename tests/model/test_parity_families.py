"""Parity of every family that opens: Hugging Face's own class of it as the reference, whatever names the weights have on disk."""

import family_oracle as oracle
import family_texts as texts
import pytest
import torch
from family_worlds import build
from model.test_families import COVERED, labels_of

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.checkpoints.checkpoint import open_checkpoint
from tl_crossenc.model.parity import certify, check_parity, tolerance
from tl_crossenc.model.reference import reference_model

CPU = torch.device("cpu")
ROUNDED = ("modernbert", "gte", "deberta")
"""Of which Hugging Face computes parts in float32 whatever the dtype."""


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", COVERED)
def test_a_port_from_files_is_within_tolerance(name, dtype, tmp_path):
    world = build(name, labels_of(name)[-1])
    found = check_parity(
        world.write(tmp_path, "bin" if dtype == "float32" else "safetensors"), device="cpu", dtype=dtype
    )
    assert found.passed, found.differences
    exact = dtype == "float64" and not name.startswith(ROUNDED)
    assert found.tolerance == (1e-10 if exact else {"bfloat16": 5e-2}.get(dtype, 1e-5))
    tokens, logits, opened, hidden, patterns = found.differences
    lengths = [int(n) for n in found.shape.partition("pairs of [")[2].removesuffix("] tokens").split(", ")]
    assert len(set(lengths)) > 2  # so some are padded
    assert tokens.max_abs == 0
    assert tokens.compared > 200
    assert logits.compared == opened.compared == 4 * world.n_labels
    layers, width = len(world.layers), world.last_linear.in_features
    assert hidden.compared == (layers + 1) * sum(lengths) * width
    assert patterns.compared == layers * world.n_heads * sum(lengths) * max(lengths)
    assert found.types_fed == ("token_type_ids" in world.tokenizer.model_input_names and name != "deberta-v2")


@pytest.mark.parametrize("name", COVERED)
def test_the_reference_is_the_model_that_was_saved(name, tmp_path):
    world = build(name, labels_of(name)[-1])
    reference = reference_model(open_checkpoint(world.write(tmp_path)), torch.float32, CPU)
    batch = oracle.encode(world, texts.PAIRS)
    with torch.no_grad():
        assert torch.equal(reference(**batch.inputs).logits, world.model(**batch.inputs).logits)


@pytest.mark.parametrize("name", COVERED)
def test_one_wrong_weight_anywhere_fails(name, tmp_path):
    folder = build(name).write(tmp_path)
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype="float64")
    pairs = model.to_pairs(*map(list, zip(*texts.PAIRS, strict=True)))
    reference = reference_model(open_checkpoint(folder), torch.float64, CPU)
    assert certify(model, reference, pairs).passed
    unseen = []
    for key, weight in reference.named_parameters():
        before = weight.detach().clone()
        with torch.no_grad():
            weight.add_(torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(0)))
            if certify(model, reference, pairs).passed:
                unseen.append(key)
            weight.copy_(before)
    # Softmax does not see what is added to all keys alike.
    assert all(key.endswith(("key.bias", "k_lin.bias", "k_proj.bias")) for key in unseen), unseen


def test_the_tolerance_is_float32s_where_hugging_face_computes_in_it(tmp_path):
    model = HookedCrossEncoder.from_pretrained(build("bert").write(tmp_path), device="cpu", dtype="float64")
    assert tolerance(model.cfg) == 1e-10
    for positions in ("rotary", "relative"):
        model.cfg.positional_embedding_type = positions
        assert tolerance(model.cfg) == 1e-5


def test_a_checkpoint_inside_of_a_wrapper_is_filled_in(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = build("xlm-roberta").write(tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file({f"module.{key}": weight for key, weight in state.items()}, folder / "model.safetensors")
    assert check_parity(folder, device="cpu", dtype="float64").passed
