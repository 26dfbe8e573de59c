"""Parity of every family that opens: Hugging Face's own class of it as the reference, whatever names the weights have on disk."""

from dataclasses import replace

import family_oracle as oracle
import family_texts as texts
import pytest
import torch
from family_models import COVERED, labels_of
from family_worlds import build

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.checkpoints.embedded import open_model
from tl_crossenc.model.parity import certify, check_parity, rounded, tolerance
from tl_crossenc.model.reference import reference_model

CPU = torch.device("cpu")
ROUNDED = ("modernbert", "gte", "deberta")
"""Of which Hugging Face computes parts in float32 whatever the dtype."""
QUICK = ("bert", "modernbert-mean", "deberta-v2")
"""Whose weights are all made wrong by default; the others' are in the slower run."""


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", COVERED)
def test_a_port_from_files_is_within_tolerance(name, dtype, tmp_path):
    world = build(name, labels_of(name)[-1])
    if dtype == "bfloat16" and name.startswith(ROUNDED):
        # As they are, Hugging Face's own bfloat16 is a tenth of the logits away from its float32.
        world = replace(
            world, state={key: weight * (0.4 if weight.ndim > 1 else 1) for key, weight in world.state.items()}
        )
        with torch.no_grad():  # what writes the files itself writes the model's own weights
            for weight in world.model.parameters() if world.writer is not None else ():
                weight.mul_(0.4 if weight.ndim > 1 else 1)
    folder = world.write(tmp_path, "bin" if dtype == "float32" else "safetensors")
    found = check_parity(folder, device="cpu", dtype=dtype)
    assert found.passed, found.differences
    float64, float32 = (3e-5, 3e-5) if name.startswith(ROUNDED) else (1e-10, 1e-5)
    assert found.tolerance == pytest.approx({"float64": float64, "float32": float32, "bfloat16": 5e-2}[dtype])
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
    reference = reference_model(open_model(world.write(tmp_path)), torch.float32, CPU)
    batch = oracle.encode(world, texts.PAIRS)
    with torch.no_grad():
        found, expected = reference(**batch.inputs).logits, world.model(**batch.inputs).logits
    # The older words' base is computed, and rounds otherwise than one that is written down.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 if name == "gte-ntk-old" else 0)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COVERED]
)
@pytest.mark.usefixtures("unchecked")
def test_one_wrong_weight_anywhere_fails(name, tmp_path):
    folder = build(name).write(tmp_path)
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype="float64")
    pairs = model.to_pairs(*map(list, zip(*texts.PAIRS, strict=True)))
    exact = torch.float32 if name.startswith(ROUNDED) else torch.float64
    reference = reference_model(open_model(folder), exact, CPU)
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
    assert not rounded(model.cfg)
    for setting, value in (("positional_embedding_type", "rotary"), ("relative", (10, 67, True, True))):
        model.cfg.positional_embedding_type, model.cfg.relative = "standard", None
        setattr(model.cfg, setting, value)
        assert tolerance(model.cfg) == pytest.approx(3e-5)
        assert rounded(model.cfg)


def test_a_checkpoint_inside_of_a_wrapper_is_filled_in(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = build("xlm-roberta").write(tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file({f"module.{key}": weight for key, weight in state.items()}, folder / "model.safetensors")
    assert check_parity(folder, device="cpu", dtype="float64").passed
