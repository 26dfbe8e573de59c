"""Attribution patching against finite differences, and against exact patching where inputs hardly differ."""

import numpy as np
import pytest
import scipy.stats
import torch
from patching_references import PART_NAMES, cache_of, leaf, patched_score, planted_twins, positions_of, tiny_twins
from planted_families import FAMILIES, opened
from tiny_models import D_VOCAB, N_HEADS, N_LAYERS, port, tiny_hf

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, MOVING_HEAD
from tl_crossenc.patching.activation import activation_patch
from tl_crossenc.patching.attribution import DEFAULT_SITES, agreement, attribution_patch

BY = {
    "resid_pre": "part",
    "resid_mid": "part",
    "resid_post": "part",
    "attn_out": "part",
    "mlp_out": "part",
    "z": "head_part",
    "q": "head_part",
    "k": "head_part",
    "v": "head_part",
    "pattern": "head_part",
}


@pytest.fixture
def net():
    """A tiny port in float64 with two labels."""
    return port(tiny_hf(2, seed=5))


def pieces_of(batch, site):
    """(piece, index into the activation) of one unpadded pair."""
    for j, part in enumerate(PART_NAMES):
        rows = positions_of(batch, part)
        if site in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"):
            yield (j,), (0, rows)
        else:
            for head in range(N_HEADS):
                yield (head, j), ((0, head, rows) if site == "pattern" else (0, rows, head))


@pytest.mark.parametrize("mode", ["denoise", "noise"])
@pytest.mark.parametrize("site", BY)
def test_finite_differences(net, site, mode):
    """The estimate is the derivative of the score along the way from the base's activation to the donor's."""
    clean, corrupted = tiny_twins(((3, 5), (1, 2)), seed=2)
    base, donor = (corrupted, clean) if mode == "denoise" else (clean, corrupted)
    found = attribution_patch(net, clean, corrupted, {site: BY[site]}, mode=mode)[site]
    step = 1e-4
    for i in range(2):
        batch = base.batch([i])
        (own, here), (_, there) = cache_of(net, batch), cache_of(net, donor.batch([i]))
        assert found.base[i] == pytest.approx(float(own), abs=1e-12)
        for layer in range(N_LAYERS):
            name = f"blocks.{layer}.{leaf(site)}"
            way = there[name] - here[name]
            for piece, index in pieces_of(batch, site):

                def moved(sign, batch=batch, name=name, way=way, index=index):
                    def edit(activation):
                        activation[index] += sign * step * way[index]
                        return activation

                    return patched_score(net, batch, [(name, edit)])

                expected = (moved(1) - moved(-1)) / (2 * step)
                assert found.difference()[(i, layer, *piece)] == pytest.approx(expected, abs=1e-6, rel=1e-6)


