"""Direct attribution and the lens in families whose embeddings or head are not BERT's: every write carried forward, slowly."""

import family_oracle as oracle
import family_texts as texts
import numpy as np
import pytest
import torch
from attribution_reference import replay
from family_worlds import build

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.instruments.direct_attribution import direct_attribution, score_lens

NAMES = ("electra", "electra-projected", "distilbert", "lightning-mono", "deberta-v2")
QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS[:5], strict=True))
POOLED = ("pooler.", "classifier.")
FIELDS = ("head", "attn_bias", "mlp", "embed", "ln_bias", "readout", "edit")


@pytest.fixture(scope="module", params=[(name, labels) for name in NAMES for labels in (1, 2)], ids=str)
def opened(request, tmp_path_factory):
    """(world, model, its pairs)."""
    name, labels = request.param
    world = build(name, labels)
    folder = world.write(tmp_path_factory.mktemp("model"))
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype="float64")
    return world, model, model.to_pairs(QUERIES, PASSAGES)


def total(split):
    return sum(getattr(split, name).reshape(len(split.scores), -1).sum(1) for name in FIELDS)


def test_every_contribution_is_its_write_carried_forward(opened):
    _, model, batch = opened
    split, embed, stack = direct_attribution(model, batch), model.embed, model.stack
    with torch.no_grad():
        _, cache = model.run_with_cache(batch)
        for pair in range(len(batch)):
            own = {name: cache[name][pair] if name.startswith(POOLED) else cache[name][pair, 0] for name in cache}
            for layer in range(model.cfg.n_layers):
                z = own[f"blocks.{layer}.attn.hook_z"]
                for head in range(model.cfg.n_heads):
                    found = replay(own, model, z[head] @ model.W_O[layer, head], layer, "attention")
                    assert split.head[pair, layer, head] == pytest.approx(found, abs=1e-11)
                for field, write, kind in (
                    ("attn_bias", model.b_O[layer], "attention"),
                    ("mlp", own[f"blocks.{layer}.hook_mlp_out"], "mlp"),
                ):
                    found = replay(own, model, write, layer, kind)
                    assert getattr(split, field)[pair, layer] == pytest.approx(found, abs=1e-11)
                biases = replay(own, model, stack.ln1_bias[layer], layer, "mlp")
                biases += replay(own, model, stack.ln2_bias[layer], layer + 1, "attention")
                assert split.ln_bias[pair, layer + 1] == pytest.approx(biases, abs=1e-11)
            write = embed.W_E[batch.tokens[pair, 0]]
            write = write if embed.W_pos is None else write + embed.W_pos[0]
            if embed.W_token_type is not None:
                write = write + embed.W_token_type[batch.token_type_ids[pair, 0]]
            assert split.embed[pair] == pytest.approx(replay(own, model, write, 0, "embed"), abs=1e-11)
            biases = replay(own, model, embed.ln_bias, 0, "project")
            if embed.project is not None:
                biases += replay(own, model, embed.project.bias, 0, "attention")
            assert split.ln_bias[pair, 0] == pytest.approx(biases, abs=1e-11)


def test_contributions_sum_to_hugging_faces_score(opened):
    world, model, batch = opened
    expected = oracle.run(world, oracle.encode(world, texts.PAIRS[:5])).score.numpy()
    split = direct_attribution(model, batch)
    assert np.abs(total(split) - expected).max() < 1e-10
    assert np.abs(split.remainder).max() < 1e-10
    tangent = direct_attribution(model, batch, tanh="tangent")
    assert np.abs(total(tangent) + tangent.remainder - expected).max() < 1e-10
    name = world.name
    if name in ("lightning-mono", "distilbert"):  # no activation, and one that is a line to either side of 0
        assert np.abs(tangent.remainder).max() < 1e-10
    else:
        assert np.abs(tangent.remainder).max() > 1e-3


def test_by_the_tangent_the_last_layers_writes_are_worth_the_gradient(opened):
    _, model, batch = opened
    split = direct_attribution(model, batch, tanh="tangent")
    last, held = model.cfg.n_layers - 1, {}

    def frozen(activation, hook):
        return activation.detach()

    def hold(z, hook):
        held["z"] = z.detach().requires_grad_()
        return held["z"]

    at = f"blocks.{last}."
    hooks = [(f"{at}attn.hook_z", hold), (f"{at}hook_mlp_out", frozen)]
    hooks += [(f"{at}{norm}.hook_scale", frozen) for norm in ("ln1", "ln2")]
    scores = model.run_with_hooks(batch, fwd_hooks=hooks)
    (gradient,) = torch.autograd.grad(scores.sum(), held["z"])
    worth = (gradient * held["z"]).sum(-1)[:, 0].detach().numpy()
    np.testing.assert_allclose(split.head[:, last], worth, rtol=0, atol=1e-11)
    assert np.abs(worth).max() > 1e-3


EDITED = (
    "hook_full_embed",
    "embed.project.hook_in",
    "embed.ln.hook_normalized",
    "pooler.hook_pre",
    "classifier.hook_logits",
)


@pytest.mark.parametrize("name", EDITED)
def test_what_a_hook_changes_is_in_the_sum(opened, name):
    _, model, batch = opened
    if name not in model.hook_dict:
        pytest.skip(f"no {name}")
    with model.hooks(fwd_hooks=[(name, lambda value, hook: value * 1.25 + 0.1)]):
        split, scores = direct_attribution(model, batch), model(batch).detach().numpy()
    assert np.abs(total(split) - scores).max() < 1e-10
    plain = direct_attribution(model, batch)
    assert np.abs(split.scores - plain.scores).max() > 1e-3
    if not name.startswith(POOLED):
        assert np.abs(split.edit[:, 0]).min() > 1e-9
    else:
        assert not split.edit.any()


def test_the_lens_is_hugging_faces_head_on_each_layers_stream(opened):
    world, model, batch = opened
    trace, n_layers = oracle.run(world, oracle.encode(world, texts.PAIRS[:5])), model.cfg.n_layers
    found = score_lens(model, batch)
    hf = world.in_dtype(torch.float64).model
    heads = {
        "distilbert": lambda x: hf.classifier(torch.relu(hf.pre_classifier(x[:, 0]))),
        "lightning-mono": lambda x: hf.linear(x[:, 0]),
        "deberta-v2": lambda x: hf.classifier(hf.pooler(x)),
    }
    head = heads.get(world.name, lambda x: hf.classifier(x))
    for layer in range(n_layers):
        with torch.no_grad():
            logits = head(trace.hidden[layer + 1])
        expected = logits[:, 0] if world.n_labels == 1 else logits[:, 1] - logits[:, 0]
        np.testing.assert_allclose(found[:, layer], expected.numpy(), rtol=0, atol=1e-10)
