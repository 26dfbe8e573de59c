"""Neurons replaced, against Hugging Face with hooks of its own on what goes into an MLP's second matrix."""

import numpy as np
import pytest
import torch
from tiny_models import encoded, port, run_hf, tiny_hf, tiny_rows, to_batch

from tl_crossenc.interventions.targets import Target, check_apart, format_targets, neuron_targets, parse_targets
from tl_crossenc.patching.replacement import replacing
from tl_crossenc.patching.replacement_values import ReplacementMeans, ReplacementSamples

CHOSEN = {0: [3], 2: [5, 17, 18, 19]}
TEXT = "mlp.0:3+mlp.2:5,17-19"


@pytest.fixture(scope="module")
def hf():
    return tiny_hf(2, seed=9).double()


@pytest.fixture(scope="module")
def model(hf):
    return port(hf)


def hf_scores(hf, batch, values):
    """Scores with `values(layer, post)` at the chosen neurons."""

    def hook_of(layer):
        def hook(module, given, post):
            post = post.clone()
            post[..., CHOSEN[layer]] = values(layer, post)[..., CHOSEN[layer]]
            return post

        return hook

    handles = [hf.bert.encoder.layer[layer].intermediate.register_forward_hook(hook_of(layer)) for layer in CHOSEN]
    logits = run_hf(hf, batch).logits
    for handle in handles:
        handle.remove()
    return (logits[:, 1] - logits[:, 0]).numpy()


def hf_means(hf, reference):
    """`[part, neuron]` of each layer."""
    batch, kept = to_batch(reference), {}
    layers = hf.bert.encoder.layer
    handles = [
        layers[i].intermediate.register_forward_hook(
            lambda module, given, post, i=i: kept.__setitem__(i, post.detach())
        )
        for i in CHOSEN
    ]
    run_hf(hf, batch)
    for handle in handles:
        handle.remove()
    return {i: torch.stack([post[batch.parts.codes == part].mean(0) for part in range(5)]) for i, post in kept.items()}


def ours(model, batch, *values):
    with replacing(model, TEXT, *values), torch.no_grad():
        return model(batch).numpy()


def test_zero_and_the_mean_by_part_are_hugging_faces(hf, model):
    batch, reference = to_batch(tiny_rows()), tiny_rows(((3, 5), (2, 4), (5, 2)), seed=11)
    plain = model(batch).detach().numpy()
    zeroed = ours(model, batch)
    np.testing.assert_allclose(zeroed, hf_scores(hf, batch, lambda _, post: torch.zeros_like(post)), rtol=0, atol=1e-11)
    means, codes = hf_means(hf, reference), batch.parts.codes.long().clamp(max=4)
    expected = hf_scores(hf, batch, lambda layer, _: means[layer][codes])
    found = ours(model, batch, ReplacementMeans.fit(model, encoded(reference), TEXT))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    assert np.abs(zeroed - plain).min() > 1e-4
    assert np.abs(found - zeroed).min() > 1e-4
    np.testing.assert_array_equal(model(batch).detach().numpy(), plain)


def test_a_pairs_own_activations_change_nothing(model):
    rows = tiny_rows()[:1]
    own = ReplacementSamples.fit(model, encoded(rows), TEXT, allow_self=True)
    np.testing.assert_allclose(ours(model, to_batch(rows), own), model(to_batch(rows)).detach().numpy(), atol=1e-12)


def test_texts_round_trip_and_what_is_none():
    found = parse_targets(TEXT)
    assert format_targets(found) == TEXT
    assert found == neuron_targets([(2, 19), (0, 3), (2, 5), (2, 17), (2, 18), (2, 5)])
    assert neuron_targets([]) == ()
    assert Target.parse("mlp.2: 19,5, 17-18").neurons == (5, 17, 18, 19)
    for text in ("attn.1:3", "1.2:3", "mlp.1:", "DOC->QUERY@1.2:3"):
        with pytest.raises(ValueError, match="expected a target such as"):
            Target.parse(text)
    for neurons in ((), (5, 3), (3, 3), (-1,)):
        with pytest.raises(ValueError, match="from 0, ascending and each once"):
            Target("neurons", 1, neurons=neurons)
    with pytest.raises(ValueError, match="expected neurons for neurons alone"):
        Target("mlp", 1, neurons=(2,))


def test_what_the_model_lacks_and_what_overlaps(model):
    with (
        pytest.raises(ValueError, match=r"expected neurons 0\.\.52, got neuron 53 of layer 1"),
        replacing(model, "mlp.1:53"),
    ):
        pass
    for first, second, apart in [
        ("mlp.1:3", "mlp.1:4", True),
        ("mlp.1:3", "mlp.1:2-5", False),
        ("mlp.1:3", "mlp.2:3", True),
        ("mlp.1:3", "mlp.1", False),
        ("mlp.1:3", "attn.1", True),
        ("mlp.1:3", "1.2", True),
    ]:
        pair = Target.parse(first), Target.parse(second)
        assert pair[0].overlaps(pair[1]) == pair[1].overlaps(pair[0]) == (not apart)
        if not apart:
            with pytest.raises(ValueError, match="would be replaced twice"):
                check_apart(pair)
