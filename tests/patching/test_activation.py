"""Activation patching against a plain loop over pairs, layers and pieces, each a whole run of one pair with one hook."""

import numpy as np
import pytest
import torch
from patching_references import PART_NAMES, encode_rows, plain_loop, planted_twins, positions_of, tiny_twins
from planted_families import FAMILIES, opened
from tiny_models import N_HEADS, N_LAYERS, port, tiny_hf, tiny_rows

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, MOVING_HEAD
from tl_crossenc.patching.activation import PatchResult, activation_patch, check_aligned
from tl_crossenc.patching.metrics import PoolContext

STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEADS = ("z", "q", "k", "v")


@pytest.fixture(scope="module")
def net():
    """A tiny port in float64 with one label."""
    return port(tiny_hf(1, seed=3))


@pytest.fixture(scope="module", params=FAMILIES)
def planted(request, tmp_path_factory):
    """The planted model of each family, in float64."""
    return opened(request.param, tmp_path_factory.mktemp(request.param))


def by_part(batch):
    """An index of the residual stream for each part."""
    return [(0, positions_of(batch, part)) for part in PART_NAMES]


def by_head(batch):
    """An index of q, k, v or z for each head."""
    return [(0, slice(None), head) for head in range(N_HEADS)]


def by_head_part(batch):
    """The same for each head and part."""
    return [(0, positions_of(batch, part), head) for head in range(N_HEADS) for part in PART_NAMES]


def pattern_cells(attender, attended):
    """For each head, the cells of a pattern in one direction."""

    def indices(batch):
        everywhere = list(range(batch.tokens.shape[1]))
        rows, columns = (everywhere if p == "ALL" else positions_of(batch, p) for p in (attender, attended))
        return [(0, head, np.array(rows)[:, None], np.array(columns)[None]) for head in range(N_HEADS)]

    return indices


@pytest.mark.parametrize("mode", ["denoise", "noise"])
@pytest.mark.parametrize("site", STREAM)
def test_stream_by_part(net, site, mode):
    clean, corrupted = tiny_twins()
    base, donor = (corrupted, clean) if mode == "denoise" else (clean, corrupted)
    found = activation_patch(net, clean, corrupted, site, mode=mode, token_budget={"denoise": 4096, "noise": 53}[mode])
    assert found.axes == {"layer": (0, 1, 2), "part": PART_NAMES}
    expected = plain_loop(net, base, donor, site, by_part)
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-10)
    with torch.no_grad():
        alone = [[float(net(side.batch([i]))) for i in range(len(clean))] for side in (clean, corrupted)]
    np.testing.assert_allclose([found.clean, found.corrupted], alone, rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        found.difference(), expected - np.array(alone)[1 - (mode == "noise"), :, None, None], atol=1e-10
    )


@pytest.mark.parametrize("site", STREAM)
def test_stream_by_position(net, site):
    clean, corrupted = tiny_twins()
    found = activation_patch(net, clean, corrupted, site, by="position")
    width = clean.lengths.max()
    expected = plain_loop(
        net, corrupted, clean, site, lambda b: [(0, i) if i < b.tokens.shape[1] else None for i in range(width)]
    )
    assert found.axes["position"] == tuple(range(width))
    assert np.isnan(expected).sum() == N_LAYERS * (2 + 0 + 8 + 4)  # 11, 13, 5 and 9 tokens
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-10)
    some = activation_patch(net, clean, corrupted, site, by="position", positions=[4, 1], layers=[2, 0])
    np.testing.assert_allclose(some.scores, expected[:, [2, 0]][..., [4, 1]], rtol=0, atol=1e-10)
    assert some.axes == {"layer": (2, 0), "position": (4, 1)}


@pytest.mark.parametrize("mode", ["denoise", "noise"])
@pytest.mark.parametrize("site", HEADS)
def test_heads(net, site, mode):
    clean, corrupted = tiny_twins()
    base, donor = (corrupted, clean) if mode == "denoise" else (clean, corrupted)
    found = activation_patch(net, clean, corrupted, site, mode=mode, token_budget={"denoise": 29, "noise": 4096}[mode])
    assert found.axes == {"layer": (0, 1, 2), "head": (0, 1, 2)}
    np.testing.assert_allclose(found.scores, plain_loop(net, base, donor, site, by_head), rtol=0, atol=1e-10)


