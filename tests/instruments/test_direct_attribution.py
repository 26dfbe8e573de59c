"""Direct attribution against a slow decomposition that replays every write through the LayerNorms, and the planted heads."""

import random

import numpy as np
import pytest
import torch
from attribution_reference import replay
from planted_families import FAMILIES, opened
from planted_texts import passage_words, whole_words
from small_worlds import tiny_model
from tiny_models import N_HEADS, N_LAYERS, port, run_hf, tiny_hf, tiny_rows, to_batch

from tl_crossenc.checkpoints.planted import MOVING_HEAD
from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.inputs.parts import PartMasks
from tl_crossenc.instruments.direct_attribution import COMPONENTS, direct_attribution, score_lens

POOLED = ("pooler.", "classifier.")
FIELDS = ("head", "attn_bias", "mlp", "embed", "ln_bias", "readout", "remainder")


def total(split):
    """The sum of every pair's contributions, written out."""
    return sum(getattr(split, name).reshape(len(split.scores), -1).sum(1) for name in FIELDS)


@pytest.mark.parametrize("n_labels", [1, 2])
def test_every_contribution_is_its_write_carried_forward(n_labels):
    model = port(tiny_hf(n_labels, seed=3))
    batch = to_batch(tiny_rows())
    split = direct_attribution(model, batch)
    with torch.no_grad():
        _, cache = model.run_with_cache(batch)
        for pair in range(len(batch)):
            own = {name: cache[name][pair] if name.startswith(POOLED) else cache[name][pair, 0] for name in cache}
            for layer in range(N_LAYERS):
                z = own[f"blocks.{layer}.attn.hook_z"]
                for head in range(N_HEADS):
                    found = replay(own, model, z[head] @ model.W_O[layer, head], layer, "attention")
                    assert split.head[pair, layer, head] == pytest.approx(found, abs=1e-12)
                b_O = replay(own, model, model.b_O[layer], layer, "attention")
                mlp = replay(own, model, own[f"blocks.{layer}.hook_mlp_out"], layer, "mlp")
                biases = replay(own, model, model.stack.ln1_bias[layer], layer, "mlp")
                biases += replay(own, model, model.stack.ln2_bias[layer], layer + 1, "attention")
                assert split.attn_bias[pair, layer] == pytest.approx(b_O, abs=1e-12)
                assert split.mlp[pair, layer] == pytest.approx(mlp, abs=1e-12)
                assert split.ln_bias[pair, layer + 1] == pytest.approx(biases, abs=1e-12)
            tokens, types = batch.tokens[pair, 0], batch.token_type_ids[pair, 0]
            embed = model.embed.W_E[tokens] + model.embed.W_pos[0] + model.embed.W_token_type[types]
            assert split.embed[pair] == pytest.approx(replay(own, model, embed, 0, "embed"), abs=1e-12)
            ln_bias = replay(own, model, model.embed.ln_bias, 0, "attention")
            assert split.ln_bias[pair, 0] == pytest.approx(ln_bias, abs=1e-12)


@pytest.mark.parametrize("tanh", ["secant", "tangent"])
@pytest.mark.parametrize("n_labels", [1, 2])
def test_contributions_and_remainder_sum_to_hugging_faces_score(n_labels, tanh):
    hf = tiny_hf(n_labels, seed=5).double()
    batch = to_batch(tiny_rows())
    logits = run_hf(hf, batch).logits
    scores = (logits[:, 0] if n_labels == 1 else logits[:, 1] - logits[:, 0]).numpy()
    split = direct_attribution(port(hf), batch, tanh=tanh)
    assert np.abs(total(split) - scores).max() < 1e-10
    assert np.abs(split.scores - scores).max() < 1e-10
    frame = split.to_frame()
    assert np.abs(frame.groupby("pair")["contribution"].sum().to_numpy() - scores).max() < 1e-10


def test_secant_leaves_rounding_only_and_tangent_leaves_what_the_tanh_bends():
    model, batch = port(tiny_hf(2, seed=1)), to_batch(tiny_rows())
    assert np.abs(direct_attribution(model, batch).remainder).max() < 1e-10
    split = direct_attribution(model, batch, tanh="tangent")
    with torch.no_grad():
        _, cache = model.run_with_cache(batch)
        u = cache["pooler.hook_pre"]
        w = model.classifier.weight[1] - model.classifier.weight[0]
        bent = ((u.tanh() - u / u.cosh() ** 2) @ w).numpy()
    assert np.abs(bent).max() > 0.01
    assert split.remainder == pytest.approx(bent, abs=1e-10)


def test_the_tangent_is_the_gradient():
    """The last layer's heads: d score / d z . z by autograd, with the scales and the MLP's output held."""
    model, batch, last = port(tiny_hf(1, seed=2)), to_batch(tiny_rows(((3, 5),))), N_LAYERS - 1
    split = direct_attribution(model, batch, tanh="tangent")
    kept = []

    def hold(activation, hook):
        return activation.detach()

    def watch(z, hook):
        z.retain_grad()
        kept.append(z)

    held = ("ln1.hook_scale", "ln2.hook_scale", "hook_mlp_out")
    hooks = [(f"blocks.{last}.attn.hook_z", watch), *((f"blocks.{last}.{name}", hold) for name in held)]
    model.run_with_hooks(batch, fwd_hooks=hooks).sum().backward()
    by_gradient = (kept[0].grad * kept[0])[0, 0].sum(-1).detach().numpy()
    assert split.head[0, last] == pytest.approx(by_gradient, abs=1e-12)


