"""The oracle of ablations in any family, checked by Hugging Face's untouched pass, by identities and by layers written out."""

import family_literals
import pytest
import torch
from family_oracle import PAD, PARTS, Removal, encode, plain, run
from family_rotary import HALF_WINDOW, MODERN_LAYERS, MODERN_THETAS
from family_texts import N_CTX, PAIRS
from family_worlds import FAMILIES, MODELS, build

EVERY_FAMILY = pytest.mark.parametrize("name", FAMILIES)
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)
ALL = ("ALL",)
BETWEEN_TEXTS = (
    Removal("mask", ("DOC",), ("QUERY",)),
    Removal("zero", ("CLS", "QUERY"), ("SEP1", "DOC"), heads=(0, 2)),
)


def _close(got, expected, real, tolerance):
    for some, other in zip(got, expected, strict=True):
        torch.testing.assert_close(some[real], other[real], rtol=tolerance, atol=tolerance)


@EVERY_MODEL
def test_without_removals_it_is_the_untouched_pass(name):
    world = build(name, 2, 1)
    batch = encode(world)
    ours, theirs = run(world, batch), plain(world, batch)
    assert len(ours.patterns) == len(world.layers) == len(ours.hidden) - 1
    for what in ("hidden", "attn_out", "mlp_out"):
        _close(getattr(ours, what), getattr(theirs, what), batch.real, 1e-12)
    torch.testing.assert_close(ours.head, theirs.head, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-12, atol=1e-12)


@EVERY_MODEL
def test_float64_is_what_users_get_up_to_rounding(name):
    """What is replaced for the sake of float64 (rotations, scales) changes nothing but rounding."""
    world = build(name, 1, 2)
    batch = encode(world)
    ours, shipped = run(world, batch), plain(world, batch, torch.float32)
    torch.testing.assert_close(ours.logits.float(), shipped.logits, rtol=1e-5, atol=2e-5)


