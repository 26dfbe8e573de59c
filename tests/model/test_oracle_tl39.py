"""Hook by hook against TransformerLens 3.9's HookedEncoder, whose activations lie in `data/` (see the README there).

Tolerance everywhere: rtol 1e-5, atol 2e-5; both sides are float32, the activations reach about 10. The
mask makes scores at padding -inf on both sides.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracles
import pytest
import torch
from safetensors import safe_open

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.porting import config_from_checkpoint, port_weights

FILE = Path(__file__).parents[1] / "data" / "hooked_encoder_tl39.safetensors"
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}


@pytest.fixture(scope="module")
def golden():
    with safe_open(FILE, framework="pt") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - no mapping
        config = json.loads(stored.metadata()["config"])
    weights = {key.removeprefix("hf."): value for key, value in tensors.items() if key.startswith("hf.")}
    activations = {key.removeprefix("tl."): value for key, value in tensors.items() if key.startswith("tl.")}
    return SimpleNamespace(tensors=tensors, config=config, weights=weights, activations=activations)


@pytest.fixture(scope="module")
def model(golden):
    checkpoint = Checkpoint("golden", "sha256:0", golden.config, lambda: iter(golden.weights.items()), None, None)
    model = HookedCrossEncoder(config_from_checkpoint(checkpoint, torch.float32))
    port_weights(model, checkpoint)
    return model.eval()


@pytest.fixture(scope="module")
def given(golden):
    return golden.tensors["input_ids"], {key: golden.tensors[key] for key in ("token_type_ids", "attention_mask")}


def test_every_hook_matches(model, golden, given):
    tokens, beside = given
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, **beside, return_cache_object=False)
    assert len(golden.activations) == 60
    ours = cache.keys() - {"pooler.hook_pre", "pooler.hook_pooler_out", "classifier.hook_logits"}
    assert ours == golden.activations.keys()
    for name, expected in golden.activations.items():
        torch.testing.assert_close(cache[name], expected, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


def test_each_hook_matches_when_it_is_the_only_one(model, golden, given):
    """What a hook sees may not depend on which others look: here all but its own operation stays fused."""
    tokens, beside = given
    for name, expected in golden.activations.items():
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens, **beside, names_filter=name, return_cache_object=False)
        assert cache.keys() == {name}
        torch.testing.assert_close(cache[name], expected, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


def test_logits_match_with_and_without_hooks(model, golden, given):
    tokens, beside = given
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, **beside), golden.tensors["out.logits"], **TOLERANCE)
        torch.testing.assert_close(model.run_with_cache(tokens, **beside)[0], golden.tensors["out.logits"], **TOLERANCE)


def test_the_numpy_reference_matches_hugging_face(golden):
    state = {key: value.double().numpy() for key, value in golden.weights.items()}
    out = golden.tensors
    for pair, real in enumerate(out["attention_mask"].bool()):
        n = int(real.sum())
        tokens, types = out["input_ids"][pair, :n].tolist(), out["token_type_ids"][pair, :n].tolist()
        trace = oracles.cross_encoder(state, golden.config, tokens, types, [0] * n)
        np.testing.assert_allclose(trace.logits, out["out.logits"][pair].numpy(), **TOLERANCE)
        for layer in range(4):
            np.testing.assert_allclose(
                trace.hidden[layer], out[f"out.hidden_states.{layer}"][pair, :n].numpy(), **TOLERANCE
            )
        for layer in range(3):
            expected = out[f"out.attentions.{layer}"][pair, :, :n, :n].numpy()
            np.testing.assert_allclose(trace.patterns[layer], expected, **TOLERANCE)
