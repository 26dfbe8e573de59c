"""Path patching against whole runs of one pair in which every head, MLP and input is set by a hook of its own."""

import numpy as np
import pytest
from patching_references import PART_NAMES, cache_of, patched_score, planted_twins, positions_of, replace_at, tiny_twins
from planted_families import FAMILIES, opened
from tiny_models import N_HEADS, port, tiny_hf

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, MOVING_HEAD
from tl_crossenc.patching.path import Receiver, path_patch

N_LAYERS = 4


@pytest.fixture(scope="module")
def net():
    """A tiny port of four layers in float64."""
    return port(tiny_hf(2, seed=4, num_hidden_layers=N_LAYERS))


def reference(net, base, donor, sender, receiver, mlps, rows=slice(None)):
    """The score of one unpadded pair, in two whole runs with every freeze made by a hook."""
    (_, own), (_, other) = cache_of(net, base), cache_of(net, donor)
    layer, head = sender

    def to_base(name):
        return lambda activation: own[name]

    def send(activation):
        activation = own[f"blocks.{layer}.attn.hook_z"].clone()
        activation[:, rows, head] = other[f"blocks.{layer}.attn.hook_z"][:, rows, head]
        return activation

    edits = []
    for at in range(N_LAYERS):
        name = f"blocks.{at}.attn.hook_z"
        edits.append((name, send if at == layer else to_base(name)))
        if mlps == "frozen":
            name = f"blocks.{at}.hook_mlp_out"
            edits.append((name, to_base(name)))
    if receiver == "score":
        return patched_score(net, base, edits)
    at, its_head, which = receiver.split(".")
    name, seen = f"blocks.{at}.attn.hook_{which}", {}

    def keep(activation):
        seen[name] = activation
        return activation

    patched_score(net, base, [*edits, (name, keep)])
    return patched_score(net, base, [(name, replace_at((slice(None), slice(None), int(its_head)), seen[name]))])


@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
@pytest.mark.parametrize("receiver", ["2.1.q", "2.0.k", "1.2.v", "3.1.v", "3.2.q", "3.0.k", "score"])
def test_every_sender(net, receiver, mlps):
    clean, corrupted = tiny_twins(((3, 5), (1, 2)))
    found = path_patch(net, clean, corrupted, receiver, mlps=mlps, token_budget=37)
    top = N_LAYERS if receiver == "score" else int(receiver[0])
    assert found.axes == {"layer": tuple(range(top)), "head": tuple(range(N_HEADS))}
    for i in range(len(clean)):
        for layer in range(top):
            for head in range(N_HEADS):
                expected = reference(net, corrupted.batch([i]), clean.batch([i]), (layer, head), receiver, mlps)
                assert found.scores[i, layer, head] == pytest.approx(expected, abs=1e-10)
    assert np.abs(found.difference()).max() > 1e-3


@pytest.mark.parametrize("receiver", ["3.1.v", "2.2.k", "score"])
def test_what_senders_write_to_each_part_and_noising(net, receiver):
    clean, corrupted = tiny_twins(((3, 5), (4, 0)))
    found = path_patch(net, clean, corrupted, receiver, by="head_part", mode="noise", layers=[1], heads=[2, 0])
    assert found.axes == {"layer": (1,), "head": (2, 0), "part": PART_NAMES}
    assert np.isnan(found.scores[1, 0, :, 3]).all()  # no passage
    for i, (j, head), (slot, part) in (
        (i, h, p) for i in range(2) for h in enumerate((2, 0)) for p in enumerate(PART_NAMES)
    ):
        batch = clean.batch([i])
        if positions := positions_of(batch, part):
            expected = reference(net, batch, corrupted.batch([i]), (1, head), receiver, "frozen", positions)
            assert found.scores[i, 0, j, slot] == pytest.approx(expected, abs=1e-10)
    if receiver == "score":  # frozen heads carry nothing to CLS
        assert (found.difference()[:, 0, :, [1, 2, 4]] == 0).all()
        assert (found.difference()[:, 0, :, 0] != 0).all()