def test_order_padding_and_budget_do_not_matter(tmp_path):
    model = tiny_model(tmp_path / "m")
    passages = ["fleas lay the eggs", "bread", "how do fleas rise", "eggs " * 11]
    encoded = model.encode_pairs("how do eggs rise", passages)
    together = direct_attribution(model, encoded)
    done = []
    apart = direct_attribution(model, encoded, token_budget=1, progress=done.append)
    assert sum(done) == len(passages) == len(done)
    alone = [direct_attribution(model, model.to_pairs("how do eggs rise", passage)) for passage in passages]
    for name in FIELDS:
        assert getattr(apart, name) == pytest.approx(getattr(together, name), abs=1e-12)
        assert np.concatenate([getattr(split, name) for split in alone]) == pytest.approx(
            getattr(together, name), abs=1e-12
        )
    assert together.scores == pytest.approx(model.score("how do eggs rise", passages).numpy(), abs=1e-12)


def test_an_ablation_is_decomposed_as_it_ran():
    model, batch = port(tiny_hf(2, seed=4)), to_batch(tiny_rows())
    with model.ablating("CLS->ALL", layers=1, heads=2):
        split = direct_attribution(model, batch)
        scores = model(batch).detach().numpy()
    assert (split.head[:, 1, 2] == 0).all()
    assert np.abs(total(split) - scores).max() < 1e-10


def test_a_float32_model_sums_to_its_float32_score():
    model, batch = port(tiny_hf(2, seed=4), torch.float32), to_batch(tiny_rows())
    split = direct_attribution(model, batch)
    assert np.abs(total(split) - split.scores).max() < 1e-10
    assert split.scores == pytest.approx(model(batch).detach().numpy(), abs=1e-5)
    assert 0 < np.abs(split.remainder).max() < 1e-4


def test_frame_and_top():
    model, batch = port(tiny_hf(2, seed=4)), to_batch(tiny_rows())
    split = direct_attribution(model, batch)
    frame = split.to_frame()
    rows = N_LAYERS * (N_HEADS + 2) + (N_LAYERS + 1) + 3
    assert frame.groupby("pair").size().tolist() == [rows] * len(batch)
    assert set(frame["component"]) == set(COMPONENTS)
    row = frame[(frame["pair"] == 2) & (frame["component"] == "head") & (frame["layer"] == 1) & (frame["head"] == 2)]
    assert row["contribution"].tolist() == [split.head[2, 1, 2]]
    assert frame[frame["component"] == "ln_bias"]["layer"].unique().tolist() == [-1, 0, 1, 2]
    top = split.top(1, 5)
    largest = sorted(np.abs(frame[frame["pair"] == 1]["contribution"]), reverse=True)[:5]
    assert top["contribution"].abs().tolist() == largest
    with pytest.raises(ValueError, match=r"expected a pair in 0\.\.3, got 4"):
        split.top(4)


def test_lens_is_the_head_on_each_layers_output():
    hf = tiny_hf(2, seed=6).double()
    batch = to_batch(tiny_rows())
    out = run_hf(hf, batch)
    lens = score_lens(port(hf), batch)
    with torch.no_grad():
        for layer in range(N_LAYERS):
            logits = hf.classifier(hf.bert.pooler(out.hidden_states[layer + 1]))
            assert lens[:, layer] == pytest.approx((logits[:, 1] - logits[:, 0]).numpy(), abs=1e-10)
    assert lens[:, -1] == pytest.approx((out.logits[:, 1] - out.logits[:, 0]).numpy(), abs=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_planted_moving_head_writes_the_score_and_the_lens_jumps_at_its_layer(family, tmp_path):
    model, _ = opened(family, tmp_path)
    rng = random.Random(0)
    query = rng.sample(whole_words(), 5)
    passages = [" ".join(passage_words(rng, query, matched)) for matched in (2, 5, 8)]
    encoded = model.encode_pairs(" ".join(query), passages)
    split = direct_attribution(model, encoded)
    layer, head = MOVING_HEAD
    assert split.head[:, layer, head] == pytest.approx(split.scores, abs=1e-9)
    assert split.scores.min() > 0.5
    others = split.head.copy()
    others[:, layer, head] = 0
    assert np.abs(others).max() < 1e-9
    lens = score_lens(model, encoded)
    assert np.abs(lens[:, :layer]).max() < 1e-9
    assert lens[:, layer] == pytest.approx(split.scores, abs=1e-12)


def test_what_cannot_be_attributed_is_one_sentence():
    model, batch = port(tiny_hf()), to_batch(tiny_rows())
    with pytest.raises(ValueError, match="expected a tanh among secant, tangent, got 'exact'"):
        direct_attribution(model, batch, tanh="exact")
    none = batch.tokens[:0]
    empty = PairBatch(none, none, none.bool(), PartMasks(none.to(torch.int8)))
    for instrument in (direct_attribution, score_lens):
        with pytest.raises(ValueError, match="expected at least one pair"):
            instrument(model, empty)


def test_no_hook_is_left_behind():
    model, batch = port(tiny_hf()), to_batch(tiny_rows())
    direct_attribution(model, batch)
    score_lens(model, batch)
    assert not any(point.has_hooks(dir="both") for point in model.hook_dict.values())