@pytest.mark.parametrize("site", HEADS)
def test_heads_by_part(net, site):
    clean, corrupted = tiny_twins(SIZES_WITH_EMPTY)
    found = activation_patch(net, clean, corrupted, site, by="head_part")
    expected = plain_loop(net, corrupted, clean, site, by_head_part).reshape(3, N_LAYERS, N_HEADS, 5)
    expected[2, :, :, 3] = np.nan  # no passage
    assert found.axes == {"layer": (0, 1, 2), "head": (0, 1, 2), "part": PART_NAMES}
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-10)
    some = activation_patch(net, clean, corrupted, site, by="head_part", heads=[2, 0], parts=["DOC", "cls"])
    np.testing.assert_allclose(some.scores, expected[:, :, [2, 0]][..., [3, 0]], rtol=0, atol=1e-10)


SIZES_WITH_EMPTY = ((3, 5), (2, 8), (4, 0))


@pytest.mark.parametrize("direction", [None, "DOC->QUERY", "CLS->ALL", "QUERY->SEP2"])
@pytest.mark.parametrize("mode", ["denoise", "noise"])
def test_patterns(net, direction, mode):
    clean, corrupted = tiny_twins()
    base, donor = (corrupted, clean) if mode == "denoise" else (clean, corrupted)
    found = activation_patch(net, clean, corrupted, "pattern", direction=direction, mode=mode)
    expected = plain_loop(net, base, donor, "pattern", pattern_cells(*(direction or "ALL->ALL").split("->")))
    assert found.direction == direction
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-10)


def test_rows_of_patterns_by_part(net):
    clean, corrupted = tiny_twins()
    found = activation_patch(net, clean, corrupted, "pattern", by="head_part")
    for j, part in enumerate(PART_NAMES):
        expected = plain_loop(net, corrupted, clean, "pattern", pattern_cells(part, "ALL"))
        np.testing.assert_allclose(found.scores[..., j], expected, rtol=0, atol=1e-10)


def test_a_direction_that_a_pair_does_not_have_is_undefined(net):
    clean, corrupted = tiny_twins(SIZES_WITH_EMPTY)
    found = activation_patch(net, clean, corrupted, "pattern", direction="DOC->QUERY")
    assert np.isnan(found.scores[2]).all()
    assert np.isfinite(found.scores[:2]).all()


@pytest.mark.parametrize("site", ["z", "k", "resid_mid"])
def test_ablated_directions_stay_ablated(net, site):
    clean, corrupted = tiny_twins()
    indices = by_part if site == "resid_mid" else by_head
    with net.ablating("DOC->QUERY", layers=[0, 2]), net.ablating("CLS->SEP1", mode="mask"):
        found = activation_patch(net, clean, corrupted, site)
        expected = plain_loop(net, corrupted, clean, site, indices)
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-10)
    without = activation_patch(net, clean, corrupted, site)
    assert np.abs(without.scores - found.scores).max() > 1e-3