def test_ablated_directions_stay_ablated(net):
    clean, corrupted = tiny_twins()
    with net.ablating("DOC->QUERY", layers=[0, 2], heads=[0, 2]), net.ablating("ALL->SEP1", mode="mask", heads=[1]):
        for receiver in ("2.1.q", "2.2.v", "score"):
            found = path_patch(net, clean, corrupted, receiver, layers=[1])
            for head in range(N_HEADS):
                expected = reference(net, corrupted.batch([1]), clean.batch([1]), (1, head), receiver, "frozen")
                assert found.scores[1, 0, head] == pytest.approx(expected, abs=1e-10)


def test_identical_inputs_give_exactly_0(net):
    clean, _ = tiny_twins()
    for receiver in ("3.1.q", "score"):
        found = path_patch(net, clean, clean, receiver)
        assert (found.difference() == 0).all()
        assert found.layers_run == 2 * N_LAYERS * len(clean)


def test_cost(net):
    clean, corrupted = tiny_twins()
    ends, paths = 2 * N_LAYERS * 4, N_HEADS * 4
    found = path_patch(net, clean, corrupted, "2.1.q")
    assert (
        found.layers_run == ends + paths * 2 * 1.5
    )  # two sender layers; behind the attention of layer 2: a half and one
    assert found.layers_plain == ends + paths * 2 * 2 * N_LAYERS
    found = path_patch(net, clean, corrupted, "2.1.q", mlps="recomputed")
    assert found.layers_run == ends + paths * (2 * 1.5 + 0.5 * 2 + 0.5 * 1)
    assert path_patch(net, clean, corrupted, "score").layers_run == ends


@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_planted_matches_reach_the_moving_heads_values_and_nothing_else(family, mlps, tmp_path):
    planted, known = opened(family, tmp_path)
    clean, corrupted = planted_twins(planted)
    moving = ".".join(map(str, MOVING_HEAD))
    values = path_patch(planted, clean, corrupted, f"{moving}.v", mlps=mlps).restored()
    lit = {(int(layer), int(head)) for _, layer, head in np.argwhere(np.abs(values) > known.faint)}
    assert lit == {MATCHING_HEAD}
    np.testing.assert_allclose(values[:, MATCHING_HEAD[0], MATCHING_HEAD[1]], 1, atol=max(known.faint, 1e-4))
    for receiver in (f"{moving}.q", f"{moving}.k", "2.0.v"):
        np.testing.assert_allclose(path_patch(planted, clean, corrupted, receiver, mlps=mlps).restored(), 0, atol=1e-4)
    score = path_patch(planted, clean, corrupted, "score", mlps=mlps).restored()
    lit = {(int(layer), int(head)) for _, layer, head in np.argwhere(np.abs(score) > known.faint)}
    assert lit == {MOVING_HEAD}
    parts = path_patch(planted, clean, corrupted, f"{moving}.v", by="head_part", layers=[1], heads=[2], mlps=mlps)
    np.testing.assert_allclose(parts.restored()[:, 0, 0], [[0, 0, 0, 1, 0]] * 3, atol=max(known.faint, 1e-4))


def test_receivers_are_written_and_read():
    assert Receiver.parse("11.0.k") == Receiver(11, 0, "k")
    assert str(Receiver(3, 1, "v")) == "3.1.v"
    assert Receiver.parse("score") is None


@pytest.mark.parametrize(
    ("receiver", "arguments", "message"),
    [
        ("3.1", {}, "a receiver such as 3.1.v"),
        ("3.1.z", {}, "a receiver such as 3.1.v"),
        ("3.3.q", {}, "heads within 0.0 to 3.2"),
        ("0.1.q", {}, "a receiver above layer 0, got 0.1.q"),
        (Receiver(2, 1, "w"), {}, "a receiver such as"),
        ("2.1.q", {"layers": [2]}, r"sender layers 0\.\.1, got sender layer 2"),
        ("2.1.q", {"heads": [7]}, r"heads 0\.\.2"),
        ("2.1.q", {"by": "part"}, "by among head, head_part"),
        ("2.1.q", {"mlps": "thawed"}, "mlps frozen or recomputed"),
        ("2.1.q", {"mode": "both"}, "a mode among"),
        ("2.1.q", {"labels": []}, "a label for each of 4"),
    ],
)
def test_choices_that_there_are_not(net, receiver, arguments, message):
    with pytest.raises(ValueError, match=message):
        path_patch(net, *tiny_twins(), receiver, **arguments)