def test_exact_patching_where_inputs_hardly_differ(net):
    """Corrupted words are moved by 1e-4 of their embedding: what is left out is of second order."""
    half = D_VOCAB // 2
    with torch.no_grad():
        noise = torch.randn(half, net.cfg.d_model, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        net.W_E[half : 2 * half] = net.W_E[:half] + 1e-4 * noise
    clean, _ = tiny_twins(vocabulary=half)
    shifted = clean.tokens + np.where((clean.parts == 1) | (clean.parts == 3), half, 0).astype(np.int32)
    corrupted = type(clean)(shifted, clean.token_type_ids, clean.parts, clean.offsets, clean.truncated, 0)
    estimates = attribution_patch(net, clean, corrupted, BY)
    for site, by in BY.items():
        exact = activation_patch(net, clean, corrupted, site, by=by)
        size = np.abs(exact.difference()).max()
        assert size > 1e-7
        np.testing.assert_allclose(estimates[site].difference(), exact.difference(), rtol=0, atol=1e-2 * size)
        assert agreement(estimates[site], exact).pearson > 0.9999


def test_positions_layers_and_first_choices(net):
    clean, corrupted = tiny_twins()
    found = attribution_patch(
        net, clean, corrupted, {"resid_mid": "position", "z": "head"}, layers=[2, 0], token_budget=29
    )
    assert found["resid_mid"].axes == {"layer": (2, 0), "position": tuple(range(13))}
    assert np.isnan(found["resid_mid"].scores[2, :, 5:]).all()
    # Both runs forward and one backward, whatever the sites; plainly, a run for each of the 38 positions and 3 heads x 4 pairs.
    assert found["z"].layers_run == found["resid_mid"].layers_run == 3 * N_LAYERS * 4
    assert found["resid_mid"].layers_plain == (2 * 38 + 2 * 4) * N_LAYERS
    assert found["z"].layers_plain == (2 * 3 * 4 + 2 * 4) * N_LAYERS
    finer = attribution_patch(net, clean, corrupted, {"resid_mid": "part", "z": "head_part"})
    whole = np.nansum(found["resid_mid"].difference(), -1)
    np.testing.assert_allclose(whole, finer["resid_mid"].difference().sum(-1)[:, [2, 0]], atol=1e-10)
    np.testing.assert_allclose(found["z"].difference(), finer["z"].difference().sum(-1)[:, [2, 0]], atol=1e-10)
    assert set(attribution_patch(net, clean, corrupted)) == set(DEFAULT_SITES)
    assert attribution_patch(net, clean, corrupted, ["q"])["q"].by == "head"
    assert attribution_patch(net, clean, corrupted, "q")["q"].by == "head"


def test_identical_inputs_give_exactly_0_and_weights_get_no_gradient(net):
    clean, corrupted = tiny_twins()
    for result in attribution_patch(net, clean, clean, BY).values():
        assert (result.difference() == 0).all()
    attribution_patch(net, clean, corrupted, BY)
    assert all(weight.grad is None for weight in net.parameters())
    assert not any(point._forward_hooks for point in net.hook_dict.values())


def test_ablated_directions_stay_ablated(net):
    clean, corrupted = tiny_twins()
    with net.ablating("DOC->QUERY"):
        found = attribution_patch(net, clean, corrupted, {"pattern": "head"})["pattern"]
        exact = activation_patch(net, clean, corrupted, "pattern")
    np.testing.assert_allclose(found.clean, exact.clean, atol=1e-12)
    assert (
        np.abs(attribution_patch(net, clean, corrupted, {"pattern": "head"})["pattern"].scores - found.scores).max()
        > 1e-3
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_planted_heads_stand_out(family, tmp_path):
    planted, known = opened(family, tmp_path)
    clean, corrupted = planted_twins(planted)
    estimated = attribution_patch(planted, clean, corrupted, {"z": "head"})["z"]
    lit = {(int(layer), int(head)) for _, layer, head in np.argwhere(np.abs(estimated.restored()) > known.faint)}
    assert lit == {MATCHING_HEAD, MOVING_HEAD}
    exact = activation_patch(planted, clean, corrupted, "z")
    assert agreement(estimated, exact).pearson > 0.9


def test_agreement(net):
    clean, corrupted = tiny_twins()
    exact = activation_patch(net, clean, corrupted, "resid_pre", by="position")
    estimated = attribution_patch(net, clean, corrupted, {"resid_pre": "position"})["resid_pre"]
    a, b = (r.difference()[np.isfinite(r.scores)] for r in (estimated, exact))
    found = agreement(estimated, exact)
    assert found.n == 3 * (11 + 13 + 5 + 9)
    assert found.pearson == pytest.approx(scipy.stats.pearsonr(a, b).statistic)
    assert found.spearman == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    still = activation_patch(net, clean, clean, "resid_pre", by="position")
    assert np.isnan(agreement(still, still).pearson)
    with pytest.raises(ValueError, match="the same by"):
        agreement(estimated, activation_patch(net, clean, corrupted, "resid_pre"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": {"resid": "part"}}, "a site among resid_pre"),
        ({"sites": {"z": "position"}}, "by among head, head_part"),
        ({"sites": []}, "at least one site"),
        ({"mode": "both"}, "a mode among"),
        ({"layers": [3]}, "layers 0..2, got layer 3"),
        ({"labels": "ab"}, "a label for each of 4"),
    ],
)
def test_choices_that_there_are_not(net, arguments, message):
    with pytest.raises(ValueError, match=message):
        attribution_patch(net, *tiny_twins(), **arguments)
