"""What names a model's results, and its untrained twin, in families whose embeddings or head are not BERT's."""

from dataclasses import replace

import family_texts as texts
import pytest
import torch
from family_worlds import build

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.model.activations import BY_NAME
from tl_crossenc.model.identity import model_identity
from tl_crossenc.model.untrained import untrained_twin

NAMES = ("electra", "electra-projected", "distilbert", "lightning-mono", "deberta-v2")
QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))


@pytest.fixture
def model(request, tmp_path):
    build(request.param, 2).write(tmp_path, "safetensors")
    return HookedCrossEncoder.from_pretrained(tmp_path, device="cpu", dtype="float64")


def one_element(name):
    def change(model):
        with torch.no_grad():
            weight = dict(model.named_parameters())[name]
            weight.view(-1)[-1] += 2**-20

    return change


def head_activation(model):
    model.pooler.activation = BY_NAME["tanh"]


def distances(model):
    shared = model.stack.relative
    shared.positions = replace(shared.positions, max_position=23)


def terms(model):
    shared = model.stack.relative
    shared.positions = replace(shared.positions, kinds=("c2p",))


@pytest.mark.parametrize(
    ("model", "field", "change"),
    [
        ("electra", "arithmetic", head_activation),
        ("distilbert", "arithmetic", head_activation),
        ("electra-projected", "weights", one_element("embed.project.weight")),
        ("electra-projected", "weights", one_element("embed.project.bias")),
        ("deberta-v2", "weights", one_element("stack.relative.table")),
        ("deberta-v2", "weights", one_element("stack.relative.ln_bias")),
        ("deberta-v2", "arithmetic", distances),
        ("deberta-v2", "arithmetic", terms),
    ],
    indirect=["model"],
    ids=lambda given: getattr(given, "__name__", given),
)
def test_what_changes_scores_changes_what_names_them(model, field, change):
    before, scores = model_identity(model), model.score(QUERIES, PASSAGES)
    change(model)
    after = model_identity(model)
    assert {name for name in before if before[name] != after[name]} == {field}
    assert (model.score(QUERIES, PASSAGES) - scores).abs().max() > 1e-9


def test_heads_and_widths_are_told_apart(tmp_path):
    found = []
    for name in NAMES:
        build(name).write(tmp_path / name, "safetensors")
        found.append(model_identity(HookedCrossEncoder.from_pretrained(tmp_path / name, device="cpu"))["arithmetic"])
    assert len(set(found)) == len(NAMES)


@pytest.mark.parametrize("model", NAMES, indirect=True)
def test_the_untrained_twin_has_norms_of_1_biases_of_0_and_the_rest_drawn(model):
    twin = untrained_twin(model, seed=3)
    own = dict(model.named_parameters())
    for name, weight in twin.named_parameters():
        assert weight.shape == own[name].shape
        leaf = name.rpartition(".")[2]
        if leaf.endswith("bias"):
            assert not weight.any(), name
        elif leaf in ("ln_weight", "ln1_weight", "ln2_weight"):
            assert (weight == 1).all(), name
        else:
            bound = 4 * 0.02 / (2 * weight.numel()) ** 0.5
            assert float(weight.detach().std()) == pytest.approx(0.02, abs=bound), name
    scores = twin.score(QUERIES, PASSAGES)
    assert torch.isfinite(scores).all()
    assert twin.pooler is None or (twin.pooler.activation is model.pooler.activation)