@EVERY_MODEL
def test_padding_and_other_pairs_change_nothing(name):
    world = build(name, 1, 3)
    batch = encode(world)
    together = run(world, batch, BETWEEN_TEXTS)
    for i in (2, 3, 4, 7):  # an empty passage, one word, beyond half a window, Thai
        single = encode(world, [PAIRS[i]])
        n = single.parts.shape[1]
        assert batch.parts[i, :n].tolist() == single.parts[0].tolist()
        alone = run(world, single, BETWEEN_TEXTS)
        for hidden, expected in zip(together.hidden, alone.hidden, strict=True):
            torch.testing.assert_close(hidden[i, :n], expected[0], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(together.logits[i], alone.logits[0], rtol=1e-11, atol=1e-11)


@EVERY_MODEL
@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_without_any_attention_only_the_bias_is_written(name, mode):
    world = build(name, 1, 4)
    batch = encode(world)
    trace = run(world, batch, [Removal(mode, ALL, ALL)])
    for layer, written in zip(world.layers, trace.attn_out, strict=True):
        bias = layer.get_submodule(world.attn).bias
        expected = torch.zeros(()) if bias is None else bias.detach()
        torch.testing.assert_close(
            written[batch.real], expected.double().expand_as(written)[batch.real], rtol=0, atol=1e-15
        )


@EVERY_MODEL
def test_removals_touch_their_cells_layers_and_heads_only(name):
    """In the first layer named, where scores are untouched: zero keeps the other weights, mask scales a row's up."""
    world = build(name, 1, 5)
    batch = encode(world)
    real, layer = batch.real, 1
    cells = (batch.parts == PARTS.index("DOC"))[:, :, None] & (batch.parts == PARTS.index("QUERY"))[:, None, :]
    before = run(world, batch)
    assert all(
        torch.equal(row.sum(-1) > 0, real[:, None].expand(row.shape[:3])) for row in _real_rows(before.patterns, real)
    )
    for mode in ("zero", "mask"):
        after = run(world, batch, [Removal(mode, ("DOC",), ("QUERY",), layers=(layer,), heads=(1,))])
        assert torch.equal(after.patterns[0], before.patterns[0])
        for head in range(world.n_heads):
            old, new = before.patterns[layer][:, head], after.patterns[layer][:, head]
            expected = old.masked_fill(cells, 0.0) if head == 1 else old
            if mode == "mask":
                left = expected.sum(-1, keepdim=True)
                expected = torch.where(left > 0, expected / left.clamp(min=1e-300), 0.0)
            torch.testing.assert_close(new[real], expected[real], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(after.hidden[layer + 1][real], before.hidden[layer + 1][real], atol=1e-4)
        assert not torch.allclose(after.logits, before.logits, atol=1e-6)


def _real_rows(patterns, real):
    return [pattern.masked_fill(~real[:, None, :, None], 0.0) for pattern in patterns]


def test_a_row_that_mask_leaves_with_nothing_is_all_zeros():
    world = build("deberta-v2")
    batch = encode(world)
    trace = run(world, batch, [Removal("mask", ("CLS",), ALL)])
    for pattern in trace.patterns:
        assert not pattern[:, :, 0].any()
        torch.testing.assert_close(pattern[:, :, 1].sum(-1), torch.ones(len(PAIRS), 3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["modernbert-cls", "modernbert-mean", "modernbert-old", "modernbert-modular"])
def test_windowed_layers_have_the_cells_that_are_at_most_half_a_window_apart(name):
    world = build(name)
    batch = encode(world)
    trace = run(world, batch)
    assert None in world.half_windows
    assert HALF_WINDOW in world.half_windows
    for layer, half_window in enumerate(world.half_windows):
        for i in range(len(PAIRS)):
            n = int(batch.real[i].sum())
            for row in range(n):
                expected = [half_window is None or abs(row - column) <= half_window for column in range(n)]
                assert (trace.scores[layer][i, 0, row, :n] > -torch.inf).tolist() == expected, (layer, i, row)
                assert ((trace.patterns[layer][i, :, row, :n] > 0).all(0)).tolist() == expected
                assert not trace.patterns[layer][i, :, row, n:].any()


@pytest.mark.parametrize("layer", range(len(MODERN_LAYERS)))
def test_a_layer_of_modernbert_written_out(layer):
    world = build("modernbert-cls", 1, 6)
    batch = encode(world)
    state = {key: weight.double().numpy() for key, weight in world.state.items()}
    trace = run(world, batch, BETWEEN_TEXTS)
    for i in (0, 4, 9):
        parts = [PARTS[code] for code in batch.parts[i] if code != PAD]
        n = len(parts)
        left, patterns = family_literals.modernbert_layer(
            state,
            layer,
            trace.hidden[layer][i, :n].numpy(),
            parts,
            BETWEEN_TEXTS,
            n_heads=3,
            theta=MODERN_THETAS[MODERN_LAYERS[layer]],
            half_window=7 if MODERN_LAYERS[layer] == "sliding_attention" else None,
        )
        torch.testing.assert_close(trace.patterns[layer][i, :, :n, :n].numpy(), patterns, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(trace.hidden[layer + 1][i, :n].numpy(), left, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_layer_of_deberta_written_out(layer):
    world = build("deberta-v2", 1, 6)
    batch = encode(world)
    state = {key: weight.double().numpy() for key, weight in world.state.items()}
    trace = run(world, batch, BETWEEN_TEXTS)
    for i in (0, 5):
        parts = [PARTS[code] for code in batch.parts[i] if code != PAD]
        n = len(parts)
        left, patterns = family_literals.deberta_layer(
            state,
            layer,
            trace.hidden[layer][i, :n].numpy(),
            parts,
            BETWEEN_TEXTS,
            n_heads=3,
            n_buckets=10,
            n_positions=N_CTX,
        )
        torch.testing.assert_close(trace.patterns[layer][i, :, :n, :n].numpy(), patterns, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(trace.hidden[layer + 1][i, :n].numpy(), left, rtol=1e-11, atol=1e-11)


@EVERY_FAMILY
def test_parts_are_those_of_the_frame(name):
    world = build(name)
    batch, frame = encode(world), world.frame
    assert batch.parts.shape == (len(PAIRS), N_CTX)  # the long passage fills what there is
    for ids, codes, (query, passage) in zip(batch.inputs["input_ids"], batch.parts, PAIRS, strict=True):
        tokens = {part: [] for part in (*PARTS, "PAD")}
        for token, code in zip(world.tokenizer.convert_ids_to_tokens(ids), codes.tolist(), strict=True):
            tokens[(*PARTS, "PAD")[code]].append(token)
        assert [tokens["CLS"], tokens["SEP1"], tokens["SEP2"]] == [[frame.cls], list(frame.sep1), [frame.sep2]]
        assert set(tokens["PAD"]) <= {world.tokenizer.pad_token}
        assert len(tokens["QUERY"]) == len(world.tokenizer.tokenize(query))
        assert len(tokens["DOC"]) == min(
            len(world.tokenizer.tokenize(passage)), N_CTX - len(tokens["QUERY"]) - 2 - len(frame.sep1)
        )
        assert world.tokenizer.unk_token not in tokens["QUERY"] + tokens["DOC"]
