"""Moments of layers against NumPy over Hugging Face's hidden states, shard by shard and at once."""

import numpy as np
import pytest
import torch
from tiny_models import D_MODEL, N_LAYERS, PAD, encoded, port, run_hf, tiny_hf, tiny_rows, to_batch
from type_checks import unchecked

from tl_crossenc.instruments.layer_statistics import LayerStatistics

SIZES = ((3, 5), (2, 8), (1, 1), (4, 0), (2, 2))
ROWS = tiny_rows(SIZES, seed=3)


@pytest.fixture(scope="module")
def hf():
    return tiny_hf().double()


@pytest.fixture(scope="module")
def model(hf):
    return port(hf)


def tokens_of(hf, rows, part=None):
    """`[layer, token, d_model]` after each layer, of real tokens or those of a part, by Hugging Face; and its scores."""
    batch = to_batch(rows)
    out = run_hf(hf, batch)
    chosen = batch.parts.codes != PAD if part is None else batch.parts.codes == part
    found = np.stack([hidden[chosen].numpy() for hidden in out.hidden_states[1:]])
    return found, (out.logits[:, 1] - out.logits[:, 0]).numpy()


def test_spread_is_numpys_over_hugging_faces_hidden_states(hf, model):
    found = LayerStatistics.fit(model, encoded(ROWS), token_budget=29)
    everything, scores = tokens_of(hf, ROWS)
    for layer in range(N_LAYERS):
        whole = found.spread(layer)
        np.testing.assert_allclose(whole.mean[0], everything[layer].mean(0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(whole.sigma[0], everything[layer].std(0, ddof=1), rtol=1e-11)
        assert whole.mean.shape == (1, D_MODEL)
        by_part = found.spread(layer, "part")
        for part in range(5):
            own = tokens_of(hf, ROWS, part)[0][layer]
            np.testing.assert_allclose(by_part.mean[part], own.mean(0), rtol=0, atol=1e-12)
            np.testing.assert_allclose(by_part.sigma[part], own.std(0, ddof=1), rtol=1e-11)
        assert (whole.floored, by_part.floored) == (0, 0)
    assert found.score_sd == pytest.approx(scores.std(ddof=1), rel=1e-12)
    assert found.count.tolist() == [5, 12, 5, 16, 5]


def test_shards_merge_to_one_pass(model):
    whole = LayerStatistics.fit(model, encoded(ROWS), layers=[0, 2])
    shards = [LayerStatistics.fit(model, encoded(ROWS[i:j]), layers=[0, 2]) for i, j in ((3, 5), (0, 1), (1, 3))]
    joined = LayerStatistics.join([LayerStatistics.join(shards[:2]), shards[2]])
    for name in ("count", "mean", "m2", "scores"):
        np.testing.assert_allclose(getattr(joined, name), getattr(whole, name), rtol=1e-11, atol=1e-12)
    assert joined.digests == whole.digests
    assert len(whole.digests) == 5
    assert joined.layers == whole.layers == (0, 2)


def test_a_feature_that_does_not_vary_has_the_smallest_deviation(hf):
    model = port(hf)
    with torch.no_grad():
        model.stack.ln2_weight[1, 4:7] = 0.0
        model.stack.ln2_weight[2] = 0.0
    found = LayerStatistics.fit(model, encoded(ROWS))
    sigma = found.spread(1).sigma[0]
    plain = np.delete(sigma, [4, 5, 6])
    assert found.spread(1).floored == 3
    assert sigma[4:7] == pytest.approx(0.01 * np.sqrt((plain**2).sum() / D_MODEL), rel=1e-10)
    assert plain.min() > sigma[4]
    still = found.spread(2, min_sigma=0.03)
    assert (still.sigma == 0.03).all()
    assert still.floored == D_MODEL
    np.testing.assert_allclose(still.mean[0], model.stack.ln2_bias[2].detach(), rtol=0, atol=1e-12)


def test_rounding_is_no_variance():
    """What sums of a feature of one value leave: .1 is none of base two."""
    values = np.full(11, 0.1)
    m2 = ((values - values.cumsum()[-1] / 11) ** 2).sum()
    assert 0 < m2 < 1e-28
    count, shape = np.array([2, 3, 2, 2, 2]), (1, 5, 4)
    found = LayerStatistics((0,), count, np.full(shape, 0.1), np.full(shape, m2), (2, 0.0, 1.0), frozenset())
    for by in ("all", "part"):
        assert (found.spread(0, by).sigma == 0.01).all()
        assert found.spread(0, by).floored == found.spread(0, by).sigma.size


def test_every_pair_is_counted_once_as_it_is_done(model):
    told = []
    LayerStatistics.fit(model, encoded(ROWS), token_budget=29, progress=told.append)
    assert len(told) > 1
    assert sum(told) == 5 < sum(map(len, (row[0] for row in ROWS)))


def test_pairs_that_are_inside_are_told_by_their_tokens(model):
    found = LayerStatistics.fit(model, encoded(ROWS[:3]))
    found.require_apart(encoded(ROWS[3:]))
    with pytest.raises(ValueError, match=r"other pairs .* 1 of 3 are among them \(the first is pair 1\)"):
        found.require_apart(encoded([ROWS[3], ROWS[2], ROWS[4]]))


def test_bad_input_is_one_sentence(model, hf):
    found = LayerStatistics.fit(model, encoded(ROWS[:1]), layers=[1])
    with pytest.raises(ValueError, match="expected a layer among 1 and by 'all' or 'part', got 0"):
        found.spread(0)
    with unchecked(), pytest.raises(ValueError, match="got 1 and 'position'"):
        found.spread(1, "position")
    with pytest.raises(
        ValueError, match=r"at least two tokens of every part .* fewer of CLS, SEP1, SEP2: take more pairs"
    ):
        found.spread(1, "part")
    with pytest.raises(ValueError, match="at least one pair"):
        LayerStatistics.fit(
            model,
            encoded(ROWS[:1]).__class__(*[np.zeros(0, np.int64)] * 3, np.zeros(1, np.int64), np.zeros(0, bool), 0),
        )
    with pytest.raises(ValueError, match="same layers and width"):
        LayerStatistics.join([found, LayerStatistics.fit(model, encoded(ROWS[1:2]), layers=[0])])
    with (
        model.hooks(fwd_hooks=[("blocks.0.hook_resid_mid", lambda value, hook: None)]),
        pytest.raises(ValueError, match="without hooks"),
    ):
        LayerStatistics.fit(model, encoded(ROWS))
    assert np.isnan(found.score_sd)
    loud = port(hf)
    with torch.no_grad():
        loud.classifier.bias[1] = torch.inf  # the streams are finite, the scores are not
    with pytest.raises(ValueError, match="finite activations"):
        LayerStatistics.fit(loud, encoded(ROWS))
    broken = port(hf)
    with torch.no_grad():
        broken.stack.ln2_bias[1, 0] = torch.inf
    with pytest.raises(ValueError, match="finite activations"):
        LayerStatistics.fit(broken, encoded(ROWS))