@pytest.mark.parametrize("site", [*STREAM, *HEADS, "pattern"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_identity_patches_give_exactly_0(site, dtype):
    model = port(tiny_hf(2), dtype)
    pairs = encode_rows(tiny_rows(((3, 5), (2, 8), (1, 1))))
    found = activation_patch(model, pairs, pairs, site)
    assert (found.difference() == 0).all()
    assert found.undefined == 3
    assert np.isnan(found.restored()).all()
    assert found.layers_run == 2 * N_LAYERS * 3


@pytest.mark.parametrize("mode", ["denoise", "noise"])
def test_the_whole_residual_stream_restores_exactly_1(mode):
    clean, corrupted = tiny_twins()
    found = activation_patch(port(tiny_hf(2), torch.float32), clean, corrupted, "resid_pre", by="all", mode=mode)
    assert found.scores.shape == (4, N_LAYERS)
    assert (found.restored() == 1).all()
    assert found.layers_run == 2 * N_LAYERS * 4  # the two runs alone, though padding differs and is not patched
    late = activation_patch(port(tiny_hf(2)), clean, corrupted, "resid_post", by="part", parts=["CLS"], layers=[2])
    np.testing.assert_array_equal(late.restored(), np.ones((4, 1, 1)))  # all that the head reads


def test_only_what_differs_moves_the_first_layer(net):
    clean, corrupted = tiny_twins(((3, 5), (3, 4)), seed=11, changed={6, 7})
    assert (clean.tokens != corrupted.tokens).sum() == 4
    found = activation_patch(net, clean, corrupted, "resid_pre", by="position", layers=[0])
    moved = np.nan_to_num(found.difference()[:, 0]) != 0
    assert [np.flatnonzero(row).tolist() for row in moved] == [[6, 7], [6, 7]]
    assert found.layers_run == (2 + 2 + 2 + 2) * N_LAYERS  # two runs of two pairs, two patches of each
    unmoved = np.isfinite(found.scores[:, 0]) & ~moved
    base = np.broadcast_to(found.corrupted[:, None], unmoved.shape)
    np.testing.assert_array_equal(found.scores[:, 0][unmoved], base[unmoved])
    assert (found.clean != found.corrupted).all()


@pytest.mark.parametrize("site", HEADS)
def test_a_map_runs_half_the_layers(net, site, monkeypatch):
    """Counted by watching the model's modules: attentions and MLPs, each half a layer, weighted by the pairs in them."""
    clean, corrupted = tiny_twins()
    halves = []
    for block in net.blocks:
        for module in (block.attn, block.mlp):
            forward = module.forward

            def counted(x, *args, forward=forward, **kwargs):
                halves.append(len(x))
                return forward(x, *args, **kwargs)

            monkeypatch.setattr(module, "forward", counted)
    seen = []
    found = activation_patch(net, clean, corrupted, site, progress=lambda done, total: seen.append((done, total)))
    patches = N_LAYERS * N_HEADS * 4
    assert found.layers_plain == patches * N_LAYERS + 2 * N_LAYERS * 4
    assert found.layers_run == sum(halves) / 2
    assert found.layers_run <= found.layers_plain / 2 + N_LAYERS * 4
    assert seen[-1] == (patches, patches)
    assert len(halves) < patches  # in batches


def test_no_layer_below_the_patched_one_is_run_again(net, monkeypatch):
    clean, corrupted = tiny_twins()
    runs = []
    run_layer = net.run_layer

    def counted(layer, resid, *args, **kwargs):
        runs.append((layer, len(resid)))
        return run_layer(layer, resid, *args, **kwargs)

    monkeypatch.setattr(net, "run_layer", counted)
    activation_patch(net, clean, corrupted, "resid_pre", layers=[1], parts=["DOC", "QUERY"])
    assert [sum(n for at, n in runs if at == layer) for layer in range(3)] == [8, 8 + 8, 8 + 8]


def test_planted_heads_light_and_no_other(planted):
    planted, known = planted
    clean, corrupted = planted_twins(planted)
    for mode in ("denoise", "noise"):
        for site in ("z", "v", "pattern"):
            restored = activation_patch(planted, clean, corrupted, site, mode=mode).restored()
            lit = {(int(layer), int(head)) for _, layer, head in np.argwhere(np.abs(restored) > known.faint)}
            expected = {"z": {MATCHING_HEAD, MOVING_HEAD}, "v": {MOVING_HEAD}, "pattern": {MATCHING_HEAD}}[site]
            assert lit == expected
            for head in expected:
                np.testing.assert_allclose(restored[:, head[0], head[1]], 1, atol=max(known.faint, 1e-4))


def test_planted_direction_and_parts(planted):
    planted, known = planted
    clean, corrupted = planted_twins(planted)
    for direction, share in (("DOC->QUERY", 1.0), ("QUERY->DOC", 0.0), ("DOC->SEP1", 0.0)):
        found = activation_patch(planted, clean, corrupted, "pattern", direction=direction, layers=[1], heads=[2])
        if direction != "DOC->SEP1":
            np.testing.assert_allclose(found.restored()[:, 0, 0], share, atol=max(known.faint, 1e-3))
    keys = activation_patch(planted, clean, corrupted, "q", by="head_part", layers=[1], heads=[2]).restored()[:, 0, 0]
    np.testing.assert_allclose(keys, [[0, 0, 0, 1, 0]] * 3, atol=max(known.faint, 1e-3))
    z = activation_patch(planted, clean, corrupted, "z", by="head_part", layers=[3], heads=[1]).restored()[:, 0, 0]
    np.testing.assert_allclose(z, [[1, 0, 0, 0, 0]] * 3, atol=known.faint)


def test_pairs_of_equal_score_are_undefined_and_counted(net):
    rows = tiny_rows(((3, 5), (2, 8)))
    others = [rows[0], tiny_rows(((3, 5), (2, 8)), seed=5)[1]]
    found = activation_patch(net, encode_rows(rows), encode_rows(others), "z")
    assert found.undefined == 1
    assert np.isnan(found.restored()[0]).all()
    assert np.isfinite(found.restored()[1]).all()
    np.testing.assert_array_equal(found.mean(), found.restored()[1])
    assert "1 without a difference" in repr(found)
    for measure, undefined in (("restored", 1), ("difference", 0)):
        summary = found.summary(measure, n_resamples=7)
        assert (summary["n_pairs"] == 2).all()  # both have the patch, whether or not a share of it can be said
        assert (summary["undefined"] == undefined).all()


def test_frame_and_summary(net):
    clean, corrupted = tiny_twins()
    found = activation_patch(net, clean, corrupted, "z", by="head_part", labels=list("abcd"))
    frame = found.to_frame()
    assert list(frame) == ["pair", "layer", "head", "part", "score", "clean", "corrupted", "difference", "restored"]
    row = frame.query("pair == 'c' and layer == 2 and head == 1 and part == 'CLS'").iloc[0]
    assert row["score"] == found.scores[2, 2, 1, 0]
    assert row["restored"] == (row["score"] - row["corrupted"]) / (row["clean"] - row["corrupted"])
    assert len(frame) == 4 * N_LAYERS * N_HEADS * 5
    summary = found.summary("difference", seed=7, n_resamples=50)
    line = summary.query("layer == 1 and head == 2 and part == 'DOC'").iloc[0]
    values = found.difference()[:, 1, 2, 3]
    assert line["mean"] == pytest.approx(values.mean())
    assert values.min() <= line["low"] <= line["mean"] <= line["high"] <= values.max()
    t = values.mean() / (values.std(ddof=1) / 2)
    from scipy.stats import t as student

    assert line["p"] == pytest.approx(2 * student.sf(abs(t), 3))
    assert (summary["p_holm"] >= summary["p"]).all()
    assert summary.equals(found.summary("difference", seed=7, n_resamples=50))
    assert not summary["low"].equals(found.summary("difference", seed=8, n_resamples=50)["low"])


def made(scores, clean, corrupted, dtype="float64"):
    """A result of one layer in which `scores` `[pair, patch]` were found."""
    scores, clean, corrupted = (np.array(values, dtype=float) for values in (scores, clean, corrupted))
    axes = {"layer": (0,), "head": tuple(range(scores.shape[1]))}
    pairs = tuple(range(len(scores)))
    return PatchResult("z", "head", "denoise", axes, scores[:, None], clean, corrupted, pairs, dtype)


def test_p_values_are_corrected_by_holms_steps():
    """Four patches of three pairs: two degrees of freedom, where p = 1 - t / sqrt(t^2 + 2)."""
    scores = np.array([[1.0, 1.0, -1.0, 2.0], [1.1, 2.0, 0.0, 2.1], [1.2, 3.0, 1.5, 2.2]])
    t = np.abs(scores.mean(0)) / (scores.std(0, ddof=1) / np.sqrt(3))
    p = 1 - t / np.sqrt(t**2 + 2)
    summary = made(scores, [4.0] * 3, [0.0] * 3).summary("difference", n_resamples=9)
    np.testing.assert_allclose(summary["p"], p, rtol=1e-9)
    assert p[3] < p[0] < p[1] < p[2]
    expected = [3 * p[0], max(3 * p[0], 2 * p[1]), max(2 * p[1], p[2]), 4 * p[3]]
    np.testing.assert_allclose(summary["p_holm"], expected, rtol=1e-9)
    assert (np.array(expected) < np.minimum(1, 4 * p) * (1 - 1e-6)).sum() == 3  # below Bonferroni's, the least p apart


def test_the_interval_is_of_the_level_asked_for():
    """Two pairs: the means of two draws are 2, 4, 6 with 1/4, 1/2, 1/4, so that the middle 40 % is 4 and the middle 90 % all."""
    found = made([[2.0], [6.0]], [9.0, 9.0], [0.0, 0.0])
    for level, bounds in ((0.4, [4, 4]), (0.9, [2, 6])):
        line = found.summary("difference", level=level).iloc[0]
        assert line[["mean", "low", "high"]].tolist() == [4, *bounds]


def test_patches_that_only_some_pairs_have_are_counted_and_corrected_apart():
    """Patch 0 is there for two pairs of three, patch 1 for one, which cannot be tested, so that Holm corrects over one p."""
    nan = float("nan")
    found = made([[1.0, 2.0], [3.0, nan], [nan, nan]], [4.0, 4.0, 4.0], [0.0, 0.0, 0.0])
    summary = found.summary("restored", n_resamples=9)
    assert summary["n_pairs"].tolist() == [2, 1]
    assert summary["undefined"].tolist() == [0, 0]
    assert summary["mean"].tolist() == [0.5, 0.5]
    # Differences 1 and 3: t = 2, one degree of freedom, as in Cauchy's distribution.
    assert summary["p"][0] == summary["p_holm"][0] == pytest.approx(1 - 2 / np.pi * np.arctan(2))
    assert summary.loc[1, ["p", "p_holm", "low", "high"]].isna().all()


@pytest.mark.parametrize(
    ("apart", "equal_in"),
    [(1e-14, "float64 float32 bfloat16"), (1e-8, "float32 bfloat16"), (4e-3, "bfloat16"), (0.2, "")],
)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_scores_are_equal_within_the_rounding_of_the_models_own_arithmetic(dtype, apart, equal_in):
    found = made([[1.0 + apart]], [1.0 + apart], [1.0], dtype)
    equal = dtype in equal_in
    assert found.undefined == int(equal)
    assert np.isnan(found.restored()).all() == equal
    context = PoolContext((1,), (np.array([1.0]),), (np.array([0]),))
    assert found.ranks(context).item() == (1.5 if equal else 1.0)
    tied = (1 + 1 / np.log2(3)) / 2
    assert found.ndcg(context).item() == pytest.approx(tied if equal else 1.0)


def test_where_no_pair_has_a_part_nothing_can_be_said(net):
    clean, corrupted = tiny_twins(((3, 0), (4, 0)))
    summary = activation_patch(net, clean, corrupted, "mlp_out", layers=[1], parts=["DOC", "CLS"]).summary(
        n_resamples=5
    )
    assert summary["n_pairs"].tolist() == [0, 2]
    assert summary.loc[0, ["mean", "low", "high", "p", "p_holm"]].isna().all()
    assert summary.loc[1].notna().all()


def test_one_pair_has_a_mean_and_no_interval(net):
    clean, corrupted = tiny_twins(((3, 2),))
    found = activation_patch(net, clean, corrupted, "z", layers=[0], heads=[1])
    line = found.summary("restored").iloc[0]
    assert line["mean"] == found.restored()[0, 0, 0]
    assert line[["low", "high", "p", "p_holm"]].isna().all()


def test_ranks_and_ndcg_in_the_pool(net):
    clean, corrupted = tiny_twins(seed=1)
    found = activation_patch(net, clean, corrupted, "resid_pre", by="all", layers=[0])  # the clean scores
    middle = (found.clean + found.corrupted) / 2
    context = PoolContext((1,) * 4, tuple(middle[i : i + 1] for i in range(4)), (np.array([0]),) * 4)
    better = found.clean > found.corrupted
    np.testing.assert_array_equal(found.ranks(context)[:, 0], np.where(better, 1, 2))
    np.testing.assert_allclose(found.ndcg(context)[:, 0], np.where(better, 1, 1 / np.log2(3)))
    np.testing.assert_array_equal(found.ndcg(context, cutoff=1)[:, 0], np.where(better, 1, 0))
    assert set(better.tolist()) == {True, False}  # or the test would see one case only


def test_only_the_activations_that_are_needed_are_held(net, monkeypatch):
    clean, corrupted = tiny_twins()
    names = []
    hooks = net.hooks
    monkeypatch.setattr(net, "hooks", lambda fwd_hooks: names.extend(name for name, _ in fwd_hooks) or hooks(fwd_hooks))
    activation_patch(net, clean, corrupted, "z", layers=[1])
    assert set(names) == {"blocks.1.attn.hook_z", "blocks.1.hook_resid_mid"}
    names.clear()
    activation_patch(net, clean, corrupted, "resid_pre")
    assert not names


def test_half_precision():
    model = port(tiny_hf(1, seed=3), torch.bfloat16)
    clean, corrupted = tiny_twins()
    exact = activation_patch(port(tiny_hf(1, seed=3)), clean, corrupted, "q")
    for site in ("q", "pattern", "resid_mid"):
        found = activation_patch(model, clean, corrupted, site)
        assert found.dtype == "bfloat16"
        np.testing.assert_allclose(found.clean, exact.clean, atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"site": "resid"}, "a site among resid_pre"),
        ({"site": "z", "by": "position"}, "by among head, head_part"),
        ({"site": "z", "mode": "restore"}, "a mode among denoise, noise"),
        ({"site": "z", "heads": [3]}, "heads 0..2, got head 3"),
        ({"site": "z", "heads": []}, "at least one head"),
        ({"site": "z", "layers": [1, 1]}, "each once"),
        ({"site": "z", "layers": [-4]}, r"layers -3\.\.2"),
        (
            {"site": "resid_pre", "by": "position", "positions": [5]},
            "positions 0..4, the positions that every pair has, got",
        ),
        ({"site": "resid_pre", "parts": ["TITLE"]}, "a part among CLS"),
        ({"site": "resid_pre", "parts": []}, "at least one of part"),
        ({"site": "resid_pre", "heads": [1]}, "no heads when patching resid_pre"),
        ({"site": "z", "direction": "DOC->QUERY"}, "no direction when patching z"),
        ({"site": "pattern", "direction": "DOC->TITLE"}, "DOC->TITLE"),
        ({"site": "z", "labels": ["a"]}, "a label for each of 4 pairs, got 1"),
        ({"site": "z", "token_budget": 0}, "token budget"),
    ],
)
def test_choices_that_there_are_not(net, arguments, message):
    with pytest.raises(ValueError, match=message):
        activation_patch(net, *tiny_twins(), **arguments)


