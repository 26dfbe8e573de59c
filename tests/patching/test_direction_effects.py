"""Effects of removing directions to first order: against finite differences of an edited pattern, on uneven padded batches."""

import numpy as np
import pytest
import torch
from family_models import opened
from family_texts import PAIRS
from small_worlds import tiny_model
from type_checks import unchecked

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, MOVING_HEAD
from tl_crossenc.inputs.parts import REAL_PARTS, Part
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.direction_effects import direction_effects

STEP = 1e-4
TEXTS = [
    ("how do fleas", "the flea lays the bread"),
    ("egg", ""),
    ("bread rise the egg", "do"),
    ("lay", "how do eggs rise"),
]


def by_finite_differences(model, pairs, layer, head, attender, attended):
    """The derivative of each score along the weights of one direction of one head, taken off."""
    batch = pairs.batch(np.arange(len(pairs)))
    codes = batch.parts.codes
    cells = (codes == int(attender))[:, :, None] & (codes == int(attended))[:, None, :]

    def scored(share):
        def scale(pattern, hook):
            pattern[:, head] = torch.where(cells, pattern[:, head] * (1 - share), pattern[:, head])
            return pattern

        with torch.no_grad(), model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", scale)]):
            return model(batch).double().numpy()

    return (scored(STEP) - scored(-STEP)) / (2 * STEP)


@pytest.mark.parametrize("name", ["bert", "modernbert-cls", "modernbert-mean", "deberta-v2"])
def test_effects_are_the_derivatives_along_the_weights(name, tmp_path):
    model, texts = (tiny_model(tmp_path), TEXTS) if name == "bert" else (opened(name, tmp_path)[1], PAIRS[:5])
    pairs = model.encode_pairs([query for query, _ in texts], [passage for _, passage in texts])
    with unchecked():
        found = direction_effects(model, pairs, token_budget=31)
    last, size = model.cfg.n_layers - 1, np.abs(found).max()
    assert size > 1e-6
    for layer, head, attender, attended in [
        (0, 0, Part.DOC, Part.QUERY),
        (0, 1, Part.QUERY, Part.QUERY),
        (1, 1, Part.SEP1, Part.DOC),
        (1, 0, Part.DOC, Part.CLS),
        (last, 1, Part.CLS, Part.DOC),
        (last, 0, Part.CLS, Part.SEP2),
        (last, 0, Part.DOC, Part.SEP1),
    ]:
        expected = by_finite_differences(model, pairs, layer, head, attender, attended)
        np.testing.assert_allclose(found[:, layer, head, attender, attended], expected, rtol=1e-5, atol=1e-7 * size)


def test_a_pair_alone_has_the_effects_that_it_has_in_a_batch(tmp_path):
    model = tiny_model(tmp_path)
    together = direction_effects(model, model.encode_pairs([q for q, _ in TEXTS], [p for _, p in TEXTS]))
    alone = [direction_effects(model, model.encode_pairs([q], [p]))[0] for q, p in TEXTS]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)


def test_a_removed_direction_has_no_effect_and_the_others_are_those_beside_it(tmp_path):
    model = tiny_model(tmp_path)
    pairs = model.encode_pairs([q for q, _ in TEXTS], [p for _, p in TEXTS])
    with model.ablating("zero(DOC->QUERY; layers=0)"):
        found = direction_effects(model, pairs)
        assert (found[:, 0, :, Part.DOC, Part.QUERY] == 0).all()
        expected = by_finite_differences(model, pairs, 1, 2, Part.CLS, Part.DOC)
    np.testing.assert_allclose(found[:, 1, 2, Part.CLS, Part.DOC], expected, rtol=1e-5, atol=1e-9)


def test_the_planted_models_effects_are_its_two_directions():
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu", dtype="float64")
    found = np.abs(direction_effects(model, model.encode_pairs(["tune a guitar"], ["guitar by the window"])))[0]
    largest = sorted(np.ndindex(found.shape), key=found.__getitem__)[-2:]
    assert {(place[:2], REAL_PARTS[place[2]], REAL_PARTS[place[3]]) for place in largest} == {
        (MATCHING_HEAD, Part.DOC, Part.QUERY),
        (MOVING_HEAD, Part.CLS, Part.DOC),
    }


def test_hooks_are_refused(tmp_path):
    model = tiny_model(tmp_path)
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: None)]):
        pairs = model.encode_pairs(["egg"], ["flea"])
        with pytest.raises(ValueError, match="expected a model without hooks"):
            direction_effects(model, pairs)