def test_pairs_that_are_not_aligned(net):
    rows = tiny_rows(((3, 5), (2, 8)))
    with pytest.raises(ValueError, match="pair 1 has 13 and 12 tokens"):
        activation_patch(net, encode_rows(rows), encode_rows(tiny_rows(((3, 5), (2, 7)))), "z")
    with pytest.raises(ValueError, match="position 3 of pair 1 is SEP1 and QUERY"):
        check_aligned(encode_rows(rows), encode_rows(tiny_rows(((3, 5), (3, 7)))))
    with pytest.raises(ValueError, match="got 2 and 1"):
        check_aligned(encode_rows(rows), encode_rows(rows[:1]))
    check_aligned(encode_rows(rows), encode_rows(tiny_rows(((3, 5), (2, 8)), seed=9)))


def test_hooks_on_the_model_are_refused(net):
    hooked = net.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda activation, hook: None)])
    with hooked, pytest.raises(ValueError, match=r"blocks\.1\.hook_mlp_out"):
        activation_patch(net, *tiny_twins(), "z")
    assert activation_patch(net, *tiny_twins(), "z").scores.shape == (4, 3, 3)


def test_no_hook_stays_behind_and_results_repeat(net):
    first, second = (activation_patch(net, *tiny_twins(), "q", token_budget=31) for _ in range(2))
    np.testing.assert_array_equal(first.scores, second.scores)
    assert not any(point._forward_hooks for point in net.hook_dict.values())
